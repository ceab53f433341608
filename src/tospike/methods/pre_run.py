"""First steps that are spent on learning how each neuron errs: SRP and COS."""

from __future__ import annotations

from dataclasses import dataclass

from tospike.errors import is_count
from tospike.methods.base import LeastError, MadeForT, Parts, Rule, register
from tospike.neurons.model import Correction, NeuronModel, PreRun


class _PreRun(MadeForT):
    """What SRP and COS share: T includes the pre-run, and the thresholds are made for the steps that are left."""

    pre_steps: int
    correction: Correction

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        good = is_count(self.pre_steps)
        longer = not (good and is_count(self.time_steps)) or self.time_steps > self.pre_steps
        expected = "more than pre_steps, since the pre-run is part of T"
        return (
            *super().limits(),
            ("pre_steps", self.pre_steps, good, "an integer >= 1", 4),
            ("time_steps", self.time_steps, longer, expected, self.pre_steps + 4 if good else 8),
        )

    def parts(self) -> Parts:
        """Keep trained thresholds, or fit them to the steps behind the pre-run; start at half the threshold."""
        neuron = NeuronModel(pre=PreRun(self.pre_steps, self.correction))
        scale = LeastError(neuron, self.time_steps - self.pre_steps, keep=True)
        return Parts(scale=scale, calibration_batches=self.batches, neuron=neuron)


@register("srp")
@dataclass(frozen=True)
class SRP(_PreRun):
    """Residual membrane potential: neurons that end a pre-run of τ steps below zero should not have fired, and stay silent.

    ``v(τ) < 0  ⇒  s(t) = 0 for t > τ``; all others start again at θ/2. Steps τ + 1 to T are read out.

    Attributes:
        time_steps: T, the pre-run included.
        pre_steps: τ.
        batches: Calibration batches.

    Source: Hao, Bu, Ding, Huang and Yu, "Reducing ANN-SNN conversion error through residual membrane potential", AAAI 2023. Differs from
    the paper in: T counts the τ steps; networks that were not trained with QCFS take thresholds of least error.

    Example:
        >>> SRP(time_steps=8, pre_steps=4).parts().neuron.pre_steps
        4
    """

    pre_steps: int = 4
    correction = "silence"


@register("cos")
@dataclass(frozen=True)
class COS(_PreRun):
    """Offset spikes: after ρ steps each neuron shifts its initial potential until it sends what its charge is worth.

    See `tospike.neurons.functional.expected_start`. Layer by layer: each waits for the corrected pre-run of the one before, and
    `Result.latency` says what that costs. Steps ρ + 1 to T are read out.

    Attributes:
        time_steps: T, the pre-run included.
        pre_steps: ρ.
        batches: Calibration batches.

    Source: Hao, Ding, Bu, Huang and Yu, "Bridging the gap between ANNs and SNNs by calibrating offset spikes", ICLR 2023. Differs from the
    paper in: T counts the ρ steps; see `expected_start`; networks that were not trained with QCFS take thresholds of least error.

    Example:
        >>> COS(time_steps=8, pre_steps=4).parts().neuron.waiting
        4
    """

    pre_steps: int = 4
    correction = "shift"
