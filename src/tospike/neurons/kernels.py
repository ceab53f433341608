"""The step of causal neurons as one pass over memory, compiled by Numba; `tospike.neurons.functional` says what it computes."""

# Each block of neurons stays in the first-level cache while all steps of a chunk pass over it: a current is read once, an emission
# written once, and the state moves once per chunk. Operations and their order are those of the functional form, in the same number
# format, so that results are equal to the last bit; Numba neither reorders nor contracts them unless it is asked to.

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tospike.neurons.chunk import (
    BINARY,
    FINEST,
    FLOOR,
    GOAL,
    HELD,
    HIGH,
    KEPT,
    LOW,
    SILENCE,
    SILENCE_OF_OTHER,
    SLOPE,
    TOTAL,
    TWO_THIRDS,
    WORTH,
)

OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
}  # a division that may raise is not vectorised
BLOCK = 512  # neurons
# Rows of a block's buffer. They are constants, so that the compiler sees that rows do not overlap.
THETA, START, GAIN, UNIT, V, SENT, CURRENT, U, LEVEL, SCALE = (BLOCK * row for row in range(10))

Array = NDArray[Any]


@numba.njit(**OPTIONS)
def _spread(values: Array, inner: int, at: int, found: Array) -> None:
    """Fill a block with a parameter: neuron i has the value ``values[(i // inner) % len(values)]``."""
    size, done = len(found), 0
    index, inside = (at // inner) % len(values), at % inner
    while done < size:
        if inner == 1:
            span = min(size - done, len(values) - index)
            found[done : done + span] = values[index : index + span]
            index = 0
        else:
            span = min(size - done, inner - inside)
            found[done : done + span] = values[index]
            inside, index = 0, index + 1
            if index == len(values):
                index = 0
        done += span


@numba.njit(**OPTIONS)
def advance(  # noqa: C901  (one pass over memory is one function)
    first: int,
    end: int,
    shape: tuple[int, int, int],
    flags: tuple[int, int, bool, bool, bool, bool, bool],
    limits: Array,
    steps: Array,
    x: Array,
    x_moves: int,
    other: Array,
    other_moves: int,
    parameters: tuple[Array, ...],
    inner: Array,
    bias: Array,
    out: Array,
    v_out: Array,
    sent_out: Array,
) -> None:
    """Advance the neurons ``first`` to ``end`` by a chunk of steps.

    Args:
        first: First neuron, counting samples one after the other, in the order of memory.
        end: The one after the last.
        shape: Number of neurons, of steps in the chunk, of steps done before.
        flags: See `tospike.neurons.chunk.Flags`.
        limits: Lowest and highest level, what a level is worth in θ, slope below 0, largest sum in θ (or infinity), 2/3, the integers that
            stand for silence in `out` and `other`.
        steps: For each step the largest goal, the share of the sum that the receiver holds, that plus 1, and the worth of a spike.
            Only signed neurons have them.
        x: Currents, steps one after the other.
        x_moves: Where the next step's current is; 0 for one that is constant.
        other: Currents that are added, or levels of another Site's neurons.
        other_moves: As `x_moves`.
        parameters: θ, v(0) in θ, gain, unit of `other`, potential and sum at the beginning.
        inner: How many neurons in a row share a value of each parameter, and of the bias.
        bias: Current added at each step done so far ``[S, ...]``, the last one at all later ones.
        out: What is emitted.
        v_out: Potential, or charge, after the chunk.
        sent_out: Sum of emissions after the chunk.
    """
    size, chunk, done = shape
    kind, powers, signed, remembers, has_gain, levels, joined = flags
    zero, one = limits.dtype.type(0), limits.dtype.type(1)
    low, high, worth, slope, total = limits[LOW], limits[HIGH], limits[FINEST], limits[SLOPE], limits[TOTAL]
    silence, silence_of_other = limits[SILENCE], limits[SILENCE_OF_OTHER]
    b = np.empty(10 * BLOCK, limits.dtype)
    for at in range(first, end, BLOCK):
        n = min(BLOCK, end - at)
        for k in range(6):
            if len(parameters[k]):
                _spread(parameters[k], inner[k], at, b[k * BLOCK : k * BLOCK + n])
        for j in range(n):
            b[SCALE + j] = b[THETA + j] * worth
        for t in range(chunk):
            here = x[at + t * x_moves : at + t * x_moves + n]
            there = other[at + t * other_moves : at + t * other_moves + n]
            write = out[at + t * size : at + t * size + n]
            for j in range(n):
                b[CURRENT + j] = here[j]
            if joined and len(parameters[UNIT // BLOCK]):
                for j in range(n):
                    b[CURRENT + j] = b[CURRENT + j] + (there[j] - silence_of_other) * b[UNIT + j]
            elif joined:
                for j in range(n):
                    b[CURRENT + j] = b[CURRENT + j] + there[j]
            if len(bias):
                _spread(bias[min(done + t, len(bias) - 1)], inner[6], at, b[LEVEL : LEVEL + n])
                for j in range(n):
                    b[CURRENT + j] = b[CURRENT + j] + b[LEVEL + j]
            if signed:
                held = steps[t, HELD]
                _missing(b, n, steps[t], slope, total, worth)
            else:
                held = zero
                for j in range(n):
                    b[U + j] = b[V + j] + b[CURRENT + j]
            if kind == BINARY:
                for j in range(n):
                    b[LEVEL + j] = one if b[U + j] >= b[THETA + j] else zero
            elif kind == FLOOR:
                for j in range(n):
                    b[LEVEL + j] = min(max(np.floor(b[U + j] / b[SCALE + j]), low), high)
            else:
                _nearest(b, n, powers, signed, worth, limits[TWO_THIRDS])
            if levels:
                for j in range(n):
                    write[j] = b[LEVEL + j] + silence
            for j in range(n):
                b[LEVEL + j] = b[LEVEL + j] * b[SCALE + j]
            if held != zero:
                for j in range(n):
                    b[LEVEL + j] = b[LEVEL + j] + b[SENT + j] * held
            if not signed:
                for j in range(n):
                    b[V + j] = b[U + j] - b[LEVEL + j]
            if remembers:
                for j in range(n):
                    b[SENT + j] = b[SENT + j] + b[LEVEL + j]
            if levels:
                continue
            if has_gain:
                for j in range(n):
                    write[j] = b[LEVEL + j] * b[GAIN + j]
            else:
                for j in range(n):
                    write[j] = b[LEVEL + j]
        v_out[at : at + n] = b[V : V + n]
        if remembers:
            sent_out[at : at + n] = b[SENT : SENT + n]


@numba.njit(**OPTIONS)
def _missing(b: Array, n: int, step: Array, slope: Any, total: Any, worth: Any) -> None:
    """Add a current to the charge, and find what is missing to the goal, and what a level is worth at this step."""
    reach, kept, factor, zero = step[GOAL], step[KEPT], step[WORTH], worth - worth
    for j in range(n):
        b[V + j] = b[V + j] + b[CURRENT + j]
    for j in range(n):
        goal = b[V + j] if b[V + j] > zero else b[V + j] * slope
        b[U + j] = min(min(goal, reach), total * b[THETA + j])
    for j in range(n):
        b[CURRENT + j] = b[THETA + j] * factor
        b[U + j] = (b[U + j] - b[SENT + j] * kept) + b[START + j] * b[CURRENT + j]
        b[SCALE + j] = b[CURRENT + j] * worth


@numba.njit(**OPTIONS)
def _nearest(b: Array, n: int, powers: int, signed: bool, worth: Any, two_thirds: Any) -> None:
    """Find the power of two that is nearest to ``|u|/θ``, in units of the smallest, with the sign of u; 0 below half the smallest."""
    zero, one = worth - worth, worth / worth  # not 0 and 1, which would make all that follows double
    bound, step = worth / (one + one), one
    for j in range(n):
        u = b[U + j]
        upwards = -u if signed and u < zero else max(u, zero)
        magnitude = upwards / (b[SCALE + j] / worth)
        b[LEVEL + j] = one if magnitude >= bound else zero
        b[CURRENT + j] = magnitude * two_thirds
    for _ in range(powers - 1):
        bound, step = bound + bound, step + step
        for j in range(n):
            b[LEVEL + j] = step if b[CURRENT + j] >= bound else b[LEVEL + j]
    for j in range(n):
        b[LEVEL + j] = -b[LEVEL + j] if b[U + j] < zero else b[LEVEL + j]
