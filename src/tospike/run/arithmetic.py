"""In what numbers the nodes between the first and the last neuron are computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from tospike.graph.layers import is_weighted
from tospike.graph.walk import module_of
from tospike.neurons.levels import Levels
from tospike.neurons.modules import Neuron
from tospike.run.integers import IntegerLayer, obstacle, unit_of_inputs, units_for
from tospike.run.nodes import Values, call, is_size

LARGEST = 255  # of what 8 bits hold
MOVED = {"view", "reshape", "flatten", "contiguous"}
POOLED = {"avg_pool2d", "avgpool2d"}


@dataclass(frozen=True)
class Choice:
    """How one layer is computed.

    Attributes:
        layer: Path of the layer.
        kernel: What computes it.
        reason: Why it is not computed otherwise; empty where nothing stands against the fastest way.
    """

    layer: str
    kernel: str
    reason: str = ""


class Arithmetic:
    """Floating point: all nodes as torch computes them."""

    def emits_levels(self, neuron: Neuron) -> bool:
        """Tell whether the emissions of a Site stay integers."""
        return False

    def compute(self, graph: fx.GraphModule, node: fx.Node, values: Values) -> Any:
        """Compute one node from the values of the nodes that it reads."""
        return call(graph, node, values)


FLOAT = Arithmetic()
DIGITS = {"int8": 1, "int16": 2}


class Integers(Arithmetic):
    """Integers where spikes meet weights, floating point elsewhere.

    Args:
        digits: Of a weight, 1 or 2, each with 8 bits.
    """

    def __init__(self, digits: int) -> None:
        self.digits = digits
        self.choices: dict[str, Choice] = {}
        self._layers: dict[fx.Node, tuple[Any, IntegerLayer]] = {}

    def emits_levels(self, neuron: Neuron) -> bool:
        """Tell whether the emissions of a Site fit into 8 bits, and mean the same at every step."""
        model = neuron.model
        return not model.synchronous and not model.holds and model.silence + model.largest <= LARGEST

    def compute(self, graph: fx.GraphModule, node: fx.Node, values: Values) -> Any:
        """Compute one node, in integers where its input is levels and the node can take them."""
        levels = {source: values[source] for source in node.all_input_nodes if isinstance(values[source], Levels)}
        if is_size(node):
            return call(graph, node, {**values, **{source: value.values for source, value in levels.items()}})
        found = self._in_integers(graph, node, values) if levels else None
        if found is not None:
            return found
        if not levels and is_weighted(graph, node):
            self._choose(node, "float", "it reads no spikes, or spikes whose worth depends on the step")
        return call(graph, node, {**values, **{source: value.emission() for source, value in levels.items()}})

    def _in_integers(self, graph: fx.GraphModule, node: fx.Node, values: Values) -> Any:
        """Compute a node from levels; None where it has to be computed from what they are worth."""
        module, name = module_of(graph, node), node.meta["operation"].verdict.name
        first = values[node.all_input_nodes[0]]
        if is_weighted(graph, node):
            reason = obstacle(module, first)
            if not reason:
                assert module is not None
                return self._layer(node, module, first)(first.values).to(first.unit.dtype)
            self._choose(node, "float", reason)
        elif name in MOVED and isinstance(first, Levels):
            return _moved(graph, node, values, first)
        elif name in POOLED and module is not None:
            return _pooled(module, first)
        return None

    def _layer(self, node: fx.Node, module: nn.Module, levels: Levels) -> IntegerLayer:
        unit = unit_of_inputs(module, levels)
        assert unit is not None
        native, kernel = units_for(levels, levels.values.device)
        self._choose(node, kernel)
        key = (native, levels.zero, *map(_version, (module.weight, module.bias)))
        held = self._layers.get(node)
        if held is None or held[0][0] != key or not torch.equal(held[0][1], unit):
            held = (
                (key, unit.clone()), IntegerLayer(module, unit, levels.zero, self.digits, native=native)
            )  # fmt: skip
            self._layers[node] = held
        return held[1]

    def _choose(self, node: fx.Node, kernel: str, reason: str = "") -> None:
        path = node.meta["operation"].path
        self.choices[path] = Choice(path, kernel, reason)


_KEPT: WeakKeyDictionary[nn.Module, dict[str, Integers]] = WeakKeyDictionary()


def arithmetic_of(snn: nn.Module, engine: str) -> Arithmetic:
    """Return the arithmetic of an engine; integer weights are made once for an SNN, and again when weights or thresholds have changed."""
    if engine not in DIGITS:
        return FLOAT
    kept = _KEPT.setdefault(snn, {})
    return kept.setdefault(engine, Integers(DIGITS[engine]))


def _version(tensor: Any) -> Any:
    """Return what changes when a tensor is replaced or written to."""
    if not isinstance(tensor, Tensor):
        return None
    return id(tensor), tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version


def _moved(graph: fx.GraphModule, node: fx.Node, values: Values, levels: Levels) -> Levels | None:
    """Change the shape of levels, batch axis kept; None where what they are worth cannot follow."""
    moved = call(graph, node, {**values, node.all_input_nodes[0]: levels.values})
    before, after = levels.values.shape, moved.shape
    if after[0] != before[0]:
        return None
    if levels.unit.numel() == 1:
        return levels.with_values(moved, unit=levels.unit.reshape(()))
    return levels.with_values(moved, unit=levels.unit.expand(before[1:]).reshape(after[1:]))


def _pooled(module: nn.Module, levels: Levels) -> Levels | None:
    """Add up levels in windows that do not overlap; None where windows are of another kind, or sums leave 8 bits."""
    pool: Any = module
    size = nn.modules.utils._pair(pool.kernel_size)
    cells = math.prod(size)
    values = levels.values
    plain = nn.modules.utils._pair(pool.stride) == size and not any(nn.modules.utils._pair(pool.padding))
    plain = plain and pool.divisor_override is None
    whole = all(length % window == 0 for length, window in zip(values.shape[2:], size, strict=True))
    same = levels.unit.ndim < 3 or levels.unit.shape[-2:] == (1, 1)
    if not (plain and whole and same) or cells * (levels.zero + levels.largest) > LARGEST:
        return None
    parts = [values[:, :, i :: size[0], j :: size[1]] for i in range(size[0]) for j in range(size[1])]
    total = parts[0].clone(memory_format=torch.preserve_format)
    for part in parts[1:]:
        total += part
    return levels.with_values(total, unit=levels.unit / cells, zero=cells * levels.zero, largest=cells * levels.largest)
