"""Layer-synchronous neurons: each layer waits for all T steps of the one before, and then sends a count."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tospike.methods.base import Corrected, LeastError, MadeForT, Parts, register
from tospike.neurons.model import NeuronModel
from tospike.parts.refiners import ShiftScale


class _Synchronous(MadeForT):
    """What these methods share: trained thresholds, or thresholds of least error for what T steps can say."""

    def model(self) -> NeuronModel:
        raise NotImplementedError

    def parts(self) -> Parts:
        """Keep trained thresholds, or fit them to the levels of T steps; start at half a level."""
        neuron = self.model()
        return Parts(
            scale=LeastError(neuron, self.time_steps, keep=True), calibration_batches=self.batches, neuron=neuron
        )


@register("parallel")
@dataclass(frozen=True)
class Parallel(_Synchronous, Corrected):
    """Parallel conversion: a neuron fires in its first n steps, ``n = clip(⌊(Q + v(0))/θ⌋, 0, T)``; means are then corrected.

    What each layer sends is what the ANN quantised to T levels computes; shift and scale per channel take back its mean error.

    Attributes:
        time_steps: T that will be run.
        batches: Calibration batches for the thresholds.
        refine_batches: Calibration batches for the corrections.
        correct: Whether to correct shift and scale.

    Source: Hao et al., "Faster and stronger: when ANN-SNN conversion meets parallel spiking calculation", ICML 2025. Differs from the paper
    in: thresholds of least error where the network was not trained with QCFS; see `tospike.parts.refiners.ShiftScale`.

    Example:
        >>> Parallel(time_steps=8).parts().neuron.latency(8, depth=3)
        32
    """

    correct: bool = True

    def model(self) -> NeuronModel:
        """Return the neuron."""
        return NeuronModel(synchronous=True)

    def parts(self) -> Parts:
        """Correct shift and scale."""
        refiners = (ShiftScale(),) if self.correct else ()
        return replace(
            super().parts(), refiners=refiners, time_steps=self.time_steps, refine_batches=self.refine_batches
        )


@register("tpp")
@dataclass(frozen=True)
class TPP(_Synchronous):
    """Two-phase probabilistic neurons: first all input is gathered, then spikes come at random, spread over the steps.

    ``P(s(t) = θ) = clip(v/(θ·(T − t + 1)), 0, 1)``, ``v ← v − s``; v begins as the charge Q, without an initial potential.

    Attributes:
        time_steps: T that will be run.
        batches: Calibration batches.

    Source: Bojkovic, Wu and Gu, "Temporal misalignment in ANN-SNN conversion and its mitigation via probabilistic spiking neurons", ICML
    2025. Differs from the paper in: v(0) = 0 also for networks trained with QCFS, since a neuron that overshot cannot take back: random
    firing as such sends too much.

    Example:
        >>> TPP(time_steps=8).parts().neuron.random
        True
    """

    def model(self) -> NeuronModel:
        """Return the neuron."""
        return NeuronModel(synchronous=True, random=True)

    def parts(self) -> Parts:
        """Start empty."""
        return replace(super().parts(), start=0.0)


@register("bit-weighted")
@dataclass(frozen=True)
class BitWeighted(_Synchronous):
    """Bit-weighted code: the count of a layer is sent as its bits, the largest first, so that T steps say 2^T − 1 levels.

    ``s(t) = bit T − t of n``, worth ``2^(T−t)``; ``n = clip(⌊a·(2^T − 1)/θ + ½⌋, 0, 2^T − 1)``.

    Attributes:
        time_steps: T that will be run.
        batches: Calibration batches.

    Source: Datta, Liu and Beerel, "When bio-inspired computing meets deep learning: low-latency, accurate, and energy-efficient spiking
    neural networks from artificial neural networks", 2023. Differs from the paper in: its source is a network trained with
    quantisation (`ts.QCFS(levels=2**T - 1)`); for other networks thresholds of least error are fitted.

    Example:
        >>> BitWeighted(time_steps=4).parts().neuron.counts(4)
        15
    """

    def model(self) -> NeuronModel:
        """Return the neuron."""
        return NeuronModel(synchronous=True, code="bits")


@register("first-spike")
@dataclass(frozen=True)
class FirstSpike(_Synchronous):
    """Time to first spike: one spike per neuron, which comes the earlier the larger the activation is.

    ``n = clip(⌊a·T/θ + ½⌋, 0, T)``; for n > 0 one spike at step ``T − n + 1``, worth n.

    Attributes:
        time_steps: T that will be run.
        batches: Calibration batches.

    Source: Srivatsa, Chu, Tavva, Wu, Zhang, Li and Carlson, "You only spike once: improving energy-efficient neuromorphic inference to
    ANN-level accuracy", 2020. Differs from the paper in: its training of the converted weights is left out; thresholds of least error.

    Example:
        >>> FirstSpike(time_steps=8).parts().neuron.code
        'first'
    """

    def model(self) -> NeuronModel:
        """Return the neuron."""
        return NeuronModel(synchronous=True, code="first")
