"""Where a conversion loses: what clipping, quantisation and timing change at every Site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, fx

from tospike.errors import DataError, OptionError
from tospike.graph.batches import split_batch
from tospike.graph.walk import module_of, site_nodes
from tospike.neurons.modules import Neuron
from tospike.run.network import SNN
from tospike.run.schedule import check_run
from tospike.run.simulate import checked_inputs


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


@torch.no_grad()
def error_terms(snn: SNN, data: Iterable[Any], *, time_steps: int) -> ErrorTerms:
    """Split what every neuron sends beside the activation of its own mean current into clipping, quantisation and timing error.

    ``E_clip = c − f(z̄)``, ``E_quant = q − c``, ``E_time = ē − q``: z̄ the mean current over T steps, f the activation (ReLU where a
    bound was trained), ``c = clip(f(z̄), −ρθ, ρθ)`` with ρ the
    reach of the neuron, q the mean emission for the constant current z̄, and ē the mean emission. The sum is ``ē − f(z̄)``, whatever the
    neuron. For integrate-and-fire with ``0 ≤ v(0) < θ``: ``q = θ/T·clip(⌊(z̄T + v(0))/θ⌋, 0, T)``.

    Args:
        snn: A converted network of causal neurons.
        data: Batches of inputs, with or without targets.
        time_steps: T.

    Raises:
        OptionError: T is out of range, or the neurons are synchronous or spend a pre-run.
        DataError: There are no batches.
        SimulationError: A batch does not fit the network.

    Source: Bu et al., QCFS, ICLR 2022 (clipping, quantisation, unevenness error). Differs from the paper in: the three are measured one by one, with
    the current that the SNN itself has.

    Example:
        >>> import tospike as ts
        >>> ann = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> snn = ts.convert(ann, ts.LTB(batches=10), calibration=[torch.randn(64, 2)])
        >>> error_terms(snn, [torch.randn(32, 2)], time_steps=4).sites[0].timing  # the only Site has a constant input
        0.0
    """
    check_run(snn.conversion, (time_steps,), time_steps, 0, None, "auto")
    model = snn.conversion.neuron
    if model.synchronous or model.pre is not None:
        raise OptionError(
            "Error terms need causal neurons without a pre-run", got=repr(model), expected="neurons whose steps are all read out",
            remedy="A synchronous neuron has no timing error; compare evaluate() with the ANN instead.",
        )  # fmt: skip
    sums: dict[fx.Node, Tensor] = {}
    samples = 0
    for batch in data:
        inputs = checked_inputs(snn, split_batch(batch, snn.plan.inputs)[0])
        for node, terms in _terms(snn, inputs, time_steps).items():
            sums[node] = sums.get(node, 0.0) + terms
        samples += next(iter(inputs.values())).shape[0]
    if not sums:
        raise DataError(
            "There are no data to measure errors on", got="0 batches", expected="at least one", remedy="Pass data=[x]."
        )
    sites = []
    for node in site_nodes(snn.graph):
        site = node.meta["site"]
        activation, clip, quant, time, total, late = (sums[node] / (samples * site.neurons)).tolist()
        sites.append(SiteErrors(site.name, activation**0.5, clip**0.5, quant**0.5, time**0.5, total**0.5, late))
    return ErrorTerms(time_steps, samples, tuple(sites))


def _terms(snn: SNN, inputs: dict[str, Tensor], steps: int) -> dict[fx.Node, Tensor]:
    """Return, for each Site, the sums over one batch of the squares of `SiteErrors`, and of the timing error itself."""
    found: dict[fx.Node, Tensor] = {}
    static = snn.plan.prepare(inputs)

    def watch(node: fx.Node, arguments: tuple[Any, ...], value: Any, _: int) -> None:
        neuron = module_of(snn.graph, node)
        if not isinstance(neuron, Neuron):
            return
        constant = static.get(node.all_input_nodes[0])
        current = arguments[0].unflatten(0, (steps, -1)).mean(0) if constant is None else constant
        emitted = value.unflatten(0, (steps, -1)).mean(0)
        found[node] = _split(neuron, wanted(node, neuron, neuron.biased_mean(current, steps)), current, emitted, steps)

    snn.plan.step(static, {}, steps, watch)
    return found


def wanted(node: fx.Node, neuron: Neuron, current: Tensor) -> Tensor:
    """Return what neurons should send for a mean current: the activation, or ReLU where a trained bound is their own clipping."""
    if node.meta["operation"].verdict.trained:
        return current.clamp_min(0.0)
    return neuron.function(current)  # type: ignore[no-any-return]


def _split(neuron: Neuron, activation: Tensor, current: Tensor, emitted: Tensor, steps: int) -> Tensor:
    reach = neuron.model.reach(steps) * neuron.threshold
    clipped = activation.clamp(-reach if neuron.model.signed else torch.zeros_like(reach), reach)
    constant = neuron.for_constant(neuron.biased_mean(current, steps), steps)
    timing = emitted - constant
    terms = (activation, clipped - activation, constant - clipped, timing, emitted - activation)
    return torch.stack([*(term.double().square().sum() for term in terms), timing.double().sum()])
