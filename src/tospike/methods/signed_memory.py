"""Signed neurons with memory: what was sent too much is taken back."""

from __future__ import annotations

from dataclasses import dataclass

from tospike.methods.base import Corrected, LeastError, Measured, Parts, register
from tospike.neurons.model import NeuronModel
from tospike.parts.refiners import ChannelBias
from tospike.parts.scales import Percentile


@register("snm")
@dataclass(frozen=True)
class SNM(Measured):
    """Ternary spikes of neurons that remember what they sent; threshold at each neuron's largest activation.

    ``s(t) = +1`` if ``Q_t + v(0) − S ≥ θ``, ``−1`` if it is negative and ``S > 0``; θ = max z of that neuron alone.

    Attributes:
        batches: Calibration batches; None for one pass over the loader.

    Source: Wang, Zhang, Chen and Qu, "Signed neuron with memory: towards simple, accurate and high-efficient ANN-SNN
    conversion", IJCAI 2022. Differs from the paper in: v(0) = θ/2 where the paper starts at 0; a potential just below 0 already
    takes a spike back.

    Example:
        >>> SNM().parts().neuron.spikes
        'ternary'
    """

    def parts(self) -> Parts:
        """Take the maximum of every neuron; start at half the threshold."""
        return Parts(
            scale=lambda site, _: Percentile(site, "neuron", 1.0), calibration_batches=self.batches,
            neuron=NeuronModel(signed=True),
        )  # fmt: skip


@register("ternary")
@dataclass(frozen=True)
class Ternary(Corrected):
    """`SNM` with least-error thresholds for T steps and a bias per channel on converted inputs.

    Attributes:
        time_steps: T that will be run.
        batches: Calibration batches for the thresholds.
        refine_batches: Calibration batches for the biases.

    Source: own combination of the neuron of `SNM` with the thresholds and biases of `LightCalibration`.

    Example:
        >>> Ternary(time_steps=4).parts().neuron.signed
        True
    """

    def parts(self) -> Parts:
        """Fit thresholds to T levels; start at half the threshold; correct the bias."""
        neuron = NeuronModel(signed=True)
        return Parts(
            scale=LeastError(neuron, self.time_steps), calibration_batches=self.batches, neuron=neuron, refiners=(ChannelBias(),), time_steps=self.time_steps,
            refine_batches=self.refine_batches,
        )  # fmt: skip
