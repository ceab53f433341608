"""Trainable stand-ins for ReLU, which `prepare` puts into a network before it is trained."""

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
        rounding = torch.sub(activation, z).mul_(grad_z).sum() / threshold
        return grad_z, (rounding + grad_above.sum()).reshape(threshold.shape), None, None, None


def clip_floor_shift(
    z: Tensor, threshold: Tensor, levels: int, shift: float = 0.5, gradient: Gradient = "clip-first"
) -> Tensor:
    """Quantise an activation to L steps of θ/L, with a straight-through gradient.

    ``a = θ·clip(floor(z·L/θ + φ)/L, 0, 1)``. Gradients: ``∂a/∂z = 1`` inside an interval and 0 outside;
    ``∂a/∂θ = (a − z)/θ`` inside, 0 below, 1 above. The interval is ``[0, θ]`` for ``"clip-first"``,
    ``[−φθ/L, θ + (1−φ)θ/L)`` for ``"floor-first"`` and ``[−φθ/L, θ − φθ/L)`` for ``"half-open"``.

    Args:
        z: Pre-activation, any shape.
        threshold: θ > 0, a scalar tensor, in units of z.
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


class ClipFloorShift(TrainableActivation):
    """`clip_floor_shift` with a trainable threshold that stays positive.

    ``θ = softplus(ρ)`` with ρ the trained parameter, so that no step of an optimiser can make θ zero or negative.

    Args:
        levels: L >= 1.
        shift: φ in [0, 1].
        initial: θ before training, in units of the activation.
        gradient: See `clip_floor_shift`.

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
        self, levels: int, shift: float = 0.5, initial: float = 8.0, gradient: Gradient = "clip-first"
    ) -> None:
        super().__init__()
        require(
            "the clip-floor-shift activation",
            ("levels", levels, is_count(levels), "an integer >= 1", 4),
            ("shift", shift, shift == 0 or is_within(shift, 0, 1), "a number in [0, 1]", 0.5),
            ("initial", initial, is_within(initial, 0, sys.float_info.max), "a positive, finite number", 8.0),
            ("gradient", gradient, gradient in GRADIENTS, f"one of {GRADIENTS}", GRADIENTS[0]),
        )
        self.levels, self.shift, self.gradient = levels, shift, gradient
        value = torch.tensor(float(initial))
        self.rho = nn.Parameter(value + torch.log(-torch.expm1(-value)))

    @property
    def threshold(self) -> Tensor:
        """θ, a scalar tensor, in units of the activation."""
        return functional.softplus(self.rho).clamp_min(torch.finfo(self.rho.dtype).eps)

    def forward(self, z: Tensor) -> Tensor:
        """Quantise ``z``; see `clip_floor_shift`."""
        return clip_floor_shift(z, self.threshold, self.levels, self.shift, self.gradient)

    def extra_repr(self) -> str:
        """Show the settings in a printed network."""
        return f"levels={self.levels}, shift={self.shift}, gradient={self.gradient!r}"
