"""Pictures of results."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from tospike.files import replacing
from tospike.result import Result


def draw_curve(results: Mapping[str, Result], path: str | os.PathLike[str], title: str = "") -> Path:
    """Draw the score of several SNNs over T, each with its own reference, and write the picture.

    Args:
        results: Results by the label of their curve.
        path: File to write; its ending chooses the format (PNG, SVG, PDF).
        title: Title above the axes.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (label, result) in enumerate(results.items()):
        colour = f"C{number}"
        axes.plot(list(result.curve), list(result.curve.values()), "o-", color=colour, label=label)
        if result.reference is not None:
            axes.axhline(
                result.reference,
                color=colour,
                linestyle=":",
                label=f"{result.reference_name} of {label}: {result.reference:.2f}",
            )
    first = next(iter(results.values()))
    axes.set_xscale("log", base=2)
    ticks = sorted({t for result in results.values() for t in result.curve})
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_xlabel("time-steps T")
    axes.set_ylabel(f"{first.headline} [{first.unit}]" if first.unit else first.headline)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with replacing(path) as written:
        figure.savefig(written, dpi=150)
    return Path(path)
