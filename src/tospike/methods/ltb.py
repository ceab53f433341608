"""LTB, inference-scale conversion: thresholds from forward passes alone."""

from __future__ import annotations

from dataclasses import dataclass

from tospike.errors import is_count, is_within
from tospike.methods.base import Method, Parts, Rule, register
from tospike.parts.scales import GRANULARITIES, Granularity, LocalBalance


@register("ltb")
@dataclass(frozen=True)
class LTB(Method):
    """Local threshold balancing: training-free thresholds, per channel, from K forward passes.

    ``θ ← θ + 2·rate·mean(max(z − θ, 0))`` on the clipped network, front to back in every pass; see
    `tospike.parts.scales.LocalBalance`. K acts as an implicit percentile 1 − 1/(2K): few batches favour small T, many favour
    the final accuracy.

    Attributes:
        batches: K, the number of calibration batches; a short loader is passed over several times.
        granularity: ``"channel"`` (each feature of a linear layer), or ``"layer"``, the paper's ablation, or ``"neuron"``.
        rate: Step size of the update.

    Raises:
        OptionError: A setting is outside its range.

    Source: Bu, Li and Yu, "Inference-scale complexity in ANN-SNN conversion", CVPR 2025. Differs from the paper in: fires at
    ``>=`` (its code fires at ``>``; they differ on exact ties only); a channel that no calibration sample activated takes the
    median threshold of its layer instead of 0; ReLU6 bounds θ at 6, which the authors' code does not;
    a max-pool behind neurons pools the sums of all currents so far, not those of each step (``.using(pool="step")`` does).

    Example:
        >>> import torch, tospike as ts
        >>> ann = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> snn = ts.convert(ann, ts.LTB(batches=10), calibration=[torch.randn(64, 2)])
        >>> snn(torch.randn(3, 2), time_steps=8).shape
        torch.Size([3, 2])
    """

    batches: int = 1000
    granularity: Granularity = "channel"
    rate: float = 1.0

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (
            ("batches", self.batches, is_count(self.batches), "an integer >= 1", 1000),
            ("rate", self.rate, is_within(self.rate, 0, 1), "a number in (0, 1]", 1.0),
            ("granularity", self.granularity, self.granularity in GRANULARITIES, f"one of {GRANULARITIES}", "channel"),
        )

    def parts(self) -> Parts:
        """Balance every Site; start at half the threshold."""
        return Parts(
            scale=lambda site, _: LocalBalance(site, self.granularity, self.rate), calibration_batches=self.batches
        )
