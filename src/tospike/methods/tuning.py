"""Ways to tune an SNN: what stands for its gradient, what it learns from, and what of it is trained."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Literal

from tospike.errors import is_count, is_within, refuse_together, refuse_unknown, require, require_type
from tospike.neurons.surrogate import GRADIENTS, Gradient, Surrogate

Part = Literal["weights", "biases", "thresholds", "starts"]
PARTS: tuple[Part, ...] = ("weights", "biases", "thresholds", "starts")
Order = Literal["together", "front-first", "each"]
ORDERS: tuple[Order, ...] = ("together", "front-first", "each")
Optimizer = Literal["sgd", "adam"]
OPTIMIZERS: tuple[Optimizer, ...] = ("sgd", "adam")

TUNINGS: dict[str, type[Tuning]] = {}


@dataclass(frozen=True)
class Tuning:
    """Tune with the real SNN in the forward pass; by default through time, learning from the task and the outputs of the ANN.

    Loss: ``task + logits·τ²·KL(ANN/τ ‖ SNN/τ) + maps·Σ_l ‖m_l(SNN) − m_l(ANN)‖² + distance·D``; ``m = a/‖a‖`` with
    ``a = Σ_c x_c²`` for each place of an image; D is the distance to the ANN that `tospike.parts.descent.Descent` follows.

    Attributes:
        time_steps: T that will be run.
        gradient: ``"time"``: through all steps, with a surrogate for the derivative of a spike; ``"rate"``: through the mean over time,
            ``∂ē/∂x̄ = 1`` where ``0 < x̄ < θ`` (of signed neurons, where it can be sent), at the cost of one pass of the ANN.
        surrogate: Of the gradient through time.
        trained: What is trained: weights, biases, thresholds, initial potentials (``"starts"``); the rest stays as it is.
        normalise: Normalise what each layer adds by the statistics of the batch while it is tuned; folded away at the end. Gradient
            through time only.
        order: ``"together"``; ``"front-first"``: the run is divided into one part more than there are Sites, and in part k, from 0, the first
            k send spikes and are frozen, while the others are still those of the ANN; ``"each"``: each Site for itself learns to send what the ANN
            does there, ``Σ_l ‖ē_l − a_l‖²/‖a_l‖²``, by a gradient that does not leave its layer. The last two by rate.
        logits: Weight of the distillation from the ANN's outputs.
        temperature: τ.
        maps: Weight of the distillation from the ANN's maps at every Site.
        distance: Weight of the distance to the ANN, at all Sites and at the output. Gradient through time only.
        distance_share: Share of the run, from its start, in which the distance is part of the loss; behind it, the rest of the loss goes on alone.
        optimizer: ``"sgd"`` or ``"adam"``; see `tospike.fit`.
        steps_per_call: Steps whose values are kept for the gradient; the others are computed again, and layers are normalised by the
            statistics that were measured at the beginning. None keeps all T.

    Source: own combination of the parts below.

    Example:
        >>> Tuning(time_steps=2).gradient
        'time'
    """

    time_steps: int = 0
    gradient: Gradient = "time"
    surrogate: Surrogate = field(default_factory=Surrogate)
    trained: tuple[Part, ...] = PARTS
    normalise: bool = True
    order: Order = "together"
    logits: float = 1.0
    temperature: float = 2.0
    maps: float = 0.0
    distance: float = 0.0
    distance_share: float = 1.0
    optimizer: Optimizer = "sgd"
    steps_per_call: int | None = None

    def __post_init__(self) -> None:
        """Check the settings, each alone and then against each other."""
        require_type("surrogate", self.surrogate, Surrogate, "a Surrogate", "Pass surrogate=ts.Surrogate(slope=2.0).")
        require(
            type(self).__name__,
            ("time_steps", self.time_steps, is_count(self.time_steps), "the T that will be run, an integer >= 1", 4),
            ("gradient", self.gradient, self.gradient in GRADIENTS, f"one of {GRADIENTS}", "time"),
            ("order", self.order, self.order in ORDERS, f"one of {ORDERS}", "together"),
            ("trained", self.trained, bool(self.trained) and set(self.trained) <= set(PARTS), f"some of {PARTS}", PARTS),
            ("logits", self.logits, self.logits == 0 or is_within(self.logits, 0, sys.float_info.max), ">= 0 and finite", 1.0),
            ("temperature", self.temperature, is_within(self.temperature, 0, sys.float_info.max), "positive and finite", 2.0),
            ("maps", self.maps, self.maps == 0 or is_within(self.maps, 0, sys.float_info.max), ">= 0 and finite", 0.0),
            ("distance", self.distance, self.distance == 0 or is_within(self.distance, 0, sys.float_info.max), ">= 0 and finite", 0.0),
            ("distance_share", self.distance_share, is_within(self.distance_share, 0, 1), "in (0, 1]", 0.5),
            ("optimizer", self.optimizer, self.optimizer in OPTIMIZERS, f"one of {OPTIMIZERS}", "sgd"),
            ("steps_per_call", self.steps_per_call, self.steps_per_call is None or is_count(self.steps_per_call), "an integer >= 1, or None", 4),
        )  # fmt: skip
        exclusions = (
            (self.gradient == "rate" and self.normalise, "normalise=True", "gradient='rate'", "normalise=False"),
            (self.gradient == "rate" and self.distance > 0, f"distance={self.distance}", "gradient='rate', which takes spikes for clips", "distance=0.0"),
            (self.distance_share < 1 and self.distance == 0, f"distance_share={self.distance_share}", "distance=0.0", "distance_share=1.0"),
            (self.normalise and not {"weights", "biases"} <= set(self.trained), "normalise=True", f"trained={self.trained}: it changes weights and biases",
             "normalise=False"),
            (self.gradient == "time" and self.order != "together", f"order={self.order!r}", "gradient='time'", "gradient='rate'"),
        )  # fmt: skip
        refuse_together("Settings of the tuning", repr(self), exclusions)

    @property
    def needs_ann(self) -> bool:
        """Whether the loss compares with the ANN."""
        return bool(self.logits or self.maps or self.distance or self.order == "each")


@dataclass(frozen=True)
class _ByRate(Tuning):
    """Base of the tunings whose gradients are those of rates, of the loss of the task alone."""

    gradient: Gradient = "rate"
    normalise: bool = False
    logits: float = 0.0


@dataclass(frozen=True)
class DSR(_ByRate):
    """Differentiation on spike representation: the gradient of a clipped rate, thresholds trained too.

    ``ē = clip(x̄, 0, θ)`` backwards, the spikes themselves forwards.

    Source: Meng et al., "Training high-performance low-latency spiking neural networks by differentiation on spike representation",
    CVPR 2022. Differs from the paper in: it starts from a converted network; integrate-and-fire neurons, whose weights over time are equal; the
    scale of a spike is θ itself.

    Example:
        >>> DSR(time_steps=8).gradient
        'rate'
    """


@dataclass(frozen=True)
class SNN2ANN(_ByRate):
    """Weight sharing: spikes give the activations of an ANN branch, whose gradient trains the weights of both.

    Source: Tang, Lai, Xie, Yang and Zheng, "SNN2ANN: a fast and memory-efficient training framework for spiking neural networks", 2022.
    Differs from the paper in: it starts from a converted network; the ANN branch takes mean emissions and the slope of a clip, where the
    paper has two spike mapping units.

    Example:
        >>> SNN2ANN(time_steps=4).trained
        ('weights', 'biases')
    """

    trained: tuple[Part, ...] = ("weights", "biases")


@dataclass(frozen=True)
class PTL(_ByRate):
    """Progressive tandem learning: from front to back, layers become spiking and are frozen; those behind learn from true counts.

    Source: Wu, Xu, Zhou, Li and Tan, "Progressive tandem learning for pattern recognition with deep spiking neural networks", TPAMI
    2021. Differs from the paper in: each layer gets the same share of the run, where the paper goes on when learning stalls; no
    constraints of hardware.

    Example:
        >>> PTL(time_steps=16).order
        'front-first'
    """

    order: Order = "front-first"


@dataclass(frozen=True)
class LayerTuning(_ByRate):
    """Layer-wise fine-tuning: with true spikes at its input, each layer learns to send what the ANN's does.

    Source: Hu, Zheng, Jiang and Pan, "Fast-SNN: fast spiking neural network by converting quantized ANN", TPAMI 2023. Differs from the
    paper in: all layers learn in the same pass; the error of a layer is relative; the last layer learns from the task.

    Example:
        >>> LayerTuning(time_steps=3).order
        'each'
    """

    order: Order = "each"


@dataclass(frozen=True)
class LaSNN(Tuning):
    """Layer-wise distillation: the SNN learns the task, and where in an image the ANN is active, layer by layer.

    Source: Hong, Shen, Qi and Wang, "LaSNN: layer-wise ANN-to-SNN distillation for effective and efficient training in deep spiking neural
    networks", 2023. Differs from the paper in: ANN and SNN have the same shape and the SNN starts from the converted weights, where the
    paper distils into a smaller one.

    Example:
        >>> LaSNN(time_steps=4).maps
        1.0
    """

    maps: float = 1.0


@dataclass(frozen=True)
class DeepSNN(Tuning):
    """Surrogate gradients through time, with normalised currents and a slope that fits the depth.

    Source: Ledinauskas, Ruseckas, Juršėnas and Buračas, "Training deep spiking neural networks", 2020. Differs from the paper in: it
    starts from a converted network.

    Example:
        >>> DeepSNN(time_steps=10).surrogate.shape
        'fast-sigmoid'
    """

    surrogate: Surrogate = field(default_factory=lambda: Surrogate(1.0, "fast-sigmoid"))


@dataclass(frozen=True)
class JointErrors(Tuning):
    """The second stage of `MiCE`: what clipping, quantisation and timing change at every Site is part of the loss.

    Source: see `tospike.MiCE`; our construction.

    Example:
        >>> JointErrors(time_steps=8).distance
        4.0
    """

    surrogate: Surrogate = field(default_factory=lambda: Surrogate(slope=1.5))
    normalise: bool = False
    distance: float = 4.0
    optimizer: Optimizer = "adam"


TUNINGS |= {
    "tuning": Tuning, "joint-errors": JointErrors, "dsr": DSR, "snn2ann": SNN2ANN, "ptl": PTL, "layer-tuning": LayerTuning, "lasnn": LaSNN, "deep-snn": DeepSNN,
}  # fmt: skip


def tuning(name: str, **settings: object) -> Tuning:
    """Build a tuning from its name and settings.

    Raises:
        OptionError: The tuning or one of the settings is unknown.

    Example:
        >>> tuning("ptl", time_steps=8).order
        'front-first'
    """
    require_type(
        "name", name, str, "the name of a tuning", 'Pass e.g. "joint-errors"; list them with `tospike methods`.'
    )
    refuse_unknown("tuning", name, sorted(TUNINGS), remedy="List them with `tospike methods`.")
    refuse_unknown(f"setting of the tuning {name}", settings, Tuning.__dataclass_fields__)
    return TUNINGS[name](**settings)  # type: ignore[arg-type]
