"""RobustNorm: thresholds from a percentile of the activations, the field's baseline."""

from __future__ import annotations

from dataclasses import dataclass

from tospike.errors import is_within
from tospike.methods.base import Measured, Parts, Rule, register
from tospike.parts.scales import GRANULARITIES, Granularity, Percentile


@register("robust-norm")
@dataclass(frozen=True)
class RobustNorm(Measured):
    """Threshold balancing by maximum or percentile of the activations.

    ``θ = max_batches quantile_p(ReLU(z))``; see `tospike.parts.scales.Percentile`.

    Attributes:
        percentile: p in (0, 1]; 1 is the maximum (MaxNorm).
        granularity: ``"layer"``, ``"channel"`` or ``"neuron"``.
        batches: Calibration batches; None passes over the loader once.

    Raises:
        OptionError: A setting is outside its range.

    Source: Rueckauer et al., Frontiers in Neuroscience 2017, section 2.2.2. Differs from the paper in: thresholds are raised
    instead of weights divided (equivalent), v(0) = θ/2, and the maximum over batches, as the LTB paper's baseline has it.

    Example:
        >>> RobustNorm(percentile=0.999).granularity
        'layer'
    """

    percentile: float = 0.99
    granularity: Granularity = "layer"

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (
            *super().limits(),
            ("percentile", self.percentile, is_within(self.percentile, 0, 1), "a number in (0, 1]", 0.999),
            ("granularity", self.granularity, self.granularity in GRANULARITIES, f"one of {GRANULARITIES}", "layer"),
        )

    def parts(self) -> Parts:
        """Take the percentile at every Site; start at half the threshold."""
        return Parts(
            scale=lambda site, _: Percentile(site, self.granularity, self.percentile), calibration_batches=self.batches
        )
