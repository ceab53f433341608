"""Residual membrane potential: the largest activation as the threshold, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from tospike.methods.base import Measured, Parts, register
from tospike.parts.scales import Percentile


@register("rmp")
@dataclass(frozen=True)
class RMP(Measured):
    """Threshold at the largest activation of the layer, reset by subtraction, potential from zero.

    ``θ = max z`` over the calibration data, ``v(0) = 0``.

    Attributes:
        batches: Calibration batches; None for one pass over the loader.

    Source: Han, Srinivasan and Roy, "RMP-SNN: residual membrane potential neuron for enabling deeper high-accuracy and
    low-latency spiking neural network", CVPR 2020. Differs from the paper in: all layers are calibrated in one pass.

    Example:
        >>> RMP().parts().start
        0.0
    """

    def parts(self) -> Parts:
        """Take the maximum at every Site; start empty."""
        return Parts(scale=lambda site, _: Percentile(site, "layer", 1.0), calibration_batches=self.batches, start=0.0)
