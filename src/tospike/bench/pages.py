"""What the measurements found, for people: tables and a chart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import altair as alt
from rich import box
from rich.table import Column, Table

from tospike.bench.memory import LONG, PROCESSES, SHORT, STEPS_PER_CALL, TARGET
from tospike.bench.scaling import STEPS
from tospike.bench.speed import Row, Speed
from tospike.report.charts import COLOURS, Drawing

HEADERS = ("T", "contender", "ms", "ratio", "wanted", "speed-up", "wanted", "GMAC/s", "% of peak")
ABOUT = """\
ms: time of T steps on the batch; of the ANN, of T forward passes. Ratio: the same time over that of the ANN in the same round, the ANN in
float32 with batch norm folded, in the faster of two layouts. Both: median (quartiles) of {rounds} rounds in which every contender ran once,
after a run that warmed it up. Speed-up: median of SpikingJelly's faster mode, each mode in the faster of two recipes and two layouts, over
the own median. GMAC/s: multiply-adds of dense layers, padding counted as data, for a second; layers that run once for an input or a read-out
are counted once where they run once. Peak: that of the numbers of the row; int16 multiplies twice. Wanted: on two cores with AVX-512-VNNI."""


def cells(row: Row, *, quartiles: bool = True) -> tuple[str, ...]:
    """Return what stands in the columns of a row, see `HEADERS`, with the quartiles of times and ratios or without."""
    if row.ms is None or row.ratio is None:
        return (str(row.time_steps), row.contender, "does not run", *[""] * (len(HEADERS) - 3))
    ms, ratio = (
        (row.ms.text(".1f"), row.ratio.text(".3f"))
        if quartiles
        else (f"{row.ms.median:.1f}", f"{row.ratio.median:.3f}")
    )
    return (
        str(row.time_steps), row.contender, ms, ratio, "" if row.target is None else f"≤ {row.target:.2f}",
        "" if row.speed_up is None else f"{row.speed_up:.2f}",
        "" if row.speed_up is None or row.speed_up_target is None else f"≥ {row.speed_up_target:g}",
        "" if row.work is None else f"{row.work:.1f}", "" if row.share is None else f"{100 * row.share:.0f}",
    )  # fmt: skip


def tables(speed: Speed) -> list[Table]:
    """Return one table of medians for each network, for a terminal."""
    found = []
    for name, rows in _by_network(speed.rows):
        columns = [
            Column(header, min_width=len("SpikingJelly,") if header == "contender" else None) for header in HEADERS
        ]
        notes = "\n".join(_notes(rows))
        table = Table(*columns, box=box.SIMPLE, title=f"{name}, batch {rows[0].batch}", caption=notes)
        for row in rows:
            table.add_row(*cells(row, quartiles=False))
        found.append(table)
    return found


def markdown(speed: Speed, command: str, picture: str = "") -> str:
    """Write everything as Markdown.

    Args:
        speed: What was found.
        command: What it was measured by.
        picture: File of the chart, named from the folder of the page.
    """
    peaks = speed.peaks
    lines = [
        f"Made by `{command}`, {speed.rounds} rounds, seed {speed.seed}.", "", speed.machine.text(), "", ABOUT.format(rounds=speed.rounds), "",
        f"Peaks of this machine, in the same run: {peaks.floats:.1f} GMAC/s in float32; {peaks.integers:.1f} GMAC/s of spikes and weights of 8 bits "
        f"({peaks.units}); copies {peaks.copy:.1f} GB/s.",
    ]  # fmt: skip
    for name, rows in _by_network(speed.rows):
        lines += ["", f"## {name}, batch {rows[0].batch}", "", *_table(HEADERS, map(cells, rows)), ""]
        lines += [f"- {note}" for note in _notes(rows)]
    lines += ["", *_memory(speed)] if speed.memory else []
    lines += ["", *_points(speed)] if speed.points else []
    lines += ["", f"![Ratio to the ANN, and how time grows]({picture})"] if picture else []
    return "\n".join(lines) + "\n"


def _notes(rows: Iterable[Row]) -> list[str]:
    """Say how contenders were set up, or why they do not run, once for all T for which it is the same."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.setting or row.reason:
            found.setdefault(f"{row.contender}: {row.setting or row.reason}", []).append(str(row.time_steps))
    return [f"{note} (T = {', '.join(steps)})" for note, steps in found.items()]


