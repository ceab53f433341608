"""Residual carry: in a control loop, what one decision left over counts in the next."""

from __future__ import annotations

from dataclasses import dataclass

from tospike.errors import is_within
from tospike.methods.base import Measured, Parts, Rule, register
from tospike.parts.scales import Percentile


@register("crpi")
@dataclass(frozen=True)
class CRPI(Measured):
    """Largest activations as thresholds, and potentials that carry over from decision to decision.

    ``v(0)' = θ/2 + clip(α·max(v(T) − v(0), −S), −θ/2, θ/2)``, S the sum of what the neuron sent; see `Controller`, which runs the loop.
    Successive observations are alike, so their errors add up where every decision starts afresh.

    Attributes:
        carry: α.
        batches: Calibration batches; None for one pass over the loader.

    Source: Xu et al., "CRPI", ICML 2026. Differs from the paper in: none known; the paper was read through its code.

    Example:
        >>> CRPI().parts().carry
        0.5
    """

    carry: float = 0.5

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (
            *super().limits(),
            ("carry", self.carry, self.carry == 0 or is_within(self.carry, 0, 1), "a share in [0, 1]", 0.5),
        )

    def parts(self) -> Parts:
        """Take the maximum of every neuron; start at half the threshold; carry over."""
        return Parts(
            scale=lambda site, _: Percentile(site, "neuron", 1.0), calibration_batches=self.batches, carry=self.carry
        )
