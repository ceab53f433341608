"""Tables of results for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from tospike.result import Result


def curve_table(results: Mapping[str, Result], title: str = "") -> Table:
    """Return a table with one row per SNN: its reference, its score at every T, and its mean spikes per neuron and step."""
    marks = sorted({t for result in results.values() for t in result.curve})
    first = next(iter(results.values()))
    table = Table(
        title=title, caption=f"{first.headline} in {first.unit}; spikes per neuron and step, over the largest T"
    )
    for column in ("network", "ANN", *(f"T={t}" for t in marks), "spikes"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for label, result in results.items():
        scores = (f"{result.curve[t]:.2f}" if t in result.curve else "" for t in marks)
        reference = "" if result.reference is None else f"{result.reference:.2f}"
        last = max(result.spikes_per_neuron)
        table.add_row(label, reference, *scores, f"{result.spikes_per_neuron[last] / last:.3f}")
    return table