def _memory(speed: Speed) -> list[str]:
    rows = [
        (one.network, one.engine, str(one.batch), *(f"{value:.0f}" for value in (one.before, one.short, one.long)), f"{one.ratio:.3f}", f"≤ {TARGET:g}")
        for one in speed.memory
    ]  # fmt: skip
    headers = (
        "network",
        "engine",
        "batch",
        "before the run",
        f"largest, T = {SHORT}",
        f"largest, T = {LONG}",
        "ratio",
        "wanted",
    )
    about = f"Resident memory of a process of its own in MB, {STEPS_PER_CALL} steps in each call; medians of {PROCESSES} processes."
    return ["## Memory", "", about, "", *_table(headers, rows)]


def _points(speed: Speed) -> list[str]:
    lines = [
        "## Growth", "",
        f"{speed.scaled}, milliseconds, median (quartiles). Where T does not vary it is {STEPS}; the ANN makes as many forward passes as there are steps.",
    ]  # fmt: skip
    for axis in dict.fromkeys(point.axis for point in speed.points):
        points = [point for point in speed.points if point.axis == axis]
        names = list(dict.fromkeys(point.contender for point in points))
        at = {(point.value, point.contender): point.ms.text(".1f") for point in points}
        rows = [(str(value), *(at[value, name] for name in names)) for value in dict.fromkeys(p.value for p in points)]
        lines += ["", *_table((axis, *names), rows)]
    return lines


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(headers)} |",
        "|" + "---|" * len(headers),
        *(f"| {' | '.join(text.replace('|', '/') for text in row)} |" for row in rows),
    ]


def _by_network(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.network, []).append(row)
    return list(found.items())


def chart(speed: Speed) -> Drawing:
    """Return the ratios of every network, and how time grows where that was measured."""
    rows = [row for row in speed.rows if row.ratio is not None]
    names = list(dict.fromkeys([row.contender for row in rows] + [point.contender for point in speed.points]))
    legend = alt.Legend(title=None, orient="bottom", columns=3, labelLimit=300)
    colour = alt.Color("contender:N", scale=alt.Scale(domain=names, range=list(COLOURS)), legend=legend)
    table = alt.InlineData(values=[
        {"network": row.network, "contender": row.contender, "T": row.time_steps, **asdict(row.ratio)} for row in rows if row.ratio is not None
    ])  # fmt: skip
    x = alt.X("median:Q", title="time of T steps over T forward passes of the ANN")
    y, height = alt.Y("contender:N", sort=names, title=None), alt.YOffset("T:N")
    base = alt.Chart()
    ratios = alt.layer(
        base.mark_bar().encode(x=x, y=y, yOffset=height, color=colour),
        base.mark_rule().encode(x="low:Q", x2="high:Q", y=y, yOffset=height),
        base.mark_text(align="left", dx=4, fontSize=10).encode(x="high:Q", y=y, yOffset=height, text=alt.Text("label:N")),
        data=table,
    ).transform_calculate(label="format(datum.median, '.2f') + ', T = ' + datum.T").properties(width=300).facet(
        alt.Facet("network:N", sort=list(dict.fromkeys(row.network for row in rows)), title=None), columns=2
    )  # fmt: skip
    return alt.vconcat(ratios, _growth(speed, colour)) if speed.points else ratios


def _growth(speed: Speed, colour: alt.Color) -> alt.HConcatChart:
    panels = []
    for axis in dict.fromkeys(point.axis for point in speed.points):
        points = [point for point in speed.points if point.axis == axis]
        table = alt.InlineData(values=[{"value": p.value, "contender": p.contender, **asdict(p.ms)} for p in points])
        ticks = sorted({point.value for point in points})
        x = alt.X("value:Q", title=axis, scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=ticks, format="d"))
        y = alt.Y("median:Q", title=f"ms, {speed.scaled}", scale=alt.Scale(type="log"))
        panels.append(alt.Chart(table).mark_line(point=True).encode(x=x, y=y, color=colour).properties(width=200, height=200))  # fmt: skip
    return alt.hconcat(*panels)
