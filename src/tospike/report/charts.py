"""Charts of results: one description of each serves the page, PNG, SVG and PDF.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; every series has a shape of its own too.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import altair as alt

from tospike.diagnosis import TERMS, Diagnosis
from tospike.energy import Energy
from tospike.files import replacing
from tospike.result import Result
from tospike.run.network import Descended

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
HEIGHT, WIDTH = 300, 760
HIDDEN = "hidden"  # the signal of a chart that holds the labels of networks not to be shown

Drawing = alt.LayerChart | alt.FacetChart | alt.VConcatChart

alt.data_transformers.disable_max_rows()


def _title(result: Result | Energy) -> str:
    if isinstance(result, Energy):
        return result.headline
    return f"{result.headline} [{result.unit}]" if result.unit else result.headline


def _table(rows: Iterable[Mapping[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=[{key: _number(value) for key, value in row.items()} for row in rows])


def _number(value: Any) -> Any:
    """Leave out what is no number: a chart shows a gap."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _network(labels: Iterable[str], notes: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the channels that tell networks apart, with notes behind their labels."""
    domain = list(labels)
    names = {label: f"{label} ({(notes or {})[label]})" if label in (notes or {}) else label for label in domain}
    colours = [COLOURS[n % len(COLOURS)] for n in range(len(domain))]
    legend = alt.Legend(
        title=None, orient="bottom", columns=2, labelLimit=360, labelExpr=f"({json.dumps(names)})[datum.label]"
    )
    return {
        "color": alt.Color("network:N", scale=alt.Scale(domain=domain, range=colours), legend=legend),
        "shape": alt.Shape("network:N", scale=alt.Scale(domain=domain), legend=legend),
    }


def _steps(results: Iterable[Result]) -> alt.X:
    ticks = sorted({t for result in results for t in result.curve})
    axis = alt.Axis(values=ticks, format="d", title="time-steps T", grid=True)
    return alt.X("T:Q", scale=alt.Scale(type="log", base=2), axis=axis)


def _layered(*layers: alt.Chart, title: str, networks: bool = True) -> Drawing:
    """Put layers over each other; where they tell networks apart, each of these can be hidden."""
    if networks:  # a filter of the whole would not reach layers with data of their own
        layers = tuple(layer.transform_filter(f"indexof({HIDDEN}, datum.network) < 0") for layer in layers)
    chart = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title)
    return chart.add_params(alt.param(name=HIDDEN, value=[])) if networks else chart


def curve_chart(results: Mapping[str, Result], title: str = "") -> Drawing:
    """Return the score of several SNNs over T, each with the score of its own reference as a dashed line."""
    first = next(iter(results.values()))
    rows = [
        {"network": label, "T": t, "score": score, "spikes per neuron": result.spikes_per_neuron.get(t), "latency": result.latency.get(t)}
        for label, result in results.items() for t, score in result.curve.items()
    ]  # fmt: skip
    references = [
        {"network": label, "score": result.reference, "name": result.reference_name or "reference"}
        for label, result in results.items() if result.reference is not None
    ]  # fmt: skip
    y = alt.Y("score:Q", title=_title(first), scale=alt.Scale(zero=False))
    notes = {str(row["network"]): f"{row['name']} {row['score']:.2f}, dashed" for row in references}
    channels = _network(results, notes)
    tooltip = [alt.Tooltip("network:N"), alt.Tooltip("T:Q"), alt.Tooltip("score:Q", format=".2f", title=first.headline),
               alt.Tooltip("spikes per neuron:Q", format=".3f"), alt.Tooltip("latency:Q")]  # fmt: skip
    base = alt.Chart(_table(rows))
    lines = base.mark_line().encode(x=_steps(results.values()), y=y, color=channels["color"])
    points = base.mark_point(filled=True, size=70).encode(x=_steps(results.values()), y=y, tooltip=tooltip, **channels)
    layers = [lines, points]
    if references:
        rule = alt.Chart(_table(references)).mark_rule(strokeDash=[6, 4], strokeWidth=1.5)
        layers.insert(
            0,
            rule.encode(
                y=y,
                color=channels["color"],
                tooltip=[alt.Tooltip("network:N"), alt.Tooltip("name:N"), alt.Tooltip("score:Q", format=".2f")],
            ),
        )
    return _layered(*layers, title=title)


