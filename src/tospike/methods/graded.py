"""Graded spikes: several levels in one step."""

from __future__ import annotations

from dataclasses import dataclass

from tospike.errors import is_count
from tospike.methods.base import LeastError, MadeForT, Measured, Parts, Rule, register
from tospike.neurons.model import NeuronModel
from tospike.parts.histogram import GaussianPoint
from tospike.parts.scales import Percentile


@register("burst")
@dataclass(frozen=True)
class Burst(MadeForT):
    """Up to K spikes in one step, with least-error thresholds for K·T levels.

    ``s(t) = clip(⌊v/θ⌋, 0, K)``

    Attributes:
        time_steps: T that will be run.
        capacity: K.
        batches: Calibration batches.

    Source: Li and Zeng, "Efficient and accurate conversion of spiking neural network with burst spikes", IJCAI 2022. Differs
    from the paper in: thresholds made for T. Their lateral inhibition pooling, which lets a pool send what its strongest input has
    sent in sum, is here the running maximum of currents before the neuron, and ``analog=["max_pool2d"]`` where a pool cannot move.

    Example:
        >>> Burst(time_steps=4).parts().neuron.spikes
        'graded'
    """

    capacity: int = 5

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (
            *super().limits(),
            ("capacity", self.capacity, is_count(self.capacity), "an integer >= 1", 5),
        )

    def parts(self) -> Parts:
        """Fit thresholds to K·T levels; start at half the threshold."""
        neuron = NeuronModel(capacity=self.capacity)
        return Parts(scale=LeastError(neuron, self.time_steps), calibration_batches=self.batches, neuron=neuron)


@register("group")
@dataclass(frozen=True)
class Group(MadeForT):
    """Groups of τ neurons with thresholds λ/τ, 2λ/τ … λ in place of one neuron with threshold λ.

    ``s(t) = (λ/τ)·clip(⌊v·τ/λ⌋, 0, τ)``: one group sends what a neuron with τ levels sends.

    Attributes:
        time_steps: T that will be run.
        members: τ.
        batches: Calibration batches.

    Source: Lv et al., "Optimal ANN-SNN conversion with group neurons", ICASSP 2024. Differs from the paper in: networks that were not
    trained with QCFS take thresholds of least error for τ·T levels; the τ members are computed as one.

    Example:
        >>> Group(time_steps=2, members=6).parts().neuron.capacity
        6
    """

    members: int = 4

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (
            *super().limits(),
            ("members", self.members, is_count(self.members), "an integer >= 1", 4),
        )

    def parts(self) -> Parts:
        """Keep trained thresholds, or fit them to τ·T levels; start at half a level."""
        neuron = NeuronModel(capacity=self.members)
        scale = LeastError(neuron, self.time_steps, keep=True)
        return Parts(scale=scale, calibration_batches=self.batches, neuron=neuron, members=self.members)


@register("multi-threshold")
@dataclass(frozen=True)
class MultiThreshold(Measured):
    """One signed spike per step, of the power of two that is nearest to what is missing.

    ``s(t) ∈ {0, ±θ, ±θ/2 … ±θ/2^(n−1)}`` nearest to ``Q_t − S``; θ = largest activation of the channel.

    Attributes:
        sizes: n.
        batches: Calibration batches; None for one pass over the loader.

    Source: Huang et al., "Towards high-performance spiking transformers from ANN to SNN conversion", ACM MM 2024 (ECMT). Differs from the
    paper in: the neuron tracks ReLU of all its input, so that it does not follow a negative charge; θ is the maximum, not a percentile.

    Example:
        >>> MultiThreshold(sizes=6).parts().start
        0.0
    """

    sizes: int = 6

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (
            *super().limits(),
            ("sizes", self.sizes, is_count(self.sizes), "an integer >= 1", 6),
        )

    def parts(self) -> Parts:
        """Take the maximum of every channel; start empty, since rounding to the nearest level needs no offset."""
        return Parts(
            scale=lambda site, _: Percentile(site, "channel", 1.0), calibration_batches=self.batches, start=0.0,
            neuron=NeuronModel(capacity=self.sizes, signed=True, levels="nearest"),
        )  # fmt: skip


@register("harmony")
@dataclass(frozen=True)
class Harmony(MadeForT):
    """Signed neurons with n thresholds θ, θ/2 … θ/2^(n−1) that fire one after the other in the same step.

    ``s(t) = u·clip(⌊(Q_t + u/2 − S)/u⌋, 1 − 2^n, 2^n − 1)`` with ``u = θ/2^(n−1)``: each threshold fires at most once in a step, so
    2^n − 1 levels of each sign cost n binary spikes.

    Attributes:
        time_steps: T that will be run.
        sizes: n.
        batches: Calibration batches.

    Source: Zhang, Huang, Bu, Huang and Yu, "Harmony multi-threshold neurons", AAAI 2026 (H-MT). Differs from the paper in: the pair of a
    positive and a negative neuron that pass their remainders to each other is one signed neuron that remembers what it sent.

    Example:
        >>> Harmony(time_steps=2, sizes=4).parts().neuron.counts(1)
        15
    """

    sizes: int = 4

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (
            *super().limits(),
            ("sizes", self.sizes, is_count(self.sizes) and self.sizes <= 16, "an integer from 1 to 16", 4),
        )

    def parts(self) -> Parts:
        """Fit thresholds to a normal distribution and (2^n − 1)·T levels; start at half the smallest."""
        neuron = NeuronModel(capacity=self.sizes, signed=True, levels="successive")
        return Parts(
            scale=lambda site, _: GaussianPoint(site, "channel", neuron.counts(self.time_steps), neuron.reach(self.time_steps)),
            calibration_batches=self.batches, neuron=neuron, start=0.5**self.sizes,
        )  # fmt: skip


@register("differential")
@dataclass(frozen=True)
class Differential(MadeForT):
    """Differential code: a spike at step t changes the mean by its value over t; signed spikes of the nearest power of two.

    ``r(t) = r(t−1) + s(t)/t``, r the mean that the receiver holds, and s the one of ``0, ±θ … ±θ/2^(n−1)`` that is nearest to what is
    missing. The receiver's current is ``r(t−1) + s(t)``, whose mean over t steps is r(t). A mean that has settled costs no spikes.

    Attributes:
        time_steps: T that will be run.
        sizes: n.
        batches: Calibration batches.

    Source: Huang et al., "Differential coding for training-free ANN-to-SNN conversion", ICML 2025 (DCGS). Differs from the paper in:
    every layer knows its own bias, so no extra step is spent on learning it; operations that are not activations run exactly in the
    running mean (``analog="auto"``) where the paper has graded units.

    Example:
        >>> Differential(time_steps=4).parts().neuron.code
        'differential'
    """

    sizes: int = 4

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (
            *super().limits(),
            ("sizes", self.sizes, is_count(self.sizes) and self.sizes <= 16, "an integer from 1 to 16", 4),
        )

    def parts(self) -> Parts:
        """Fit thresholds to a normal distribution and 2^n·T levels; start empty, since the nearest level needs no offset."""
        neuron = NeuronModel(capacity=self.sizes, signed=True, levels="nearest", code="differential")
        return Parts(
            scale=lambda site, _: GaussianPoint(site, "channel", 2**self.sizes * self.time_steps, neuron.reach(self.time_steps)),
            calibration_batches=self.batches, neuron=neuron, start=0.0,
        )  # fmt: skip
