"""What neurons carry from step to step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class State:
    """What the neurons of one Site carry from step to step.

    Attributes:
        steps: Steps done.
        potential: The membrane potential ``[N, ...]``; for a signed neuron the sum of all its input, without v(0).
        sent: Sum of all emissions ``[N, ...]``; None for a neuron that has no memory of it.
        start: Initial potential after a pre-run ``[N, ...]``; None where it is that of the neuron.
    """

    steps: int
    potential: Tensor
    sent: Tensor | None = None
    start: Tensor | None = None
