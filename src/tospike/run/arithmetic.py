"""In what numbers the nodes between the first and the last neuron are computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from tospike.graph.kinds import Kind
from tospike.graph.layers import is_weighted
from tospike.graph.walk import module_of
from tospike.neurons.levels import Levels
from tospike.neurons.modules import Neuron
from tospike.run import half, integers
from tospike.run.half import HalfLayer
from tospike.run.integers import IntegerLayer, obstacle, unit_of_inputs
from tospike.run.nodes import Values, call, is_size

LARGEST = 255  # of what 8 bits hold
MOVED = {"view", "reshape", "flatten", "contiguous"}
POOLED = {"avg_pool2d", "avgpool2d"}
Layers = Callable[[], Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Choice:
    """How one layer is computed.

    Attributes:
        layer: Path of the layer.
        kernel: What computes it.
        reason: Why it is not computed otherwise; empty where nothing stands against the fastest way.
        written: In what numbers neurons read its output, ``"bfloat16"`` or ``"float16"``; empty where these are the network's own.
    """

    layer: str
    kernel: str
    reason: str = ""
    written: str = ""


class Arithmetic:
    """Floating point: all nodes as torch computes them."""

    def emits_levels(self, neuron: Neuron) -> bool:
        """Tell whether the emissions of a Site stay integers."""
        return False

    def compute(self, graph: fx.GraphModule, node: fx.Node, values: Values) -> Any:
        """Compute one node from the values of the nodes that it reads."""
        return call(graph, node, values)

    def is_narrow(self, node: fx.Node) -> bool:
        """Tell whether the value of a node was left in fewer bits, for readers that sum it up in more."""
        return False

    def number(self, layer: str, levels: Levels) -> torch.dtype:
        """Return the number format in which a layer, named by its path, met levels that it was handed."""
        return levels.unit.dtype


FLOAT = Arithmetic()


class Spiking(Arithmetic):
    """Other units where spikes meet weights, floating point elsewhere; which units, the kinds of it say.

    Attributes:
        choices: How each layer was computed, by its path.
    """

    def __init__(self) -> None:
        self.choices: dict[str, Choice] = {}
        self._layers: dict[fx.Node, tuple[Any, Any]] = {}
        self._narrow: set[fx.Node] = set()

    def prepared(self, module: nn.Module, unit: Tensor, levels: Levels, number: torch.dtype) -> tuple[str, Any, Layers]:
        """Say how a layer reads levels.

        Args:
            module: The layer.
            unit: Worth of a level, for each input channel or input, or one for all.
            levels: What it reads.
            number: Number format of its output.

        Returns:
            What stands in the report, all that the layer depends on besides its weights and the unit, and what makes it.
        """
        raise NotImplementedError

    def narrow(self, device: torch.device) -> torch.dtype:
        """Return in what numbers a layer hands its output to neurons, where nothing else reads it."""
        raise NotImplementedError

    def units(self, levels: Levels) -> torch.dtype:
        """Return the number format of the weights that levels meet."""
        raise NotImplementedError

    def refused(self, module: nn.Module, unit: Tensor) -> str:
        """Return why weights times the unit cannot be what the units read; empty if they can."""
        return ""

    def emits_levels(self, neuron: Neuron) -> bool:
        """Tell whether the emissions of a Site fit into 8 bits, and mean the same at every step."""
        model = neuron.model
        return not model.synchronous and not model.holds and model.zero + model.rest + model.largest <= LARGEST

    def compute(self, graph: fx.GraphModule, node: fx.Node, values: Values) -> Any:
        """Compute one node, from levels where it can take them; what was left narrow for neurons is widened for nodes that change it."""
        narrow = self._narrow.intersection(node.all_input_nodes)
        self._narrow.discard(node)
        if (
            narrow and _is_maximum(node) and _is_summed_up(node)
        ):  # the largest of rounded numbers is the largest, rounded
            self._narrow.add(node)
        elif narrow:
            values = {**values, **{source: values[source].float() for source in narrow}}
        levels = {source: values[source] for source in node.all_input_nodes if isinstance(values[source], Levels)}
        if is_size(node):
            return call(graph, node, {**values, **{source: value.values for source, value in levels.items()}})
        found = self._from_levels(graph, node, values) if levels else None
        if found is not None:
            return found
        if not levels and is_weighted(graph, node):
            self._choose(node, "float", "it reads no spikes, or spikes whose worth depends on the step")
        return call(graph, node, {**values, **{source: value.emission() for source, value in levels.items()}})

    def is_narrow(self, node: fx.Node) -> bool:
        """Tell whether the value of a node was left in fewer bits."""
        return node in self._narrow

    def number(self, layer: str, levels: Levels) -> torch.dtype:
        """Return the number format in which a layer, named by its path, met levels that it was handed."""
        made = self.choices.get(layer)
        return super().number(layer, levels) if made is None or made.kernel == "float" else self.units(levels)

    def _from_levels(self, graph: fx.GraphModule, node: fx.Node, values: Values) -> Any:
        """Compute a node from levels; None where it has to be computed from what they are worth."""
        module, name = module_of(graph, node), node.meta["operation"].verdict.name
        first = values[node.all_input_nodes[0]]
        if is_weighted(graph, node):
            reason = obstacle(module, first)
            if not reason:
                assert module is not None
                layer = self._layer(node, module, first)
                return None if layer is None else layer(first.values)
            self._choose(node, "float", reason)
        elif name in MOVED and isinstance(first, Levels):
            return _moved(graph, node, values, first)
        elif name in POOLED and module is not None:
            return _pooled(module, first)
        return None

    def _layer(self, node: fx.Node, module: nn.Module, levels: Levels) -> Any:
        """Return what computes a layer; made again when weights or what a level is worth have changed. None where it cannot be made."""
        unit = unit_of_inputs(module, levels)
        assert unit is not None
        number = self._written(node, levels)
        kernel, depends, make = self.prepared(module, unit, levels, number)
        key = (depends, number, levels.zero, levels.largest, *map(_version, (module.weight, module.bias)))
        held = self._layers.get(node)
        if held is None or held[0][0] != key or not _same(held[0][1], unit):
            reason = self.refused(module, unit)
            written = "" if reason or number is levels.unit.dtype else str(number).removeprefix("torch.")
            made = Choice(node.meta["operation"].path, "float" if reason else kernel, reason, written)
            held = ((key, unit.clone(), made), None if reason else make())
            self._layers[node] = held
        self.choices[held[0][2].layer] = held[0][2]
        return held[1]

    def _written(self, node: fx.Node, levels: Levels) -> torch.dtype:
        """Return in what numbers a layer that reads levels hands on its output."""
        number, full = self.narrow(levels.unit.device), levels.unit.dtype
        if number is full or full is not torch.float32 or not _is_summed_up(node):
            return full
        self._narrow.add(node)
        return number

    def _choose(self, node: fx.Node, kernel: str, reason: str = "") -> None:
        path = node.meta["operation"].path
        self.choices[path] = Choice(path, kernel, reason)


class Integers(Spiking):
    """Integers where spikes meet weights.

    With weights of 8 bits, the output of a layer that only neurons read is rounded to bfloat16, which has as many: half the memory to move.

    Args:
        digits: Of a weight, 1 or 2, each with 8 bits.
    """

    def __init__(self, digits: int) -> None:
        super().__init__()
        self.digits = digits

    def prepared(self, module: nn.Module, unit: Tensor, levels: Levels, number: torch.dtype) -> tuple[str, Any, Layers]:
        """Use integer units where there are any."""
        native, kernel = integers.units_for(levels, levels.values.device)
        return (
            kernel,
            native,
            lambda: IntegerLayer(module, unit, levels.zero, levels.largest, self.digits, number, native=native),
        )

    def narrow(self, device: torch.device) -> torch.dtype:
        """Return bfloat16 where weights have as many bits as it."""
        return torch.bfloat16 if self.digits == 1 and device.type == "cpu" else torch.float32

    def units(self, levels: Levels) -> torch.dtype:
        """Return integers of as many bits as a weight's digits have."""
        return torch.int8 if self.digits == 1 else torch.int16


