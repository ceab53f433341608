"""What every task answers: how a prediction is scored, and what loss trains it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection

from tospike.errors import OptionError


class Task(ABC):
    """How the output of a network is read and scored.

    Attributes:
        headline: Name of the metric that stands on a curve.
        higher_is_better: Whether a larger headline value is a better network.
        unit: Unit of the headline value, for axes and tables.
    """

    headline: str
    higher_is_better: bool = True
    unit: str = ""

    @abstractmethod
    def metrics(self, prediction: Any) -> MetricCollection:
        """Return fresh metrics for predictions shaped like this one, fed as ``metrics.update(prediction, target)``."""

    def scores(self, metrics: MetricCollection) -> dict[str, float]:
        """Read the metrics as plain numbers, in `unit`."""
        return {name: float(value) for name, value in metrics.compute().items()}

    @abstractmethod
    def loss(self, output: Any, target: Any) -> Tensor:
        """Return the scalar training loss of one batch."""

    def prediction(self, output: Any) -> Any:
        """Turn the network's time-averaged output into what the metrics take; the first tensor of several by default."""
        if isinstance(output, dict):
            return next(iter(output.values()))
        return output[0] if isinstance(output, (tuple, list)) else output

    def confidence(self, prediction: Any) -> Tensor:
        """Return how sure each prediction is ``[N]``, in [0, 1]; for exits before the last step.

        Raises:
            OptionError: The task knows no confidence.
        """
        raise OptionError(
            "The task knows no confidence", got=type(self).__name__, expected="a task with a `confidence` method",
            remedy="Leave confidence= out, or define `confidence` in your task.",
        )  # fmt: skip

    def check_target(self, prediction: Any, target: Any) -> None:
        """Raise `DataError` when prediction and target cannot belong together; called on the first batch."""
        return
