"""The step of causal neurons on a GPU as one pass over memory, compiled by Triton; `tospike.neurons.functional` says what it computes."""

# Each block of neurons keeps its state in registers while all steps of a chunk pass over it: a current is read once, an emission written
# once, and the state moves once per chunk. Operations and their order are those of the functional form, in the same number format, so
# that results are equal to the last bit. For that `a * b + c` must not become one operation that rounds once, which Triton does unless
# it is told not to (`enable_fp_fusion`), and a quotient in single precision must be rounded exactly, which `/` does not do.

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from tospike.neurons import chunk as names
from tospike.neurons.chunk import Chunk

BLOCK, WARPS = 1024, 4  # neurons of a block, and what is 32 threads each that share it

BINARY, FLOOR = tl.constexpr(names.BINARY), tl.constexpr(names.FLOOR)
LOW, HIGH, FINEST, SLOPE = (tl.constexpr(i) for i in (names.LOW, names.HIGH, names.FINEST, names.SLOPE))
TOTAL, TWO_THIRDS, SILENCE = (tl.constexpr(i) for i in (names.TOTAL, names.TWO_THIRDS, names.SILENCE))
SILENCE_OF_OTHER = tl.constexpr(names.SILENCE_OF_OTHER)
GOAL, HELD, KEPT, WORTH, REST = (tl.constexpr(i) for i in (names.GOAL, names.HELD, names.KEPT, names.WORTH, names.REST))


def advance(chunk: Chunk) -> None:
    """Step the neurons of a chunk on the device where its tensors are, and write what it says."""
    with torch.cuda.device_of(chunk.out):  # Triton launches on the current device
        _advance[(triton.cdiv(chunk.cells, BLOCK),)](**arguments(chunk), num_warps=WARPS, enable_fp_fusion=False)


def arguments(chunk: Chunk) -> dict[str, Any]:
    """Return the arguments of the kernel by name."""
    flags, found = chunk.flags, dict[str, Any]()
    for name, (values, inner) in zip(
        ("theta", "start", "gain", "unit", "potential", "sent", "bias"), (*chunk.parameters, chunk.bias), strict=True
    ):
        found |= {name: values, f"{name}_inner": inner, f"{name}_length": values.shape[-1]}
    (current, moves), (other, other_moves) = chunk.current, chunk.other
    return found | {
        "current": current, "other": other, "limits": chunk.limits, "per_step": chunk.per_step,
        "out": chunk.out, "potential_out": chunk.potential, "sent_out": chunk.sent,
        "cells": chunk.cells, "steps": chunk.steps, "done": chunk.done, "rows": len(chunk.bias[0]),
        "kind": flags.kind, "signed": flags.signed, "rests": flags.rests, "remembers": flags.remembers, "has_gain": flags.has_gain, "levels": flags.levels,
        "joined": flags.joined, "weighed": flags.joined and chunk.parameters[3][0].numel() > 0, "moves": moves > 0,
        "other_moves": other_moves > 0, "powers": flags.powers, "block": BLOCK,
    }  # fmt: skip


