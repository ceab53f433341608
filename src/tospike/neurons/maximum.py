"""The maximum of windows in the running sum, in one pass over memory where there is a compiled kernel for it."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tospike.neurons import fused
from tospike.neurons.incremental import Running
from tospike.neurons.threads import in_parallel


def fits(pool: nn.MaxPool2d, values: Tensor, *, narrow: bool = False) -> bool:
    """Tell whether the kernel can take a max-pool through a chunk of values ``[steps·N, C, H, W]``; if not, the steps in torch do.

    Args:
        pool: The windows.
        values: What is summed up.
        narrow: Whether the values have been left in 16 bits for readers that sum them up in 32.
    """
    return (
        values.ndim == 4
        and values.device.type == "cpu"
        and (values.dtype in fused.NUMBERS or (narrow and values.dtype is torch.bfloat16))
        and values.numel() >= fused.SMALLEST
        and fused.available("numba")
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and values.requires_grad)
    )


def advance(pool: nn.MaxPool2d, source: Any, values: Tensor, before: Running, steps: int) -> tuple[Running, Tensor]:
    """Return the state after a chunk and what the maximum emits at every step of it; equal to the last bit to what `Running` does.

    Args:
        pool: The windows.
        source: Key of the sums in the state.
        values: ``[steps·N, C, H, W]``; of 16 bits, they are summed up in 32.
        before: State before the chunk. Its memory may be written over.
        steps: Time steps in the chunk.
    """
    from tospike.neurons import pool_kernels  # compiles, so it is left until it is needed

    samples, (channels, height, width) = len(values) // steps, values.shape[1:]
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    rows, columns = _size(height, width, *settings, pool.ceil_mode)
    number = torch.float32 if values.dtype is torch.bfloat16 else values.dtype
    if before.total is None:
        sums = torch.zeros(samples, height, width, channels, dtype=number)
        total = torch.zeros(samples, rows, columns, channels, dtype=number)
    else:
        sums, total = _inner(before.sums[source]), _inner(before.total)
    out = torch.empty(steps * samples, rows, columns, channels, dtype=number)
    given = _inner(values)
    arrays = [
        x.view(-1).numpy()
        for x in (given.view(torch.uint16) if given.dtype is torch.bfloat16 else given, sums, total, out)
    ]
    shape = (steps, samples, height, width, rows, columns, channels)
    windows = tuple(n for setting in settings for n in nn.modules.utils._pair(setting))
    parts = max(1, min(torch.get_num_threads(), samples, values.numel() // fused.SHARE))
    marks = [part * samples // parts for part in range(parts + 1)]
    in_parallel(lambda part: pool_kernels.advance(marks[part], marks[part + 1], shape, windows, *arrays), parts)
    after = replace(before, steps=before.steps + steps, sums={source: _outer(sums)}, total=_outer(total))
    return after, _outer(out)


@functools.cache
def _size(
    height: int, width: int, window: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[int, ...]:
    """Return height and width of a pooled map."""
    pooled = functional.max_pool2d(
        torch.empty(1, 1, height, width, device="meta"), window, stride, padding, dilation, ceil_mode
    )
    return pooled.shape[2:]


def _inner(x: Tensor) -> Tensor:
    """Return maps ``[N, C, H, W]`` as ``[N, H, W, C]``, dense."""
    return x.detach().permute(0, 2, 3, 1).contiguous()


def _outer(x: Tensor) -> Tensor:
    """Return what `_inner` was given."""
    return x.permute(0, 3, 1, 2)
