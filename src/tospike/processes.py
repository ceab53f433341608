"""Sums and largest values over the processes of a run; with one process they change nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import PartialState  # type: ignore[import-untyped]
from accelerate.utils import gather, parse_flag_from_env  # type: ignore[import-untyped]
from torch import Tensor


def count() -> int:
    """Return the number of processes that ``accelerate launch`` or torchrun started."""
    # Unless it is told so, accelerate does not look for other processes on a machine without an accelerator.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return int(PartialState(cpu=on_cpu).num_processes)


def total(value: Tensor) -> Tensor:
    """Return the sum over all processes, of a tensor that has the same shape in each.

    Example:
        >>> total(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    return _reduced(value, torch.distributed.ReduceOp.SUM)


def largest(value: Tensor) -> Tensor:
    """Return the largest value over all processes, element by element."""
    return _reduced(value, torch.distributed.ReduceOp.MAX)


def together(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the batches of all processes as one; they have the same number of samples in each."""
    if count() == 1:
        return batch
    return {name: gather(value.to(PartialState().device)).to(value.device) for name, value in batch.items()}


def from_the_first(tensors: Iterable[Tensor]) -> None:
    """Give all processes the values that the first one has, in place."""
    for tensor in tensors if count() > 1 else ():
        shared = tensor.detach().to(PartialState().device)
        torch.distributed.broadcast(shared, 0)
        tensor.data.copy_(shared)


def _reduced(value: Tensor, operation: Any) -> Tensor:
    if count() == 1:
        return value
    reduced = value.detach().to(PartialState().device, copy=True)  # NCCL knows no tensors of the CPU
    torch.distributed.all_reduce(reduced, operation)
    return reduced.to(value.device)
