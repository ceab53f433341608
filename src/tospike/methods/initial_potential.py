"""Half a threshold to begin with, which makes the mean error of a binary neuron zero."""

from __future__ import annotations

from dataclasses import dataclass

from tospike.errors import is_count, is_within
from tospike.methods.base import Measured, Parts, Rule, register
from tospike.parts.refiners import ThresholdShift
from tospike.parts.scales import Percentile


@register("opi")
@dataclass(frozen=True)
class OPI(Measured):
    """Optimised potential initialisation: largest activations as thresholds, and v(0) = θ/2.

    ``E[(a − φ(T))²]`` over uniform activations is least at ``v(0) = θ/2``.

    Attributes:
        batches: Calibration batches; None for one pass over the loader.

    Source: Bu, Ding, Yu and Huang, "Optimized potential initialization for low-latency spiking neural networks", AAAI 2022.
    Differs from the paper in: it trains with a clip and takes its bound as θ; here θ is the largest activation of the layer.

    Example:
        >>> OPI().parts().start
        0.5
    """

    def parts(self) -> Parts:
        """Take the maximum of every layer; start at half the threshold."""
        return Parts(scale=lambda site, _: Percentile(site, "layer", 1.0), calibration_batches=self.batches)


@register("threshold-shift")
@dataclass(frozen=True)
class RTS(Measured):
    """Threshold ReLU and shift: thresholds at a bound, neurons that start empty, and a bias that adds up to θ/2 over T steps.

    ``b ← b + θ/(2T)``

    Attributes:
        time_steps: T that will be run.
        percentile: Share of the activations that lie below the bound.
        batches: Calibration batches; None for one pass over the loader.

    Source: Deng and Gu, "Optimal conversion of conventional artificial neural networks to spiking neural networks", ICLR 2021.
    Differs from the paper in: it trains with the bound (a ReLU6 or clip keeps its own here); for a plain ReLU the bound is a percentile.

    Example:
        >>> RTS(time_steps=16).parts().start
        0.0
    """

    time_steps: int = 0
    percentile: float = 0.999

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (
            *super().limits(),
            ("time_steps", self.time_steps, is_count(self.time_steps), "the T that will be run, an integer >= 1", 16),
            ("percentile", self.percentile, is_within(self.percentile, 0, 1), "a number in (0, 1]", 0.999),
        )

    def parts(self) -> Parts:
        """Take a percentile of every layer; start empty; add the shift."""
        return Parts(
            scale=lambda site, _: Percentile(site, "layer", self.percentile), calibration_batches=self.batches, start=0.0,
            refiners=(ThresholdShift(),), time_steps=self.time_steps, refine_batches=1,
        )  # fmt: skip
