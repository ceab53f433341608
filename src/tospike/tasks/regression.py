"""Regression: mean squared error, mean absolute error and coefficient of determination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection, R2Score
from torchmetrics.wrappers import LambdaInputTransformer

from tospike.errors import DataError
from tospike.tasks.base import Task


@dataclass(frozen=True)
class Regression(Task):
    """Score outputs of any shape against targets of the same shape.

    Attributes:
        headline: ``"mse"``, in squared units of the target; lower is better.

    Example:
        >>> sorted(Regression().metrics(torch.zeros(2, 3)))
        ['mae', 'mse', 'r2']
    """

    headline = "mse"
    higher_is_better = False

    def metrics(self, prediction: Tensor) -> MetricCollection:
        """Return squared error, absolute error and R2, each over all elements."""
        singles = {"mse": MeanSquaredError(), "mae": MeanAbsoluteError(), "r2": R2Score()}
        flat: dict[str, Metric | MetricCollection] = {
            name: LambdaInputTransformer(metric, torch.flatten, torch.flatten) for name, metric in singles.items()
        }
        return MetricCollection(flat, compute_groups=False).to(prediction.device)

    def loss(self, output: Any, target: Any, context: Any = None) -> Tensor:
        """Return the mean squared error."""
        return functional.mse_loss(self.prediction(output), target)

    def check_target(self, prediction: Any, target: Any) -> None:
        """Raise unless prediction and target have the same shape."""
        if not isinstance(target, Tensor) or target.shape != prediction.shape:
            got = str(tuple(target.shape)) if isinstance(target, Tensor) else type(target).__name__
            raise DataError(
                "Output and target of a regression differ in shape",
                got=f"output {tuple(prediction.shape)}, target {got}",
                expected="the same shape",
                remedy="Reshape the target in the loader; a silent broadcast would score the wrong pairs.",
            )
