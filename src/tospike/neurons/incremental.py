"""Incremental operators: any function of a signal, exact in the running mean, in analog."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx


@dataclass(frozen=True)
class Running:
    """What an incremental operator carries from chunk to chunk.

    ``y_t = t·F(m_t) − (t−1)·F(m_{t−1})`` with ``m_t`` the mean of the first t inputs, so that ``(1/T)·Σ y_t = F(m_T)`` at every T.
    Where ``F(kx) = k·F(x)``, as for a maximum, sums take the place of means: ``t·F(m_t) = F(t·m_t)``.

    Attributes:
        steps: Steps done.
        sums: Sum of each input over them ``[N, ...]``.
        total: ``t·F(m_t)`` after them, of the form of F's output; None before the first step.
        homogeneous: Whether ``F(kx) = k·F(x)`` for positive k.

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
    homogeneous: bool = False

    def means(self, inputs: dict[Any, Tensor], steps: int) -> tuple[dict[fx.Node, Tensor], dict[Any, Tensor]]:
        """Return the running mean of each input at every step of a chunk, folded as the inputs are, or its running sum; and the new sums.

        Args:
            inputs: Values ``[steps·N, ...]``.
            steps: Time steps in the chunk.
        """
        means, sums = {}, {}
        for key, value in inputs.items():
            running = _sums(value.unflatten(0, (steps, -1)), self.sums.get(key))  # type: ignore[no-untyped-call]
            means[key] = (running if self.homogeneous else running / self._times(steps, running)).flatten(0, 1)
            sums[key] = running[-1]
        return means, sums

    def increments(self, output: Any, sums: dict[Any, Tensor], steps: int) -> tuple[Running, Any]:
        """Return the state after a chunk and what the operator emits at every step of it.

        Args:
            output: F of the running means, tensors ``[steps·N, ...]`` in any nesting.
            sums: What `means` returned.
            steps: Time steps in the chunk.
        """
        totals = _map(lambda value: value.unflatten(0, (steps, -1)), output)
        if not self.homogeneous:
            totals = _map(lambda value: value * self._times(steps, value), totals)
        before = _map(lambda value: torch.zeros_like(value[0]), totals) if self.total is None else self.total
        emitted = _map(lambda value, last: torch.cat([value[:1] - last, value[1:] - value[:-1]]), totals, before)
        after = replace(self, steps=self.steps + steps, sums=sums, total=_map(lambda value: value[-1], totals))
        return after, _map(lambda value: value.flatten(0, 1), emitted)

    def _times(self, steps: int, like: Tensor) -> Tensor:
        times = torch.arange(self.steps + 1, self.steps + steps + 1, device=like.device, dtype=like.dtype)
        return times.reshape(-1, *[1] * (like.ndim - 1))


def _sums(values: Tensor, before: Tensor | None) -> Tensor:
    """Return the running sums of ``[T, N, ...]``, added up in the order of time however it is cut into chunks."""
    total, rows = before, []
    for value in values:
        total = value if total is None else total + value
        rows.append(total)
    return torch.stack(rows)


def _map(function: Callable[..., Tensor], value: Any, *others: Any) -> Any:
    """Apply a function to every floating-point tensor of a nested value; what is no such tensor stays."""
    if isinstance(value, dict):
        return {key: _map(function, part, *(other[key] for other in others)) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_map(function, part, *parts) for part, *parts in zip(value, *others, strict=True))
    return function(value, *others) if isinstance(value, Tensor) and value.is_floating_point() else value