@triton.jit
def _quotient(a, b):
    if a.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def _parameter(values, inner, length, cell, mask):
    return tl.load(
        values + (cell // inner) % length, mask, other=1.0
    )  # behind the last neuron: a number, as good as any


@triton.jit
def _nearest(u, theta, finest, two_thirds, signed: tl.constexpr, powers: tl.constexpr):
    """Find the power of two that is nearest to ``|u|/θ``, in units of the smallest, with the sign of u; 0 below half the smallest."""
    magnitude = tl.maximum(u, 0.0)
    if signed:
        magnitude = tl.where(u < 0.0, -u, magnitude)
    magnitude = _quotient(magnitude, theta)
    bound, step = finest * 0.5, finest * 0.0 + 1.0
    level = tl.where(magnitude >= bound, step, 0.0)
    shrunk = magnitude * two_thirds
    for _ in tl.static_range(powers - 1):
        bound, step = bound * 2.0, step * 2.0
        level = tl.where(shrunk >= bound, step, level)
    return tl.where(u < 0.0, -level, level)


@triton.jit
def _advance(
    current, other, theta, start, gain, unit, potential, sent, bias, limits, per_step, out, potential_out, sent_out,
    theta_inner, start_inner, gain_inner, unit_inner, potential_inner, sent_inner, bias_inner,
    theta_length, start_length, gain_length, unit_length, potential_length, sent_length, bias_length,
    cells, steps, done, rows,
    kind: tl.constexpr, signed: tl.constexpr, rests: tl.constexpr, remembers: tl.constexpr, has_gain: tl.constexpr, levels: tl.constexpr,
    joined: tl.constexpr, weighed: tl.constexpr, moves: tl.constexpr, other_moves: tl.constexpr, powers: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """Advance a block of neurons by all steps of a chunk; see `tospike.neurons.chunk.Chunk`.

    ``rows`` is the number of biases, ``weighed`` tells whether the second current is levels, ``moves`` and ``other_moves`` whether the
    currents change in time; all else is named as there.
    """
    number = limits.dtype.element_ty
    cell = tl.program_id(0) * block + tl.arange(0, block)
    mask = cell < cells
    finest, silence = tl.load(limits + FINEST), tl.load(limits + SILENCE)
    v = _parameter(potential, potential_inner, potential_length, cell, mask)
    threshold = _parameter(theta, theta_inner, theta_length, cell, mask)
    if remembers:
        s = _parameter(sent, sent_inner, sent_length, cell, mask)
    if signed:
        v0 = _parameter(start, start_inner, start_length, cell, mask)
        slope, most = tl.load(limits + SLOPE), tl.load(limits + TOTAL) * threshold
    if has_gain:
        factor = _parameter(gain, gain_inner, gain_length, cell, mask)
    if weighed:
        worth = _parameter(unit, unit_inner, unit_length, cell, mask)
        silence_of_other = tl.load(limits + SILENCE_OF_OTHER)
    here = tl.load(current + cell, mask, other=0)
    if joined:
        there = tl.load(other + cell, mask, other=0)
    for t in range(steps):
        x = here.to(number)
        if weighed:
            x = x + (there.to(number) - silence_of_other) * worth
        elif joined:
            x = x + there.to(number)
        # What the next step reads is asked for before this step is computed.
        ahead = mask & (t + 1 < steps)
        if moves:
            current += cells
            here = tl.load(current + cell, ahead, other=0)
        if joined and other_moves:
            other += cells
            there = tl.load(other + cell, ahead, other=0)
        if rows > 0:
            row = tl.minimum(done + t, rows - 1) * bias_length
            x = x + _parameter(bias + row, bias_inner, bias_length, cell, mask)
        if signed:
            v = v + x
            step = per_step + 5 * t
            goal = tl.minimum(tl.where(v > 0.0, v, v * slope), tl.load(step + GOAL))
            top = threshold * tl.load(step + WORTH)
            u = (tl.minimum(goal, most) - s * tl.load(step + KEPT)) + v0 * top
        else:
            u = v + x
            top = threshold
        if rests:
            resting = threshold * tl.load(step + REST)
            u = u - resting
        scale = top * finest
        if kind == BINARY:
            level = tl.where(u >= top, 1.0, 0.0).to(number)
        elif kind == FLOOR:
            level = tl.floor(_quotient(u, scale))
            level = tl.minimum(tl.maximum(level, tl.load(limits + LOW)), tl.load(limits + HIGH))
        else:
            level = _nearest(u, top, finest, tl.load(limits + TWO_THIRDS), signed, powers)
        emission = level * scale
        if signed:
            emission = emission + s * tl.load(step + HELD)
        else:
            v = u - emission
        if rests:
            emission = emission + resting
        if remembers:
            s = s + emission
        if levels:
            # Through 32 bits: a float cannot become 8 bits without sign on every device.
            written = (level + silence).to(tl.int32).to(out.dtype.element_ty)
        elif has_gain:
            written = emission * factor
        else:
            written = emission
        tl.store(out + cell, written, mask)
        out += cells
    tl.store(potential_out + cell, v, mask)
    if remembers:
        tl.store(sent_out + cell, s, mask)
