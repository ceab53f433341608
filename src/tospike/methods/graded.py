"""Graded spikes: several levels in one step."""

from __future__ import annotations

from dataclasses import dataclass

from tospike.errors import is_count, require
from tospike.methods.base import Method, Parts, register
from tospike.neurons.model import NeuronModel
from tospike.parts.histogram import MinimalError
from tospike.parts.scales import Percentile


@register("burst")
@dataclass(frozen=True)
class Burst(Method):
    """Up to K spikes in one step, with least-error thresholds for K·T levels.

    ``s(t) = clip(⌊v/θ⌋, 0, K)``

    Attributes:
        time_steps: T that will be run.
        capacity: K.
        batches: Calibration batches.

    Source: Li and Zeng, "Efficient and accurate conversion of spiking neural network with burst spikes", IJCAI 2022. Differs
    from the paper in: thresholds made for T; a max-pool pools currents before the neuron instead of their lateral inhibition.

    Example:
        >>> Burst(time_steps=4).parts().neuron.spikes
        'graded'
    """

    time_steps: int = 0
    capacity: int = 5
    batches: int = 10

    def __post_init__(self) -> None:
        """Check the settings."""
        require(
            "Burst",
            ("time_steps", self.time_steps, is_count(self.time_steps), "the T that will be run, an integer >= 1", 8),
            ("capacity", self.capacity, is_count(self.capacity), "an integer >= 1", 5),
            ("batches", self.batches, is_count(self.batches), "an integer >= 1", 10),
        )

    def parts(self) -> Parts:
        """Fit thresholds to K·T levels; start at half the threshold."""
        levels = self.capacity * self.time_steps
        return Parts(
            scale=lambda site, _: MinimalError(site, "channel", levels, self.capacity), calibration_batches=self.batches,
            neuron=NeuronModel(capacity=self.capacity),
        )  # fmt: skip


@register("multi-threshold")
@dataclass(frozen=True)
class MultiThreshold(Method):
    """One signed spike per step, of the power of two that is nearest to what is missing.

    ``s(t) ∈ {0, ±θ, ±θ/2 … ±θ/2^(n−1)}`` nearest to ``Q_t − S``; θ = largest activation of the channel.

    Attributes:
        sizes: n.
        batches: Calibration batches; None for one pass over the loader.

    Source: Huang et al., "Towards high-performance spiking transformers from ANN to SNN conversion", ACM MM 2024. Differs from the
    paper in: the neuron tracks ReLU of all its input, so that it never sends a negative sum; θ is the maximum, not a percentile.

    Example:
        >>> MultiThreshold(sizes=6).parts().start
        0.0
    """

    sizes: int = 6
    batches: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        require(
            "MultiThreshold",
            ("sizes", self.sizes, is_count(self.sizes), "an integer >= 1", 6),
            ("batches", self.batches, self.batches is None or is_count(self.batches), "an integer >= 1, or None", 10),
        )

    def parts(self) -> Parts:
        """Take the maximum of every channel; start empty, since rounding to the nearest level needs no offset."""
        return Parts(
            scale=lambda site, _: Percentile(site, "channel", 1.0), calibration_batches=self.batches, start=0.0,
            neuron=NeuronModel(capacity=self.sizes, signed=True, levels="nearest"),
        )  # fmt: skip
