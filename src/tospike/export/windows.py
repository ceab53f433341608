"""Windows of convolutions and pools as every reader of NIR takes them: without groups, square, averaging all that they cover."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional

from tospike.export.units import name_of

Settings = dict[str, Any]


def dense(layer: nn.Conv1d | nn.Conv2d) -> Tensor:
    """Return the weights of a convolution without groups that does the same; no reader takes groups.

    Example:
        >>> dense(nn.Conv2d(4, 4, 1, groups=4)).count_nonzero().item()
        4
    """
    weight = layer.weight.detach()
    whole = weight.new_zeros(weight.shape[0], layer.in_channels, *weight.shape[2:])
    for number, part in enumerate(weight.chunk(layer.groups)):
        rows, columns = part.shape[0], part.shape[1]
        whole[number * rows : (number + 1) * rows, number * columns : (number + 1) * columns] = part
    return whole


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def window(node: fx.Node, module: nn.Module | None, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...] | None:
    """Return kernel, stride and padding of an average pool; None where it is no plain one."""

    def setting(position: int, name: str, default: Any) -> Any:
        if module is not None:
            return getattr(module, name, default)
        return node.kwargs.get(name, node.args[position] if len(node.args) > position else default)

    if len(shape) != 3:
        return None
    if name_of(node) == "mean":
        return shape[1:], shape[1:], (0, 0)
    if name_of(node) == "adaptiveavgpool2d":
        given = setting(1, "output_size", 1)
        wanted = [n if size is None else size for n, size in zip(shape[1:], _pair(given), strict=True)]
        if any(n % size for n, size in zip(shape[1:], wanted, strict=True)):
            return None
        kernel = (shape[1] // wanted[0], shape[2] // wanted[1])
        return kernel, kernel, (0, 0)
    kernel, padding = _pair(setting(1, "kernel_size", 1)), _pair(setting(3, "padding", 0))
    stride = _pair(setting(2, "stride", None) or kernel)
    plain = not setting(4, "ceil_mode", False) and setting(6, "divisor_override", None) is None
    return (kernel, stride, padding) if plain and (setting(5, "count_include_pad", True) or not any(padding)) else None


def square(weight: Tensor, settings: Settings) -> tuple[Tensor, Settings] | None:
    """Surround the kernel of a convolution with zeros until it is square, which NIR takes every kernel for; None where it cannot.

    Args:
        weight: ``[out, in, height, width]``.
        settings: Stride, padding and dilation, of two numbers each.

    Example:
        >>> import torch
        >>> weight, settings = square(torch.ones(1, 1, 3, 1), {"stride": (1, 1), "padding": (0, 1), "dilation": (1, 1)})
        >>> weight.flatten().tolist(), settings["padding"]
        ([0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0], (0, 2))
    """
    sizes = weight.shape[2:]
    if len(sizes) != 2 or sizes[0] == sizes[1]:
        return weight, settings
    missing = [max(sizes) - size for size in sizes]
    if any(count % 2 for count in missing):
        return None
    rows, columns = (count // 2 for count in missing)
    wider = (p + d * n for p, d, n in zip(settings["padding"], settings["dilation"], (rows, columns), strict=True))
    return functional.pad(weight, (columns, columns, rows, rows)), {**settings, "padding": tuple(wider)}


def whole_map(weight: Tensor) -> tuple[Tensor, Settings]:
    """Return the one convolution whose only window is a whole map ``[out, in, height, width]``, with a square kernel."""
    height, width = weight.shape[2:]
    size = max(height, width)
    above, left = -((height - size) // 2), -((width - size) // 2)
    padded = functional.pad(weight, (left, size - width - left, above, size - height - above))
    stride = 1 if height == width else 2  # a border of one too many makes no second window
    return padded, {"stride": (stride, stride), "padding": (above, left), "dilation": (1, 1)}
