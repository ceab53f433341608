"""Causal neurons on the CPU, stepped by the compiled kernel: which of them can be, and how tensors become what it reads."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tospike.graph.rewrite import Rectifier
from tospike.neurons.levels import Levels
from tospike.neurons.state import State
from tospike.neurons.threads import in_parallel

if TYPE_CHECKING:
    from tospike.neurons.modules import Neuron

SMALLEST = 2**15  # emissions of a chunk from which the compiled kernel is worth its call, and its compilation
SHARE = 2**16  # emissions from which one more thread pays
NUMPY = {torch.float32: np.float32, torch.float64: np.float64}

Array = NDArray[Any]


@functools.cache
def available() -> bool:
    """Tell whether Numba is installed."""
    return find_spec("numba") is not None


def fits(neuron: Neuron, currents: Tensor) -> bool:
    """Tell whether the kernel can take the neurons of a Site through a chunk; if not, the steps in torch do.

    They do where gradients are wanted, for activations whose running mean is more than a cap and a slope, and where there is little to do.
    """
    return (
        not torch.compiler.is_compiling()
        and available()
        and currents.numel() >= SMALLEST
        and currents.device.type == "cpu"
        and currents.dtype in NUMPY
        and neuron.surrogate is None
        and not (torch.is_grad_enabled() and _learns(neuron, currents))
        and (not neuron.model.signed or _slope(neuron.function) is not None)
    )


def advance(
    neuron: Neuron, currents: Tensor, state: State, other: Tensor | Levels | None = None, *, levels: bool = False
) -> tuple[Tensor, State]:
    """Step neurons through a chunk of time; equal to the last bit to the steps in `tospike.neurons.functional`.

    Args:
        neuron: The neurons of a Site; `fits` says which can be taken.
        currents: Input currents ``[T, N, ...]``, in units of the ANN's activation.
        state: Before the chunk.
        other: Currents ``[T, N, ...]`` that are added, or levels whose worth is.
        levels: Emit levels, as integers of 8 bits without sign, not what they are worth; see `Levels`.

    Returns:
        What is emitted ``[T, N, ...]``, and the state after the chunk.
    """
    from tospike.neurons import kernels  # compiles, so it is left until it is needed

    model, steps = neuron.model, len(currents)
    layout = _Layout(currents)
    number = NUMPY[currents.dtype]
    added: tuple[Array, int] = (np.empty(0, number), 0)
    if other is not None:
        added = layout.stream(other.values if isinstance(other, Levels) else other)
    gain = None if levels else neuron.gain
    unit = other.unit if isinstance(other, Levels) else None
    parameters = [layout.parameter(p) for p in (neuron.threshold, neuron.start, gain, unit)]
    parameters += [layout.parameter(p, whole=True) for p in (state.potential, state.sent)]
    rows = [layout.parameter(row) for row in neuron.bias] if neuron.bias is not None else []
    bias = np.stack([row for row, _ in rows]) if rows else np.empty((0, 0), number)
    widths = np.array([inner for _, inner in (*parameters, rows[0] if rows else (bias, 1))])

    out = layout.empty(steps, torch.uint8 if levels else currents.dtype)
    potential = layout.empty(1, currents.dtype)
    sent = layout.empty(1 if state.sent is not None else 0, currents.dtype)
    kind = kernels.NEAREST if model.levels == "nearest" else kernels.FLOOR
    if model.capacity == 1 and not model.signed:
        kind = kernels.BINARY
    flags = (kind, model.signed, state.sent is not None, gain is not None, levels, other is not None)
    arguments = (
        (layout.cells, steps, state.steps), flags, _limits(neuron, other).astype(number), _per_step(neuron, state.steps, steps).astype(number),
        *layout.stream(currents), *added, tuple(values for values, _ in parameters), widths, bias,
        _flat(layout.inside(out)), _flat(layout.inside(potential)), _flat(layout.inside(sent)),
    )  # fmt: skip
    _share(lambda first, end: kernels.advance(first, end, *arguments), layout.cells, steps, kernels.BLOCK)
    return out, State(state.steps + steps, potential[0], sent[0] if state.sent is not None else None, state.start)


class _Layout:
    """In what order of memory the neurons of a chunk are passed, taken from their currents ``[T, N, ...]``."""

    def __init__(self, currents: Tensor) -> None:
        strides = currents.stride()[2:]
        order = sorted(range(len(strides)), key=lambda d: -strides[d])  # stable: what is equal stays
        self.sizes = tuple(currents.shape[1:])
        self.axes = (0, *(d + 1 for d in order))  # of one step
        self.cells = math.prod(self.sizes)
        self.dtype = currents.dtype

    def inside(self, x: Tensor) -> Tensor:
        """Return a chunk ``[T, N, ...]`` with its axes as they lie in memory."""
        return x.permute(0, *(d + 1 for d in self.axes))

    def empty(self, steps: int, dtype: torch.dtype) -> Tensor:
        """Return a chunk ``[T, N, ...]`` that lies in this order."""
        made = torch.empty((steps, *(self.sizes[d] for d in self.axes)), dtype=dtype)
        return made.permute(0, *(self.axes.index(d) + 1 for d in range(len(self.axes))))

    def stream(self, x: Tensor) -> tuple[Array, int]:
        """Return a chunk as one row of numbers, and where the next step is: at 0 for what is constant in time."""
        constant = x.stride(0) == 0 and len(x) > 1
        return _flat(self.inside(x[:1] if constant else x).contiguous()), 0 if constant or len(x) == 1 else self.cells

    def parameter(self, values: Tensor | None, *, whole: bool = False) -> tuple[Array, int]:
        """Return a parameter without what repeats, and how many neurons in a row share a value.

        Args:
            values: Broadcastable to one sample; None for none.
            whole: It is that of a batch, not of one sample.
        """
        if values is None:
            return np.empty(0, NUMPY[self.dtype]), 1
        axes = self.axes if whole else [d - 1 for d in self.axes[1:]]
        spread = values.detach().to(self.dtype).expand(self.sizes[0 if whole else 1 :]).permute(*axes)
        shared = [size == 1 or stride == 0 for size, stride in zip(spread.shape, spread.stride(), strict=True)]
        last = max((d + 1 for d, same in enumerate(shared) if not same), default=0)
        first = min((d for d, same in enumerate(shared) if not same), default=0)
        varying = spread
        for _ in range(len(shared) - last):
            varying = varying[..., 0]
        for _ in range(first):
            varying = varying[0]
        return _flat(varying.contiguous()), math.prod(spread.shape[last:])


def _flat(x: Tensor) -> Array:
    """Return a dense tensor as one row, which it shares its memory with."""
    return x.detach().reshape(-1).numpy()


def _learns(neuron: Neuron, currents: Tensor) -> bool:
    tensors = (currents, neuron.threshold, neuron.start, neuron.bias, neuron.gain)
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _slope(function: nn.Module) -> float | None:
    """Return what a signed neuron's activation multiplies negative values with; None for one that does something else."""
    if isinstance(function, (Rectifier, nn.ReLU)):
        return 0.0
    if isinstance(function, nn.LeakyReLU):
        return function.negative_slope
    return None