class Half(Spiking):
    """Half precision where spikes meet weights; what only neurons read stays in it, and on a GPU they write levels in it too."""

    def prepared(self, module: nn.Module, unit: Tensor, levels: Levels, number: torch.dtype) -> tuple[str, Any, Layers]:
        """Use units for half precision where there are any."""
        units, kernel = half.units_for(unit.device)
        return kernel, units, lambda: HalfLayer(module, unit, levels.zero, units, number)

    def refused(self, module: nn.Module, unit: Tensor) -> str:
        """Refuse weights that half precision cannot hold."""
        leaves = half.leaves_range(module, unit, half.units_for(unit.device)[0])
        return "weights times thresholds leave the range of half precision" if leaves else ""

    def narrow(self, device: torch.device) -> torch.dtype:
        """Return the number format of the units, where compiled neurons can read it."""
        number = half.units_for(device)[0]
        return number if device.type == "cuda" or number is torch.bfloat16 else torch.float32

    def units(self, levels: Levels) -> torch.dtype:
        """Return half precision, or what computes in its place."""
        return half.units_for(levels.values.device)[0]


SPIKING: dict[str, Callable[[], Spiking]] = {"int8": lambda: Integers(1), "int16": lambda: Integers(2), "half": Half}
_KEPT: WeakKeyDictionary[nn.Module, dict[str, Spiking]] = WeakKeyDictionary()


def arithmetic_of(snn: nn.Module, engine: str) -> Arithmetic:
    """Return the arithmetic of an engine; its weights are made once for an SNN, and again when weights or thresholds have changed."""
    if engine not in SPIKING:
        return FLOAT
    kept = _KEPT.setdefault(snn, {})
    if engine not in kept:
        kept[engine] = SPIKING[engine]()
    return kept[engine]


def _is_summed_up(node: fx.Node) -> bool:
    """Tell whether all that reads a node adds it up over time: neurons, sums that neurons add up, running maxima; or hands it on to such."""

    def is_site(reader: fx.Node) -> bool:
        return "site" in reader.meta

    def is_sum(reader: fx.Node) -> bool:
        return "operation" in reader.meta and reader.meta["operation"].verdict.name in ("add", "iadd")

    return all(
        is_site(reader)
        or (is_sum(reader) and all(map(is_site, reader.users)))
        or (_is_maximum(reader) and (reader.meta.get("incremental") or _is_summed_up(reader)))
        for reader in node.users
    )


def _is_maximum(node: fx.Node) -> bool:
    """Tell whether a node is a max-pool."""
    return "operation" in node.meta and node.meta["operation"].verdict.kind is Kind.POOL_MAX


def _same(held: Tensor, unit: Tensor) -> bool:
    """Tell whether two units are equal; while a CUDA graph is captured none can be read, and what was made before stays."""
    return (unit.is_cuda and torch.cuda.is_current_stream_capturing()) or torch.equal(held, unit)


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
    return levels.with_values(
        total,
        unit=levels.unit / cells,
        zero=cells * levels.zero,
        largest=cells * levels.largest,
        rest=cells * levels.rest,
    )
