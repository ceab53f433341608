"""What a compiled kernel reads and writes to step neurons through a chunk of time, on any device."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from tospike.graph.rewrite import Rectifier
from tospike.neurons.levels import Levels, integers_for
from tospike.neurons.state import State

if TYPE_CHECKING:
    from tospike.neurons.modules import Neuron

BINARY, FLOOR, NEAREST = range(3)  # how a potential becomes a level
LOW, HIGH, FINEST, SLOPE, TOTAL, TWO_THIRDS, SILENCE, SILENCE_OF_OTHER = range(8)  # places in `limits`
GOAL, HELD, KEPT, WORTH, REST = range(5)  # columns of `per_step`

Parameter = tuple[Tensor, int]


class Flags(NamedTuple):
    """What of a chunk a kernel has to know before it is compiled.

    Attributes:
        kind: How a potential becomes a level: `BINARY`, `FLOOR` or `NEAREST`.
        powers: Of nearest levels, how many powers of two there are; of others 1.
        signed: Whether neurons track a goal that is a function of all charge.
        rests: Whether silence is worth something.
        remembers: Whether the sum of what was sent is kept.
        has_gain: Whether emissions are multiplied.
        levels: Whether levels are written instead of what they are worth.
        joined: Whether there is a second current.
    """

    kind: int
    powers: int
    signed: bool
    rests: bool
    remembers: bool
    has_gain: bool
    levels: bool
    joined: bool


@dataclass(frozen=True)
class Chunk:
    """Neurons and currents of some steps, each tensor as one row of numbers in the order of memory.

    Attributes:
        cells: How many neurons, all samples together.
        steps: How many time steps.
        done: How many steps were done before.
        flags: What kind of neurons.
        limits: Numbers that hold for all neurons and steps, see `LOW` and what follows it.
        per_step: For each step the largest goal, the share of the sum that the receiver holds, that plus 1, the worth of a spike, and that of
            silence ``[steps, 5]``; empty for neurons that need none of them.
        current: The currents, and how far the next step's is; 0 for a current that is constant.
        other: The same of a second current, or of levels of other neurons; empty when there is none.
        parameters: θ, v(0) in θ, gain, worth of a level of `other`, potential and sum before the chunk. Each has for neuron i the value
            ``values[(i // inner) % len(values)]``, and is empty where there is none.
        bias: Current added at each step done so far ``[S, ...]``, the last one at all later ones, like a parameter.
        out: Written: what is emitted.
        potential: Written: potential, or charge, after the chunk.
        sent: Written: sum of emissions after the chunk; empty where it is not kept.
        layout: In what order of memory all of this lies.
        emitted: `out` as a tensor ``[T, N, ...]``.
        after: The state after the chunk, whose tensors share the memory of `potential` and `sent`.
    """

    cells: int
    steps: int
    done: int
    flags: Flags
    limits: Tensor
    per_step: Tensor
    current: Parameter
    other: Parameter
    parameters: tuple[Parameter, ...]
    bias: Parameter
    out: Tensor
    potential: Tensor
    sent: Tensor
    layout: Layout
    emitted: Tensor
    after: State

    @classmethod
    def of(
        cls,
        neuron: Neuron,
        currents: Tensor,
        state: State,
        other: Tensor | Levels | None,
        levels: bool,
        overwrite: bool,
    ) -> Chunk:
        """Lay out a chunk; arguments are those of `tospike.neurons.fused.advance`."""
        model, steps = neuron.model, len(currents)
        dtype, device = state.potential.dtype, currents.device
        layout = _layout(tuple(currents.shape[1:]), currents.stride()[2:], dtype, device)
        gain = None if levels else neuron.gain
        unit = other.unit if isinstance(other, Levels) else None
        nothing = layout.nothing
        added = nothing
        if other is not None:
            added = layout.stream(other.values if isinstance(other, Levels) else other)
        parameters = [layout.parameter(p) for p in (neuron.threshold, neuron.start, gain, unit)]
        parameters += [layout.parameter(p, whole=True) for p in (state.potential, state.sent)]
        rows = [layout.parameter(row) for row in neuron.bias] if neuron.bias is not None else []
        bias = (torch.stack([row for row, _ in rows]), rows[0][1]) if rows else (nothing[0].view(0, 0), 1)
        kind = NEAREST if model.levels == "nearest" else FLOOR
        if (
            model.capacity == 1 and not model.signed and neuron.surrogate is None
        ):  # a comparison hides NaN, which a loss has to show
            kind = BINARY
        written = integers_for(currents) if levels else dtype
        flags = Flags(
            kind, model.capacity if kind == NEAREST else 1, model.signed, model.rest > 0, state.sent is not None, gain is not None, levels,
            other is not None,
        )  # fmt: skip
        silence = model.rest + (model.zero if written is torch.uint8 else 0)
        limits = _constants(_limits(neuron, silence, getattr(other, "zero", 0)), dtype, device)
        per_step = _constants(_per_step(neuron, state.steps, steps), dtype, device).view(-1, 5)
        out_row, out = layout.empty(steps, written)
        *_, (held, _), (held_sum, _) = parameters
        potential_row, potential = layout.room(held, overwrite)
        sent_row, sent = layout.room(held_sum, overwrite) if flags.remembers else (nothing[0], None)
        after = State(state.steps + steps, potential[0], None if sent is None else sent[0], state.start)
        return cls(
            layout.cells, steps, state.steps, flags, limits, per_step, layout.stream(currents), added, tuple(parameters), bias,
            out_row, potential_row, sent_row, layout, out, after,
        )  # fmt: skip


class Layout:
    """In what order of memory the neurons of a chunk are passed, taken from their currents ``[T, N, ...]``.

    Args:
        sizes: Of the currents of one step ``[N, ...]``.
        strides: Of those of one sample.
        dtype: The numbers to compute in.
        device: Where.
    """

    def __init__(
        self, sizes: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> None:
        order = sorted(range(len(strides)), key=lambda d: -strides[d])  # stable: what is equal stays
        self.sizes = sizes
        self.axes = (0, *(d + 1 for d in order))  # of one step
        self.back = (
            0,
            *(self.axes.index(d) + 1 for d in range(len(self.axes))),
        )  # from the order of memory to that of the currents
        self.cells = math.prod(self.sizes)
        self.dtype, self.device = dtype, device
        with torch.inference_mode(False):
            self.nothing = (
                torch.empty(0, dtype=dtype, device=device),
                1,
            )  # for a parameter or a current that there is not

    def inside(self, x: Tensor) -> Tensor:
        """Return a chunk ``[T, N, ...]`` with its axes as they lie in memory."""
        return x.permute(0, *(d + 1 for d in self.axes))

    def empty(self, steps: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return room for a chunk, as one row and as ``[T, N, ...]`` that lies in this order."""
        row = torch.empty(steps * self.cells, dtype=dtype, device=self.device)
        return row, self.shaped(row, steps)

    def room(self, held: Tensor, overwrite: bool) -> tuple[Tensor, Tensor]:
        """Return room for what neurons hold after a chunk: where they held it before, if that may be lost and each had a number of its own."""
        if overwrite and 1 < self.cells == len(held):
            return held, self.shaped(held, 1)
        return self.empty(1, self.dtype)

    def shaped(self, row: Tensor, steps: int) -> Tensor:
        """Return a row as ``[T, N, ...]`` that lies in this order."""
        return row.view(steps, *(self.sizes[d] for d in self.axes)).permute(self.back)

    def stream(self, x: Tensor) -> Parameter:
        """Return a chunk as one row of numbers, and where the next step is: at 0 for what is constant in time."""
        constant = x.stride(0) == 0 and len(x) > 1
        return _flat(self.inside(x[:1] if constant else x).contiguous()), 0 if constant or len(x) == 1 else self.cells

    def parameter(self, values: Tensor | None, *, whole: bool = False) -> Parameter:
        """Return a parameter without what repeats, and how many neurons in a row share a value.

        Args:
            values: Broadcastable to one sample; None for none.
            whole: It is that of a batch, not of one sample.
        """
        if values is None:
            return self.nothing
        if values.numel() == 1:
            return _flat(values.to(self.dtype)), max(self.cells, 1)
        axes = self.axes if whole else self._axes_of_sample
        spread = values.detach().to(self.dtype).expand(self.sizes[0 if whole else 1 :]).permute(*axes)
        first, last = _varying(spread)
        varying = spread
        for _ in range(spread.ndim - last):
            varying = varying[..., 0]
        for _ in range(first):
            varying = varying[0]
        return _flat(varying.contiguous()), math.prod(spread.shape[last:])

    def sum_of(self, row: Tensor, values: Tensor) -> Tensor:
        """Return a gradient in a parameter of one sample, shaped like it, from one in the row that `parameter` made of it."""
        if values.numel() == 1:
            return row.view(values.shape)
        spread = values.expand(self.sizes[1:]).permute(*self._axes_of_sample)
        first, last = _varying(spread)
        whole = row.view((1,) * first + spread.shape[first:last] + (1,) * (spread.ndim - last))
        return whole.permute([self._axes_of_sample.index(d) for d in range(spread.ndim)]).sum_to_size(values.shape)

    @property
    def _axes_of_sample(self) -> list[int]:
        return [d - 1 for d in self.axes[1:]]


_layout = functools.lru_cache(maxsize=1024)(Layout)  # a Site has the same one at every chunk


def _varying(spread: Tensor) -> tuple[int, int]:
    """Return the first axis along which a tensor that was expanded differs, and the one behind the last."""
    differs = [size > 1 and stride != 0 for size, stride in zip(spread.shape, spread.stride(), strict=True)]
    places = [d for d, varies in enumerate(differs) if varies]
    return (places[0], places[-1] + 1) if places else (0, 0)


def _flat(x: Tensor) -> Tensor:
    """Return a dense tensor as one row, which it shares its memory with."""
    return x.detach().reshape(-1)


def slope(function: nn.Module) -> float | None:
    """Return what a signed neuron's activation multiplies negative values with; None for one that does something else."""
    if isinstance(function, (Rectifier, nn.ReLU)):
        return 0.0
    if isinstance(function, nn.LeakyReLU):
        return function.negative_slope
    return None


def _limits(neuron: Neuron, silence: int, silence_of_other: int) -> tuple[float, ...]:
    model = neuron.model
    total = math.inf if model.total is None else float(model.total)
    low = -model.largest if model.signed else 0
    return (
        low, model.largest, model.finest, slope(neuron.function) or 0.0, total, 2.0 / 3.0, silence, silence_of_other,
    )  # fmt: skip


def _per_step(neuron: Neuron, done: int, steps: int) -> tuple[float, ...]:
    model, cap = neuron.model, getattr(neuron.function, "cap", math.inf)
    rows: list[float] = []
    for t in range(done + 1, done + steps + 1) if model.signed else ():
        held = 1.0 / (t - 1) if model.holds and t > 1 else 0.0
        rows += (t * cap, held, 1.0 + held, t * model.worth(t) if model.holds else 1.0, model.rest_at(t))
    return tuple(rows)


@functools.lru_cache(maxsize=1024)
def _constants(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers on a device; kept, because a copy to a GPU waits, and cannot be part of a CUDA graph."""
    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=torch.float64).to(device, dtype)
