"""Methods that train a bounded activation before conversion: the base of all, and those without rounding or with another one."""

from __future__ import annotations

import sys
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from tospike.errors import OptionError, is_count, is_within
from tospike.graph.capture import Site
from tospike.graph.kinds import TrainableActivation
from tospike.methods.base import AsTrained, LeastError, Method, Parts, Rule, register
from tospike.methods.calibration import LightCalibration
from tospike.neurons.model import NeuronModel
from tospike.parts.activations import Clip, LearnedStep, RateNorm, Slip

UNBOUNDED = 64  # levels for which the threshold of an activation without rounding is measured


@dataclass(frozen=True, kw_only=True)
class Trained(Method):
    """Base of the methods that train thresholds together with the weights.

    Attributes:
        initial: Thresholds before training; None measures those of least error, on the calibration data given to `prepare`.
        granularity: One threshold for each ``"layer"`` or each ``"channel"``.
        average_pool: Replace max-pools by average pools, as networks trained from scratch do; leave them to a pre-trained network.
    """

    initial: float | None = None
    granularity: Literal["layer", "channel"] = "layer"
    average_pool: bool = False

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        good = self.initial is None or is_within(self.initial, 0, sys.float_info.max)
        return (
            ("initial", self.initial, good, "a positive, finite number, or None", 8.0),
            ("granularity", self.granularity, self.granularity in ("layer", "channel"), "'layer' or 'channel'", "layer"),
        )  # fmt: skip

    @property
    def start(self) -> float:
        """v(0) as a share of θ after conversion."""
        return 0.5

    @property
    def neuron(self) -> NeuronModel:
        """What a Site becomes after conversion."""
        return NeuronModel()

    @property
    def least_error_levels(self) -> int:
        """Number of levels for which `initial=None` measures thresholds."""
        return UNBOUNDED

    @abstractmethod
    def activation(self, initial: float | Tensor, channels: int | None) -> TrainableActivation:
        """Return the activation of one Site."""

    def parts(self) -> Parts:
        """Read the trained thresholds."""
        levels = self.least_error_levels
        measured = LightCalibration(time_steps=levels).using(
            scale=LeastError(NeuronModel(), levels, granularity=self.granularity)
        )
        return Parts(
            scale=AsTrained(self.neuron), calibration_batches=0, start=self.start, average_pool=self.average_pool, neuron=self.neuron,
            activation=self._at, initial=measured if self.initial is None else None,
        )  # fmt: skip

    def _at(self, site: Site, measured: Tensor | None) -> TrainableActivation:
        if self.granularity == "layer":
            return self.activation(float(measured.max()) if measured is not None else self.initial or 1.0, None)
        if site.channel_axis != 1:
            raise OptionError(
                "A Site has no channels on axis 1", where=f"{site.name} ({site.operation.where})",
                got=f"axis {site.channel_axis} of [N, {', '.join(map(str, site.shape))}]", expected="[N, C, ...]", remedy="Pass granularity='layer'.",
            )  # fmt: skip
        return self.activation(
            measured.flatten() if measured is not None else self.initial or 1.0, site.shape[0]
        )  # fmt: skip


@register("tcl")
@dataclass(frozen=True)
class TCL(Trained):
    """Trainable clipping: a bound per layer is trained with the weights, and a penalty keeps it small.

    ``a = min(max(z, 0), λ)``, loss ``+ decay·Σλ²``; then θ = λ and v(0) = 0. See `tospike.parts.activations.Clip`.

    Attributes:
        decay: Factor of the penalty.
        initial, granularity, average_pool: See `Trained`; the paper starts from 2 (CIFAR-10) or 4 (ImageNet).

    Source: Ho and Chang, "TCL: an ANN-to-SNN conversion with trainable clipping layers", DAC 2021. Differs from the paper in: λ stays
    positive by construction; the strength of the penalty is ours, since the public text does not give it.

    Example:
        >>> TCL(initial=2.0).parts().start
        0.0
    """

    decay: float = 1e-3

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        good = self.decay == 0 or is_within(self.decay, 0, sys.float_info.max)
        return (*super().limits(), ("decay", self.decay, good, ">= 0 and finite", 1e-3))

    @property
    def start(self) -> float:
        """From zero, as the paper."""
        return 0.0

    def activation(self, initial: float | Tensor, channels: int | None) -> Clip:
        """Return the activation of one Site."""
        return Clip(initial, channels, self.decay)


