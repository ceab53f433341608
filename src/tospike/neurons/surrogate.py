"""Gradients for what has none: the emission of a neuron, whose derivative is 0 almost everywhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tospike.errors import OptionError, is_within, require
from tospike.neurons.model import NeuronModel

Shape = Literal["triangle", "fast-sigmoid"]
SHAPES: tuple[Shape, ...] = ("triangle", "fast-sigmoid")
Gradient = Literal["time", "rate"]
GRADIENTS: tuple[Gradient, ...] = ("time", "rate")


@dataclass(frozen=True)
class Surrogate:
    """The derivative that stands for that of an emission, as a function of the distance d to the nearest jump, in units of θ.

    ``"triangle"``: ``α·max(0, 1 − α|d|)``; ``"fast-sigmoid"``: ``α/(1 + α|d|)²``. A steep one reaches few neurons; a flat one lets the
    gradient grow from step to step and layer to layer.

    Attributes:
        slope: α > 0, the height at the jump.
        shape: ``"triangle"`` or ``"fast-sigmoid"``.

    Source: Neftci, Mostafa and Zenke, "Surrogate gradient learning in spiking neural networks", 2019; that the slope decides between
    vanishing and exploding gradients: Ledinauskas et al., "Training deep spiking neural networks", 2020. Differs from the papers
    in: emissions of several levels have one jump per level.

    Example:
        >>> Surrogate(slope=2.0).derivative(torch.tensor([-0.5, -0.25, 0.0]))
        tensor([0., 1., 2.])
    """

    slope: float = 1.0
    shape: Shape = "triangle"

    def __post_init__(self) -> None:
        """Check the settings."""
        require(
            "the surrogate gradient",
            ("slope", self.slope, is_within(self.slope, 0, sys.float_info.max), "positive and finite", 1.0),
            ("shape", self.shape, self.shape in SHAPES, f"one of {SHAPES}", "triangle"),
        )

    def derivative(self, distance: Tensor) -> Tensor:
        """Return the derivative at distances from a jump, in units of θ."""
        scaled = distance.abs().mul_(self.slope)
        if self.shape == "triangle":
            return torch.sub(1.0, scaled).clamp_min_(0.0).mul_(self.slope)
        return scaled.add_(1.0).square_().reciprocal_().mul_(self.slope)

    def emit(self, u: Tensor, threshold: Tensor, model: NeuronModel) -> Tensor:
        """Return what `tospike.neurons.functional.emit` returns, with gradients in potential and threshold.

        ``e = θ·s(u/θ)``: ``∂e/∂u = s'``, ``∂e/∂θ = s − s'·u/θ``.

        Args:
            u: Potential ``[N, ...]``, in units of the ANN's activation.
            threshold: θ > 0, broadcastable to one sample of ``u``, same unit.
            model: The neuron.

        Raises:
            OptionError: The neuron's levels are not equally far apart.
        """
        if model.levels == "nearest":
            raise OptionError(
                "A surrogate gradient needs levels that are equally far apart", got=f"levels={model.levels!r}",
                expected="'uniform' or 'successive'", remedy="Tune with the rate gradient: ts.DSR().",
            )  # fmt: skip
        unit = threshold if model.levels == "uniform" else threshold * 0.5 ** (model.capacity - 1)
        spikes: Tensor = _Levels.apply(u / unit, -model.sizes if model.signed else 0, model.sizes, self)  # type: ignore[no-untyped-call]
        return spikes * unit


class _Levels(torch.autograd.Function):
    """Forward: ``clip(⌊r⌋, low, high)``, which jumps at low + 1 … high. Backward: the surrogate around the nearest jump."""

    @staticmethod
    def forward(ctx: Any, ratio: Tensor, low: int, high: int, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(ratio)
        ctx.jumps, ctx.surrogate = (low + 1, high), surrogate
        return ratio.floor().clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (ratio,) = ctx.saved_tensors
        distance = ratio - ratio.round().clamp_(*ctx.jumps)
        return ctx.surrogate.derivative(distance).mul_(grads[0]), None, None, None
