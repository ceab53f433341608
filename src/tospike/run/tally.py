"""How many values of each step are not silent, by the position in the map."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tospike.neurons.fused import available
from tospike.neurons.threads import in_parallel

SMALLEST = 2**15  # values from which the compiled kernel is worth its call, and its compilation
SHARE = 2**18  # values from which one more thread pays
COUNTERS = {torch.float32: np.int32, torch.float64: np.int64, torch.uint8: np.uint8}  # as wide as the values


def tally(values: Tensor, steps: int, silence: int = 0) -> Tensor:
    """Return how many values of each step are not silence, ``n(t, p) = |{(n, c) : x(t, n, c, p) ≠ silence}|``.

    Args:
        values: ``[steps · N, C, ...]``, of any order in memory: it is read once, as it lies.
        steps: Steps that are folded into the batch axis.
        silence: What stands for it.

    Returns:
        Whole numbers ``[steps, positions]`` on the CPU, positions in the order of the axes behind C; one position without such axes.

    Example:
        >>> tally(torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]), 1)
        tensor([[1, 2]])
    """
    axes = tuple(values.shape[2:])
    positions = math.prod(axes)
    if values.device.type == "cpu" and values.dtype in COUNTERS and values.numel() >= SMALLEST and available("numba"):
        return _compiled(values.detach(), steps, positions, silence)
    found: Tensor = (values != silence).unflatten(0, (steps, -1))  # type: ignore[no-untyped-call]
    return found.sum((1, 2) if values.ndim > 1 else 1).reshape(steps, positions).cpu()


def _compiled(values: Tensor, steps: int, positions: int, silence: int) -> Tensor:
    from tospike.run import kernels  # compiles, so it is left until it is needed

    last = values.movedim(1, -1) if values.ndim > 1 else values
    channels = values.shape[1] if values.ndim > 1 and last.is_contiguous() else 1
    row = (last if last.is_contiguous() else values.contiguous()).reshape(-1).numpy()
    outer = values.numel() // (steps * positions * channels)
    counts = np.zeros((steps, positions), np.int64)
    parts = max(1, min(torch.get_num_threads(), steps, values.numel() // SHARE))
    marks = [part * steps // parts for part in range(parts + 1)]
    one, silent = np.ones(1, COUNTERS[values.dtype]), row.dtype.type(silence)
    in_parallel(
        lambda part: kernels.tally(marks[part], marks[part + 1], row, outer, channels, silent, one, counts), parts
    )
    return torch.from_numpy(counts)
