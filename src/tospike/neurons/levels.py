"""Spikes as the small integers that they are, with what one unit of them is worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """What neurons emit, as integers: ``emission = unit · (values − zero)``.

    Attributes:
        values: Integers ``[N, ...]``: of 8 bits without sign, which units for integer arithmetic take, or in half precision.
        unit: Worth of one level, broadcastable to one sample, in units of the ANN's activation.
        zero: Which integer is worth nothing; above 0 where levels are signed.
        largest: Largest level, of either sign.
        rest: Which level is silence.

    Example:
        >>> Levels(torch.tensor([[1, 2]], dtype=torch.uint8), torch.tensor(0.5), zero=1, largest=1).emission()
        tensor([[0.0000, 0.5000]])
    """

    values: Tensor
    unit: Tensor
    zero: int
    largest: int
    rest: int = 0

    def emission(self) -> Tensor:
        """Return what was emitted ``[N, ...]``, in units of the ANN's activation."""
        return self.levels(self.unit.dtype).mul_(self.unit)

    def levels(self, dtype: torch.dtype) -> Tensor:
        """Return the levels ``[N, ...]`` as numbers of a type."""
        levels = self.values.to(dtype)  # signed integers wrap around below 128 + zero, and back again
        return levels.sub_(self.zero) if self.zero else levels

    def with_values(self, values: Tensor, **changed: Any) -> Levels:
        """Return other integers of the same worth."""
        return replace(self, values=values, **changed)


def value_of(x: Any) -> Any:
    """Return what levels are worth, and anything else as it is."""
    return x.emission() if isinstance(x, Levels) else x


def integers_for(currents: Tensor) -> torch.dtype:
    """Return as what neurons write levels: of 8 bits without sign, or in half precision, which units for it read, where their currents are."""
    return torch.float16 if currents.dtype is torch.float16 else torch.uint8
