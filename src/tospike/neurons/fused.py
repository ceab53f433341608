"""Causal neurons stepped by a compiled kernel: which of them can be, and which kernel there is on a device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tospike.neurons.chunk import Chunk, slope
from tospike.neurons.levels import Levels
from tospike.neurons.state import State
from tospike.neurons.threads import in_parallel

if TYPE_CHECKING:
    from tospike.neurons.modules import Neuron

SMALLEST = 2**15  # emissions of a chunk from which a compiled kernel is worth its call, and its compilation
SHARE = 2**16  # emissions from which one more thread pays
LARGEST = 2**31  # neurons, all samples together, that 32 bits cannot count any more


@functools.cache
def available(package: str) -> bool:
    """Tell whether the package that compiles a kernel is installed."""
    return find_spec(package) is not None


def fits(neuron: Neuron, currents: Tensor) -> bool:
    """Tell whether a kernel can take the neurons of a Site through a chunk; if not, `tospike.neurons.learning` or the steps in torch do.

    They do where gradients are wanted, and where no kernel `compiles`.
    """
    return compiles(neuron, currents) and not (torch.is_grad_enabled() and _learns(neuron, currents))


def compiles(neuron: Neuron, currents: Tensor) -> bool:
    """Tell whether there is a kernel for the neurons of a Site, and enough to do for it.

    There is none for activations whose running mean is more than a cap and a slope.
    """
    backend = BACKENDS.get(currents.device.type)
    return (
        backend is not None
        and not torch.compiler.is_compiling()
        and available(backend.package)
        and currents.numel() >= SMALLEST
        and currents[0].numel() < LARGEST
        and currents.dtype in backend.currents
        and neuron.number(currents) in NUMBERS
        and (not neuron.model.signed or slope(neuron.function) is not None)
    )


def advance(
    neuron: Neuron, currents: Tensor, state: State, other: Tensor | Levels | None = None, *, levels: bool = False,
    overwrite: bool = False,
) -> tuple[Tensor, State]:  # fmt: skip
    """Step neurons through a chunk of time; equal to the last bit to the steps in `tospike.neurons.functional`.

    Args:
        neuron: The neurons of a Site; `fits` says which can be taken.
        currents: Input currents ``[T, N, ...]``, in units of the ANN's activation.
        state: Before the chunk; its numbers are those that are computed in.
        other: Currents ``[T, N, ...]`` that are added, or levels whose worth is.
        levels: Emit levels, as `tospike.neurons.levels.integers_for` says, not what they are worth.
        overwrite: Write the state after the chunk over the one before where it fits, which saves its memory.

    Returns:
        What is emitted ``[T, N, ...]``, and the state after the chunk.
    """
    chunk = Chunk.of(neuron, currents, state, other, levels, overwrite)
    BACKENDS[currents.device.type].run(chunk)
    return chunk.emitted, chunk.after


def _learns(neuron: Neuron, currents: Tensor) -> bool:
    tensors = (currents, neuron.threshold, neuron.start, neuron.bias, neuron.gain)
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _by_numba(chunk: Chunk) -> None:
    """Step neurons on the CPU, in as many threads as torch uses."""
    from tospike.neurons import kernels  # compiles, so it is left until it is needed

    weighed, biased = len(chunk.parameters[3][0]) > 0, len(chunk.bias[0]) > 0
    advance = kernels.stepper(chunk.flags, weighed=weighed, biased=biased)
    arguments = rows(chunk)
    in_blocks(chunk, kernels.BLOCK, lambda first, end: advance(first, end, *arguments))


def rows(chunk: Chunk) -> tuple[Any, ...]:
    """Return what kernels on the CPU read and write, as `tospike.neurons.kernels.stepper` says."""
    (current, moves), (other, other_moves), (bias, _) = chunk.current, chunk.other, chunk.bias
    widths = np.array([inner for _, inner in (*chunk.parameters, chunk.bias)])
    return (
        (chunk.cells, chunk.steps, chunk.done), chunk.limits.numpy(), chunk.per_step.numpy(),
        _numbers(current), moves, _numbers(other), other_moves, tuple(values.numpy() for values, _ in chunk.parameters), widths,
        bias.numpy(), chunk.out.numpy(), chunk.potential.numpy(), chunk.sent.numpy(),
    )  # fmt: skip


def in_blocks(chunk: Chunk, block: int, run: Callable[[int, int], None]) -> None:
    """Call ``run(first, end)`` for parts of the neurons of a chunk, each of whole blocks, in threads."""
    parts = max(1, min(torch.get_num_threads(), chunk.cells * chunk.steps // SHARE))
    blocks = -(-chunk.cells // block)
    marks = [min(part * blocks // parts * block, chunk.cells) for part in range(parts + 1)]
    in_parallel(lambda part: run(marks[part], marks[part + 1]), parts)


def _numbers(row: Tensor) -> NDArray[Any]:
    """Return a row of numbers for Numba, which knows no bfloat16 and is handed its bits."""
    return row.view(torch.int16).numpy().view(np.uint16) if row.dtype is torch.bfloat16 else row.numpy()


def _by_triton(chunk: Chunk) -> None:
    """Step neurons on a GPU."""
    from tospike.neurons import triton_kernels  # compiles, so it is left until it is needed

    triton_kernels.advance(chunk)


@dataclass(frozen=True)
class Backend:
    """What steps neurons on a kind of device.

    Attributes:
        package: What compiles the kernel.
        currents: Numbers in which currents can be read.
        run: Steps the neurons of a chunk.
    """

    package: str
    currents: tuple[torch.dtype, ...]
    run: Callable[[Chunk], None]


NUMBERS = (torch.float32, torch.float64)  # to compute in
BACKENDS = {
    "cpu": Backend("numba", (torch.bfloat16, *NUMBERS), _by_numba),
    "cuda": Backend("triton", (torch.float16, *NUMBERS), _by_triton),
}
