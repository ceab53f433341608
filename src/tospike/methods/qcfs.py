"""QCFS: train with a clip-floor-shift activation, then convert."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from tospike.errors import ConversionError
from tospike.graph.capture import Site
from tospike.graph.kinds import TrainableActivation
from tospike.methods.base import Method, Parts, register
from tospike.parts.activations import ClipFloorShift, Gradient
from tospike.parts.scales import Learned, Scale


@register("qcfs")
@dataclass(frozen=True)
class QCFS(Method):
    """Quantisation clip-floor-shift: a network trained to lose nothing, on average, when it becomes spiking.

    ``a = λ·clip(floor(z·L/λ + φ)/L, 0, 1)`` in training; then θ = λ and v(0) = φ·θ. See
    `tospike.parts.activations.ClipFloorShift`.

    Attributes:
        levels: L.
        shift: φ.
        initial: λ before training.
        gradient: Interval that passes the gradient; see `tospike.parts.activations.clip_floor_shift`.
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
    initial: float = 8.0
    gradient: Gradient = "clip-first"
    average_pool: bool = True

    def __post_init__(self) -> None:
        """Check the settings, by the rules of the activation."""
        ClipFloorShift(self.levels, self.shift, self.initial, self.gradient)

    def parts(self) -> Parts:
        """Read the trained thresholds; start at φ·θ."""
        return Parts(
            scale=_learned,
            calibration_batches=0,
            start=self.shift,
            activation=lambda _: ClipFloorShift(self.levels, self.shift, self.initial, self.gradient),
            average_pool=self.average_pool,
        )


def _learned(site: Site, activation: nn.Module) -> Scale:
    if not isinstance(activation, TrainableActivation):
        raise ConversionError(
            "A Site has no trained threshold", where=f"{site.name} ({site.operation.where})", got=type(activation).__name__,
            expected="ClipFloorShift", remedy="Call ts.prepare(ann, ts.QCFS(...), example=x) and train before converting.",
        )  # fmt: skip
    return Learned(site, activation)