def trade_off_chart(results: Mapping[str, Result], costs: Mapping[str, Energy], title: str = "") -> Drawing:
    """Return the score of several SNNs over their energy for one sample, with the energy of each ANN as a dashed line."""
    rows = [
        {"network": label, "T": t, "energy": 1e6 * costs[label].snn[t], "score": score, "ratio": costs[label].ratio[t],
         "latency": results[label].latency.get(t)}
        for label, result in results.items() if label in costs for t, score in result.curve.items()
    ]  # fmt: skip
    anns = [{"network": label, "energy": 1e6 * cost.ann} for label, cost in costs.items()]
    x = alt.X("energy:Q", title=f"energy for one {next(iter(costs.values())).per} [µJ]", scale=alt.Scale(type="log"))
    y = alt.Y("score:Q", title=_title(next(iter(costs.values()))), scale=alt.Scale(zero=False))
    channels = _network(costs, {label: f"ANN {1e6 * cost.ann:.3g} µJ, dashed" for label, cost in costs.items()})
    tooltip = [alt.Tooltip("network:N"), alt.Tooltip("T:Q"), alt.Tooltip("score:Q", format=".2f"), alt.Tooltip("energy:Q", format=".4g", title="µJ"),
               alt.Tooltip("ratio:Q", format=".3g", title="of the ANN"), alt.Tooltip("latency:Q")]  # fmt: skip
    base = alt.Chart(_table(rows))
    rule = alt.Chart(_table(anns)).mark_rule(strokeDash=[6, 4], strokeWidth=1.5)
    return _layered(
        rule.encode(x=x, color=channels["color"], tooltip=[alt.Tooltip("network:N"), alt.Tooltip("energy:Q", format=".4g", title="µJ of its ANN")]),
        base.mark_line().encode(x=x, y=y, color=channels["color"], order="T:Q"),
        base.mark_point(filled=True, size=70).encode(x=x, y=y, tooltip=tooltip, **channels),
        base.mark_text(dy=-12, fontSize=10).encode(x=x, y=y, text="T:Q", color=channels["color"]),
        title=title,
    )  # fmt: skip


def rates_chart(results: Mapping[str, Result], title: str = "") -> Drawing:
    """Return the spikes of a neuron in a step at every Site."""
    rows = [
        {"network": label, "Site": site, "rate": rate}
        for label, result in results.items()
        for site, rate in result.rates.items()
    ]
    order = list(dict.fromkeys(str(row["Site"]) for row in rows))
    points = alt.Chart(_table(rows)).mark_point(filled=True, size=60).encode(
        x=alt.X("Site:N", sort=order, title=None, axis=alt.Axis(labelAngle=-60, labelLimit=140, grid=True)),
        y=alt.Y("rate:Q", title="spikes per neuron and step"),
        tooltip=[alt.Tooltip("network:N"), alt.Tooltip("Site:N"), alt.Tooltip("rate:Q", format=".4f")], **_network(results),
    )  # fmt: skip
    return _layered(points, title=title)


def errors_chart(diagnosis: Diagnosis, title: str = "") -> Drawing:
    """Return what every Site adds to the error, and what it inherits, in percent of the ANN's activation."""
    kinds = [*TERMS.values(), "inherited"]
    rows = [
        {"Site": site.site, "error": kind, "share": 100 * value / max(site.activation, 1e-12)}
        for site in diagnosis.sites
        for kind, value in zip(kinds, (*(getattr(site.errors, term) for term in TERMS.values()), site.inherited), strict=True)
    ]  # fmt: skip
    scale = alt.Scale(domain=kinds, range=list(COLOURS))
    legend = alt.Legend(title=None, orient="bottom")
    base = alt.Chart(_table(rows)).encode(
        x=alt.X("Site:N", sort=[site.site for site in diagnosis.sites], title=None, axis=alt.Axis(labelAngle=-60, labelLimit=140, grid=True)),
        y=alt.Y("share:Q", title="error [% of the ANN's activation]"), color=alt.Color("error:N", scale=scale, legend=legend),
        tooltip=[alt.Tooltip("Site:N"), alt.Tooltip("error:N"), alt.Tooltip("share:Q", format=".2f", title="%")],
    )  # fmt: skip
    points = base.mark_point(filled=True, size=60).encode(
        shape=alt.Shape("error:N", scale=alt.Scale(domain=kinds), legend=legend)
    )
    return _layered(base.mark_line(), points, title=title, networks=False)


