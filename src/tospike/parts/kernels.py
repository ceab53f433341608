"""Statistics of activations as one pass over memory, compiled by Numba; `tospike.parts.lying` says when they are used."""

# Values are ``[outer, groups]`` as one row: channels lie side by side. Loops over several rows of groups stand in functions of their own,
# since only so the compiler sees rows that do not overlap, and handles many groups with one instruction.

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tospike.parts.lying import SUMMED, WIDTH

OPTIONS: dict[str, Any] = {"nogil": True, "cache": True}
TOGETHER = 4  # groups whose histograms are counted in one loop

Array = NDArray[Any]


@numba.njit(**OPTIONS)
def _exceed(part: Array, theta: Array, zero: Any, held: Array) -> None:
    for i in range(len(part)):
        excess = part[i] - theta[i]
        held[i] += zero if excess <= zero else excess  # NaN is kept


@numba.njit(**OPTIONS)
def _count(part: Array, theta: Array, zero: Any, one: Any, held: Array) -> None:
    for i in range(len(part)):
        held[i] += zero if part[i] <= theta[i] else one  # NaN is counted


@numba.njit(**OPTIONS)
def above(values: Array, theta: Array, sums: Array, counted: bool) -> None:
    """Add ``max(z − θ, 0)`` of every value to the sums of the groups, which have 64 bits; or count the values that are not up to θ."""
    groups = len(theta)
    copies = max(1, WIDTH // groups)
    wide = np.empty(copies * groups, theta.dtype)
    for copy in range(copies):
        wide[copy * groups : (copy + 1) * groups] = theta
    held, zero, one, parts = np.zeros_like(wide), theta.dtype.type(0), theta.dtype.type(1), 0
    for at in range(0, len(values), len(wide)):
        if counted:
            _count(values[at : at + len(wide)], wide, zero, one, held)
        else:
            _exceed(values[at : at + len(wide)], wide, zero, held)
        parts += 1
        if parts == SUMMED or at + len(wide) >= len(values):
            for i in range(len(wide)):
                sums[i % groups] += held[i]
            held[:] = zero
            parts = 0


@numba.njit(**OPTIONS)
def _raise(part: Array, zero: Any, held: Array, finite: Array) -> None:
    for i in range(len(part)):
        held[i] = held[i] if part[i] <= held[i] else part[i]
        finite[i] += held[i] * zero


@numba.njit(**OPTIONS)
def largest(values: Array, found: Array) -> None:
    """Raise the numbers found to the largest value of each group; NaN for a group with a NaN or infinity."""
    groups = len(found)
    held = np.zeros(max(1, WIDTH // groups) * groups, found.dtype)
    finite, zero = np.zeros_like(held), held.dtype.type(0)
    for at in range(0, len(values), len(held)):
        _raise(values[at : at + len(held)], zero, held, finite)
    for i in range(len(held)):
        found[i % groups] = max(found[i % groups], held[i]) + finite[i]


@numba.njit(**OPTIONS)
def _bins(part: Array, scale: Array, cap: Any, last: Any, found: Array) -> None:
    zero = part.dtype.type(0)
    for i in range(len(part)):
        found[i] = max(min(np.int32(min(max(part[i], zero), cap) * scale[i]), last), np.int32(0))


@numba.njit(**OPTIONS)
def bins_of(values: Array, cap: Any, scale: Array, last: int, found: Array) -> None:
    """Find the bin of every value.

    Args:
        values: ``[outer, groups]`` as one row.
        cap: Largest value; of the type of the values.
        scale: Bins for each unit of the value, ``[groups]``.
        last: Number of the last bin.
        found: Bins in the order of the values, 16 bits, so that little is read again, changed in place; of a NaN any bin.
    """
    groups = len(scale)
    copies = max(1, WIDTH // groups)
    wide = np.empty(copies * groups, scale.dtype)
    for copy in range(copies):
        wide[copy * groups : (copy + 1) * groups] = scale
    for at in range(0, len(values), len(wide)):
        _bins(values[at : at + len(wide)], wide, cap, np.int32(last), found[at : at + len(wide)])


@numba.njit(**OPTIONS)
def _together(found: Array, first: int, groups: int, counts: Array) -> None:
    for row in range(first, len(found), groups):
        for k in range(TOGETHER):  # a constant, so that the loop is unrolled
            counts[k, np.int64(found[row + k])] += 1


@numba.njit(**OPTIONS)
def count(found: Array, first: int, end: int, mass: Array) -> None:
    """Add bins to the histograms of some groups, few at a time, whose counts stay in the first-level cache.

    Args:
        found: ``[outer, groups]`` as one row; see `bins_of`.
        first: First group.
        end: Behind the last one.
        mass: ``[groups, bins]``, changed in place.
    """
    groups, bins = mass.shape
    counts = np.zeros((TOGETHER, bins), np.int32)
    for group in range(first, end, TOGETHER):
        some = min(TOGETHER, end - group)
        if some == TOGETHER:
            _together(found, group, groups, counts)
        else:
            for row in range(group, len(found), groups):
                for k in range(some):
                    counts[k, np.int64(found[row + k])] += 1
        for k in range(some):
            for b in range(bins):
                mass[group + k, b] += counts[k, b]
        counts[:] = 0
