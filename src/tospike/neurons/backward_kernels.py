"""Chunks of causal neurons run backwards for their gradients, compiled by Numba; `tospike.neurons.learning` says what is computed."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numba
import numpy as np

from tospike.neurons.chunk import FINEST, GOAL, HELD, HIGH, KEPT, LOW, REST, SLOPE, TOTAL, WORTH, Flags
from tospike.neurons.kernels import OPTIONS, VARYING, Array, number_of, phase_of, spread

BLOCK = 1024  # neurons; all steps of a block stay in the second-level cache
# Rows of a block's buffer, as in `tospike.neurons.kernels`, and those of gradients.
THETA, START, GAIN, _, V, SENT, BIAS, BY_V, BY_SENT, BY_THETA, BY_START, END = range(0, 12 * BLOCK, BLOCK)


@functools.cache
def retreater(flags: Flags, *, biased: bool, shape: str) -> Callable[..., None]:  # noqa: C901  (so is what makes it)
    """Return the program for a kind of neuron.

    Args:
        flags: What kind.
        biased: Whether a bias is added at each step.
        shape: That of the surrogate, one of `tospike.neurons.surrogate.SHAPES`.
    """
    _, _, signed, rests, remembers, has_gain, _, joined = flags
    triangle = shape == "triangle"

    @numba.njit(**OPTIONS)
    def retreat(  # noqa: C901, D417  (one pass over memory is one function; what the forward one takes too is said there)
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
        by_x: Array,
        by_v: Array,
        by_sent: Array,
        alpha: float,
        given: Array,
        given_moves: int,
        given_v: Array,
        given_sent: Array,
        sums: tuple[Array, Array],
    ) -> None:
        """Take the gradients of the neurons ``first`` to ``end`` from the last step of a chunk to the first.

        Args:
            first, end, …, bias: See `tospike.neurons.kernels.stepper`.
            by_x: Written: the gradient in the currents, where the forward pass writes emissions.
            by_v: Written: the gradient in the potential, or charge, before the chunk.
            by_sent: Written: the gradient in the sum of emissions before the chunk.
            alpha: The slope of the surrogate.
            given: The gradient in what was emitted; empty for none.
            given_moves: Where that of the next step is; 0 for one that is constant.
            given_v: The gradient in the potential, or charge, after the chunk; empty for none.
            given_sent: The gradient in the sum of emissions after the chunk; empty for none.
            sums: The gradients in θ and in v(0), in θ: these neurons are added to them. In double precision.
        """
        # It returns nothing. Arrays that Numba hands back are made by constants that it keeps beside a program, and of programs from its cache these were
        # once found missing ("'descr' is NULL").
        size, chunk, done = shape
        number = limits.dtype.type
        zero, one, half, slope = number(0), number(1), number(0.5), number(alpha)
        infinite = number(np.inf)
        low, high, finest, leak, total = limits[LOW], limits[HIGH], limits[FINEST], limits[SLOPE], limits[TOTAL]
        reach, held, kept, worth, rest = zero, zero, one, one, zero
        b = np.zeros(END, limits.dtype)
        phases = np.full(VARYING, -1)
        # For each step u/θ, and how much of a change of the charge is one of the goal; infinite where the goal is the largest sum, which depends on θ.
        ratio = np.empty((chunk, BLOCK), limits.dtype)
        passed = np.empty((chunk if signed else 0, BLOCK), limits.dtype)
        for at in range(first, end, BLOCK):
            n = min(BLOCK, end - at)
            for k in range(len(parameters)):
                phase = phase_of(at, parameters[k], inner[k])
                if k < VARYING and phase == phases[k]:
                    continue
                if k < 2 and phases[k] >= 0:  # gradients of blocks of one phase are summed where they are
                    gather(b[BY_THETA + k * BLOCK : BY_THETA + (k + 1) * BLOCK], inner[k], phases[k], sums[k])
                if len(parameters[k]):
                    spread(parameters[k], inner[k], at, b[k * BLOCK : k * BLOCK + n])
                if k < VARYING:
                    phases[k] = phase
            for t in range(chunk):
                here = x[at + t * x_moves : at + t * x_moves + n]
                there = other[at + t * other_moves : at + t * other_moves + n]
                if biased:
                    spread(bias[min(done + t, len(bias) - 1)], inner[len(parameters)], at, b[BIAS : BIAS + n])
                if signed:
                    reach, held, kept, worth = steps[t, GOAL], steps[t, HELD], steps[t, KEPT], steps[t, WORTH]
                if rests:
                    rest = steps[t, REST]
                for j in range(n):
                    current = number(number_of(here[j]))
                    if joined:
                        current = current + number(number_of(there[j]))
                    if biased:
                        current = current + b[BIAS + j]
                    top = b[THETA + j]
                    u = b[V + j] + current
                    if signed:
                        b[V + j] = u
                        share = one if u >= zero else leak
                        goal = u if u > zero else u * leak
                        share = share if goal <= reach else zero
                        goal = min(goal, reach)
                        passed[t, j] = share if goal <= total * top else infinite
                        goal = min(goal, total * top)
                        top = top * worth
                        u = (goal - b[SENT + j] * kept) + b[START + j] * top
                    if rests:
                        u = u - b[THETA + j] * rest
                    scale = top * finest
                    r = u / scale
                    ratio[t, j] = r
                    level = min(max(np.floor(r), low), high)
                    emission = level * scale
                    if rests:
                        emission = emission + b[THETA + j] * rest
                    if signed:
                        b[SENT + j] = b[SENT + j] + (emission + b[SENT + j] * held)
                    else:
                        b[V + j] = u - emission
            for j in range(n):
                b[BY_V + j] = given_v[at + j] if len(given_v) else zero
                b[BY_SENT + j] = given_sent[at + j] if len(given_sent) else zero
            for back in range(chunk):
                t = chunk - 1 - back
                if len(given):
                    read = given[at + t * given_moves : at + t * given_moves + n]
                write = by_x[at + t * size : at + t * size + n]
                if signed:
                    held, kept, worth = steps[t, HELD], steps[t, KEPT], steps[t, WORTH]
                if rests:
                    rest = steps[t, REST]
                for j in range(n):
                    by_emission = b[BY_SENT + j]
                    if len(given):
                        by_emission = by_emission + (read[j] * b[GAIN + j] if has_gain else read[j])
                    if not signed:
                        by_emission = by_emission - b[BY_V + j]
                    r = ratio[t, j]
                    level = min(max(np.floor(r), low), high)
                    distance = abs(r - min(max(np.floor(r + half), low + one), high)) * slope
                    steep = one + distance
                    derivative = max(one - distance, zero) * slope if triangle else slope / (steep * steep)
                    by_u = by_emission * derivative
                    by_unit = (level - derivative * r) * by_emission * finest
                    if signed:
                        top = b[THETA + j] * worth
                        b[BY_START + j] = b[BY_START + j] + by_u * top
                        b[BY_SENT + j] = (b[BY_SENT + j] + by_emission * held) - by_u * kept
                        bound = passed[t, j] == infinite
                        of_goal = by_u * total if bound else zero
                        of_rest = (by_emission - by_u) * rest if rests else zero
                        b[BY_THETA + j] = b[BY_THETA + j] + (
                            (by_unit + by_u * b[START + j]) * worth + of_goal + of_rest
                        )
                        b[BY_V + j] = b[BY_V + j] + (zero if bound else by_u * passed[t, j])
                    else:
                        b[BY_THETA + j] = b[BY_THETA + j] + by_unit
                        b[BY_V + j] = b[BY_V + j] + by_u
                    write[j] = b[BY_V + j]
            by_v[at : at + n] = b[BY_V : BY_V + n]
            if remembers:
                by_sent[at : at + n] = b[BY_SENT : BY_SENT + n]
        for k in range(2):
            if phases[k] >= 0:
                gather(b[BY_THETA + k * BLOCK : BY_THETA + (k + 1) * BLOCK], inner[k], phases[k], sums[k])

    return retreat  # type: ignore[no-any-return]


@numba.njit(**OPTIONS)
def gather(found: Array, inner: int, at: int, sums: Array) -> None:
    """Add a block of gradients to those in the values that `tospike.neurons.kernels.spread` filled it with, and clear it."""
    size, done = len(found), 0
    index, inside = (at // inner) % len(sums), at % inner
    while done < size:
        span = min(size - done, inner - inside)
        total = 0.0
        for j in range(done, done + span):
            total += found[j]
            found[j] = 0
        sums[index] += total
        done, inside, index = done + span, 0, index + 1
        if index == len(sums):
            index = 0
