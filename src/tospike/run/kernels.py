"""The count of what is not silent as one pass over memory, compiled by Numba; `tospike.run.tally` says what it computes."""

# The counters of a block are as wide as the values, so that one instruction counts in many of them, and stay in the first-level cache
# while the samples of a step pass over them. They are added up before the narrowest, of 8 bits, can overflow.

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

OPTIONS: dict[str, Any] = {"nogil": True, "cache": True}
BLOCK = 4096  # counters
FULL = 255  # what a counter of 8 bits holds

Array = NDArray[Any]


@numba.njit(**OPTIONS)
def _count(values: Array, zero: Any, one: Any, counters: Array) -> None:
    """Count up where a value is not silence; a function of its own, since only so the compiler sees one loop over two rows."""
    for i in range(len(counters)):
        counters[i] += one if values[i] != zero else one - one


@numba.njit(**OPTIONS)
def tally(first: int, end: int, values: Array, outer: int, inner: int, zero: Any, one: Any, counts: Array) -> None:
    """Count for some steps what differs from zero.

    Args:
        first: First step.
        end: Behind the last one.
        values: ``[T, outer, positions, inner]`` as one row.
        outer: Rows of each step.
        inner: Values in a row that share a position.
        zero: What stands for silence, of the type of the values.
        one: 1, as a row of one number of the type of the counters.
        counts: ``[T, positions]``, zeros before.
    """
    width = counts.shape[1] * inner
    counters = np.zeros(min(BLOCK, width), one.dtype)
    for t in range(first, end):
        for block in range(0, width, BLOCK):
            size = min(BLOCK, width - block)
            held = counters[:size]
            for rows in range(0, outer, FULL):
                held[:] = 0
                for row in range(rows, min(rows + FULL, outer)):
                    at = (t * outer + row) * width + block
                    _count(values[at : at + size], zero, one[0], held)
                done = 0
                while done < size:
                    position = (block + done) // inner
                    span = min(size, (position + 1) * inner - block)
                    found = 0
                    for counter in held[done:span]:
                        found += counter
                    counts[t, position] += found
                    done = span