def _limits(neuron: Neuron, other: Any) -> Array:
    model = neuron.model
    total = math.inf if model.total is None else float(model.total)
    slope = _slope(neuron.function) or 0.0
    low = -model.largest if model.signed else 0
    return np.array(
        [
            low,
            model.largest,
            model.finest,
            model.capacity,
            slope,
            total,
            2.0 / 3.0,
            model.silence,
            getattr(other, "zero", 0),
        ]
    )


def _per_step(neuron: Neuron, done: int, steps: int) -> Array:
    """Return for each step the largest goal, the share of the sum that the receiver holds, that plus 1, and the worth of a spike."""
    model, cap = neuron.model, getattr(neuron.function, "cap", math.inf)
    rows = []
    for t in range(done + 1, done + steps + 1):
        held = 1.0 / (t - 1) if model.holds and t > 1 else 0.0
        rows.append((t * cap, held, 1.0 + held, t * model.worth(t) if model.holds else 1.0))
    return np.array(rows)


def _share(run: Callable[[int, int], None], cells: int, steps: int, block: int) -> None:
    """Run parts of the neurons in as many threads as torch uses."""
    parts = max(1, min(torch.get_num_threads(), cells * steps // SHARE))
    blocks = -(-cells // block)
    marks = [min(part * blocks // parts * block, cells) for part in range(parts + 1)]
    in_parallel(lambda part: run(marks[part], marks[part + 1]), parts)
