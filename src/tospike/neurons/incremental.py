"""Incremental operators: any function of a signal, exact in the running mean, in analog."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx


@dataclass(frozen=True)
class Running:
    """What an incremental operator carries from chunk to chunk.

    ``y_t = t·F(m_t) − (t−1)·F(m_{t−1})`` with ``m_t`` the mean of the first t inputs, so that ``(1/T)·Σ y_t = F(m_T)`` at every T.

    Attributes:
        steps: Steps done.
        sums: Sum of each input over them ``[N, ...]``.
        total: ``t·F(m_t)`` after them, of the form of F's output; None before the first step.

    Source: Huang et al., "Towards high-performance spiking transformers from ANN to SNN conversion", ACM MM 2024 (expectation
    compensation). Differs from the paper in: one operator for every function, of any number of inputs.

    Example:
        >>> x = torch.tensor([[1.0], [3.0], [-1.0]])  # three steps of one sample
        >>> means, sums = Running().means({"x": x}, 3)
        >>> _, y = Running().increments(means["x"].square(), sums, 3)
        >>> y.cumsum(0).flatten() / torch.tensor([1, 2, 3])  # squares of the means 1, 2 and 1
        tensor([1., 4., 1.])
    """

    steps: int = 0
    sums: dict[Any, Tensor] = field(default_factory=dict)
    total: Any = None

    def means(self, inputs: dict[Any, Tensor], steps: int) -> tuple[dict[fx.Node, Tensor], dict[Any, Tensor]]:
        """Return the running mean of each input at every step of a chunk, folded as the inputs are, and the new sums.

        Args:
            inputs: Values ``[steps·N, ...]``.
            steps: Time steps in the chunk.
        """
        means, sums = {}, {}
        for key, value in inputs.items():
            running = value.reshape(steps, -1, *value.shape[1:]).cumsum(0)
            if key in self.sums:
                running = running + self.sums[key]
            means[key] = (running / self._times(steps, running)).flatten(0, 1)
            sums[key] = running[-1]
        return means, sums

    def increments(self, output: Any, sums: dict[Any, Tensor], steps: int) -> tuple[Running, Any]:
        """Return the state after a chunk and what the operator emits at every step of it.

        Args:
            output: F of the running means, tensors ``[steps·N, ...]`` in any nesting.
            sums: What `means` returned.
            steps: Time steps in the chunk.
        """
        unfolded = _map(lambda value: value.reshape(steps, -1, *value.shape[1:]), output)
        totals = _map(lambda value: value * self._times(steps, value), unfolded)
        last = _map(lambda value: value[-1], totals)
        if self.total is None:
            emitted = _map(lambda value: torch.diff(value, dim=0, prepend=torch.zeros_like(value[:1])), totals)
        else:
            emitted = _map(lambda value, before: torch.diff(value, dim=0, prepend=before[None]), totals, self.total)
        return Running(self.steps + steps, sums, last), _map(lambda value: value.flatten(0, 1), emitted)

    def _times(self, steps: int, like: Tensor) -> Tensor:
        times = torch.arange(self.steps + 1, self.steps + steps + 1, device=like.device, dtype=like.dtype)
        return times.reshape(-1, *[1] * (like.ndim - 1))


def _map(function: Callable[..., Tensor], value: Any, *others: Any) -> Any:
    """Apply a function to every floating-point tensor of a nested value; what is no such tensor stays."""
    if isinstance(value, dict):
        return {key: _map(function, part, *(other[key] for other in others)) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_map(function, part, *parts) for part, *parts in zip(value, *others, strict=True))
    return function(value, *others) if isinstance(value, Tensor) and value.is_floating_point() else value
