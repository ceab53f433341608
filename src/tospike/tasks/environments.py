"""Environments: making one, and what its spaces say about observations and actions."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tospike.errors import DataError, MissingExtraError, OptionError, missing_extra

Bounds = Literal["clip", "scale", "none"]


@dataclass(frozen=True, eq=False)
class Statistics:
    """By what observations are normalised: ``clip((x − mean)/√(variance + epsilon), −limit, limit)``.

    Attributes:
        mean, variance: Of each element, shaped like one observation or flat.
        epsilon: Added to the variance.
        limit: Largest size of a normalised element.

    Example:
        >>> Statistics(np.array([1.0]), np.array([4.0]))(np.array([[5.0], [100.0]])).round(3).tolist()
        [[2.0], [10.0]]
    """

    mean: NDArray[Any]
    variance: NDArray[Any]
    epsilon: float = 1e-8
    limit: float = 10.0

    def __call__(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Normalise observations ``[N, ...]``.

        Raises:
            DataError: They have another shape than the statistics.
        """
        shape = observations.shape[1:]
        if np.size(self.mean) != np.prod(shape):
            raise DataError(
                "The statistics do not fit the observations", got=f"statistics {np.shape(self.mean)}, observations {shape}",
                expected="one mean and variance for each element", remedy="Pass the statistics that belong to this environment.",
            )  # fmt: skip
        mean, variance = np.reshape(self.mean, shape), np.reshape(self.variance, shape)
        return np.clip((observations - mean) / np.sqrt(variance + self.epsilon), -self.limit, self.limit)


def make(environment: str | Callable[[], Any], options: Mapping[str, Any]) -> Any:
    """Return a fresh environment.

    Raises:
        OptionError: There is none of this id, or it does not take the options.
        MissingExtraError: gymnasium, or a package that the environment needs, is not installed.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise missing_extra("gymnasium", "control", "playing in environments") from error
    if not isinstance(environment, str):
        if options:
            raise OptionError("Options are for environments that gymnasium makes", got=f"options={dict(options)}", expected="an id",
                              remedy="Let your function pass them.")  # fmt: skip
        return environment()
    try:
        with warnings.catch_warnings():
            # A policy plays in the version that it was trained in: whoever converts it cannot take a newer one.
            warnings.filterwarnings("ignore", r".*The environment .* is out of date", DeprecationWarning)
            return gymnasium.make(environment, **options)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        lines = re.findall(r"`(pip install [^`]+)`", str(error))
        raise MissingExtraError(
            f"The environment {environment} needs a package that is not installed", got=str(error), expected="its packages",
            remedy=" && ".join(lines) or "Install the package that the environment is from.",
        ) from error  # fmt: skip
    except (gymnasium.error.Error, TypeError, ValueError) as error:
        raise OptionError(
            "The environment cannot be made", got=f"{environment!r}, options={dict(options)}: {error}", expected="an id that gymnasium knows, and its options",
            remedy="See gymnasium.pprint_registry(), or pass a function that makes the environment.",
        ) from error  # fmt: skip


def limit_of(environment: Any) -> int | None:
    """Return the number of decisions after which an environment ends an episode."""
    return None if environment.spec is None else environment.spec.max_episode_steps


def check_actions(space: Any, bounds: Bounds) -> None:
    """Raise unless the actions of a space can be read from one output each.

    Raises:
        OptionError: They cannot.
    """
    from gymnasium import spaces

    if not isinstance(space, (spaces.Box, spaces.Discrete)):
        raise OptionError("The task does not know such actions", got=str(space), expected="a Box or Discrete space",
                          remedy="Wrap the environment so that its actions are of one of these spaces.")  # fmt: skip
    if isinstance(space, spaces.Box) and bounds == "scale" and not space.is_bounded():
        raise OptionError('bounds="scale" needs actions with bounds', got=str(space), expected="finite bounds",
                          remedy='Pass bounds="none", or wrap the environment.')  # fmt: skip


def outputs_of(space: Any) -> int:
    """Return how many outputs stand for one action."""
    return int(space.n) if hasattr(space, "n") else int(np.prod(space.shape))


def flat(space: Any, observation: Any) -> NDArray[Any]:
    """Return an observation as one vector, a discrete one as one-hot."""
    from gymnasium.spaces.utils import flatten

    return np.asarray(flatten(space, observation))


def actions(space: Any, outputs: NDArray[Any], bounds: Bounds) -> list[Any]:
    """Return the action for each row of outputs ``[N, A]``.

    Args:
        space: Space of the actions.
        outputs: What the network says.
        bounds: See `tospike.Control`.
    """
    if hasattr(space, "n"):
        return [int(space.start + row.argmax()) for row in outputs]
    shaped = outputs.reshape(-1, *space.shape)
    if bounds == "scale":
        shaped = space.low + 0.5 * (shaped + 1.0) * (space.high - space.low)
    if bounds == "clip":
        shaped = np.clip(shaped, space.low, space.high)
    return list(shaped.astype(space.dtype))
