"""What a diagnosis found: every Site beside the ANN, the score at each stage between ANN and SNN, and what to try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from tospike.error_terms import SiteErrors
from tospike.files import Record

STAGES = ("ANN", "rebuilt", "clipped", "quantised", "SNN")
MANY = 0.05  # share of a layer's activations or neurons that is worth a word
ANY = ("binary", "ternary", "graded")
REMEDIES: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {  # what to try, and for which spikes
    "rebuilt": (("report it, with what ts.check says: the network was not rebuilt exactly", ANY),),
    "clipped": (
        ("larger thresholds, e.g. ts.RobustNorm(percentile=0.999), or those of least error, ts.Auto(T)", ANY),
        ("spikes of several sizes, ts.Auto(T, spikes='graded')", ("binary", "ternary")),
    ),
    "quantised": (
        ("more steps, since T steps tell few levels apart", ANY),
        ("thresholds of least error for this T and each channel, ts.Auto(T)", ANY),
        ("descent towards the ANN on calibration data, ts.Auto(T, iterations=300)", ANY),
        ("spikes of several sizes, ts.Auto(T, spikes='graded')", ("binary", "ternary")),
    ),
    "SNN": (
        ("neurons that take back what was too much, ts.Auto(T, spikes='ternary')", ("binary",)),
        ("descent towards the ANN on calibration data, ts.Auto(T, iterations=300)", ANY),
        ("a read-out that leaves the first steps out, delay=", ANY),
        ("more steps", ANY),
        ("to tune the SNN, ts.tune", ANY),
    ),
}
TERMS = {"clipped": "clipping", "quantised": "quantisation", "SNN": "timing"}


@dataclass(frozen=True)
class Stage:
    """One of the networks between ANN and SNN.

    Attributes:
        name: ``"ANN"``; ``"rebuilt"``: batch norms folded, pools moved; ``"clipped"``: the SNN's layers, with activations clipped at the largest
            mean that the neurons can send; ``"quantised"``: with the means that they would send for a steady current; ``"SNN"``.
        score: Headline score of the task; None for data without targets.
        distance: ``‖y − y_ANN‖/‖y_ANN‖`` of all outputs.
    """

    name: str
    score: float | None
    distance: float


@dataclass(frozen=True)
class SiteDiagnosis:
    """One Site beside the ANN.

    Attributes:
        errors: What is made here, see `tospike.error_terms`, in units of the ANN's activation.
        activation: Root mean square of the ANN's activation a, same unit.
        inherited: Of ``f(z̄) − a``: what comes from the layers in front.
        difference: Of ``ē − a``: both together.
        correlation: Between ē and a over all neurons and samples; None where one of them is constant.
        rate: Spikes of a neuron in a step.
        saturated: Share of activations ``f(z̄)`` beyond what the neurons can send.
        dead: Share of neurons that never sent anything although the ANN is active there.
        always_on: Share of neurons that sent something in every step of every sample.
    """

    errors: SiteErrors
    activation: float
    inherited: float
    difference: float
    correlation: float | None
    rate: float
    saturated: float
    dead: float
    always_on: float

    @property
    def site(self) -> str:
        """Name of the Site."""
        return self.errors.site


@dataclass(frozen=True)
class Diagnosis(Record):
    """What `diagnose` found.

    Attributes:
        time_steps: T.
        first: First steps that were not read out.
        samples: Samples looked at.
        headline, unit, higher_is_better: Of the score of the stages.
        spikes: What one step of a neuron carries: ``"binary"``, ``"ternary"`` or ``"graded"``.
        stages: From the ANN to the SNN.
        sites: In the order of execution.
    """

    time_steps: int
    first: int
    samples: int
    headline: str
    unit: str
    higher_is_better: bool
    spikes: str
    stages: tuple[Stage, ...]
    sites: tuple[SiteDiagnosis, ...]

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> Diagnosis:
        """Build a diagnosis from the values in its JSON."""
        sites = tuple(SiteDiagnosis(**{**site, "errors": SiteErrors(**site["errors"])}) for site in raw["sites"])
        return cls(**{**raw, "stages": tuple(Stage(**stage) for stage in raw["stages"]), "sites": sites})

    def lost(self) -> dict[str, float]:
        """Return what each stage loses against the one before: of the score, or of nearness where there is none."""
        scored = all(stage.score is not None for stage in self.stages)
        sign = -1.0 if scored and self.higher_is_better else 1.0
        values = [sign * (stage.score or 0.0) if scored else stage.distance for stage in self.stages]
        return {stage.name: values[n] - values[n - 1] for n, stage in enumerate(self.stages) if n}

    @property
    def worst(self) -> str:
        """Name of the Site that makes the largest error, as a share of its activation."""
        return max(self.sites, key=lambda site: _share(site.errors, "total")).site

    def advice(self) -> tuple[str, ...]:
        """Say in words what loses most, where, and what to try."""
        lost = self.lost()
        stage = max(lost, key=lambda name: lost[name])
        scored, said = self.stages[-1].score is not None, []
        if sum(lost.values()) <= 0:
            said.append("The SNN loses nothing against the ANN.")
        if lost[stage] > 0:
            unit = (
                ("points" if self.unit == "%" else self.unit) + f" of {self.headline}"
                if scored
                else "of distance from the ANN"
            )
            before = self.stages[STAGES.index(stage) - 1].name
            remedies = "; ".join(words for words, spikes in REMEDIES[stage] if self.spikes in spikes)
            said.append(f"Most is lost from {before} to {stage}: {lost[stage]:.2f} {unit.strip()}. To try: {remedies}.")
        if stage in TERMS:
            site = max(self.sites, key=lambda site: _share(site.errors, TERMS[stage]))
            said.append(
                f"The Site with most {TERMS[stage]} error is {site.site}: {100 * _share(site.errors, TERMS[stage]):.0f} % of its activation. "
                f"Left analog, by analog=['{site.site}'], it makes none."
            )
        notes = (
            ("saturated", "of its activations lie beyond what its neurons can send: its threshold is too low for them"),
            ("dead", "of its neurons stay silent where the ANN is active: their thresholds are too high for this T"),
            ("always_on", "of its neurons send in every step: they say nothing, or their threshold is too low"),
        )  # fmt: skip
        for name, words in notes:
            site = max(self.sites, key=lambda site: getattr(site, name))
            if getattr(site, name) > MANY:
                said.append(f"{site.site}: {100 * getattr(site, name):.0f} % {words}.")
        return tuple(said)

    def stage_table(self) -> Table:
        """Return a table of the stages from ANN to SNN."""
        title = f"From ANN to SNN at T = {self.time_steps}, {self.samples:,} samples"
        table = Table("stage", title=title)
        for column in (
            f"{self.headline} [{self.unit}]" if self.unit else self.headline,
            "lost here",
            "distance from the ANN",
        ):
            table.add_column(column, justify="right")
        lost = self.lost()
        for stage in self.stages:
            scored = stage.score is not None
            loss = f"{lost[stage.name]:.2f}" if scored and stage.name in lost else ""
            table.add_row(stage.name, f"{stage.score:.2f}" if scored else "–", loss, f"{stage.distance:.4f}")
        return table

    def error_table(self) -> Table:
        """Return a table of the errors at every Site, in % of the activation: of the SNN's own current, and of the ANN's."""
        table = Table(
            Column("Site", no_wrap=True),
            title="Errors in % of the activation",
            caption=f"The largest error is made at {self.worst}",
        )
        for column in ("clip", "quant.", "timing", "made here", "inherited", "beside ANN"):
            table.add_column(column, justify="right")
        for site in self.sites:
            made = [
                f"{100 * _share(site.errors, term):.1f}" for term in ("clipping", "quantisation", "timing", "total")
            ]
            beside = [f"{100 * value / max(site.activation, 1e-12):.1f}" for value in (site.inherited, site.difference)]
            table.add_row(site.site, *made, *beside, style="bold" if site.site == self.worst else None)
        return table

    def neuron_table(self) -> Table:
        """Return a table of what the neurons of every Site do."""
        table = Table(
            Column("Site", no_wrap=True), title="Neurons: correlation with the ANN, spikes in a step, shares in %"
        )
        for column in ("corr.", "rate", "saturated", "dead", "always on"):
            table.add_column(column, justify="right")
        for site in self.sites:
            correlation = "–" if site.correlation is None else f"{site.correlation:.3f}"
            shares = [f"{100 * value:.1f}" for value in (site.saturated, site.dead, site.always_on)]
            table.add_row(site.site, correlation, f"{site.rate:.3f}", *shares)
        return table

    def print(self, console: Console) -> None:
        """Print stages, Sites and advice."""
        console.print(self.stage_table())
        console.print(self.error_table())
        console.print(self.neuron_table())
        for sentence in self.advice():
            console.print(f"- {sentence}", markup=False, highlight=False)

    def __str__(self) -> str:
        """Render what `print` prints."""
        console = Console(width=140, no_color=True, highlight=False)
        with console.capture() as captured:
            self.print(console)
        return captured.get().rstrip()


def _share(errors: SiteErrors, term: str) -> float:
    return float(getattr(errors, term)) / max(errors.activation, 1e-12)
