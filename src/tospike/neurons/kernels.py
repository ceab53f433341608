"""The step of causal neurons as one pass over memory, compiled by Numba; `tospike.neurons.functional` says what it computes."""

# Each block of neurons stays in the first-level cache while all steps of a chunk pass over it: a current is read once, an emission
# written once, and the state moves once per chunk. A kind of neuron is a program of its own, compiled when it is first met and kept on
# disk: what it does not need is not there, and all of a step is one loop that fills vector units. Operations and their order are those
# of the functional form, in the same number format, so that results are equal to the last bit; Numba neither reorders nor contracts
# them unless it is asked to.

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload
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
    REST,
    SILENCE,
    SILENCE_OF_OTHER,
    SLOPE,
    TOTAL,
    TWO_THIRDS,
    WORTH,
    Flags,
)

OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
}  # a division that may raise is not vectorised
BLOCK = 8192  # neurons
# Rows of a block's buffer. They are constants, so that the compiler sees that rows do not overlap.
THETA, START, GAIN, UNIT, V, SENT, BIAS = range(0, 7 * BLOCK, BLOCK)
VARYING = V // BLOCK  # the first row that a step changes

Array = NDArray[Any]


@numba.njit(**OPTIONS)
def spread(values: Array, inner: int, at: int, found: Array) -> None:
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
def phase_of(at: int, values: Array, inner: int) -> int:
    """Return where in the period of a parameter a block begins; blocks of one phase are spread alike. -1: there is no such parameter."""
    if len(values) == 0:
        return -1
    return at % (len(values) * inner) if len(values) > 1 else 0


def number_of(stored: Any) -> Any:
    """Return what a stored current, or level, is worth: of 16 bits without sign those of a bfloat16, the upper half of a float32."""
    raise NotImplementedError  # compiled below


@overload(number_of)
def _number_of(stored: Any) -> Callable[[Any], Any]:
    def widened(stored: Any) -> Any:
        return np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)

    def same(stored: Any) -> Any:
        return stored

    return widened if stored == types.uint16 else same


@functools.cache
def stepper(flags: Flags, *, weighed: bool, biased: bool) -> Callable[..., None]:  # noqa: C901  (so is what makes it)
    """Return the program for a kind of neuron.

    Args:
        flags: What kind.
        weighed: Whether the second current is levels of another Site's neurons.
        biased: Whether a bias is added at each step.
    """
    kind, powers, signed, rests, remembers, has_gain, levels, joined = flags

    @numba.njit(**OPTIONS)
    def advance(  # noqa: C901  (one pass over memory is one function)
        first: int,
        end: int,
        shape: tuple[int, int, int],
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
            limits: Lowest and highest level, what a level is worth in θ, slope below 0, largest sum in θ (or infinity), 2/3, the integers
                that stand for silence in `out` and `other`.
            steps: For each step the largest goal, the share of the sum that the receiver holds, that plus 1, the worth of a spike, and that of
                silence. Only signed neurons have them.
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
        number = limits.dtype.type
        zero, one = number(0), number(1)
        low, high, finest, slope, total = limits[LOW], limits[HIGH], limits[FINEST], limits[SLOPE], limits[TOTAL]
        silence, silence_of_other, two_thirds = limits[SILENCE], limits[SILENCE_OF_OTHER], limits[TWO_THIRDS]
        reach, held, kept, worth, rest = zero, zero, one, one, zero
        b = np.empty(BIAS + BLOCK, limits.dtype)
        phases = np.full(
            VARYING, -1
        )  # where in its period a parameter lies in the buffer; blocks of one phase find it there
        for at in range(first, end, BLOCK):
            n = min(BLOCK, end - at)
            for k in range(len(parameters)):
                phase = phase_of(at, parameters[k], inner[k])
                if k < VARYING and phase == phases[k]:
                    continue
                if len(parameters[k]):
                    spread(parameters[k], inner[k], at, b[k * BLOCK : k * BLOCK + n])
                if k < VARYING:
                    phases[k] = phase
            for t in range(chunk):
                here = x[at + t * x_moves : at + t * x_moves + n]
                there = other[at + t * other_moves : at + t * other_moves + n]
                write = out[at + t * size : at + t * size + n]
                if biased:
                    spread(bias[min(done + t, len(bias) - 1)], inner[len(parameters)], at, b[BIAS : BIAS + n])
                if signed:
                    reach, held, kept, worth = steps[t, GOAL], steps[t, HELD], steps[t, KEPT], steps[t, WORTH]
                if rests:
                    rest = steps[t, REST]
                for j in range(n):
                    current = number(number_of(here[j]))
                    if weighed:
                        current = current + (number(number_of(there[j])) - silence_of_other) * b[UNIT + j]
                    elif joined:
                        current = current + number(number_of(there[j]))
                    if biased:
                        current = current + b[BIAS + j]
                    top = b[THETA + j]
                    u = b[V + j] + current
                    if signed:
                        b[V + j] = u
                        goal = min(u if u > zero else u * slope, reach)
                        goal = min(goal, total * top)
                        top = top * worth
                        u = (goal - b[SENT + j] * kept) + b[START + j] * top
                    if rests:
                        u = u - b[THETA + j] * rest
                    scale = top * finest
                    if kind == BINARY:
                        level = one if u >= top else zero
                    elif kind == FLOOR:
                        level = min(max(np.floor(u / scale), low), high)
                    else:
                        level = _nearest(u, top, finest, two_thirds, powers, signed)
                    emission = level * scale
                    if signed:
                        emission = emission + b[SENT + j] * held
                    else:
                        b[V + j] = u - emission
                    if rests:
                        emission = emission + b[THETA + j] * rest
                    if remembers:
                        b[SENT + j] = b[SENT + j] + emission
                    if levels:
                        write[j] = level + silence
                    elif has_gain:
                        write[j] = emission * b[GAIN + j]
                    else:
                        write[j] = emission
            v_out[at : at + n] = b[V : V + n]
            if remembers:
                sent_out[at : at + n] = b[SENT : SENT + n]

    return advance  # type: ignore[no-any-return]


@numba.njit(**OPTIONS)
def _nearest(u: Any, theta: Any, finest: Any, two_thirds: Any, powers: int, signed: bool) -> Any:
    """Return the power of two that is nearest to ``|u|/θ``, in units of the smallest, with the sign of u; 0 below half the smallest."""
    zero, one = finest - finest, finest / finest  # not 0 and 1, which would make all that follows double
    magnitude = (-u if signed and u < zero else max(u, zero)) / theta
    bound, step = finest / (one + one), one
    level = one if magnitude >= bound else zero
    shrunk = magnitude * two_thirds
    for _ in range(powers - 1):
        bound, step = bound + bound, step + step
        level = step if shrunk >= bound else level
    return -level if u < zero else level
