"""QCFS: train with a clip-floor-shift activation, then convert."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tospike.methods.base import Rule, register
from tospike.methods.trained import Trained
from tospike.parts.activations import ClipFloorShift, Gradient


@register("qcfs")
@dataclass(frozen=True)
class QCFS(Trained):
    """Quantisation clip-floor-shift: a network trained to lose nothing, on average, when it becomes spiking.

    ``a = λ·clip(floor(z·L/λ + φ)/L, 0, 1)`` in training; then θ = λ and v(0) = φ·θ. See
    `tospike.parts.activations.ClipFloorShift`.

    Attributes:
        levels: L.
        shift: φ.
        gradient: Interval that passes the gradient; see `tospike.parts.activations.clip_floor_shift`.
        initial: λ before training; None measures the λ of least error, on the calibration data given to `prepare`.
        granularity: One λ for each ``"layer"`` (the paper) or each ``"channel"`` (CS-QCFS).
        average_pool: Replace max-pools by average pools, as the paper does.

    Source: Bu et al., "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural networks", ICLR
    2022. Differs from the paper in: λ stays positive by construction; batch norm is folded when the network is converted.

    Example:
        >>> import torch, tospike as ts
        >>> x = torch.randn(8, 2)
        >>> ann = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> ann = ts.prepare(ann, ts.QCFS(levels=4), example=x)
        >>> snn = ts.convert(ann, example=x)
        >>> snn.conversion.method
        'qcfs'
    """

    levels: int = 4
    shift: float = 0.5
    gradient: Gradient = "clip-first"
    initial: float | None = 8.0
    average_pool: bool = True

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings; those of the activation are its own."""
        self.activation(1.0, None)
        return super().limits()

    @property
    def start(self) -> float:
        """φ."""
        return self.shift

    @property
    def least_error_levels(self) -> int:
        """Measure thresholds for L levels."""
        return self.levels

    def activation(self, initial: float | Tensor, channels: int | None) -> ClipFloorShift:
        """Return the activation of one Site."""
        return ClipFloorShift(self.levels, self.shift, initial, self.gradient, channels)
