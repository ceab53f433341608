"""Actors of the zoo: policies for MuJoCo environments, and the recipes that train them by reinforcement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from tospike.errors import is_count, require

OURS = "tospike; TD3 as Fujimoto et al., ICML 2018, with the settings of Stable-Baselines3 where none is named"


@dataclass(frozen=True)
class ActorRecipe:
    """Everything that fixes the training of one actor by TD3.

    Attributes:
        name: Name for `tospike.zoo.load`.
        environment: Id of the environment, in the version that published figures are for.
        inputs, outputs: Numbers in an observation and in an action.
        target: Mean return below which no weights are shipped.
        enough: Mean return less its standard deviation at which training stops; infinite to go on to the last step.
        widths: Neurons of each hidden layer.
        steps: Most environment steps.
        lr: Learning rate of actor and critics.
        batch_size: Transitions of a training batch.
        learning_starts: Environment steps at random before training begins.
        noise: Standard deviation of the noise on actions, as a share of half their range.
        every: Environment steps between two evaluations.
        episodes: Episodes of an evaluation.
        seed: Seed of the training.
        source: Where the settings are from.

    Raises:
        OptionError: A setting is out of range.
    """

    name: str
    environment: str
    inputs: int
    outputs: int
    target: float
    enough: float = math.inf
    widths: tuple[int, ...] = (256, 256)
    steps: int = 1_000_000
    lr: float = 3e-4
    batch_size: int = 256
    learning_starts: int = 10_000
    noise: float = 0.1
    every: int = 10_000
    episodes: int = 10
    seed: int = 0
    source: str = OURS

    def __post_init__(self) -> None:
        """Check the numbers that have to be counts."""
        counts = {"steps": 1_000_000, "batch_size": 256, "learning_starts": 10_000, "every": 10_000, "episodes": 10}
        limits = (
            (name, getattr(self, name), is_count(getattr(self, name)), "an integer >= 1", good)
            for name, good in counts.items()
        )
        require(f"the recipe {self.name!r}", *limits)

    @property
    def network_options(self) -> Mapping[str, Any]:
        """Options of the network ``"actor"``."""
        return {"inputs": self.inputs, "outputs": self.outputs, "widths": self.widths}

    def to_yaml(self) -> str:
        """Write the recipe as YAML.

        Example:
            >>> ACTORS["hopper-td3"].to_yaml().splitlines()[1]
            'environment: Hopper-v4'
        """
        plain = asdict(self) | {"widths": list(self.widths)}
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


_ALL = (
    ActorRecipe("inverted-double-pendulum-td3", "InvertedDoublePendulum-v4", 11, 1, target=9000, enough=9000),
    ActorRecipe("hopper-td3", "Hopper-v4", 11, 3, target=2500, enough=3000),
    ActorRecipe("walker2d-td3", "Walker2d-v4", 17, 6, target=2500, enough=3000, lr=1e-3),
)

ACTORS: dict[str, ActorRecipe] = {entry.name: entry for entry in _ALL}