@register("rnl")
@dataclass(frozen=True)
class RNL(Trained):
    """Rate norm layer: the bound of a layer is a trained share of the largest value it has seen.

    ``θ = sigmoid(ρ)·max(z)``, ``a = min(max(z, 0), θ)``. See `tospike.parts.activations.RateNorm`.

    Attributes:
        share: sigmoid(ρ) before training.
        initial, granularity, average_pool: See `Trained`; the bound is one of the layer, and its first value comes from the first batch.

    Source: Ding, Yu, Tian and Huang, "Optimal ANN-SNN conversion for fast and accurate inference in deep spiking neural networks",
    IJCAI 2021. Differs from the paper in: without the rate inference loss; v(0) = θ/2.

    Example:
        >>> RNL(share=0.9).settings()["share"]
        0.9
    """

    initial: float | None = 1.0
    share: float = 0.8

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (
            ("share", self.share, is_within(self.share, 0, 1) and self.share < 1, "a share in (0, 1)", 0.8),
            ("granularity", self.granularity, self.granularity == "layer", "'layer'", "layer"),
            ("initial", self.initial, self.initial == 1.0, "1.0: the first batch sets it", 1.0),
        )

    def activation(self, initial: float | Tensor, channels: int | None) -> RateNorm:
        """Return the activation of one Site."""
        return RateNorm(self.share)


@dataclass(frozen=True)
class _Rounded(Trained):
    levels: int = 4

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (*super().limits(), ("levels", self.levels, is_count(self.levels), "an integer >= 1", 4))

    @property
    def least_error_levels(self) -> int:
        """Measure thresholds for L levels."""
        return self.levels


@register("slip-relu")
@dataclass(frozen=True)
class SlipReLU(_Rounded):
    """A weighted sum of a clipped ReLU and a quantiser, which trades what training reaches against what conversion loses.

    ``a = c·min(max(z, 0), λ) + (1 − c)·λ·clip(⌊z·L/λ + φ⌋/L, 0, 1)``; then θ = λ, v(0) = φ·θ. See `tospike.parts.activations.Slip`.

    Attributes:
        levels: L.
        share: c.
        shift: φ.
        initial, granularity, average_pool: See `Trained`.

    Source: Jiang et al., "A unified optimization framework of ANN-SNN conversion: towards optimal mapping from activation values to firing
    rates", ICML 2023. Differs from the paper in: φ = 1/2 + δ, δ the paper's shift; λ stays positive by construction.

    Example:
        >>> SlipReLU(levels=1, share=0.4).parts().start
        0.5
    """

    share: float = 0.5
    shift: float = 0.5

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (
            *super().limits(),
            ("share", self.share, self.share == 0 or is_within(self.share, 0, 1), "in [0, 1]", 0.5),
            ("shift", self.shift, self.shift == 0 or is_within(self.shift, 0, 1), "in [0, 1]", 0.5),
        )

    @property
    def start(self) -> float:
        """φ."""
        return self.shift

    def activation(self, initial: float | Tensor, channels: int | None) -> Slip:
        """Return the activation of one Site."""
        return Slip(self.levels, self.share, self.shift, initial, channels)


@register("lsq")
@dataclass(frozen=True)
class LSQ(_Rounded):
    """Learned step size: rounding to L steps whose size is trained with a gradient scaled to the size of the layer.

    ``a = s·clip(⌊z/s + ½⌋, 0, L)``; then θ = L·s, v(0) = θ/2. See `tospike.parts.activations.LearnedStep`.

    Attributes:
        levels: L.
        initial, granularity, average_pool: See `Trained`.

    Source: Esser et al., "Learned step size quantization", ICLR 2020; it is the quantiser under Fast-SNN and most networks with few
    bits. Differs from the paper in: activations alone are quantised.

    Example:
        >>> LSQ(levels=3).parts().start
        0.5
    """

    def activation(self, initial: float | Tensor, channels: int | None) -> LearnedStep:
        """Return the activation of one Site."""
        return LearnedStep(self.levels, initial, channels)
