"""Neurons as modules: they hold thresholds and biases, never state; the state belongs to a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tospike.graph.rewrite import Rectifier
from tospike.neurons.functional import emit, goal, if_step, track_step
from tospike.neurons.model import NeuronModel


@dataclass
class State:
    """What the neurons of one Site carry from step to step.

    Attributes:
        steps: Steps done.
        potential: The membrane potential ``[N, ...]``; for a signed neuron the sum of all its input, without v(0).
        sent: Sum of all emissions ``[N, ...]``; None for a neuron that has no memory of it.
    """

    steps: int
    potential: Tensor
    sent: Tensor | None = None


class Neuron(nn.Module):
    """The neurons of one Site, stepped over a chunk of time; see `if_step` and `track_step`.

    Args:
        threshold: θ > 0, broadcastable to one sample ``[C, ...]``, in units of the ANN's activation.
        start: v(0) as a share of θ.
        model: Which neuron it is.
        function: The activation of the ANN, which a signed neuron tracks; ReLU when None.

    Attributes:
        bias: Current added at step t, ``[S, ...]``, the last one also at all steps after S; zero unless a refiner sets it.
        start: v(0) as a share of θ, a tensor broadcastable to one sample.

    Example:
        >>> neuron = Neuron(torch.tensor(1.0))
        >>> current = torch.tensor([0.4]).expand(5, 1, 1)
        >>> spikes, state = neuron(current, neuron.initial(current[0]))
        >>> spikes.flatten().tolist()
        [0.0, 1.0, 0.0, 1.0, 0.0]
    """

    threshold: Tensor
    start: Tensor
    bias: Tensor | None

    def __init__(
        self, threshold: Tensor, start: float = 0.5, model: NeuronModel | None = None, function: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.model = model or NeuronModel()
        self.function = function if function is not None else Rectifier()
        self.homogeneous = isinstance(function, (nn.ReLU, nn.LeakyReLU, nn.PReLU)) or (
            isinstance(self.function, Rectifier) and self.function.cap == float("inf")
        )
        self.register_buffer("threshold", threshold)
        self.register_buffer("start", torch.as_tensor(start, dtype=threshold.dtype, device=threshold.device))
        self.register_buffer("bias", None)

    def initial(self, current: Tensor) -> State:
        """Return the state before the first step, given the current of one step ``[N, ...]``."""
        if self.model.signed:
            return State(0, torch.zeros_like(current), torch.zeros_like(current))
        return State(0, (self.start * self.threshold).to(current.dtype).expand_as(current))

    def forward(self, currents: Tensor, state: State) -> tuple[Tensor, State]:
        """Step through a chunk of time.

        Args:
            currents: Input currents ``[T, N, ...]``.
            state: What `initial` or an earlier call returned.

        Returns:
            What was emitted at each step, ``[T, N, ...]``, and the state after the chunk.
        """
        step = self._track if self.model.signed else self._fire
        emitted = []
        for x in currents:
            emission, state = step(self._biased(x, state.steps), state)
            emitted.append(emission)
        return torch.stack(emitted), state

    def _biased(self, x: Tensor, done: int) -> Tensor:
        return x if self.bias is None else x + self.bias[min(done, len(self.bias) - 1)].to(x.dtype)

    def _fire(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        theta = self.threshold.to(x.dtype)
        if self.model.capacity == 1:
            spikes, v = if_step(state.potential, x, theta)
        else:
            charged = state.potential + x
            spikes = emit(charged, theta, self.model)
            v = charged - spikes
        return spikes, State(state.steps + 1, v)

    def _track(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        assert state.sent is not None
        theta, t = self.threshold.to(x.dtype), state.steps + 1
        charge = state.potential + x
        wanted = goal(charge, t, self.function, homogeneous=self.homogeneous)
        if self.model.total is not None:
            wanted = wanted.minimum(self.model.total * theta)
        emission, sent = track_step(self.start.to(x.dtype) * theta, state.sent, wanted, theta, self.model)
        return emission, State(t, charge, sent)

    def extra_repr(self) -> str:
        """Show shape and range of the thresholds in a printed network."""
        low, high = float(self.threshold.min()), float(self.threshold.max())
        return f"threshold={tuple(self.threshold.shape)} in [{low:.4g}, {high:.4g}], {self.model}"
