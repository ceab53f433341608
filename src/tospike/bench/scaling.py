"""How time grows with T and with the batch, and falls with threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tospike.bench.cases import Case
from tospike.bench.contenders import Contender, anns, engines
from tospike.bench.machine import cores
from tospike.bench.timing import Spread, best, interleaved
from tospike.run.schedule import Engine

POWERS = (1, 2, 4, 8, 16, 32, 64)
STEPS = 8  # T where batch or threads vary


@dataclass(frozen=True)
class Point:
    """Time of a run.

    Attributes:
        axis: What varies: ``"time steps"``, ``"batch"`` or ``"threads"``.
        value: Its value.
        contender: What ran.
        ms: Time of T steps, in milliseconds; of the ANN, of T forward passes.
    """

    axis: str
    value: int
    contender: str
    ms: Spread


@torch.no_grad()
def measure_scaling(
    case: Case, names: Sequence[Engine], rounds: int, *, time_steps: Iterable[int] = POWERS, batches: Iterable[int] = POWERS,
    threads: Iterable[int] | None = None, seed: int = 0,
) -> list[Point]:  # fmt: skip
    """Return the time of ANN and SNN for several T, batch sizes and numbers of threads, one of them varied at a time.

    Args:
        case: The network.
        names: Engines, see `tospike.simulate`.
        rounds: How often each is timed.
        time_steps: The T.
        batches: The batch sizes.
        threads: Numbers of threads; 1 to all cores when None.
        seed: Of weights and images.
    """
    ann = case.network(seed)
    snn = case.convert(ann, seed)

    def contenders(batch: int) -> list[Contender]:
        x = case.images(batch, seed)
        return [best(anns(ann, x), 1), *engines(snn, x, names)]

    plain = contenders(case.batch)
    jobs = {("time steps", t, one.name): _job(one, t) for t in time_steps for one in plain}
    jobs |= {("batch", batch, one.name): _job(one, STEPS) for batch in batches for one in contenders(batch)}
    found = interleaved(jobs, rounds, f"{case.name}, T and batch")
    found |= _threads(plain, rounds, case.name, range(1, cores() + 1) if threads is None else threads)
    return [Point(*key, Spread.of(times)) for key, times in found.items()]


def _threads(
    contenders: Sequence[Contender], rounds: int, name: str, numbers: Iterable[int]
) -> dict[tuple[str, int, str], list[float]]:
    before = torch.get_num_threads()
    found: dict[tuple[str, int, str], list[float]] = {}
    try:
        for threads in numbers:
            torch.set_num_threads(threads)
            jobs = {("threads", threads, one.name): _job(one, STEPS) for one in contenders}
            found |= interleaved(jobs, rounds, f"{name}, {threads} threads")
    finally:
        torch.set_num_threads(before)
    return found


def _job(contender: Contender, time_steps: int) -> Callable[[], Any]:
    return lambda: contender.run(time_steps)
