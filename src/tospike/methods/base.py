"""What a method is: settings, and the parts they choose."""

from __future__ import annotations

import dataclasses
import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from tospike.errors import OptionError
from tospike.graph.capture import Site
from tospike.graph.kinds import TrainableActivation
from tospike.parts.scales import Scale

METHODS: dict[str, type[Method]] = {}


@dataclass(frozen=True)
class Parts:
    """The choices that make a method.

    Attributes:
        scale: Returns what finds the threshold of a Site, given the Site and the activation that stands there.
        calibration_batches: Batches that the scales watch; 0 if they need none, None for one pass over the loader.
        start: Initial potential as a share of the threshold.
        activation: Returns the trainable activation that `prepare` puts at a Site; None if the method does not train.
        average_pool: Whether `prepare` replaces max-pools by average pools.
    """

    scale: Callable[[Site, nn.Module], Scale]
    calibration_batches: int | None
    start: float = 0.5
    activation: Callable[[Site], TrainableActivation] | None = None
    average_pool: bool = False


class Method(ABC):
    """A conversion method: a frozen dataclass of settings whose `parts` are all that the library knows of it."""

    name: str = ""

    @abstractmethod
    def parts(self) -> Parts:
        """Return the parts that these settings choose."""

    def settings(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]


def register(name: str) -> Callable[[type[Method]], type[Method]]:
    """Give a method the name under which the command line and `method` find it."""

    def add(cls: type[Method]) -> type[Method]:
        cls.name = name
        METHODS[name] = cls
        return cls

    return add


def method(name: str, **settings: Any) -> Method:
    """Build a method from its name and settings.

    Raises:
        OptionError: The method or one of the settings is unknown.

    Example:
        >>> import tospike as ts
        >>> ts.method("ltb", batches=100).batches
        100
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        raise OptionError(
            f"Unknown method {name!r}", expected=f"one of {sorted(METHODS)}",
            remedy=f"Did you mean {near[0]!r}?" if near else "List them with `tospike methods`.",
        )  # fmt: skip
    known = [f.name for f in dataclasses.fields(METHODS[name])]  # type: ignore[arg-type]
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise OptionError(
            f"The method {name!r} has no setting {', '.join(unknown)}", expected=f"some of {known}",
            remedy="Correct the name; `tospike methods` lists every setting.",
        )  # fmt: skip
    return METHODS[name](**settings)
