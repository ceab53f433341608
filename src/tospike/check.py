"""Say before a conversion whether it will work, and everything that stands in its way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from torch import nn

from tospike.errors import Problem
from tospike.graph.capture import Capture, Operation, Site, capture
from tospike.graph.rewrite import Analog, rewrite, support_problems
from tospike.graph.walk import site_nodes


@dataclass(frozen=True)
class SupportReport:
    """What `check` found.

    Attributes:
        network: Class of the network.
        sites: The activations that become neurons, pooled copies included, in the order of execution.
        problems: Everything that stands in the way of a conversion, with place, reason and remedy.
        incremental: Operations that run in analog, exact in the running mean.
        neurons: Neurons for one sample.
        neurons_added: How many of them are pooled copies.
    """

    network: str
    sites: tuple[Site, ...]
    problems: tuple[Problem, ...]
    incremental: tuple[Operation, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the network converts."""
        return not self.problems

    @property
    def neurons(self) -> int:
        """Neurons for one sample."""
        return sum(site.neurons for site in self.sites)

    @property
    def neurons_added(self) -> int:
        """Neurons of pooled copies, for one sample."""
        return sum(site.neurons for site in self.sites if site.copy_of)

    def __str__(self) -> str:
        """Render a table of the Sites and the list of problems."""
        console = Console(width=120, no_color=True, highlight=False)
        with console.capture() as captured:
            self.print(console)
        return captured.get().rstrip()

    def print(self, console: Console) -> None:
        """Print the report to a rich console."""
        table = Table(
            "Site",
            "operation",
            "neurons",
            Column("source", overflow="fold"),
            title=f"{self.network}: {len(self.sites)} Sites",
        )
        for site in self.sites:
            note = f" (copy of {site.copy_of})" if site.copy_of else ""
            table.add_row(site.name + note, _kind(site), " x ".join(map(str, site.shape)), site.operation.source)
        console.print(table)
        for number, problem in enumerate(self.problems, 1):
            console.print(f"{number}. {problem}", markup=False)
        added = f", {self.neurons_added:,} of them pooled copies" if self.neurons_added else ""
        console.print(f"{self.neurons:,} neurons{added}.")
        for name, count in sorted(Counter(o.verdict.name for o in self.incremental).items()):
            console.print(f"Analog: {count} x {name}.")
        console.print("It converts." if self.ok else f"It does not convert: {len(self.problems)} problems.")


def _kind(site: Site) -> str:
    verdict = site.operation.verdict
    marks = [mark for mark, applies in (("signed", verdict.signed), ("analog", verdict.analog)) if applies]
    return f"{verdict.name} ({', '.join(marks)})" if marks else verdict.name


def rewritten(ann: nn.Module, example: Any, analog: Analog = ()) -> tuple[Capture, tuple[Problem, ...]]:
    """Capture and rewrite a network, and list everything that stands in the way of a conversion."""
    captured = capture(ann, example)
    rewrite(captured)
    problems = [*captured.problems, *support_problems(captured, analog)]
    if not site_nodes(captured.graph):
        problems.append(
            Problem("The network has no activation that could become a neuron", got="0 Sites",
                    expected="at least one ReLU, ReLU6 or clamp(min=0)", remedy="Replace its activations by ReLU and fine-tune.")
        )  # fmt: skip
    return captured, tuple(problems)


def check(ann: nn.Module, example: Any, *, analog: Analog = ()) -> SupportReport:
    """Report whether a network converts, without converting it.

    Args:
        ann: The network; it is not changed.
        example: One batch of inputs ``[N, ...]``: a tensor, a tuple, or a dict by name.
        analog: Names of operations, or module paths, that may run in analog; ``"auto"`` for all; see `tospike.convert`.

    Raises:
        CaptureError: The network cannot be run on the example or not be traced at all.

    Example:
        >>> import torch
        >>> report = check(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 1)), torch.zeros(1, 2))
        >>> report.ok, report.problems[0].where
        (False, '3 (gelu)')
    """
    captured, problems = rewritten(ann, example, analog)
    sites = tuple(node.meta["site"] for node in site_nodes(captured.graph))
    incremental = tuple(o for node, o in captured.operations() if node.meta.get("incremental"))
    return SupportReport(type(ann).__name__, sites, problems, incremental)
