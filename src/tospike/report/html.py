"""The report: one HTML file with everything in it, for reading without a network, on paper and on a phone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

import jinja2
import vl_convert

from tospike.diagnosis import Diagnosis
from tospike.energy import EnergyTable, energy
from tospike.errors import OptionError, require_type
from tospike.files import refuse_existing, replacing
from tospike.report import charts, sections
from tospike.result import Result
from tospike.run.network import SNN

T = TypeVar("T")


def write_report(
    results: Result | Mapping[str, Result],
    path: str | os.PathLike[str],
    *,
    snns: SNN | Mapping[str, SNN] | None = None,
    diagnoses: Diagnosis | Mapping[str, Diagnosis] | None = None,
    table: str | EnergyTable = "horowitz-45nm",
    title: str = "",
    command: str = "",
    pictures: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Path:
    """Write one self-contained HTML file about one or several results; it opens without a network.

    It holds the scores over T, energy and latency, spike rates, and, as far as they are given, errors and stages, thresholds and the
    records of the conversions; what was analog and what the counts leave out; and how to make it again.

    Args:
        results: What `tospike.evaluate` returned, or several by label.
        path: File to write.
        snns: The SNNs that were evaluated, by the same labels: for thresholds and records.
        diagnoses: What `tospike.diagnose` returned, by the same labels.
        table: Energy table; see `tospike.energy`.
        title: Title of the page.
        command: How the results were made, in the words of a command line.
        pictures: Folder for every chart as PNG and SVG; none are written when None.
        force: Replace files that are there.

    Returns:
        The path of the page.

    Raises:
        OptionError: A file exists, or there is nothing to report on.

    Example:
        >>> import tempfile, torch, tospike as ts
        >>> ann = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> x = torch.randn(64, 2)
        >>> snn = ts.convert(ann, ts.LTB(batches=10), calibration=[x])
        >>> result = ts.evaluate(snn, [(x, torch.zeros(64, dtype=torch.long))], time_steps=(2, 8), reference=ann, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ts.write_report(result, f"{folder}/report.html", snns=snn).name
        'report.html'
    """
    found = _by_label(results, Result, "results")
    if not found:
        raise OptionError(
            "There is nothing to report on", got="no results", expected="a Result", remedy="Pass what ts.evaluate returned.",
        )  # fmt: skip
    scores = {f"{result.task}: {result.headline} [{result.unit}]" for result in found.values()}
    if len(scores) > 1:
        raise OptionError("The results are of different scores, which do not belong on one axis", got=", ".join(sorted(scores)), expected="one task",
                          remedy="Write a report for each.")  # fmt: skip
    alone = next(iter(found)) if len(found) == 1 else ""
    made = {label: snn.conversion for label, snn in _by_label(snns, SNN, "snns", alone).items()}
    looked = _by_label(diagnoses, Diagnosis, "diagnoses", alone)
    refuse_existing(path, force)
    costs = {label: energy(result, table) for label, result in found.items() if result.layers}
    said = [
        *sections.scores(found), *sections.energies(found, costs), *sections.errors(looked), *sections.descents(made),
        *sections.layers(found, made), *sections.records(found, made, command or " ".join(sys.argv)),
    ]  # fmt: skip
    drawn = [chart for section in said for chart in section.charts]
    page = _template().render(
        title=title or f"SNN report: {', '.join(found)}", sections=said, labels=list(found), numbers=sections.numbers(found, costs),
        warnings=sections.warnings(found), hidden=charts.HIDDEN, library=_library(),
        specs=json.dumps({chart.id: chart.chart.to_dict() for chart in drawn}).replace("<", "\\u003c"),
    )  # fmt: skip
    if pictures is not None:
        for chart in drawn:
            for ending in ("png", "svg"):
                refuse_existing(Path(pictures, f"{chart.id}.{ending}"), force)
                charts.write_chart(chart.chart, Path(pictures, f"{chart.id}.{ending}"))
    with replacing(path) as written:
        written.write_text(page, encoding="utf-8")
    return Path(path)


@cache
def _library() -> str:
    """Return the scripts that draw charts; putting them together takes a second or two."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")).replace("</script", "<\\/script")


def _template() -> jinja2.Template:
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=folder, autoescape=True, undefined=jinja2.StrictUndefined).get_template(
        "report.html.j2"
    )


def _by_label(given: T | Mapping[str, T] | None, kind: type[T], name: str, alone: str = "") -> dict[str, T]:
    if given is None:
        return {}
    found = (
        {str(label): value for label, value in given.items()}
        if isinstance(given, Mapping)
        else {alone or (given.method if isinstance(given, Result) else "SNN"): given}
    )
    for value in found.values():
        require_type(name, value, kind, f"a {kind.__name__}, or several by label", f"Pass {name}={{'LTB': …}}.")
    return found
