"""Forward temporal bias correction: a bias for every channel and every step."""

from __future__ import annotations

from dataclasses import dataclass

from tospike.errors import is_count, is_within
from tospike.methods.base import Corrected, LeastError, Parts, Rule, register
from tospike.neurons.model import NeuronModel
from tospike.parts.refiners import StepBias


@register("ftbc")
@dataclass(frozen=True)
class FTBC(Corrected):
    """Least-error thresholds for T steps, then a bias per channel and step, layer by layer on converted inputs.

    ``b_c(t) ← b_c(t) + rate·E[a_c − s_c(t)]``

    Attributes:
        time_steps: T that will be run.
        batches: Calibration batches for the thresholds.
        refine_batches: Calibration batches for the biases.
        rate: Share of the error that each round corrects.
        rounds: Rounds of correction.

    Source: Wu et al., "FTBC: forward temporal bias correction for optimizing ANN-SNN conversion", ECCV 2024. Differs from the
    paper in: thresholds of least error instead of the largest activation, since those are better at every T; trained thresholds stay.

    Example:
        >>> FTBC(time_steps=4).parts().time_steps
        4
    """

    rate: float = 0.5
    rounds: int = 8

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (
            *super().limits(),
            ("rate", self.rate, is_within(self.rate, 0, 1), "a number in (0, 1]", 0.5),
            ("rounds", self.rounds, is_count(self.rounds), "an integer >= 1", 8),
        )

    def parts(self) -> Parts:
        """Fit thresholds to T levels; start at half the threshold; correct the bias of every step."""
        binary = NeuronModel()
        return Parts(
            scale=LeastError(binary, self.time_steps, keep=True), calibration_batches=self.batches,
            refiners=(StepBias(self.rounds, self.rate),), time_steps=self.time_steps, refine_batches=self.refine_batches,
        )  # fmt: skip
