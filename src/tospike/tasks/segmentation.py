"""Segmentation: a class for every pixel, scored by the mean intersection over union."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from tospike.errors import DataError
from tospike.pictures import draw_mask, to_image
from tospike.pictures.palette import IGNORE
from tospike.tasks.base import Task

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Segmentation(Task):
    """Score maps of logits ``[N, C, H, W]`` against masks ``[N, H, W]`` of classes.

    ``IoU_c = TP_c / (TP_c + FP_c + FN_c)`` over all pixels of all images; mIoU is its mean over the classes that occur in masks or predictions.

    A network may return several maps, as torchvision's do (``{"out": ..., "aux": ...}``): the first is scored, and all are trained.

    Attributes:
        ignore: Class of pixels that count nowhere; 255 in Pascal VOC.
        auxiliary: Weight of the further maps in the training loss.
        names: Names of the classes, for pictures.
        headline: ``"miou"``, in percent.

    Source: Everingham et al., "The Pascal Visual Object Classes challenge: a retrospective", 2015. The weight of 0.5 is that of
        torchvision's training reference. Differs from it in nothing.

    Example:
        >>> logits = torch.randn(2, 3, 4, 4)
        >>> metrics = Segmentation().metrics(logits)
        >>> metrics.update(logits, logits.argmax(1))
        >>> Segmentation().scores(metrics)
        {'miou': 100.0, 'pixel_accuracy': 100.0}
    """

    ignore: int = IGNORE
    auxiliary: float = 0.5
    names: tuple[str, ...] = ()
    headline = "miou"
    unit = "%"

    def metrics(self, prediction: Tensor) -> MetricCollection:
        """Return mIoU and the share of right pixels for logits ``[N, C, H, W]``."""
        classes = prediction.shape[1]
        return MetricCollection(
            {
                "miou": MulticlassJaccardIndex(classes, ignore_index=self.ignore),
                "pixel_accuracy": MulticlassAccuracy(classes, ignore_index=self.ignore, average="micro"),
            },
            compute_groups=False,
        ).to(prediction.device)

    def scores(self, metrics: MetricCollection) -> dict[str, float]:
        """Read both in percent.

        Raises:
            DataError: No pixel counts.
        """
        values = super().scores(metrics)
        if math.isnan(values["miou"]):
            raise DataError("There are no pixels to score", got=f"masks of {self.ignore} everywhere", expected="pixels of some class",
                            remedy="Pass Segmentation(ignore=...) with the class that does not count.")  # fmt: skip
        return {name: 100.0 * value for name, value in values.items()}

    def loss(self, output: Any, target: Any, context: Any = None) -> Tensor:
        """Return the cross-entropy of the first map, plus that of the further ones by their weight."""
        maps = (
            list(output.values())
            if isinstance(output, dict)
            else list(output)
            if isinstance(output, (tuple, list))
            else [output]
        )
        first, *further = (functional.cross_entropy(one, target, ignore_index=self.ignore) for one in maps)
        return first + self.auxiliary * torch.stack(further).sum() if further else first

    def draw(self, inputs: Tensor, answer: Tensor, index: int, context: Any = None) -> Image:
        """Draw the classes of a map of logits, or of a mask, over the image."""
        image, drawn = inputs[index].detach().float(), answer[index]
        low, high = image.min(), image.max()  # normalised images are shown at full contrast
        classes = drawn.argmax(0) if drawn.ndim == 3 else drawn
        return draw_mask(to_image((image - low) / (high - low).clamp(min=1e-12)), classes)

    def legend(self) -> dict[int, str]:
        """Return the names of the classes but the background, and of pixels that do not count."""
        return dict(list(enumerate(self.names))[1:])

    def check_target(self, prediction: Any, target: Any) -> None:
        """Raise unless logits are ``[N, C, H, W]`` and masks integers ``[N, H, W]`` below C, or to be ignored."""
        fits = (
            isinstance(target, Tensor) and prediction.ndim == 4 and not target.is_floating_point()
            and target.shape == (len(prediction), *prediction.shape[2:])
        )  # fmt: skip
        if not fits:
            got = f"{tuple(target.shape)} {target.dtype}" if isinstance(target, Tensor) else type(target).__name__
            raise DataError(
                "Maps and masks do not fit together", got=f"maps {tuple(prediction.shape)}, masks {got}",
                expected="maps [N, C, H, W] and integer masks [N, H, W]",
                remedy="Resize images and masks alike in the loader; a network that returns smaller maps needs a resize behind it.",
            )  # fmt: skip
        known = (target >= 0) & (target < prediction.shape[1]) | (target == self.ignore)
        if not bool(known.all()):
            raise DataError(
                "Masks hold classes that the network does not know", got=f"class {int(target[~known].max())}",
                expected=f"0 to {prediction.shape[1] - 1}, or {self.ignore} for pixels that do not count",
                remedy="Map the classes in the loader, or pass Segmentation(ignore=...).",
            )  # fmt: skip
