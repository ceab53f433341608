"""Which neuron stands at a Site: how much it may emit in a step, with which sign, and whether it remembers what it sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tospike.errors import is_count, require

LevelSet = Literal["uniform", "nearest"]
LEVEL_SETS: tuple[LevelSet, ...] = ("uniform", "nearest")


@dataclass(frozen=True)
class NeuronModel:
    """The choices that make a neuron; the default is integrate-and-fire with binary spikes.

    Attributes:
        capacity: K. Uniform levels are θ, 2θ … Kθ; nearest levels are θ, θ/2 … θ/2^(K−1), of which one is emitted in a step.
        signed: The neuron remembers what it has sent and takes back, with negative spikes, what was too much.
        levels: ``"uniform"``, or ``"nearest"`` for powers of two.
        total: Largest number of spikes over a whole run, in units of θ; None for no limit.

    Raises:
        OptionError: A setting is out of range, or two of them exclude each other.

    Example:
        >>> NeuronModel(capacity=7, signed=True).spikes
        'graded'
    """

    capacity: int = 1
    signed: bool = False
    levels: LevelSet = "uniform"
    total: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        require(
            "the neuron",
            ("capacity", self.capacity, is_count(self.capacity), "an integer >= 1", 1),
            ("levels", self.levels, self.levels in LEVEL_SETS, f"one of {LEVEL_SETS}", "uniform"),
            ("total", self.total, self.total is None or is_count(self.total), "an integer >= 1, or None", None),
            ("signed", self.signed, self.signed or self.total is None, "True together with total=", True),
        )  # fmt: skip

    @property
    def spikes(self) -> Literal["binary", "ternary", "graded"]:
        """What one step of the neuron carries."""
        if self.capacity > 1:
            return "graded"
        return "ternary" if self.signed else "binary"
