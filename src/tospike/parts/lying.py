"""Statistics of each channel in the order in which activations lie in memory, where the compiled kernels can take it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tospike.neurons.fused import NUMBERS, SMALLEST, available
from tospike.neurons.threads import in_parallel

WIDTH = 1024  # values that a kernel handles in one loop, about
SUMMED = 64  # of them that are summed in the number format of the values
SHARE = 2**20  # values from which one more thread pays
CACHED = 2**16  # values that are worked on at once


def in_cache(z: Tensor) -> tuple[Tensor, ...]:
    """Split a batch ``[N, ...]`` into parts that stay in the cache while several operations pass over them."""
    return torch.split(z, max(1, CACHED * len(z) // max(z.numel(), 1)))


def side_by_side(z: Tensor, axes: tuple[int, ...]) -> NDArray[Any] | None:
    """Return a batch as one row ``[outer, channels]``; None where channels do not lie side by side, or no kernel pays.

    Args:
        z: Values ``[N, ...]``.
        axes: Those that are reduced: all, or all but that of the channels.
    """
    kept = [axis for axis in range(z.ndim) if axis not in axes]
    small = z.numel() < SMALLEST or z.device.type != "cpu" or z.dtype not in NUMBERS
    if small or len(kept) > 1 or not available("numba"):
        return None
    order = sorted(range(z.ndim), key=z.stride, reverse=True) if not kept else [*axes, *kept]
    lying = z.detach().permute(order)
    return lying.reshape(-1).numpy() if lying.is_contiguous() else None


def excess(z: Tensor, theta: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return ``Σ max(z − θ, 0)`` over the reduced axes, shaped like θ."""
    row = side_by_side(z, axes)
    if row is not None:
        return _above(row, z, theta, counted=False)
    return _sum(((part - theta).clamp_min_(0.0) for part in in_cache(z)), axes).to(z.dtype)


def count_above(z: Tensor, theta: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return how many values are not up to θ, NaN among them, over the reduced axes; shaped like θ, in 64 bits."""
    row = side_by_side(z, axes)
    if row is not None:
        return _above(row, z, theta, counted=True)
    return _sum(((part <= theta).logical_not_().to(z.dtype) for part in in_cache(z)), axes)


def _sum(parts: Iterable[Tensor], axes: tuple[int, ...]) -> Tensor:
    return torch.stack([part.sum(axes, keepdim=True)[0].double() for part in parts]).sum(0)


def largest(z: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the largest value over the reduced axes, flat; at least 0, and NaN where there is a NaN or infinity."""
    row = side_by_side(z, axes)
    if row is None:
        found = z.amax(axes).flatten().clamp_min(0.0)
        return found + 0.0 * found
    from tospike.parts import kernels

    groups = math.prod(z.shape[axis] for axis in range(z.ndim) if axis not in axes)
    marks = spans(len(row), groups)
    found = torch.zeros(len(marks) - 1, groups, dtype=z.dtype)
    rows = found.numpy()
    in_parallel(lambda part: kernels.largest(row[marks[part] : marks[part + 1]], rows[part]), len(rows))
    return found.amax(0)


def _above(row: NDArray[Any], z: Tensor, theta: Tensor, *, counted: bool) -> Tensor:
    from tospike.parts import kernels  # compiles, so it is left until it is needed

    limits, marks = theta.to(z.dtype).flatten().numpy(), spans(len(row), theta.numel())
    sums = torch.zeros(len(marks) - 1, theta.numel(), dtype=torch.float64)
    rows = sums.numpy()
    in_parallel(lambda part: kernels.above(row[marks[part] : marks[part + 1]], limits, rows[part], counted), len(rows))
    total = sums.sum(0).reshape(theta.shape)
    return total if counted else total.to(z.dtype)


def spans(size: int, groups: int, share: int = SHARE) -> list[int]:
    """Return where the parts of ``[outer, groups]`` begin that threads take each, of `share` values at least.

    What is summed in the number format of the values does not depend on their number.
    """
    block = SUMMED * max(1, WIDTH // groups) * groups
    blocks = -(-size // block)
    parts = max(1, min(torch.get_num_threads(), blocks, size // share))
    return [min(part * blocks // parts * block, size) for part in range(parts + 1)]
