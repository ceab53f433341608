"""The folded form: spikes are 0 or 1, thresholds are 1, and the weights hold what the thresholds were."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from tospike.errors import require_type
from tospike.export.folding import Folding
from tospike.export.limits import refuse_hooks
from tospike.export.units import Scale, is_layer
from tospike.graph.walk import module_of
from tospike.run.network import SNN


@dataclass(frozen=True)
class FoldedLayer:
    """One layer of synapses.

    Attributes:
        name: Path of its module.
        kind: Class of its module, e.g. ``"Conv2d"``; ``"Scale"`` is one synapse per neuron.
        weight: In units of the threshold that it drives; spikes that it reads are 0 or 1.
        bias: Current at every step, same unit; None for none.
        drives: The Site whose thresholds it is counted in; empty where no neuron stands behind it.
    """

    name: str
    kind: str
    weight: Tensor
    bias: Tensor | None
    drives: str


@dataclass(frozen=True)
class Folded:
    """An SNN whose spikes are 0 or 1 and whose thresholds are 1; printed, it shows its layers.

    Attributes:
        snn: The network; it runs as any other.
        layers: Its synapses, in the order of execution.
    """

    snn: SNN
    layers: tuple[FoldedLayer, ...]

    def __str__(self) -> str:
        """Show one line per layer: shape, range of the weights, and what it drives."""
        rows = [("layer", "kind", "weights", "range, in thresholds", "drives")]
        for layer in self.layers:
            low, high = (float(value) for value in layer.weight.aminmax())
            shape = "x".join(map(str, layer.weight.shape)) or "1"
            rows.append((layer.name, layer.kind, shape, f"{low:.3g} to {high:.3g}", layer.drives or "(output)"))
        return aligned(rows)


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows of text as columns.

    Example:
        >>> print(aligned([("a", "b"), ("long", "c")]))
        a     b
        long  c
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def fold(snn: SNN) -> Folded:
    """Return the SNN with thresholds of 1 and spikes of 0 or 1; every output is the same, and every spike comes at the same step.

    ``W ← W·θ_in/θ_out``, ``b ← b/θ_out``, with θ_in the threshold of the neuron that a weight reads and θ_out that of the one it drives.
    Where spikes enter a sum, one synapse per neuron (`Scale`) weighs them with ``θ_in/θ_out``. Constant biases
    of neurons become biases of layers. Neurons with other levels keep them as multiples of 1; signed ones send −1 too.

    Args:
        snn: A converted network; it is not changed.

    Raises:
        OptionError: It is no SNN.
        ExportError: Modules have hooks.

    Example:
        >>> import tospike as ts
        >>> from torch import nn
        >>> ann = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> snn = ts.convert(ann, ts.LTB(batches=10), calibration=[torch.randn(64, 2)])
        >>> folded, x = ts.fold(snn), torch.randn(3, 2)
        >>> torch.allclose(folded.snn(x, time_steps=8), snn(x, time_steps=8), atol=1e-5)
        True
        >>> float(folded.snn.conversion.thresholds["1"]), [layer.drives for layer in folded.layers]
        (1.0, ['1', ''])
    """
    require_type("snn", snn, SNN, "a converted network", "Pass what ts.convert returned.")
    refuse_hooks(snn)
    graph = copy.deepcopy(snn.graph)
    Folding(graph).run()
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    thresholds = {name: torch.ones_like(theta).reshape(-1)[0] for name, theta in snn.conversion.thresholds.items()}
    made = replace(copy.deepcopy(snn.conversion), thresholds=thresholds)
    folded = SNN(graph.eval().requires_grad_(False), snn.plan.inputs, made).eval()
    return Folded(folded, tuple(layer_of(graph, node) for node in synapses(graph)))


def synapses(graph: fx.GraphModule) -> list[fx.Node]:
    """Return the calls of layers in the order of execution."""
    nodes = graph.graph.nodes
    return [node for node in nodes if is_layer(graph, node) or isinstance(module_of(graph, node), Scale)]


def layer_of(graph: fx.GraphModule, node: fx.Node) -> FoldedLayer:
    """Describe the layer that a node calls."""
    layer: Any = module_of(graph, node)
    bias = None if layer.bias is None else layer.bias.detach()
    return FoldedLayer(str(node.target), type(layer).__name__, layer.weight.detach(), bias, node.meta.get("drives", ""))
