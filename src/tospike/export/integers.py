"""The folded form in integers of a few bits, as chips store it, and what rounding cost."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from tospike.errors import require, require_type
from tospike.export.folded import Folded, aligned, synapses
from tospike.export.folding import InUnits
from tospike.export.units import Scale, axes, rescaled, sample_shape
from tospike.graph.capture import Site
from tospike.graph.layers import TRANSPOSED
from tospike.graph.walk import module_of, site_nodes
from tospike.neurons.modules import Neuron
from tospike.run.network import SNN


@dataclass(frozen=True)
class IntegerLayer:
    """One layer of synapses in integers.

    Attributes:
        name: Path of its module.
        weight: Integers.
        bias: Integers, which may need more bits; None for none.
        scale: q, what the weights were multiplied with, one number per output channel: the threshold of the neuron there.
        drives: The Site that it drives; empty where no neuron stands behind it, and q is only there to be divided out.
        loss: ``‖w − ŵ‖/‖w‖`` with ŵ the rounded weights.
        clipped: Share of the weights that were too large for the bits.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    scale: Tensor
    drives: str
    loss: float
    clipped: float


@dataclass(frozen=True)
class Agreement:
    """How near two networks are on the same batch.

    Attributes:
        error: ``‖y − ŷ‖/‖y‖`` over all outputs.
        same_answer: Share of samples whose largest output is the same one.
    """

    error: float
    same_answer: float


@dataclass(frozen=True)
class Integers:
    """An SNN whose weights and thresholds are integers; printed, it shows what rounding cost.

    Attributes:
        bits: Of weights and thresholds.
        snn: The network: all weights that drive neurons, all thresholds and start potentials are integers, held as floats.
        layers: Its synapses, in the order of execution.
        thresholds: Of each Site by name, unsigned integers, one per channel or one for all.
        folded: What was rounded.
    """

    bits: int
    snn: SNN
    layers: tuple[IntegerLayer, ...]
    thresholds: dict[str, Tensor]
    folded: Folded

    def agreement(self, x: Any, *, time_steps: int) -> Agreement:
        """Compare with the network before rounding, on one batch ``[N, ...]`` over T steps, for a network with one output."""
        before, after = self.folded.snn(x, time_steps=time_steps), self.snn(x, time_steps=time_steps)
        same = before.flatten(1).argmax(1) == after.flatten(1).argmax(1)
        return Agreement(float((before - after).norm() / before.norm()), float(same.float().mean()))

    def __str__(self) -> str:
        """Show one line per layer: range of the integers, threshold, and loss."""
        rows = [("layer", "weights", "thresholds", "loss of the weights", "clipped", "drives")]
        for layer in self.layers:
            low, high = (int(value) for value in layer.weight.aminmax())
            least, most = (int(value) for value in layer.scale.aminmax())
            shown = f"{least} to {most}" if layer.drives else "-"
            rows.append(
                (
                    layer.name,
                    f"{low} to {high}",
                    shown,
                    f"{layer.loss:.2%}",
                    f"{layer.clipped:.2%}",
                    layer.drives or "(output)",
                )
            )
        return aligned(rows)


def to_integers(folded: Folded, *, bits: int = 8) -> Integers:
    """Round a folded SNN to integer weights and thresholds.

    ``ŵ = round(q_c·w)``, ``θ̂_c = q_c``, ``q_c = ⌊min((2^(bits−1) − 1)/max|w_c|, 2^bits − 1)⌋``, at least 1. All layers that drive
    a Site share its q_c, one for each channel c where their channels are the Site's, else one for the Site.
    ``v(0)`` becomes ``⌊v(0)·q_c⌋``, which fires at the same steps.

    Args:
        folded: What `fold` returned.
        bits: Of weights (signed) and thresholds (unsigned). Biases and potentials take more.

    Raises:
        OptionError: `bits` is out of range, or what is given is no folded SNN.

    Source: none; the formula is the plain one. Differs from chips in: inputs of the first layer stay analog.

    Example:
        >>> import tospike as ts
        >>> ann = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> snn = ts.convert(ann, ts.LTB(batches=10), calibration=[torch.randn(64, 2)])
        >>> integers = ts.to_integers(ts.fold(snn))
        >>> bool(integers.thresholds["1"].max() <= 255), integers.layers[0].weight.dtype, integers.layers[0].loss < 0.05
        (True, torch.int32, True)
    """
    require_type("folded", folded, Folded, "a folded SNN", "Pass ts.fold(snn).")
    require("the integers", ("bits", bits, isinstance(bits, int) and 2 <= bits <= 16, "an integer from 2 to 16", 8))
    snn = copy.deepcopy(folded.snn)
    graph, layers = snn.graph, []
    nodes = synapses(graph)
    scales = {node.meta["site"].name: _scale_of_site(graph, node, nodes, bits) for node in site_nodes(graph)}
    for node in nodes:
        layers.append(_round(graph, node, scales.get(node.meta.get("drives", "")), bits))
    for node in site_nodes(graph):
        _raise_threshold(graph, node, scales[node.meta["site"].name])
    thresholds = {name: scale.to(torch.int32) for name, scale in scales.items()}
    shown = {node.meta["site"].name: _neuron(graph, node).threshold for node in site_nodes(graph)}
    made = replace(snn.conversion, thresholds=shown)
    return Integers(bits, SNN(graph, snn.plan.inputs, made).eval(), tuple(layers), thresholds, folded)


