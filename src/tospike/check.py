"""Say before a conversion whether it will work, and everything that stands in its way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import fx, nn

from tospike.errors import OptionError, Problem, merged
from tospike.graph.batches import Inputs
from tospike.graph.capture import Capture, Operation, Site, capture
from tospike.graph.rewrite import Analog, rewrite, support_problems
from tospike.graph.walk import site_nodes

EXAMPLE_SAMPLES = (
    2  # every value of a network is kept and compared; with one sample, squeeze() would take the batch axis away
)


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
        table = Table("Site", "operation", "neurons", title=f"{self.network}: {_counted(len(self.sites), 'Site')}")
        sources = [site.operation.source for site in self.sites]
        if any(sources):  # modules that stand in a container have none
            table.add_column("source", overflow="fold")
        for site, source in zip(self.sites, sources, strict=True):
            note = f" (copy of {site.copy_of})" if site.copy_of else ""
            cells = (site.name + note, _kind(site), " x ".join(map(str, site.shape)), source)
            table.add_row(*cells[: len(table.columns)])
        console.print(table)
        for number, problem in enumerate(merged(self.problems), 1):
            console.print(f"{number}. {problem}", markup=False)
        added = f", {self.neurons_added:,} of them pooled copies" if self.neurons_added else ""
        console.print(f"{self.neurons:,} neurons{added}.")
        for name, count in sorted(Counter(o.verdict.name for o in self.incremental).items()):
            console.print(f"Analog: {count} x {name}.")
        console.print("It converts." if self.ok else f"It does not convert: {_counted(len(self.problems), 'problem')}.")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


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


def counterpart(ann: nn.Module, example: Inputs, sites: Sequence[Site]) -> fx.GraphModule:
    """Return the graph of an ANN whose Sites are those of an SNN, rewritten as for a conversion, still with its activations.

    Sites are matched by order and shape: `prepare` gives every call of a reused activation a module, and so a name, of its own.

    Args:
        ann: The ANN that was converted, or the one that it was prepared from.
        example: A batch of inputs by name; a few samples are used.
        sites: Those of the SNN.

    Raises:
        OptionError: They are not the same network.
    """
    captured, _ = rewritten(ann, {name: value[:EXAMPLE_SAMPLES] for name, value in example.items()}, "auto")
    ours = {site.name for site in sites}
    if ours < {node.meta["site"].name for node in site_nodes(captured.graph)}:  # some were left analog
        for node in site_nodes(captured.graph):
            if node.meta["site"].name not in ours:
                del node.meta["site"]
    theirs = [node.meta["site"] for node in site_nodes(captured.graph)]
    if [site.shape for site in theirs] != [site.shape for site in sites]:
        got, expected = (
            f"{len(s)} Sites: {', '.join(f'{site.name} {site.shape}' for site in s[:4])}" for s in (theirs, sites)
        )
        raise OptionError(
            "ANN and SNN are not the same network", got=got, expected=expected,
            remedy="Pass the network that the SNN was converted from: where `prepare` replaced max-pools by average pools, the prepared one.",
        )  # fmt: skip
    return captured.graph.eval().requires_grad_(False)
