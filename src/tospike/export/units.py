"""Units: what the value 1 stands for at each place of a folded network, and how units pass through operations."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from tospike.graph.capture import Operation
from tospike.graph.layers import BATCH_NORMS, CONVOLUTIONS, TRANSPOSED, folded
from tospike.graph.walk import module_of

RESHAPES = {"flatten", "view", "reshape", "squeeze", "unsqueeze", "contiguous", "viewas", "unflatten"}
POOLS = {f"{kind}pool{d}d" for kind in ("avg", "max", "adaptiveavg", "adaptivemax") for d in (1, 2, 3)}
JOINS = {"add", "iadd", "sub", "subtract", "isub"}
CONCATENATIONS = {"cat", "concat", "concatenate"}
LAYERS = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)


class Scale(nn.Module):
    """One synapse per neuron: ``y = w·x + b``.

    It stands where spikes of one unit enter a sum of another, as on the shortcut of a residual block, and where a batch norm
    could not be folded into a layer.

    Args:
        weight: w, broadcastable to one sample.
        bias: b, broadcastable to one sample; None for none.

    Example:
        >>> Scale(torch.tensor([[2.0], [3.0]]))(torch.ones(1, 2, 1)).flatten()
        tensor([2., 3.])
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Scale a batch ``[N, ...]``."""
        return x * self.weight if self.bias is None else x * self.weight + self.bias


@dataclass(frozen=True)
class Unit:
    """What the value 1 stands for.

    Attributes:
        value: In units of the ANN's activation, broadcastable to one sample.
        site: The Site whose threshold it is; empty for none.
    """

    value: Tensor
    site: str = ""

    def same(self, other: Unit | None) -> bool:
        """Tell whether another unit is worth the same."""
        return other is not None and self.value.shape == other.value.shape and torch.equal(self.value, other.value)


def sample_shape(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of one sample of a node's value."""
    return tuple(node.meta["operation"].shape[1:])


def name_of(node: fx.Node) -> str:
    """Return the name of a node's operation without underscores, the same for module and function."""
    operation: Operation | None = node.meta.get("operation")
    return operation.verdict.name.replace("_", "") if operation is not None else ""


def channels(value: Tensor, shape: tuple[int, ...], axis: int) -> Tensor | None:
    """Return a unit as one number per channel; None if it differs within a channel.

    Args:
        value: Broadcastable to one sample.
        shape: Of one sample.
        axis: Which axis of the sample counts channels.

    Example:
        >>> channels(torch.tensor([[1.0], [2.0]]), (2, 3), 0)
        tensor([1., 2.])
        >>> channels(torch.tensor([1.0, 2.0, 3.0]), (2, 3), 0) is None
        True
    """
    if value.ndim > len(shape):
        return None
    whole = value.expand(shape).movedim(axis, 0).reshape(shape[axis], -1)
    return whole[:, 0].clone() if bool((whole == whole[:, :1]).all()) else None


def _as_channels(vector: Tensor, rank: int) -> Tensor:
    return vector.reshape(-1, *[1] * (rank - 1))


def passes(node: fx.Node) -> bool:
    """Tell whether an operation gives its input's unit to its output: it averages, picks or rearranges."""
    return name_of(node) in RESHAPES | POOLS | {"mean"}


def forward_unit(node: fx.Node, unit: Unit) -> Unit | None:
    """Return the unit of an operation's output, given that of its input; None if the input must come in units of 1."""
    return _moved(node, unit, sample_shape(node.all_input_nodes[0]), sample_shape(node))


def backward_unit(node: fx.Node, unit: Unit) -> Unit | None:
    """Return the unit that an operation's input must have for the output to have this one; None if there is none."""
    return _moved(node, unit, sample_shape(node), sample_shape(node.all_input_nodes[0]))


def _moved(node: fx.Node, unit: Unit, before: tuple[int, ...], after: tuple[int, ...]) -> Unit | None:
    if unit.value.numel() == 1:
        return Unit(unit.value.reshape(()), unit.site)
    if name_of(node) in RESHAPES:
        if math.prod(before) != math.prod(after) or unit.value.ndim > len(before):
            return None
        whole = unit.value.expand(before).reshape(after)
        vector = channels(whole, after, 0)
        return Unit(whole if vector is None else _as_channels(vector, len(after)), unit.site)
    vector = channels(unit.value, before, 0)
    if vector is None or not after or after[0] != len(vector):
        return None
    return Unit(_as_channels(vector, len(after)), unit.site)


def is_join(node: fx.Node) -> bool:
    """Tell whether a node adds or subtracts signals, and nothing but signals, of one shape."""
    signals = [source for source in node.all_input_nodes if "operation" in source.meta]
    operands = [value for value in node.args[:2] if isinstance(value, fx.Node)]
    same = all(sample_shape(source) == sample_shape(node) for source in signals)
    return name_of(node) in JOINS and len(operands) == 2 and set(operands) == set(signals) and same


def is_concatenation(node: fx.Node) -> bool:
    """Tell whether a node concatenates channels."""
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    rank = len(node.meta["operation"].shape) if "operation" in node.meta else 0
    parts: Any = node.args[0] if node.args else ()
    signals = isinstance(parts, (tuple, list)) and all("operation" in part.meta for part in parts)
    return name_of(node) in CONCATENATIONS and signals and rank > 1 and isinstance(dim, int) and dim % rank == 1


def axes(module: nn.Module, node: fx.Node) -> tuple[int, int]:
    """Return which axis of a sample counts the input channels of a layer, and which its output channels."""
    if isinstance(module, nn.Linear):
        return len(sample_shape(node.all_input_nodes[0])) - 1, len(sample_shape(node)) - 1
    return 0, 0


def rescaled(layer: Any, into: Tensor | None, out: Tensor | None) -> nn.Module:
    """Return a copy of a layer that takes and gives other units: ``W ← W·u_in/u_out``, ``b ← b/u_out``.

    Args:
        layer: A convolution, transposed convolution or linear layer.
        into: u_in, one number per input channel; None for 1.
        out: u_out, one number per output channel; None for 1.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> torch.equal(rescaled(layer, torch.tensor([2.0]), torch.tensor([4.0])).weight, layer.weight / 2)
        True
    """
    layer = copy.deepcopy(layer)
    if into is not None:
        weight, scale = layer.weight.detach().double(), into.double()
        if isinstance(layer, TRANSPOSED):
            weight = weight * _as_channels(scale, weight.ndim)
        elif isinstance(layer, CONVOLUTIONS):
            grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
            weight = (grouped * scale.reshape(layer.groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)
        else:
            weight = weight * scale
        layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=False)
    if out is not None:
        shift = torch.zeros_like(out, dtype=torch.float64)
        layer = folded(layer, 1.0 / out.double(), shift)
    return layer.requires_grad_(False)  # type: ignore[no-any-return]


def is_layer(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a node calls a layer that can take any unit per channel and give any other."""
    return isinstance(module_of(graph, node), LAYERS)


def is_norm(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a node calls a batch norm."""
    return isinstance(module_of(graph, node), BATCH_NORMS)
