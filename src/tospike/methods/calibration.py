"""SNN calibration: thresholds for the T that will be run, and corrections on the inputs that the SNN itself gives."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tospike.methods.base import Corrected, LeastError, Parts, register
from tospike.neurons.model import NeuronModel
from tospike.parts.reconstruct import Reconstruct
from tospike.parts.refiners import ChannelBias, Potential


@register("light-calibration")
@dataclass(frozen=True)
class LightCalibration(Corrected):
    """Least-error thresholds for T steps, then a bias per channel, layer by layer on converted inputs.

    ``θ_c = argmin E[(a_c − q_T(a_c; θ))²]``;  ``b_c ← b_c + E[a_c − φ_c(T)]``

    Attributes:
        time_steps: T that will be run.
        batches: Calibration batches for the thresholds.
        refine_batches: Calibration batches for the biases.

    Source: Li et al., "A free lunch from ANN: towards efficient, accurate spiking neural networks calibration", ICML 2021.
    Differs from the paper in: see `tospike.parts.histogram.MinimalError` and `tospike.parts.refiners.ChannelBias`.

    Example:
        >>> LightCalibration(time_steps=8).parts().time_steps
        8
    """

    def parts(self) -> Parts:
        """Fit thresholds to T levels; start at half the threshold; correct the bias."""
        return Parts(
            scale=LeastError(NeuronModel(), self.time_steps), calibration_batches=self.batches,
            refiners=(ChannelBias(),), time_steps=self.time_steps, refine_batches=self.refine_batches,
        )  # fmt: skip


@register("advanced-calibration")
@dataclass(frozen=True)
class AdvancedCalibration(LightCalibration):
    """`LightCalibration`, with the weights and the initial potentials fitted too.

    Source: Li et al., ICML 2021. Differs from the paper in: the weights are fitted in closed form, see
    `tospike.parts.reconstruct.Reconstruct`.

    Example:
        >>> len(AdvancedCalibration(time_steps=8).parts().refiners)
        3
    """

    def parts(self) -> Parts:
        """Fit thresholds to T levels; start at half the threshold; correct weights, bias and potential."""
        return replace(super().parts(), refiners=(Reconstruct(), ChannelBias(), Potential()))