def stages_chart(diagnosis: Diagnosis, title: str = "") -> Drawing:
    """Return the score, or the distance from the ANN where there is none, at every stage from ANN to SNN."""
    scored = all(stage.score is not None for stage in diagnosis.stages)
    rows = [{"stage": stage.name, "value": stage.score if scored else stage.distance} for stage in diagnosis.stages]
    label = (
        (f"{diagnosis.headline} [{diagnosis.unit}]" if diagnosis.unit else diagnosis.headline)
        if scored
        else "distance from the ANN"
    )
    base = alt.Chart(_table(rows)).encode(
        x=alt.X("stage:N", sort=[stage.name for stage in diagnosis.stages], title=None, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("value:Q", title=label), tooltip=[alt.Tooltip("stage:N"), alt.Tooltip("value:Q", format=".4g")],
    )  # fmt: skip
    text = base.mark_text(dy=-8).encode(text=alt.Text("value:Q", format=".2f" if scored else ".3f"))
    return _layered(base.mark_bar(color=COLOURS[0], size=48), text, title=title, networks=False)


def descents_chart(descents: Mapping[str, Descended], title: str = "") -> Drawing:
    """Return the loss of every iteration of gradient descent towards the ANN."""
    rows = [
        {"network": label, "iteration": number, "loss": loss}
        for label, descended in descents.items()
        for number, loss in enumerate(descended.losses, 1)
    ]
    lines = alt.Chart(_table(rows)).mark_line(strokeWidth=1.5).encode(
        x=alt.X("iteration:Q"), y=alt.Y("loss:Q", title="distance from the ANN", scale=alt.Scale(type="log", nice=False)),
        color=_network(descents)["color"], tooltip=[alt.Tooltip("network:N"), alt.Tooltip("iteration:Q"), alt.Tooltip("loss:Q", format=".4g")],
    )  # fmt: skip
    return _layered(lines, title=title)


def thresholds_chart(rows: Iterable[Mapping[str, Any]], title: str = "") -> Drawing:
    """Return the smallest, median and largest threshold of every Site.

    Args:
        rows: ``network``, ``Site``, ``low``, ``median``, ``high``.
        title: Title above the axes.
    """
    found = list(rows)
    sites, labels = (list(dict.fromkeys(row[key] for row in found)) for key in ("Site", "network"))
    base = alt.Chart(_table(found)).encode(
        x=alt.X("Site:N", sort=sites, title=None, axis=alt.Axis(labelAngle=-60, labelLimit=140, grid=True))
    )
    tooltip = [
        alt.Tooltip("network:N"),
        alt.Tooltip("Site:N"),
        *(alt.Tooltip(f"{key}:Q", format=".4g") for key in ("low", "median", "high")),
    ]
    scale, channels = alt.Scale(type="log"), _network(labels)
    return _layered(
        base.mark_rule(strokeWidth=2, opacity=0.5).encode(y=alt.Y("low:Q", scale=scale, title="threshold"), y2="high:Q", color=channels["color"]),
        base.mark_point(filled=True, size=60).encode(y=alt.Y("median:Q", scale=scale), tooltip=tooltip, **channels),
        title=title,
    )  # fmt: skip


def write_chart(chart: Drawing, path: str | os.PathLike[str]) -> Path:
    """Write a chart; the ending of the file chooses the format: PNG, SVG or PDF."""
    with replacing(path) as written:
        if Path(path).suffix == ".png":
            chart.save(str(written), ppi=150)
        else:
            chart.save(str(written))
    return Path(path)


def draw_curve(results: Mapping[str, Result], path: str | os.PathLike[str], title: str = "") -> Path:
    """Draw the score of several SNNs over T, each with its own reference, and write the picture.

    Args:
        results: Results by the label of their curve.
        path: File to write; its ending chooses the format (PNG, SVG, PDF).
        title: Title above the axes.
    """
    return write_chart(curve_chart(results, title), path)
