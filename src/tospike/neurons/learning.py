"""Causal neurons that learn, stepped by a compiled kernel, with gradients by another one that runs the chunk backwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from tospike.neurons import fused
from tospike.neurons.chunk import Chunk
from tospike.neurons.levels import Levels, value_of
from tospike.neurons.state import State
from tospike.neurons.surrogate import Surrogate

if TYPE_CHECKING:
    from tospike.neurons.modules import Neuron


def fits(neuron: Neuron, currents: Tensor) -> bool:
    """Tell whether the kernels can take neurons through a chunk forwards and backwards; if not, the steps in torch do.

    They do on a CPU, where `tospike.neurons.fused.compiles` says that a kernel could step the neurons, and with a surrogate; gains are not tuned.
    """
    return (
        neuron.surrogate is not None
        and neuron.model.levels != "nearest"
        and currents.device.type == "cpu"
        and (neuron.gain is None or not neuron.gain.requires_grad)
        and fused.compiles(neuron, currents)
    )


def advance(
    neuron: Neuron, currents: Tensor, state: State, other: Tensor | Levels | None = None
) -> tuple[Tensor, State]:
    """Step neurons through a chunk of time, with gradients in currents, state, θ, v(0) and biases.

    Backwards, from the last step to the first, with ``r = u/θ``, s' the surrogate at r, ḡ the gradient in g, and e = θ·s(r):
    ``ū = v̄ + s'·(ē − v̄)``, ``x̄ = ū``, ``θ̄ += (s − s'·r)·(ē − v̄)``, and ``v̄ = ū`` for the step before.

    Potentials are computed again from the currents, so that only these are kept for the gradient.

    Args:
        neuron: The neurons of a Site; `fits` says which can be taken.
        currents: Input currents ``[T, N, ...]``, in units of the ANN's activation.
        state: Before the chunk.
        other: Currents ``[T, N, ...]`` that are added, or levels whose worth is.

    Returns:
        What is emitted ``[T, N, ...]``, and the state after the chunk.
    """
    added = None if other is None else value_of(other)
    emitted, potential, sent = _Steps.apply(  # type: ignore[no-untyped-call]
        neuron, state, currents, added, neuron.threshold, neuron.start, neuron.bias, state.potential, state.sent
    )
    return emitted, State(state.steps + len(currents), potential, sent, state.start)


class _Steps(torch.autograd.Function):
    """Forwards: `tospike.neurons.fused.advance`. Backwards: the same chunk, with gradients where emissions and state were."""

    @staticmethod
    def forward(
        ctx: Any, neuron: Neuron, state: State, currents: Tensor, other: Tensor | None, theta: Tensor, start: Tensor, bias: Tensor | None,
        potential: Tensor, sent: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
        ctx.neuron, ctx.steps = neuron, state.steps
        ctx.save_for_backward(currents, other, theta, start, bias, potential, sent)
        ctx.set_materialize_grads(False)
        emitted, after = fused.advance(neuron, currents, State(state.steps, potential, sent), other)
        return emitted, after.potential, after.sent

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, emission: Tensor | None, potential: Tensor | None, sent: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        currents, other, theta, start, bias, *held = ctx.saved_tensors
        chunk = Chunk.of(ctx.neuron, currents, State(ctx.steps, *held), other, False, False)
        by_theta, by_start = _retreat(chunk, ctx.neuron.surrogate, emission, potential, sent)
        by_currents = chunk.emitted
        by_bias = None
        if bias is not None:
            by_bias = torch.zeros_like(bias)
            for t, found in enumerate(by_currents, start=ctx.steps):
                by_bias[min(t, len(bias) - 1)] += found.sum_to_size(bias.shape[1:])
        return (
            None, None, by_currents.to(currents.dtype), None if other is None else by_currents.to(other.dtype),
            chunk.layout.sum_of(by_theta, theta), chunk.layout.sum_of(by_start, start), by_bias, chunk.after.potential, chunk.after.sent,
        )  # fmt: skip


def _retreat(chunk: Chunk, surrogate: Surrogate, *given: Tensor | None) -> tuple[Tensor, Tensor]:
    """Write gradients where a chunk has room for emissions and state; return those in the rows of θ and v(0).

    Args:
        chunk: The chunk as it was laid out for the forward pass.
        surrogate: The derivative of an emission.
        given: Gradients in emissions, potential and sum after the chunk.
    """
    from tospike.neurons import backward_kernels as kernels  # compiles, so it is left until it is needed

    layout = chunk.layout
    (emission, moves), *after = [
        layout.nothing if value is None else layout.stream(value[None] if place else value)
        for place, value in enumerate(given)
    ]
    retreat = kernels.retreater(chunk.flags, biased=len(chunk.bias[0]) > 0, shape=surrogate.shape)
    arguments = (*fused.rows(chunk), surrogate.slope, emission.numpy(), moves, *(row.numpy() for row, _ in after))
    parts: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}

    def run(first: int, end: int) -> None:
        parts[first] = np.zeros(len(chunk.parameters[0][0])), np.zeros(len(chunk.parameters[1][0]))
        retreat(first, end, *arguments, parts[first])

    fused.in_blocks(chunk, kernels.BLOCK, run)
    found = [parts[first] for first in sorted(parts)]  # one order, whoever was first
    by_theta, by_start = (
        torch.from_numpy(np.sum([part[place] for part in found], axis=0)).to(layout.dtype) for place in range(2)
    )
    return by_theta, by_start