def _neuron(graph: fx.GraphModule, node: fx.Node) -> Neuron:
    neuron = module_of(graph, node)
    assert isinstance(neuron, Neuron)
    return neuron


def _largest(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    """Return the largest size of a weight of each output channel."""
    layer: Any = module_of(graph, node)
    weight: Tensor = layer.weight.detach().double().abs()
    if isinstance(layer, Scale):
        shape = sample_shape(node)
        axis = node.meta["operation"].channel_axis - 1
        return weight.expand(shape).movedim(axis, 0).reshape(shape[axis], -1).amax(1)
    if isinstance(layer, TRANSPOSED):
        grouped = weight.reshape(layer.groups, -1, weight.shape[1], weight[0, 0].numel())
        largest: Tensor = grouped.amax((1, 3)).flatten()
        return largest
    rows: Tensor = weight.flatten(1).amax(1)
    return rows


def _limited(largest: Tensor, bits: int, most: float) -> Tensor:
    most_of_weights: float = 2.0 ** (bits - 1) - 1.0
    return (largest.clamp_min(1e-30).reciprocal() * most_of_weights).clamp(max=most).floor().clamp_min(1.0)


def _scale_of_site(graph: fx.GraphModule, node: fx.Node, nodes: list[fx.Node], bits: int) -> Tensor:
    site: Site = node.meta["site"]
    weighing = [other for other in nodes if other.meta.get("drives") == site.name and "adds" not in other.meta]
    sizes = [_largest(graph, other) for other in weighing]
    channels = site.shape[site.channel_axis - 1]
    most = 2**bits - 1
    if sizes and all(len(size) == channels for size in sizes):
        return _limited(torch.stack(sizes).amax(0), bits, most)
    zero = _neuron(graph, node).threshold.new_zeros(1, dtype=torch.float64)
    largest = torch.cat([zero, *sizes]).amax().reshape(1)
    return _limited(largest, bits, most)


def _round(graph: fx.GraphModule, node: fx.Node, scale: Tensor | None, bits: int) -> IntegerLayer:
    before: Any = module_of(graph, node)
    drives = node.meta.get("drives", "") if scale is not None else ""
    if scale is None:
        scale = _limited(_largest(graph, node), bits, float("inf"))
    layer: Any = _scaled(before, node, scale)
    if "adds" in node.meta:  # to what is in integers already
        layer.weight = before.weight
    most = 2 ** (bits - 1) - 1
    exact = layer.weight.detach()
    weight = exact.round().clamp(-most, most)
    bias = None if layer.bias is None else layer.bias.detach().round()
    clipped = float((exact.abs() > most + 0.5).double().mean())
    rounded = copy.deepcopy(layer)
    _set(rounded, weight, bias)
    back: Any = rounded if "adds" in node.meta else _scaled(rounded, node, 1.0 / scale)
    loss = float((back.weight - before.weight).norm() / before.weight.norm().clamp_min(1e-30))
    graph.set_submodule(str(node.target), rounded if drives else back)
    whole = None if bias is None or before.bias is None else bias.to(torch.int32)
    return IntegerLayer(str(node.target), weight.to(torch.int32), whole, scale, drives, loss, clipped)


def _scaled(layer: Any, node: fx.Node, scale: Tensor) -> nn.Module:
    """Return a copy of a layer whose outputs are scaled, per channel or all alike."""
    if isinstance(layer, Scale):
        shape, axis = sample_shape(node), node.meta["operation"].channel_axis - 1
        factor = scale.reshape([-1 if i == axis else 1 for i in range(len(shape))]) if len(scale) > 1 else scale[0]
        bias = None if layer.bias is None else (layer.bias * factor).to(layer.weight.dtype)
        return Scale((layer.weight * factor).to(layer.weight.dtype), bias)
    channels = sample_shape(node)[axes(layer, node)[1]]
    return rescaled(layer, None, 1.0 / scale.expand(channels))


def _set(layer: Any, weight: Tensor, bias: Tensor | None) -> None:
    if isinstance(layer, Scale):
        layer.weight, layer.bias = weight, bias
        return
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)


def _raise_threshold(graph: fx.GraphModule, node: fx.Node, scale: Tensor) -> None:
    """Give neurons the thresholds q, and emissions that are still counted in thresholds."""
    neuron, site = _neuron(graph, node), node.meta["site"]
    shape = [-1 if axis == site.channel_axis - 1 else 1 for axis in range(len(site.shape))]
    q = (scale.reshape(shape) if len(scale) > 1 else scale[0]).to(neuron.threshold.dtype)
    if not neuron.homogeneous:
        neuron.function = InUnits(neuron.function, 1.0 / q)
    if not neuron.model.synchronous:
        neuron.start = torch.floor(neuron.start * q) / q
    neuron.bias = None if neuron.bias is None else (neuron.bias * q).round()
    neuron.threshold, neuron.gain = q, 1.0 / q
