"""MiCE: quantisation, clipping and timing error optimised together, from a pre-trained network."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from tospike.errors import is_count, is_within
from tospike.methods.base import Rule, register
from tospike.methods.trained import Trained
from tospike.methods.tuning import JointErrors
from tospike.neurons.model import NeuronModel
from tospike.parts.activations import ClipFloorShift


@register("mice")
@dataclass(frozen=True)
class MiCE(Trained):
    """Joint optimisation of quantisation, clipping and timing error for one T, in two stages.

    What a neuron sends differs from ``ReLU(z̄)``, z̄ its mean current, by exactly

    ``E_clip + E_quant + E_time``, with ``E_clip = clip(z̄, 0, θ) − ReLU(z̄)``, ``E_quant = θ/T·clip(⌊(z̄T + v(0))/θ⌋, 0, T) − clip(z̄, 0, θ)``
    and ``E_time`` the rest (`tospike.error_terms` measures them).

    1. `prepare` and `fit`: θ per channel and the weights are trained with a quantiser of as many levels as T steps have in place of each ReLU, from
       thresholds of least error for them: clipping and quantisation error are in the loss.
    2. `convert` and `tune` with `tuning`: weights, biases, θ and v(0) per channel are trained with the SNN itself in the forward pass, for the task, the
       outputs of the ANN, and the distance to the ANN at every Site, which is ``E_clip + E_quant + E_time`` and what the layers before it left of
       them: timing error is in the loss too.

    Attributes:
        time_steps: T that will be run.
        spikes: ``"binary"``, or ``"ternary"``: signed neurons whose silence is worth a spike, so that T steps have 2T levels above 0.
        distance: Weight of the distance to the ANN in the second stage (`tospike.parts.descent.Descent` has its formula).
        initial, granularity, average_pool: See `Trained`.

    Source: Ho and Chang, "MiCE", IEEE JETCAS 2023. Its full text is not public to us. Its abstract states: pre-trained ANNs are converted; the
    loss comes from quantisation, clipping and timing errors; a joint optimisation strategy alleviates all three; ResNet-20 at T = 8 reaches 95.74 % on
    CIFAR-10 and 79.02 % on CIFAR-100. Everything else here is our construction.

    Example:
        >>> method = MiCE(time_steps=8)
        >>> method.tuning.time_steps, method.tuning.distance
        (8, 4.0)
    """

    time_steps: int = 8
    spikes: Literal["binary", "ternary"] = "binary"
    distance: float = 4.0
    granularity: Literal["layer", "channel"] = "channel"

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (
            *super().limits(),
            ("time_steps", self.time_steps, is_count(self.time_steps), "the T that will be run, an integer >= 1", 8),
            ("spikes", self.spikes, self.spikes in ("binary", "ternary"), "'binary' or 'ternary'", "binary"),
            (
                "distance",
                self.distance,
                self.distance == 0 or is_within(self.distance, 0, sys.float_info.max),
                ">= 0 and finite",
                4.0,
            ),
        )

    @property
    def neuron(self) -> NeuronModel:
        """Integrate-and-fire, or a signed neuron whose silence is worth a spike."""
        return NeuronModel() if self.spikes == "binary" else NeuronModel(signed=True, rest=1)

    @property
    def least_error_levels(self) -> int:
        """Measure thresholds for the levels that T steps have."""
        return self.neuron.counts(self.time_steps)

    @property
    def tuning(self) -> JointErrors:
        """What the second stage passes to `tospike.tune`."""
        return JointErrors(self.time_steps, distance=self.distance)

    def activation(self, initial: float | Tensor, channels: int | None) -> ClipFloorShift:
        """Return the activation of one Site."""
        return ClipFloorShift(self.least_error_levels, 0.5, initial, channels=channels)
