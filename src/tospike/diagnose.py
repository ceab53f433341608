"""Where a conversion loses and why: every Site beside the ANN, and the score at each stage between ANN and SNN."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, fx, nn
from torchmetrics import MetricCollection

from tospike.check import counterpart
from tospike.error_terms import Flow, SiteErrors, clip, dissect, follow, neuron_of, portions, root_means, wanted
from tospike.errors import DataError, require_type
from tospike.files import Record
from tospike.graph.batches import Inputs, move, split_batch, tensors_in
from tospike.graph.trace import run_network
from tospike.graph.walk import site_nodes
from tospike.neurons.modules import Neuron
from tospike.run.counts import Counts
from tospike.run.network import SNN
from tospike.run.plan import call
from tospike.run.schedule import Delay, check_run
from tospike.run.simulate import checked_inputs
from tospike.tasks import Classification, Task

_CLASSIFICATION = Classification()
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
        ("spikes of several sizes, ts.Auto(T, spikes='graded')", ("binary", "ternary")),
    ),
    "SNN": (
        ("neurons that take back what was too much, ts.Auto(T, spikes='ternary')", ("binary",)),
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
                f"The Site with most {TERMS[stage]} error is {site.site}: {100 * _share(site.errors, TERMS[stage]):.0f} % of its activation."
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

    def site_table(self) -> Table:
        """Return a table of the Sites; errors in % of the activation of the SNN's own current, or of the ANN's."""
        table = Table("Site", title="Errors in % of the activation; rate in spikes per neuron and step; shares of neurons in %",
                      caption=f"The largest error is made at {self.worst}")  # fmt: skip
        for column in (
            "clip",
            "quant",
            "timing",
            "made here",
            "inherited",
            "beside ANN",
            "corr.",
            "rate",
            "satur.",
            "dead",
            "always on",
        ):
            table.add_column(column, justify="right")
        for site in self.sites:
            made = [
                f"{100 * _share(site.errors, term):.1f}" for term in ("clipping", "quantisation", "timing", "total")
            ]
            beside = [f"{100 * value / max(site.activation, 1e-12):.1f}" for value in (site.inherited, site.difference)]
            correlation = "–" if site.correlation is None else f"{site.correlation:.3f}"
            shares = [f"{100 * value:.1f}" for value in (site.saturated, site.dead, site.always_on)]
            style = "bold" if site.site == self.worst else None
            table.add_row(site.site, *made, *beside, correlation, f"{site.rate:.3f}", *shares, style=style)
        return table

    def print(self, console: Console) -> None:
        """Print stages, Sites and advice."""
        console.print(self.stage_table())
        console.print(self.site_table())
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


@torch.no_grad()
def diagnose(
    snn: SNN,
    ann: nn.Module,
    loader: Iterable[Any],
    *,
    time_steps: int,
    delay: Delay = 0,
    task: Task = _CLASSIFICATION,
    progress: bool = True,
) -> Diagnosis:
    """Compare an SNN with its ANN at every Site and at every stage of the conversion, and say what to try.

    What a Site sends differs from the ANN's activation a by ``(ē − f(z̄)) + (f(z̄) − a)``: what is made here, which `error_terms` splits
    into clipping, quantisation and timing error, and what was inherited from the layers in front.

    Args:
        snn: A converted network.
        ann: The network that it was converted from, or prepared from.
        loader: Batches of inputs, with targets or without; a few hundred samples are enough.
        time_steps: T.
        delay: First counted step; see `tospike.simulate`.
        task: How outputs are scored, where there are targets.
        progress: Show a progress bar.

    Raises:
        OptionError: T or the delay is out of range, or ANN and SNN are not the same network.
        DataError: There are no batches, or a target does not fit the task.
        SimulationError: A batch does not fit the network.

    Source: the identity is own construction, after Bu et al., QCFS, ICLR 2022.

    Example:
        >>> import tospike as ts
        >>> ann = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> x = torch.randn(64, 2)
        >>> snn = ts.convert(ann, ts.LTB(batches=10), calibration=[x])
        >>> [stage.name for stage in ts.diagnose(snn, ann, [x], time_steps=4, progress=False).stages]
        ['ANN', 'rebuilt', 'clipped', 'quantised', 'SNN']
    """
    require_type("snn", snn, SNN, "an SNN", "Pass what ts.convert returned.")
    require_type("ann", ann, nn.Module, "an nn.Module", "Pass the network that was converted.")
    require_type("loader", loader, Iterable, "an iterable of batches", "Pass a DataLoader or a list of batches.")
    first = check_run(snn.conversion, (time_steps,), time_steps, delay, None, "auto")[time_steps]
    patient = _Patient(snn, ann, time_steps, first, task)
    for batch in track(loader, "diagnose", transient=True, disable=not progress):
        patient.see(batch)
    return patient.diagnosis()


class _Patient:
    """Sums over the samples seen so far."""

    def __init__(self, snn: SNN, ann: nn.Module, time_steps: int, first: int, task: Task) -> None:
        self.snn, self.steps, self.first, self.task = snn, time_steps, first, task
        self.device = next(snn.buffers()).device
        self.ann = copy.deepcopy(ann).to(self.device).eval()
        self.rebuilt: fx.GraphModule | None = None
        self.sites = site_nodes(snn.graph)
        self.counts = Counts()
        self.samples, self.sums = 0, dict[fx.Node, Tensor]()
        self.fired, self.active, self.always = (dict[fx.Node, Tensor]() for _ in range(3))
        self.metrics: dict[str, MetricCollection] = {}
        self.distances = dict.fromkeys(STAGES, 0.0)
        self.size = 0.0

    def see(self, batch: Any) -> None:
        """Add one batch."""
        given, target = split_batch(move(batch, self.device), self.snn.plan.inputs)
        inputs = checked_inputs(self.snn, given)
        if self.rebuilt is None:
            self.rebuilt = counterpart(self.ann, inputs, self.snn.conversion.sites)
        outputs: dict[str, list[Any]] = {name: [] for name in STAGES}
        for portion in portions(self.snn, inputs):
            for name, output in self._stages(portion).items():
                outputs[name].append(output)
        self.samples += next(iter(inputs.values())).shape[0]
        for name, parts in outputs.items():
            self._compare(name, parts, outputs["ANN"])
            if target is not None:
                self._score(name, parts, target)

    def _stages(self, inputs: Inputs) -> dict[str, Any]:
        names, activations = self.snn.plan.inputs, dict[int, Tensor]()
        assert self.rebuilt is not None

        def keep(number: int) -> Callable[..., None]:
            return lambda module, args, output: activations.update({number: output})

        hooks = [
            self.rebuilt.get_submodule(str(node.target)).register_forward_hook(keep(number))
            for number, node in enumerate(site_nodes(self.rebuilt))
        ]
        try:
            rebuilt = self.rebuilt(*(inputs[name] for name in names))
        finally:
            for hook in hooks:
                hook.remove()
        output, flows = follow(self.snn, inputs, self.steps, self.first, self.counts)
        for number, node in enumerate(self.sites):
            self._site(node, flows[node], activations.pop(number))
        return {
            "ANN": run_network(self.ann, names, inputs),
            "rebuilt": rebuilt,
            "clipped": self._through(inputs, lambda node, neuron, z: clip(neuron, wanted(node, neuron, z), self.steps)),
            "quantised": self._through(inputs, lambda node, neuron, z: neuron.for_constant(z, self.steps, self.first)),
            "SNN": output,
        }

    def _through(self, inputs: Inputs, response: Callable[[fx.Node, Neuron, Tensor], Tensor]) -> Any:
        """Return the output of the SNN's layers with a function of the mean current in place of every neuron."""
        plan = self.snn.plan
        values = plan.prepare(inputs)
        for node in plan.body:
            if "site" in node.meta:
                neuron = neuron_of(self.snn, node)
                values[node] = response(node, neuron, neuron.biased_mean(values[node.all_input_nodes[0]], self.steps))
            else:
                values[node] = call(self.snn.graph, node, values)
        return plan.finish({node: values[node] for node in plan.static}, {node: values[node] for node in plan.carried})

    def _site(self, node: fx.Node, flow: Flow, a: Tensor) -> None:
        neuron = neuron_of(self.snn, node)
        found = dissect(node, neuron, flow, self.steps, self.first)
        f, sent = found.activation, flow.emitted
        beyond = (f - found.clipped).abs() > 1e-6 * neuron.threshold
        squares = ((a.double() * a).sum(), (f - a).double().square().sum(), (sent - a).double().square().sum())
        moments = (a.double().sum(), sent.double().sum(), (a.double() * sent).sum(), sent.double().square().sum())
        sums = torch.cat([found.sums(), torch.stack([*squares, *moments, beyond.double().sum()])])
        self.sums[node] = self.sums.get(node, 0.0) + sums
        for table, value, join in (
            (self.fired, flow.fired.any(0), torch.logical_or), (self.active, (a != 0).any(0), torch.logical_or),
            (self.always, flow.always.all(0), torch.logical_and),
        ):  # fmt: skip
            table[node] = join(table[node], value) if node in table else value

    def _compare(self, name: str, parts: list[Any], ann: list[Any]) -> None:
        for mine, theirs in zip(parts, ann, strict=True):
            for y, x in zip(tensors_in(mine), tensors_in(theirs), strict=True):
                self.distances[name] += float((y - x).double().square().sum())
                self.size += float(x.double().square().sum()) if name == "ANN" else 0.0

    def _score(self, name: str, parts: list[Any], target: Any) -> None:
        predictions = [self.task.prediction(part) for part in parts]
        whole = predictions[0] if len(predictions) == 1 else torch.cat(predictions)
        self.task.check_target(whole, target)
        if name not in self.metrics:
            self.metrics[name] = self.task.metrics(whole)
        self.metrics[name].update(whole, target)

    def diagnosis(self) -> Diagnosis:
        """Return what was found."""
        if not self.samples:
            raise DataError(
                "There are no data to diagnose on",
                got="0 batches",
                expected="at least one",
                remedy="Pass a loader with data.",
            )
        scores = {name: self.task.scores(metrics)[self.task.headline] for name, metrics in self.metrics.items()}
        distance = {name: (total / max(self.size, 1e-300)) ** 0.5 for name, total in self.distances.items()}
        rates = self.counts.rates()
        return Diagnosis(
            self.steps, self.first, self.samples, self.task.headline, self.task.unit, self.task.higher_is_better,
            self.snn.conversion.neuron.spikes, tuple(Stage(name, scores.get(name), distance[name]) for name in STAGES),
            tuple(self._diagnosed(node, rates[node.meta["site"].name]) for node in self.sites),
        )  # fmt: skip

    def _diagnosed(self, node: fx.Node, rate: float) -> SiteDiagnosis:
        site = node.meta["site"]
        means = self.sums[node] / (self.samples * site.neurons)
        a2, inherited, difference, a, sent, product, sent2, beyond = means[6:].tolist()
        spread = (a2 - a * a) * (sent2 - sent * sent)
        dead = (self.active[node] & ~self.fired[node]).double().mean()
        return SiteDiagnosis(
            SiteErrors(site.name, *root_means(means[:6])), a2**0.5, inherited**0.5, difference**0.5,
            (product - a * sent) / spread**0.5 if spread > 1e-24 else None, rate, beyond, float(dead), float(self.always[node].double().mean()),
        )  # fmt: skip
