"""Where a conversion loses: what clipping, quantisation and timing change at every Site."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, fx

from tospike.errors import DataError
from tospike.graph.batches import Inputs, divide, split_batch
from tospike.graph.walk import module_of, site_nodes
from tospike.neurons.modules import Neuron
from tospike.run.counts import Counts
from tospike.run.network import SNN
from tospike.run.schedule import Delay, check_run
from tospike.run.simulate import Run, checked_inputs, last, sizes_of_calls

MEANS_AT_ONCE = 2**26  # neurons times samples of one run whose means are all kept


@dataclass(frozen=True)
class SiteErrors:
    """Root mean squares at one Site, in units of the ANN's activation.

    Attributes:
        site: Name of the Site.
        activation: Of ``f(z̄)``, what the neurons should have sent for their mean current.
        clipping, quantisation, timing: Of the three terms.
        total: Of their sum, which is what the neurons sent beside it.
        timing_mean: Mean of the timing error: above 0 where too much was sent.
    """

    site: str
    activation: float
    clipping: float
    quantisation: float
    timing: float
    total: float
    timing_mean: float


@dataclass(frozen=True)
class ErrorTerms:
    """The errors of all Sites, in the order of execution.

    Attributes:
        time_steps: T.
        samples: Samples they were measured on.
        sites: One entry per Site.
    """

    time_steps: int
    samples: int
    sites: tuple[SiteErrors, ...]

    def table(self, *others: ErrorTerms) -> Table:
        """Return a table in percent of each Site's activation; with others, e.g. after tuning, side by side."""
        table = Table("Site", title=f"Errors at T = {self.time_steps} in % of the activation, {self.samples:,} samples")
        for name in ("clipping", "quantisation", "timing", "total"):
            table.add_column(name, justify="right")
        for rows in zip(*(terms.sites for terms in (self, *others)), strict=True):
            cells = []
            for name in ("clipping", "quantisation", "timing", "total"):
                cells.append(" > ".join(f"{100 * getattr(row, name) / max(row.activation, 1e-12):.1f}" for row in rows))
            table.add_row(rows[0].site, *cells)
        return table


@dataclass
class Flow:
    """What went through one Site in the steps that are read out.

    Attributes:
        current: z̄, the mean input current ``[N, ...]``, biases of the neurons left out, in units of the ANN's activation.
        emitted: ē, the mean emission, likewise.
        fired: Whether a neuron sent anything but 0 in any step ``[N, ...]``.
        always: Whether it was not silent in any step.
    """

    current: Tensor
    emitted: Tensor
    fired: Tensor
    always: Tensor


class _Flows:
    """Sums up, as a watch of a run, what goes through every Site from a first step on."""

    def __init__(self, snn: SNN, first: int) -> None:
        self.snn, self.first = snn, first
        self.flows: dict[fx.Node, Flow] = {}
        self.done: dict[fx.Node, int] = {}
        self.static: dict[fx.Node, Any] = {}

    def __call__(self, node: fx.Node, args: tuple[Any, ...], value: Any, steps: int) -> None:
        if "site" not in node.meta:
            return
        done = self.done.get(node, 0)
        self.done[node] = done + steps
        skipped = max(self.first - done, 0)
        if skipped >= steps:
            return
        emitted = value.unflatten(0, (steps, -1))[skipped:]
        constant = self.static.get(node.all_input_nodes[0])
        current = (
            constant * len(emitted) if constant is not None else args[0].unflatten(0, (steps, -1))[skipped:].sum(0)
        )
        neuron = module_of(self.snn.graph, node)
        assert isinstance(neuron, Neuron)
        fired, always = (emitted != 0).any(0), (emitted != (0 if neuron.model.holds else neuron.silence)).all(0)
        flow = self.flows.get(node)
        if flow is None:
            self.flows[node] = Flow(current, emitted.sum(0), fired, always)
        else:
            flow.current, flow.emitted = flow.current + current, flow.emitted + emitted.sum(0)
            flow.fired, flow.always = flow.fired | fired, flow.always & always


def follow(
    snn: SNN, inputs: Inputs, time_steps: int, first: int = 0, counts: Counts | None = None
) -> tuple[Any, dict[fx.Node, Flow]]:
    """Run an SNN on a batch; return its output, and what went through every Site in the steps that are read out.

    Args:
        snn: The network.
        inputs: The batch, by name.
        time_steps: T.
        first: Steps that are not read out.
        counts: Filled with spikes and operations when given.
    """
    flows = _Flows(snn, first)
    run = Run(snn, inputs, counts, watch=flows)
    flows.static = run.static
    samples = next(iter(inputs.values())).shape[0]
    synchronous = snn.conversion.neuron.synchronous
    read_outs = (
        run.settled([time_steps])
        if synchronous
        else run.read_outs([time_steps], {time_steps: first}, sizes_of_calls(snn, samples, time_steps)[1])
    )
    output, steps = last(read_outs), 1 if synchronous else time_steps - first
    for flow in flows.flows.values():
        flow.current, flow.emitted = flow.current / steps, flow.emitted / steps
    return output, flows.flows


