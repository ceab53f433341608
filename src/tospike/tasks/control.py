"""Control: a policy acts in an environment, and is scored by the return of its episodes.

No `Task` of data sets: in a closed loop there are no targets to compare with and no loss to train by, and what the network
sees next depends on what it did. `tospike.play` runs it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count as counting
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tospike.errors import OptionError, is_count, refuse_unknown, require, require_type
from tospike.tasks import environments
from tospike.tasks.environments import Bounds, Statistics
from tospike.tasks.episodes import Answer, Episodes


@dataclass(frozen=True, eq=False)
class Control:
    """A policy network, its environment, and what runs once per decision around the network.

    ``observation → flat → normalised → network → action``: a vector ``[A]`` for a box of actions, the index of the largest output
    for discrete ones. Only the network is converted; a tanh at its end runs once per decision too, as all that lies behind the last
    neuron.

    Attributes:
        environment: Id that gymnasium knows, or a function without arguments that makes an environment.
        network: The policy ``[N, observation] → [N, A]``; it is copied, so it may be trained on.
        options: Keyword arguments of ``gymnasium.make``, e.g. ``{"max_episode_steps": 200}``.
        bounds: What is done to outputs for a box of actions: ``"clip"`` to its bounds, ``"scale"`` from [−1, 1] onto them, or ``"none"``.
        flatten: Feed observations as vectors, discrete ones as one-hot; otherwise arrays as they are.
        statistics: By which observations are normalised; None where they are fed as they are.
        headline, unit, higher_is_better: Of the score, as for a `Task`.

    Raises:
        OptionError: The environment, its actions or the network do not fit together.
        MissingExtraError: gymnasium, or a package that the environment needs, is not installed.

    Example:
        >>> policy = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1), nn.Tanh())
        >>> control = Control("Pendulum-v1", policy, bounds="scale")
        >>> control.act(torch.tensor([[0.5], [-1.0]]))
        [array([1.], dtype=float32), array([-2.], dtype=float32)]
    """

    environment: str | Callable[[], Any]
    network: nn.Module
    options: Mapping[str, Any] = field(default_factory=dict)
    bounds: Bounds = "clip"
    flatten: bool = True
    statistics: Statistics | None = None
    _spaces: tuple[Any, Any] = field(init=False, repr=False)  # of observations and of actions
    _first: Any = field(init=False, repr=False)
    _limit: int | None = field(init=False, repr=False)
    headline = "return"
    unit = ""
    higher_is_better = True

    def __post_init__(self) -> None:
        """Copy the network, and try one decision."""
        require_type("network", self.network, nn.Module, "an nn.Module", "Pass the policy's network.")
        refuse_unknown("bounds", [str(self.bounds)], get_args(Bounds))
        object.__setattr__(self, "network", copy.deepcopy(self.network).eval())
        made = self.make()
        try:
            object.__setattr__(self, "_spaces", (made.observation_space, made.action_space))
            object.__setattr__(self, "_limit", environments.limit_of(made))
            environments.check_actions(made.action_space, self.bounds)
            object.__setattr__(self, "_first", made.reset(seed=0)[0])
        finally:
            made.close()
        self.check(self.answer)

    @classmethod
    def from_sb3(
        cls, model: Any, environment: str | Callable[[], Any], *, options: Mapping[str, Any] | None = None, normalise: Any = None
    ) -> Control:  # fmt: skip
        """Take over the deterministic policy of a Stable-Baselines3 model: TD3, DDPG, SAC, PPO, A2C or DQN with an MLP.

        Args:
            model: The model.
            environment: See `Control`.
            options: See `Control`.
            normalise: The ``VecNormalize`` that the model was trained with; that of the model itself when None.

        Raises:
            OptionError: The policy has parts that the task does not know, or acts differently from ``model.predict``.
            MissingExtraError: Stable-Baselines3 is not installed.
        """
        from tospike.tasks.sb3 import check_agreement, policy_of, statistics_of

        network, bounds = policy_of(model)
        found = cls(environment, network, options or {}, bounds, statistics=statistics_of(model, normalise))
        check_agreement(found, model)
        return found

    @property
    def name(self) -> str:
        """Name of the environment."""
        return (
            self.environment if isinstance(self.environment, str) else getattr(self.environment, "__name__", "custom")
        )

    @property
    def limit(self) -> int | None:
        """The number of decisions after which the environment ends an episode; None where it says none."""
        return self._limit

    def make(self) -> Any:
        """Return a fresh environment."""
        return environments.make(self.environment, self.options)

    def observe(self, observations: Sequence[Any]) -> Tensor:
        """Return what the network is fed for some observations, ``[N, ...]``."""
        space, _ = self._spaces
        rows = [environments.flat(space, one) if self.flatten else np.asarray(one) for one in observations]
        stacked: NDArray[Any] = np.stack(rows)
        if self.statistics is not None:
            stacked = self.statistics(stacked)
        like = next((p for p in self.network.parameters() if p.is_floating_point()), torch.empty(0))
        return torch.as_tensor(stacked).to(like.device, like.dtype)

    def act(self, output: Tensor) -> list[Any]:
        """Return the action of each environment for outputs ``[N, A]``."""
        _, space = self._spaces
        return environments.actions(space, output.detach().cpu().numpy(), self.bounds)

    @torch.no_grad()
    def answer(self, x: Tensor) -> Tensor:
        """Return what the network itself answers to `observe`."""
        return self.network(x)  # type: ignore[no-any-return]

    def observations(self, count: int = 10_000, *, seed: int = 10_000, batch: int = 256) -> list[Tensor]:
        """Return what the network saw in its environment, in batches, to measure thresholds on.

        The episodes begin from other seeds than those that `tospike.play` scores by default.

        Args:
            count: Decisions, over as many episodes as it takes.
            seed: Seed of the first episode; the next ones count on. Also that of the order of the observations.
            batch: Observations of a batch.

        Returns:
            Batches ``[batch, ...]``, in random order; the last one may be smaller.
        """
        require(
            "the observations",
            ("count", count, is_count(count), "an integer >= 1", 10_000),
            ("batch", batch, is_count(batch), "an integer >= 1", 256),
        )
        seen: list[Tensor] = []

        def answer(x: Tensor) -> Tensor:
            seen.append(x)
            return self.answer(x)

        for one in counting(seed):
            for _ in Episodes(self, [one]).decisions(answer):
                if len(seen) == count:
                    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
                    return list(torch.split(torch.cat(seen)[order], batch))
        raise AssertionError("counting ends never")

    def check(self, answer: Answer) -> None:
        """Raise unless what answers takes an observation, and gives a number for each action.

        Raises:
            OptionError: It does not.
        """
        _, space = self._spaces
        wanted = (1, environments.outputs_of(space))
        fed = self.observe([self._first])
        try:
            got = answer(fed)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise OptionError(
                "The network does not take the observations", where=self.name, got=f"{tuple(fed.shape)}: {str(error).splitlines()[0]}",
                expected="a network for these observations", remedy="Pass the network of this environment; flatten=False keeps the shape of arrays.",
            ) from error  # fmt: skip
        if not isinstance(got, Tensor) or tuple(got.shape) != wanted:
            raise OptionError(
                "The output of the network does not fit the actions", where=self.name,
                got=str(tuple(got.shape)) if isinstance(got, Tensor) else type(got).__name__,
                expected=f"{wanted} for {space}", remedy="Pass the network that gives one number for each action, and nothing else.",
            )  # fmt: skip
