"""What a report says: sections of sentences, charts and tables, made from results, costs, diagnoses and records."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import torch
import vl_convert

from tospike.diagnosis import Diagnosis
from tospike.energy import Energy, rounded
from tospike.report import charts
from tospike.result import Result
from tospike.run.network import Conversion

PACKAGES = ("tospike", "torch", "numpy", "torchmetrics", "accelerate")


@dataclass
class Drawn:
    """A chart with what stands above it."""

    id: str
    caption: str
    chart: charts.Drawing

    @property
    def svg(self) -> str:
        """The chart as it stands before scripts run, or where they do not."""
        return str(vl_convert.vegalite_to_svg(self.chart.to_json()))


@dataclass
class Listing:
    """A table; a folded one shows when it is opened, one of text is set flush left."""

    caption: str
    head: list[str]
    rows: list[list[str]]
    folded: bool = False
    text: bool = False


@dataclass
class Section:
    """A part of the page with a title."""

    id: str
    title: str
    texts: list[str] = field(default_factory=list)
    charts: list[Drawn] = field(default_factory=list)
    tables: list[Listing] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)


def numbers(results: Mapping[str, Result], costs: Mapping[str, Energy]) -> list[dict[str, str]]:
    """Return the one number of each network that is read first."""
    found = []
    for number, (label, result) in enumerate(results.items()):
        best = max(result.curve, key=lambda t: result.curve[t] if result.higher_is_better else -result.curve[t])
        reference = "" if result.reference is None else f"{result.reference_name} {result.reference:.2f}; "
        cost = f"; {costs[label].ratio[best]:.2g} times the ANN's energy" if label in costs else ""
        note = f"{reference}at T = {best}, {result.spikes_per_neuron[best]:.2f} spikes per neuron{cost}"
        colour = charts.COLOURS[number % len(charts.COLOURS)]
        found.append(
            {
                "label": f"{label}, best {result.headline}",
                "value": f"{result.curve[best]:.2f} {result.unit}".strip(),
                "note": note,
                "colour": colour,
            }
        )
    return found


def warnings(results: Mapping[str, Result]) -> list[str]:
    """Say what results must not be compared for."""
    said = []
    several = list(results.values())
    built = {tuple((layer.name, round(layer.multiply_adds)) for layer in r.layers) for r in several if r.layers}
    if len(built) > 1 or len({r.reference for r in several if r.reference is not None}) > 1:
        said.append(
            "The results are of different networks: differences between them are not those of the methods alone."
        )
    if len({r.samples for r in several}) > 1:
        said.append(
            f"The results are over different numbers of samples: {', '.join(f'{label} {r.samples:,}' for label, r in results.items())}."
        )
    said += [
        f"The evaluation of {label} was interrupted after {r.samples:,} samples."
        for label, r in results.items()
        if not r.finished
    ]
    return said


def scores(results: Mapping[str, Result]) -> list[Section]:
    """Show scores over T."""
    marks = sorted({t for result in results.values() for t in result.curve})
    rows = []
    for label, result in results.items():
        reference = "–" if result.reference is None else f"{result.reference:.2f}"
        rows.append([label, reference, *(f"{result.curve[t]:.2f}" if t in result.curve else "–" for t in marks)])
    first = next(iter(results.values()))
    scored = "samples" if first.per == "sample" else "episodes"
    caption = f"{first.headline} over T; {first.samples:,} {scored}. Dashed: the network it was converted from."
    table = Listing("Scores", ["network", "reference", *(f"T = {t}" for t in marks)], rows)
    return [
        Section("scores", "Score over time-steps", [], [Drawn("curve", caption, charts.curve_chart(results))], [table])
    ]


def energies(results: Mapping[str, Result], costs: Mapping[str, Energy]) -> list[Section]:
    """Show scores over energy, and what a sample costs."""
    if not costs:
        return []
    rows = []
    for label, cost in costs.items():
        rows.append(
            [f"ANN of {label}", "", "", "", f"{1e6 * cost.ann:.4g}", "1", rounded(cost.ann_frames_per_watt), ""]
        )
        rows += [
            [f"{label}, T = {t}", f"{results[label].curve[t]:.2f}", str(results[label].latency.get(t, t)), f"{results[label].spikes_per_neuron[t]:.3f}",
             f"{1e6 * joules:.4g}", f"{cost.ratio[t]:.3g}", rounded(cost.snn_frames_per_watt[t]), f"{cost.spikes_per_synapse[t]:.3g}"]
            for t, joules in cost.snn.items()
        ]  # fmt: skip
    head = [
        "network",
        "score",
        "latency [steps]",
        "spikes per neuron",
        "energy [µJ]",
        "of the ANN",
        "FPS/W",
        "spikes per synapse",
    ]
    caption = (
        "Score over energy; the numbers at the points are T. Dashed: the ANN. "
        + next(iter(costs.values())).prices.source
    )
    verdicts = [f"{label}: {' '.join(cost.verdict()[:-1])}" for label, cost in costs.items()]
    sentences = [[label, " ".join(cost.summary())] for label, cost in costs.items()]
    listings = [
        Listing(f"Energy for one {next(iter(costs.values())).per}", head, rows),
        Listing("In words, and what is not covered", [], sentences, folded=True, text=True),
    ]
    chart = Drawn("energy", caption, charts.trade_off_chart(results, costs))
    return [Section("energy-and-latency", "Energy and latency", verdicts, [chart], listings)]


def errors(diagnoses: Mapping[str, Diagnosis]) -> list[Section]:
    """Show where each network loses, and what to try."""
    sections = []
    for number, (label, found) in enumerate(diagnoses.items()):
        stages = Drawn(
            f"stages-{number}",
            f"{label} at T = {found.time_steps}, {found.samples:,} samples: from ANN to SNN.",
            charts.stages_chart(found),
        )
        errors = Drawn(
            f"errors-{number}",
            "What every Site adds by clipping, quantisation and timing, and what it inherits.",
            charts.errors_chart(found),
        )
        head = [
            "Site",
            "clipping %",
            "quantisation %",
            "timing %",
            "made here %",
            "inherited %",
            "beside ANN %",
            "correlation",
            "rate",
            "saturated %",
            "dead %",
            "always on %",
        ]
        rows = []
        for site in found.sites:
            scale = 100 / max(site.activation, 1e-12)
            made = [
                site.errors.clipping,
                site.errors.quantisation,
                site.errors.timing,
                site.errors.total,
                site.inherited,
                site.difference,
            ]
            shares = [f"{100 * value:.1f}" for value in (site.saturated, site.dead, site.always_on)]
            correlation = "–" if site.correlation is None else f"{site.correlation:.4f}"
            rows.append(
                [site.site, *(f"{scale * value:.2f}" for value in made), correlation, f"{site.rate:.4f}", *shares]
            )
        table = Listing("Every Site; errors in % of the ANN's activation", head, rows, folded=True)
        sections.append(
            Section(f"diagnosis-{number}", f"Where {label} loses", list(found.advice()), [stages, errors], [table])
        )
    return sections


def descents(made: Mapping[str, Conversion]) -> list[Section]:
    """Show how networks came closer to their ANN by gradient descent."""
    found = {label: one.descended for label, one in made.items() if one.descended is not None}
    if not found:
        return []
    caption = "Mean relative error of all Sites, plus that of the outputs, on the calibration batch of each iteration."
    chart = Drawn("descent", caption, charts.descents_chart(found))
    return [
        Section(
            "gradient-descent",
            "Gradient descent towards the ANN",
            [f"{label}: {one}." for label, one in found.items()],
            [chart],
        )
    ]


def layers(results: Mapping[str, Result], made: Mapping[str, Conversion]) -> list[Section]:
    """Show spike rates, thresholds, operations, and what is analog."""
    drawn = [Drawn("rates", "Spikes of a neuron in a step, over the whole simulation.", charts.rates_chart(results))]
    thresholds: list[dict[str, Any]] = [
        {"network": label, "Site": site, "low": float(theta.min()), "median": float(theta.median()), "high": float(theta.max())}
        for label, conversion in made.items() for site, theta in conversion.thresholds.items()
    ]  # fmt: skip
    if thresholds:
        caption = (
            "Thresholds as they were converted: smallest, median and largest of every Site, in units of the activation."
        )
        drawn.append(Drawn("thresholds", caption, charts.thresholds_chart(thresholds)))
    tables = []
    for label, result in results.items():
        marks = sorted(result.curve)
        rows = [
            [layer.name, layer.part, f"{layer.multiply_adds:,.0f}", *(f"{layer.operations[t]:,.0f}" for t in marks)]
            for layer in result.layers
        ]
        head = ["layer", "part", "multiply-adds of the ANN", *(f"T = {t}" for t in marks)]
        tables.append(Listing(f"{label}: operations of every layer for one {result.per}", head, rows, folded=True))
    analog = [
        f"{label}: {', '.join(conversion.analog)} run in analog."
        for label, conversion in made.items()
        if conversion.analog
    ]
    return [Section("layers", "Layers", analog, drawn, tables)]


def records(results: Mapping[str, Result], made: Mapping[str, Conversion], command: str) -> list[Section]:
    """Show how the results came to be."""
    columns = [_accounting(result) for result in results.values()]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    accounting = Listing("Accounting", ["", *results], rows, text=True)
    tables = [accounting]
    for label, conversion in made.items():
        tables.append(
            Listing(f"{label}: record of the conversion", ["", ""], list(_facts(conversion)), folded=True, text=True)
        )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    machine = [["Python", platform.python_version()], ["machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"],
               ["accelerator", device], *([name, version(name)] for name in PACKAGES)]  # fmt: skip
    tables.append(Listing("Environment", ["", ""], machine, text=True))
    return [Section("records", "Accounting, record and environment", [], [], tables, [command])]


def _accounting(result: Result) -> dict[str, str]:
    def by_step(values: Mapping[int, object]) -> str:
        return ", ".join(f"{t}: {value}" for t, value in values.items())

    return {
        "method": result.method,
        "settings": ", ".join(f"{name}={value}" for name, value in result.settings.items()),
        "approaches": result.approaches,
        "spikes": result.spikes,
        "levels of each sign in one step": str(result.capacity),
        "neurons updated at each step": f"{result.neurons:,}",
        "neurons added": f"{result.neurons_added:,}",
        "calibration samples": f"{result.calibration_samples:,}",
        "seed": str(result.seed),
        "samples scored": f"{result.samples:,}",
        "T as run, steps before the read-out included": ", ".join(map(str, sorted(result.curve))),
        "first counted step by T": by_step(result.delays),
        "latency in steps by T": by_step(result.latency),
        "reference": result.reference_name or "none",
        "not counted": ", ".join(result.uncounted) or "nothing",
    }


def _facts(conversion: Conversion) -> Iterable[list[str]]:
    left_out = {"sites", "thresholds", "log", "neurons", "neuron", "descended", "tuned"}
    for name in Conversion.__dataclass_fields__:
        if name not in left_out:
            yield [name, str(getattr(conversion, name))]
    yield ["neuron", str(asdict(conversion.neuron))]
    yield ["Sites", ", ".join(site.name for site in conversion.sites)]
    yield ["descended", "no" if conversion.descended is None else str(conversion.descended)]
    yield ["tuned", "no" if conversion.tuned is None else str(conversion.tuned.settings)]