def portions(snn: SNN, inputs: Inputs) -> Iterator[Inputs]:
    """Split a batch so that the means of all its neurons fit into memory."""
    neurons = sum(site.neurons for site in snn.conversion.sites)
    return divide(inputs, max(1, MEANS_AT_ONCE // max(neurons, 1)))


@torch.no_grad()
def error_terms(snn: SNN, data: Iterable[Any], *, time_steps: int, delay: Delay = 0) -> ErrorTerms:
    """Split what every neuron sends beside the activation of its own mean current into clipping, quantisation and timing error.

    ``E_clip = c − f(z̄)``, ``E_quant = q − c``, ``E_time = ē − q``: z̄ the mean current over the steps that are read out, f the activation
    (ReLU where a bound was trained), ``c = clip(f(z̄), −ρθ, ρθ)`` with ρ the reach of the neuron, q the mean emission for the constant
    current z̄, and ē the mean emission. The sum is ``ē − f(z̄)``, whatever the neuron. For integrate-and-fire with ``0 ≤ v(0) < θ``:
    ``q = θ/T·clip(⌊(z̄T + v(0))/θ⌋, 0, T)``. Neurons that wait for all of their input have no timing error.

    Args:
        snn: A converted network.
        data: Batches of inputs, with or without targets.
        time_steps: T.
        delay: First counted step; see `tospike.simulate`.

    Raises:
        OptionError: T or the delay is out of range.
        DataError: There are no batches.
        SimulationError: A batch does not fit the network.

    Source: Bu et al., QCFS, ICLR 2022 (clipping, quantisation, unevenness error). Differs from the paper in: the three are measured one by one, with
    the current that the SNN itself has.

    Example:
        >>> import tospike as ts
        >>> ann = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> snn = ts.convert(ann, ts.LTB(batches=10), calibration=[torch.randn(64, 2)])
        >>> round(error_terms(snn, [torch.randn(32, 2)], time_steps=4).sites[0].timing, 6)  # the only Site has a constant input
        0.0
    """
    first = check_run(snn.conversion, (time_steps,), time_steps, delay, None, "auto")[time_steps]
    sums: dict[fx.Node, Tensor] = {}
    samples = 0
    for batch in data:
        for inputs in portions(snn, checked_inputs(snn, split_batch(batch, snn.plan.inputs)[0])):
            for node, flow in follow(snn, inputs, time_steps, first)[1].items():
                terms = dissect(node, neuron_of(snn, node), flow, time_steps, first).sums()
                sums[node] = sums.get(node, 0.0) + terms
            samples += next(iter(inputs.values())).shape[0]
    if not sums:
        raise DataError(
            "There are no data to measure errors on", got="0 batches", expected="at least one", remedy="Pass data=[x]."
        )
    sites = []
    for node in site_nodes(snn.graph):
        site = node.meta["site"]
        sites.append(SiteErrors(site.name, *root_means(sums[node] / (samples * site.neurons))))
    return ErrorTerms(time_steps, samples, tuple(sites))


def root_means(means: Tensor) -> list[float]:
    """Return the roots of mean squares, and the last entry, which is a plain mean, as it is."""
    *squares, late = means.tolist()
    return [*(square**0.5 for square in squares), late]


def neuron_of(snn: SNN, node: fx.Node) -> Neuron:
    """Return the neuron of a Site."""
    neuron = module_of(snn.graph, node)
    assert isinstance(neuron, Neuron)
    return neuron


def wanted(node: fx.Node, neuron: Neuron, current: Tensor) -> Tensor:
    """Return what neurons should send for a mean current: the activation, or ReLU where a trained bound is their own clipping."""
    if node.meta["operation"].verdict.trained:
        return current.clamp_min(0.0)
    return neuron.function(current)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Split:
    """The activation of a mean current, and what neurons make of it, one error after the other; all ``[N, ...]``.

    Attributes:
        activation: ``f(z̄)``.
        clipped: c.
        quantised: q.
        emitted: ē.
    """

    activation: Tensor
    clipped: Tensor
    quantised: Tensor
    emitted: Tensor

    def sums(self) -> Tensor:
        """Return the sums of the squares of `SiteErrors` in their order, and of the timing error itself."""
        timing = self.emitted - self.quantised
        terms = (
            self.activation, self.clipped - self.activation, self.quantised - self.clipped, timing, self.emitted - self.activation,
        )  # fmt: skip
        return torch.stack([*(term.double().square().sum() for term in terms), timing.double().sum()])


def clip(neuron: Neuron, activation: Tensor, time_steps: int) -> Tensor:
    """Return activations clipped at the largest mean that neurons can send over T steps, and at the least."""
    reach, depth = (limit(time_steps) * neuron.threshold for limit in (neuron.model.reach, neuron.model.depth))
    return activation.clamp(-depth, reach)


def dissect(node: fx.Node, neuron: Neuron, flow: Flow, time_steps: int, first: int = 0) -> Split:
    """Return what the neurons of a Site make of their mean current."""
    current = neuron.biased_mean(flow.current, time_steps, first)
    activation = wanted(node, neuron, current)
    quantised = neuron.for_constant(current, time_steps, first)
    return Split(activation, clip(neuron, activation, time_steps), quantised, flow.emitted)
