"""Trainable stand-ins for ReLU, which `prepare` puts into a network before it is trained.

Each is bounded by a threshold that is trained with the weights: a scalar for a layer, or one for each channel.
"""

from __future__ import annotations

import sys
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tospike.errors import is_count, is_within, require
from tospike.graph.kinds import TrainableActivation

Gradient = Literal["clip-first", "floor-first", "half-open"]
GRADIENTS: tuple[Gradient, ...] = ("clip-first", "floor-first", "half-open")


class _ClipFloorShift(torch.autograd.Function):
    """Forward: the quantiser. Backward: straight through inside an interval of z that depends on the variant."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, levels: int, shift: float, gradient: Gradient) -> Tensor:
        steps = torch.mul(z, levels / threshold).add_(shift).floor_().clamp_(0, levels)
        ctx.levels, ctx.shift, ctx.gradient = levels, shift, gradient
        activation = steps.mul_(threshold / levels)
        ctx.save_for_backward(z, threshold, activation)
        return activation

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (grad,) = grads
        z, threshold, activation = ctx.saved_tensors
        step = threshold / ctx.levels
        low, high = {
            "clip-first": (torch.zeros_like(threshold), threshold),
            "floor-first": (-ctx.shift * step, threshold + (1 - ctx.shift) * step),
            "half-open": (-ctx.shift * step, threshold - ctx.shift * step),
        }[ctx.gradient]
        # Masked copies by the vectorised backward of `threshold`: a mask of booleans takes ten times as long on a CPU.
        tie = 0.0 if ctx.gradient == "clip-first" else -torch.finfo(z.dtype).tiny
        grad_above = torch.ops.aten.threshold_backward(grad, z - high, tie)
        grad_z = torch.ops.aten.threshold_backward(grad, z - low, -torch.finfo(z.dtype).tiny).sub_(grad_above)
        rounding = torch.sub(activation, z).mul_(grad_z).sum_to_size(threshold.shape) / threshold
        return grad_z, rounding + grad_above.sum_to_size(threshold.shape), None, None, None


def clip_floor_shift(
    z: Tensor, threshold: Tensor, levels: int, shift: float = 0.5, gradient: Gradient = "clip-first"
) -> Tensor:
    """Quantise an activation to L steps of θ/L, with a straight-through gradient.

    ``a = θ·clip(floor(z·L/θ + φ)/L, 0, 1)``. Gradients: ``∂a/∂z = 1`` inside an interval and 0 outside;
    ``∂a/∂θ = (a − z)/θ`` inside, 0 below, 1 above. The interval is ``[0, θ]`` for ``"clip-first"``,
    ``[−φθ/L, θ + (1−φ)θ/L)`` for ``"floor-first"`` and ``[−φθ/L, θ − φθ/L)`` for ``"half-open"``.

    Args:
        z: Pre-activation, any shape.
        threshold: θ > 0, broadcastable to z, in units of z.
        levels: L, the number of non-zero levels.
        shift: φ, the share of a step that is added before rounding down.
        gradient: Which interval passes the gradient.

    Returns:
        The quantised activation, shaped like z, in units of z.

    Source: Bu et al., "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural networks",
    ICLR 2022, equation 14. Differs from the paper in: the gradient with respect to θ, which the submission gives wrongly;
    "clip-first" is what the authors' newer code computes, "floor-first" their older code, "half-open" the corrected formula.

    Example:
        >>> clip_floor_shift(torch.tensor([-1.0, 0.3, 0.9, 5.0]), torch.tensor(2.0), levels=4)
        tensor([0.0000, 0.5000, 1.0000, 2.0000])
    """
    result: Tensor = _ClipFloorShift.apply(z, threshold, levels, shift, gradient)  # type: ignore[no-untyped-call]
    return result


def clip(z: Tensor, threshold: Tensor) -> Tensor:
    """Return ``min(max(z, 0), θ)``, with ``∂a/∂z = 1`` for ``0 < z < θ``, else 0, and ``∂a/∂θ = 1`` for ``z ≥ θ``, else 0.

    Args:
        z: Pre-activation, any shape.
        threshold: θ > 0, broadcastable to z, in units of z.

    Source: Choi et al., "PACT: parameterized clipping activation for quantized neural networks", 2018, equation 1. Differs from the
    paper in: nothing.
    """
    # `relu` passes nothing at a tie, where `minimum` would halve the gradient and `clamp` would pass it on.
    return threshold - functional.relu(threshold - functional.relu(z))


class Bounded(TrainableActivation):
    """Base of the activations whose bound θ is trained and stays positive: ``θ = softplus(ρ)``, ρ the trained parameter.

    Args:
        initial: θ before training, a number or ``[C]``, in units of the activation.
        channels: C, for a threshold per channel (axis 1 of the input); None for one per layer.

    Raises:
        OptionError: A setting is outside its range.
    """

    def __init__(self, initial: float | Tensor = 8.0, channels: int | None = None) -> None:
        super().__init__()
        value = torch.as_tensor(initial, dtype=torch.float32).detach().clone()
        good = bool((value > 0).all()) and bool(value.isfinite().all())
        require(
            f"the activation {type(self).__name__}",
            ("initial", initial, good, "positive and finite", 8.0),
            ("channels", channels, channels is None or is_count(channels), "an integer >= 1, or None", None),
        )
        value = value if channels is None else value.expand(channels).clone()
        self.rho = nn.Parameter(value + torch.log(-torch.expm1(-value)))

    @property
    def threshold(self) -> Tensor:
        """θ, a scalar or ``[C]``, in units of the activation."""
        return functional.softplus(self.rho).clamp_min(torch.finfo(self.rho.dtype).eps)


class Clip(Bounded):
    """ReLU with a trainable bound: ``a = min(max(z, 0), θ)``.

    Gradients: ``∂a/∂z = 1`` for ``0 < z < θ``, else 0; ``∂a/∂θ = 1`` for ``z ≥ θ``, else 0. The penalty ``decay·Σθ²`` draws the
    bound down, which is what shortens the time that spikes need.

    Args:
        initial, channels: See `Bounded`.
        decay: Factor of the penalty, >= 0.

    Source: Ho and Chang, "TCL: an ANN-to-SNN conversion with trainable clipping layers", DAC 2021. Differs from the paper in: θ is
    the softplus of the parameter, so that it cannot turn negative.

    Example:
        >>> Clip(initial=2.0)(torch.tensor([-1.0, 0.5, 3.0])).tolist()
        [0.0, 0.5, 2.0]
    """

    def __init__(self, initial: float | Tensor = 2.0, channels: int | None = None, decay: float = 1e-3) -> None:
        super().__init__(initial, channels)
        _check_decay(decay)
        self.decay = decay

    def forward(self, z: Tensor) -> Tensor:
        """Clip ``z``."""
        return clip(z, self.bound(z))

    def penalty(self) -> Tensor:
        """Return ``decay·Σθ²``, a scalar."""
        return self.decay * self.threshold.square().sum()

    def extra_repr(self) -> str:
        """Show the settings in a printed network."""
        return f"decay={self.decay}"


class RateNorm(TrainableActivation):
    """ReLU bounded by a trainable share of the largest value seen: ``θ = p·max(z)``, ``p = sigmoid(ρ)``; ``a = min(max(z, 0), θ)``.

    Args:
        initial: p before training, in (0, 1).
        momentum: Share of a batch's largest value in the running one, in (0, 1].

    Attributes:
        largest: Running largest value of z; it takes that of the first batch, and training alone changes it.

    Source: Ding, Yu, Tian and Huang, "Optimal ANN-SNN conversion for fast and accurate inference in deep spiking neural
    networks", IJCAI 2021, rate norm layer. Differs from the paper in: the activation keeps the unit of z, where the paper divides by θ; the
    running maximum has a momentum; the rate inference loss, whose weights the public text leaves open, is not part of it.

    Example:
        >>> activation = RateNorm(initial=0.5)
        >>> activation(torch.tensor([-1.0, 1.0, 4.0])).tolist()
        [0.0, 1.0, 2.0]
    """

    largest: Tensor

    def __init__(self, initial: float = 0.8, momentum: float = 0.1) -> None:
        super().__init__()
        require(
            "the rate norm activation",
            ("initial", initial, is_within(initial, 0, 1) and initial < 1, "a share in (0, 1)", 0.8),
            ("momentum", momentum, is_within(momentum, 0, 1), "a share in (0, 1]", 0.1),
        )
        self.momentum = momentum
        self.rho = nn.Parameter(torch.logit(torch.tensor(float(initial))))
        self.register_buffer("largest", torch.tensor(0.0))

    @property
    def threshold(self) -> Tensor:
        """θ, a scalar, in units of the activation; tiny until a batch was seen in training."""
        return (torch.sigmoid(self.rho) * self.largest).clamp_min(torch.finfo(self.rho.dtype).eps)

    def forward(self, z: Tensor) -> Tensor:
        """Clip ``z``, and in training follow its largest value."""
        if self.training:
            now = z.detach().amax().clamp_min(0.0).to(self.largest.dtype)
            share = torch.where(self.largest > 0, self.momentum, 1.0)
            self.largest.lerp_(now, share)
        return clip(z, self.threshold)

    def extra_repr(self) -> str:
        """Show the settings in a printed network."""
        return f"momentum={self.momentum}"


def _check_decay(decay: float) -> None:
    require(
        "the penalty of thresholds",
        ("decay", decay, decay == 0 or is_within(decay, 0, sys.float_info.max), ">= 0 and finite", 1e-3),
    )


class ClipFloorShift(Bounded):
    """`clip_floor_shift` with a trainable threshold, for a layer or for each channel.

    Args:
        levels: L >= 1.
        shift: φ in [0, 1].
        initial, channels: See `Bounded`.
        gradient: See `clip_floor_shift`.
        decay: Factor of the penalty ``decay·Σθ²``, >= 0.

    Raises:
        OptionError: A setting is outside its range.

    Source: Bu et al., ICLR 2022, equation 14. Differs from the paper in: θ is the softplus of the parameter (at θ = 8 the
    two train alike, since softplus is then the identity to 3e-4), where the paper trains θ itself and it can turn negative.

    Example:
        >>> activation = ClipFloorShift(levels=4, initial=2.0)
        >>> round(activation.threshold.item(), 4)
        2.0
    """

    def __init__(
        self,
        levels: int,
        shift: float = 0.5,
        initial: float | Tensor = 8.0,
        gradient: Gradient = "clip-first",
        channels: int | None = None,
        decay: float = 0.0,
    ) -> None:
        super().__init__(initial, channels)
        require(
            "the clip-floor-shift activation",
            ("levels", levels, is_count(levels), "an integer >= 1", 4),
            ("shift", shift, shift == 0 or is_within(shift, 0, 1), "a number in [0, 1]", 0.5),
            ("gradient", gradient, gradient in GRADIENTS, f"one of {GRADIENTS}", GRADIENTS[0]),
        )
        _check_decay(decay)
        self.levels, self.shift, self.gradient, self.decay = levels, shift, gradient, decay

    def forward(self, z: Tensor) -> Tensor:
        """Quantise ``z``; see `clip_floor_shift`."""
        return clip_floor_shift(z, self.bound(z), self.levels, self.shift, self.gradient)

    def penalty(self) -> Tensor | None:
        """Return ``decay·Σθ²``, a scalar; None without decay."""
        return self.decay * self.threshold.square().sum() if self.decay else None

    def extra_repr(self) -> str:
        """Show the settings in a printed network."""
        return f"levels={self.levels}, shift={self.shift}, gradient={self.gradient!r}, decay={self.decay}"


class LearnedStep(ClipFloorShift):
    """Rounding to L steps of a trained size, whose gradient is scaled by the number of activations.

    ``s = θ/L``; ``a = s·clip(⌊z/s + 1/2⌋, 0, L)``; ``∂a/∂s = ⌊z/s + 1/2⌋ − z/s`` inside, 0 below and L above, times
    ``g = 1/√(n·L)`` with n the number of activations of one sample.

    Args:
        levels, initial, channels: See `ClipFloorShift`.

    Source: Esser et al., "Learned step size quantization", ICLR 2020, equations 1 to 3. Differs from the paper in: θ = L·s is the
    softplus of the parameter.

    Example:
        >>> LearnedStep(levels=4, initial=2.0)(torch.tensor([[-1.0, 0.3, 5.0]])).tolist()
        [[0.0, 0.5, 2.0]]
    """

    def __init__(self, levels: int, initial: float | Tensor = 8.0, channels: int | None = None) -> None:
        super().__init__(levels, 0.5, initial, channels=channels)

    def forward(self, z: Tensor) -> Tensor:
        """Quantise ``z``."""
        scale = (z[0].numel() * self.levels / max(self.rho.numel(), 1)) ** -0.5
        bound = self.bound(z)
        bound = bound.detach() + scale * (bound - bound.detach())
        return clip_floor_shift(z, bound, self.levels, self.shift, self.gradient)


class Slip(ClipFloorShift):
    """A weighted sum of a clip and a quantiser: ``a = c·min(max(z, 0), θ) + (1 − c)·clip_floor_shift(z)``.

    Args:
        levels: L >= 1.
        share: c in [0, 1], the share of the clip.
        shift: φ in [0, 1].
        initial, channels: See `Bounded`.

    Source: Jiang et al., "A unified optimization framework of ANN-SNN conversion: towards optimal mapping from activation values to
    firing rates", ICML 2023. Differs from the paper in: the shift is φ = 1/2 + δ of a step, δ the paper's in [−1/2, 1/2].

    Example:
        >>> Slip(levels=1, share=0.5, initial=1.0)(torch.tensor([0.25, 0.75])).tolist()
        [0.125, 0.875]
    """

    def __init__(
        self,
        levels: int,
        share: float = 0.5,
        shift: float = 0.5,
        initial: float | Tensor = 8.0,
        channels: int | None = None,
    ) -> None:
        super().__init__(levels, shift, initial, channels=channels)
        require("the slip activation", ("share", share, share == 0 or is_within(share, 0, 1), "in [0, 1]", 0.5))
        self.share = share

    def forward(self, z: Tensor) -> Tensor:
        """Blend clip and quantiser."""
        return self.share * clip(z, self.bound(z)) + (1.0 - self.share) * super().forward(z)

    def extra_repr(self) -> str:
        """Show the settings in a printed network."""
        return f"share={self.share}, {super().extra_repr()}"
