"""Times of several ways to do the same, measured in turn."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np

from tospike.progress import track

K = TypeVar("K", bound=Hashable)


class Runs(Protocol):
    """What computes T time steps when asked to."""

    @property
    def run(self) -> Callable[[int], Any]:
        """Compute T time steps."""


R = TypeVar("R", bound=Runs)


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of what several rounds gave.

    Example:
        >>> Spread.of([1.0, 2.0, 3.0, 4.0, 5.0])
        Spread(median=3.0, low=2.0, high=4.0)
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values."""
        low, median, high = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
        return cls(median, low, high)

    def text(self, form: str) -> str:
        """Write the median, and the quartiles in brackets."""
        return f"{self.median:{form}} ({self.low:{form}}–{self.high:{form}})"


def interleaved(jobs: Mapping[K, Callable[[], Any]], rounds: int, what: str) -> dict[K, list[float]]:
    """Run all jobs once in every round, and return how many milliseconds each took by round.

    Each runs once before, which compiles what has to be compiled. Rounds begin with another job each, so that none always follows the same.

    Args:
        jobs: What is timed.
        rounds: How often.
        what: What is measured, for the progress bar.

    Example:
        >>> times = interleaved({"sum": lambda: sum(range(1000))}, 3, "sums")
        >>> len(times["sum"])
        3
    """
    for job in jobs.values():
        job()
    times: dict[K, list[float]] = {key: [] for key in jobs}
    order = list(jobs)
    for turn in track(range(rounds), what):
        first = turn % len(order)
        for key in order[first:] + order[:first]:
            start = perf_counter()
            jobs[key]()
            times[key].append(1e3 * (perf_counter() - start))
    return times


def best(ways: Sequence[R], time_steps: int) -> R:
    """Return the fastest of several ways to run T steps, by the faster of two runs after one that warms it up."""

    def job(way: R) -> Callable[[], Any]:
        return lambda: way.run(time_steps)

    times = interleaved({n: job(way) for n, way in enumerate(ways)}, 2, "warm up")
    return ways[min(times, key=lambda n: min(times[n]))]
