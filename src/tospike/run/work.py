"""What one operation costs: its multiply-adds, and at how many outputs each of its inputs arrives."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tospike.graph.layers import CONVOLUTIONS, TRANSPOSED
from tospike.graph.walk import module_of

Part = Literal["constant", "spiking", "analog", "read-out"]
PARTS: tuple[Part, ...] = ("constant", "spiking", "analog", "read-out")


@dataclass(frozen=True)
class LayerWork:
    """What one layer did for one sample, on average.

    Attributes:
        name: Path of the module, or of the function and the module that calls it.
        part: ``"constant"`` before the first neuron, computed once for an input; ``"spiking"`` or ``"analog"`` by what a stepped
            layer reads; ``"read-out"`` behind the last neuron, computed once for a read-out.
        multiply_adds: Multiply-adds of one dense pass, as the ANN makes it.
        operations: By T, operations in the first T steps: synaptic ones of a spiking layer, multiply-adds of any other.
        precision: Number format in which the layer was computed, e.g. ``"float32"``.
    """

    name: str
    part: Part
    multiply_adds: float
    operations: dict[int, float]
    precision: str


def multiply_adds(module: nn.Module | None, x: Tensor, y: Tensor) -> int:
    """Return the multiply-adds of a convolution or linear layer on a whole batch; 0 for any other module.

    Each output element of a convolution takes ``(C_in / groups)·∏kernel`` of them, each input element of a transposed
    one ``(C_out / groups)·∏kernel``, each output element of a linear layer ``F_in``. Padding counts as if it were data.

    Example:
        >>> layer = nn.Conv2d(3, 8, 3, padding=1)
        >>> x = torch.zeros(1, 3, 5, 5)
        >>> multiply_adds(layer, x, layer(x))
        5400
    """
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    if isinstance(module, CONVOLUTIONS):
        return y.numel() * module.in_channels // module.groups * math.prod(module.kernel_size)
    if isinstance(module, TRANSPOSED):
        return x.numel() * module.out_channels // module.groups * math.prod(module.kernel_size)
    return 0


def fan_out(module: nn.Module, positions: Sequence[int]) -> Tensor:
    """Return at how many outputs one input of a convolution arrives, by its position; the same for all channels.

    ``f(p) = (C_out / groups)·∏_d |{(o, k) : o·stride + k·dilation − padding = p_d}|``; a transposed convolution swaps o and p.

    Args:
        module: A convolution, transposed or not.
        positions: Size of each spatial axis of the input.

    Returns:
        Whole numbers in float64, shaped like ``positions``.

    Example:
        >>> fan_out(nn.Conv1d(1, 1, 3), (5,))  # a border without padding is read less often
        tensor([1., 2., 3., 2., 1.], dtype=torch.float64)
    """
    along = _reached if isinstance(module, TRANSPOSED) else _read
    axes = [along(module, axis, length) for axis, length in enumerate(positions)]
    reads = functools.reduce(lambda grid, axis: grid[..., None] * axis, axes)
    return reads * (module.out_channels // module.groups)  # type: ignore[operator]


def _read(module: Any, axis: int, length: int) -> Tensor:
    """Count how often a convolution reads each position along one axis; padding repeats positions, or none."""
    kernel, dilation = module.kernel_size[axis], module.dilation[axis]
    missing = dilation * (kernel - 1)
    given = {"valid": (0, 0), "same": (missing // 2, missing - missing // 2)}
    pads = given[module.padding] if isinstance(module.padding, str) else (module.padding[axis],) * 2
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    places = torch.arange(1, length + 1, dtype=torch.float64)[None]  # 0 is what zero padding adds
    windows = nn.functional.pad(places, pads, mode).unfold(-1, missing + 1, module.stride[axis])[..., ::dilation]
    return torch.bincount(windows.flatten().long(), minlength=length + 1)[1:].double()


def _reached(module: Any, axis: int, length: int) -> Tensor:
    """Count how many outputs along one axis each position of a transposed convolution's input reaches."""
    kernel, stride, padding = module.kernel_size[axis], module.stride[axis], module.padding[axis]
    span = module.dilation[axis] * (kernel - 1)
    end = (length - 1) * stride - 2 * padding + span + module.output_padding[axis] + 1
    outputs = torch.arange(length)[:, None] * stride + torch.arange(0, span + 1, module.dilation[axis]) - padding
    return torch.logical_and(outputs.ge(0), outputs.lt(end)).sum(1).double()


class Meter:
    """Finds what the operations of one network cost, once for each shape that they meet."""

    def __init__(self) -> None:
        self._work: dict[tuple[Any, ...], int] = {}
        self._fans: dict[tuple[Any, ...], Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Meter:
        """Share what was found, which stays true."""
        return self

    def work(self, graph: fx.GraphModule, node: fx.Node, args: Sequence[Any], value: Any) -> int:
        """Return the multiply-adds of a node on a whole batch; 0 where it makes none.

        Args:
            graph: The network.
            node: A module, function or method.
            args: Values of the nodes that it reads.
            value: What it gave.
        """
        module = module_of(graph, node)
        if isinstance(value, Tensor) and args and isinstance(args[0], Tensor):
            known = multiply_adds(module, args[0], value)
            if known:
                return known
        key = (node.name, str([_shapes(arg) for arg in args]))
        if key not in self._work:
            self._work[key] = _measured(node, module, args)
        return self._work[key]

    def fan_out(self, node: fx.Node, module: nn.Module, positions: Sequence[int]) -> Tensor:
        """Return what `fan_out` does."""
        key = (node.name, *positions)
        if key not in self._fans:
            self._fans[key] = fan_out(module, positions)
        return self._fans[key]


def _shapes(value: Any) -> Any:
    return fx.node.map_aggregate(value, lambda part: tuple(part.shape) if isinstance(part, Tensor) else None)


def _to_meta(value: Any) -> Any:
    return fx.node.map_aggregate(value, lambda part: part.to("meta") if isinstance(part, Tensor) else part)


def _rows(vector: Sequence[int], *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * math.prod(vector)


def _trilinear(first: Any, weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return 2 * math.prod(out_shape) * weight[1] * weight[2]


def _measured(node: fx.Node, module: nn.Module | None, args: Sequence[Any]) -> int:
    """Count the multiply-adds of a node by running it on shapes alone, which computes no numbers."""
    values = dict(zip(node.all_input_nodes, map(_to_meta, args), strict=True))
    given, named = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.mv: _rows, torch.ops.aten._trilinear: _trilinear}
    )
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # attention in its matrix products
            if module is not None:
                copy.deepcopy(module).to("meta")(*given, **named)
            elif node.op == "call_method":
                getattr(given[0], str(node.target))(*given[1:], **named)
            elif node.op == "call_function":
                node.target(*given, **named)  # type: ignore[operator]
    except (RuntimeError, NotImplementedError):  # shapes alone do not say what it does: it is listed as not counted
        return 0
    return int(counter.get_total_flops() // 2)
