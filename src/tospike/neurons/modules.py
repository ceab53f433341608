"""Neurons as modules: they hold thresholds, never state; the state belongs to a run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tospike.neurons.functional import if_step


class IntegrateAndFire(nn.Module):
    """Integrate-and-fire neurons of one Site, stepped over a chunk of time; see `if_step`.

    Args:
        threshold: θ > 0, broadcastable to one sample ``[C, ...]``, in units of the ANN's activation.
        start: Initial potential as a share of θ.

    Example:
        >>> neuron = IntegrateAndFire(torch.tensor(1.0))
        >>> current = torch.tensor([0.4]).expand(5, 1, 1)
        >>> spikes, v = neuron(current, neuron.initial(current[0]))
        >>> spikes.flatten().tolist()
        [0.0, 1.0, 0.0, 1.0, 0.0]
    """

    threshold: Tensor

    def __init__(self, threshold: Tensor, start: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold)
        self.start = start

    def initial(self, current: Tensor) -> Tensor:
        """Return the potential before the first step, shaped like the current of one step ``[N, ...]``."""
        return (self.start * self.threshold).expand_as(current)

    def forward(self, currents: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Step through a chunk of time.

        Args:
            currents: Input currents ``[T, N, ...]``.
            v: Potential before the chunk ``[N, ...]``.

        Returns:
            Spikes of value 0 or θ, ``[T, N, ...]``, and the potential after the chunk.
        """
        emitted = []
        threshold = self.threshold.to(currents.dtype)
        for x in currents:
            spikes, v = if_step(v, x, threshold)
            emitted.append(spikes)
        return torch.stack(emitted), v

    def extra_repr(self) -> str:
        """Show shape and range of the thresholds in a printed network."""
        low, high = float(self.threshold.min()), float(self.threshold.max())
        return f"threshold={tuple(self.threshold.shape)} in [{low:.4g}, {high:.4g}], start={self.start}"
