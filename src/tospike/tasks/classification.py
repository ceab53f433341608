"""Classification: accuracy among the most probable classes, in percent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from tospike.errors import DataError, OptionError
from tospike.tasks.base import Task


@dataclass(frozen=True)
class Classification(Task):
    """Score logits ``[N, C]`` against classes ``[N]``.

    Attributes:
        top: The k of every accuracy that is reported; the first is the headline.
        label_smoothing: Mass moved from the true class to all classes in the training loss.

    Raises:
        OptionError: `top` is empty or holds a number below 1.

    Example:
        >>> Classification(top=(1,)).headline
        'top1'
    """

    top: tuple[int, ...] = (1, 5)
    label_smoothing: float = 0.0
    unit = "%"

    def __post_init__(self) -> None:
        """Check the settings."""
        if not self.top or min(self.top) < 1:
            raise OptionError(
                "`top` of Classification must hold numbers >= 1", got=str(self.top), remedy="Pass top=(1, 5)."
            )

    @property
    def headline(self) -> str:  # type: ignore[override]
        """Name of the first accuracy."""
        return f"top{self.top[0]}"

    def metrics(self, prediction: Tensor) -> MetricCollection:
        """Return one accuracy per k for logits ``[N, C]``; a k above C counts as C."""
        classes = prediction.shape[1]
        return MetricCollection(
            {f"top{k}": MulticlassAccuracy(classes, top_k=min(k, classes), average="micro") for k in self.top},
            compute_groups=False,
        ).to(prediction.device)

    def scores(self, metrics: MetricCollection) -> dict[str, float]:
        """Read the accuracies in percent."""
        return {name: 100.0 * value for name, value in super().scores(metrics).items()}

    def loss(self, output: Any, target: Any, context: Any = None) -> Tensor:
        """Return the cross-entropy of the logits."""
        return functional.cross_entropy(self.prediction(output), target, label_smoothing=self.label_smoothing)

    def confidence(self, prediction: Tensor) -> Tensor:
        """Return the softmax probability of the most probable class."""
        return prediction.softmax(1).amax(1)

    def check_target(self, prediction: Any, target: Any) -> None:
        """Raise unless logits are ``[N, C]`` and classes are integers ``[N]`` below C."""
        fits = (
            isinstance(target, Tensor) and prediction.ndim == 2 and target.shape == prediction.shape[:1]
            and not target.is_floating_point() and int(target.min()) >= 0 and int(target.max()) < prediction.shape[1]
        )  # fmt: skip
        if not fits:
            got = f"{tuple(target.shape)} {target.dtype}" if isinstance(target, Tensor) else type(target).__name__
            raise DataError(
                "Logits and classes do not fit together",
                got=f"logits {tuple(prediction.shape)}, target {got}",
                expected="logits [N, C] and integer classes [N] in [0, C)",
                remedy="Let the loader yield (input, class index), or pass another task=.",
            )
