"""Episodes side by side: each with an environment of its own, so that networks are asked for all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from tospike.tasks.control import Control

Answer = Callable[[Tensor], Tensor]


class Episodes:
    """One episode for each seed, played side by side; what has ended leaves the batch and is neither stepped nor simulated.

    Args:
        control: The task.
        seeds: Seeds of the environments.

    Attributes:
        returns: Sum of the rewards of each episode so far.
        lengths: Number of decisions of each episode so far.
    """

    def __init__(self, control: Control, seeds: Sequence[int]) -> None:
        self.control, self.seeds = control, list(seeds)
        self.returns = np.zeros(len(self.seeds))
        self.lengths = np.zeros(len(self.seeds), dtype=int)

    def decisions(self, answer: Answer, keep: Callable[[Tensor], None] | None = None) -> Iterator[int]:
        """Play all episodes to their ends, and yield after each decision how many still ran when it was made.

        Args:
            answer: Gives outputs ``[N, A]`` for observations ``[N, ...]`` of the episodes that still run.
            keep: Called with booleans ``[N]``, which of these episodes go on, where some have ended.
        """
        made = [self.control.make() for _ in self.seeds]
        try:
            running = np.arange(len(made))
            seen: list[Any] = [one.reset(seed=seed)[0] for one, seed in zip(made, self.seeds, strict=True)]
            while len(running):
                taken = self.control.act(answer(self.control.observe(seen)))
                seen, ended = [], np.zeros(len(running), dtype=bool)
                for k, (number, action) in enumerate(zip(running, taken, strict=True)):
                    observation, reward, terminated, truncated, _ = made[number].step(action)
                    self.returns[number] += float(reward)
                    self.lengths[number] += 1
                    ended[k] = terminated or truncated
                    if not ended[k]:
                        seen.append(observation)
                if ended.any() and keep is not None:
                    keep(torch.from_numpy(~ended))
                before, running = len(running), running[~ended]
                yield before
        finally:
            for one in made:
                one.close()

    def scores(self) -> dict[str, float]:
        """Return mean, standard deviation and lowest of the returns, and the mean length of the episodes."""
        return {
            "return": float(self.returns.mean()),
            "std": float(self.returns.std()),
            "lowest": float(self.returns.min()),
            "length": float(self.lengths.mean()),
        }
