"""The maximum of windows in the running sum as one pass over memory, compiled by Numba; `tospike.neurons.incremental` says what it computes."""

from __future__ import annotations

import numba
import numpy as np

from tospike.neurons.kernels import OPTIONS, Array, number_of


@numba.njit(**OPTIONS)
def advance(
    first: int, end: int, shape: tuple[int, ...], windows: tuple[int, ...], x: Array, sums: Array, total: Array, out: Array
) -> None:  # fmt: skip
    """Advance the samples ``first`` to ``end`` by a chunk of steps; all maps have their channels innermost.

    The sums of a sample stay in a cache while all steps of the chunk pass over them.

    Args:
        first: First sample.
        end: The one after the last.
        shape: Steps, samples, height, width, rows and columns of the output, channels.
        windows: Size, stride, padding and dilation, each for rows and columns.
        x: Values, steps one after the other.
        sums: Sums over all steps of each value, written over.
        total: Maxima of the sums, written over.
        out: What each step adds to the maxima.
    """
    steps, samples, height, width, rows, columns, channels = shape
    size, pooled = height * width * channels, rows * columns * channels
    best = np.empty(channels, sums.dtype)
    number = sums.dtype.type
    for n in range(first, end):
        held, known = sums[n * size : (n + 1) * size], total[n * pooled : (n + 1) * pooled]
        for t in range(steps):
            given = x[(t * samples + n) * size : (t * samples + n + 1) * size]
            write = out[(t * samples + n) * pooled : (t * samples + n + 1) * pooled]
            for j in range(size):
                held[j] += number(number_of(given[j]))
            for cell in range(rows * columns):
                _maximum(cell // columns, cell % columns, (height, width, channels), windows, held, best)
                here = cell * channels
                for j in range(channels):
                    write[here + j] = best[j] - known[here + j]
                    known[here + j] = best[j]


@numba.njit(**OPTIONS)
def _maximum(
    row: int, column: int, shape: tuple[int, int, int], windows: tuple[int, ...], held: Array, best: Array
) -> None:
    """Fill `best` with the largest value of each channel in the window of an output."""
    height, width, channels = shape
    high, wide, down, right, above, left, apart, aside = windows
    best[:] = -np.inf
    for i in range(high):
        y = row * down - above + i * apart
        if y < 0 or y >= height:
            continue
        for k in range(wide):
            x = column * right - left + k * aside
            if x < 0 or x >= width:
                continue
            seen = held[(y * width + x) * channels : (y * width + x + 1) * channels]
            for j in range(channels):
                best[j] = seen[j] if seen[j] > best[j] or seen[j] != seen[j] else best[j]  # NaN wins, and stays
