"""Images whose target lies in them, a mask or boxes: both are prepared in step, and images that differ in size become a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tospike.errors import missing_extra, require
from tospike.pictures.palette import IGNORE

Sizes = int | Sequence[int] | None


@dataclass(frozen=True)
class TargetPreparation:
    """How an image and the mask or boxes in it become a sample: scaled, cut and mirrored alike.

    Images are interpolated bilinearly, masks take the nearest pixel.

    Attributes:
        size: Height and width in pixels, or one number for a square; None keeps each image's own.
        mean: Mean of each channel, on the scale of [0, 1]; empty leaves images in [0, 1].
        std: Standard deviation of each channel, on the scale of [0, 1].
        least: Smallest share of a training image that its random window covers, in (0, 1]; 1 cuts no window. Without a
            size no window is cut either.

    Raises:
        OptionError: A setting is out of its range.

    Example:
        >>> TargetPreparation(size=256).sides
        (256, 256)
    """

    size: Sizes = None
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    least: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        sides = self.sides or (1, 1)
        normal = len(self.mean) == len(self.std) and len(self.mean) in (0, 3) and min(self.std, default=1) > 0
        require(
            "prepared images",
            ("size", self.size, len(sides) == 2 and all(isinstance(side, int) and side >= 1 for side in sides),
             "a number of pixels, or height and width", 256),
            ("mean, std", (self.mean, self.std), normal, "three means and three positive deviations", ((0.5,) * 3, (0.5,) * 3)),
            ("least", self.least, 0 < self.least <= 1, "a share in (0, 1]", 0.25),
        )  # fmt: skip

    @property
    def sides(self) -> tuple[int, ...] | None:
        """Height and width that images are scaled to; None for their own."""
        if self.size is None:
            return None
        return (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image, -1 where it differs between images."""
        return 3, *(self.sides or (-1, -1))

    def plain(self) -> Callable[[Any, Any], Any]:
        """Return the transform of test samples, from an image and its target to tensors."""
        return self._to_tensors(*self._scaled())

    def augmented(self) -> Callable[[Any, Any], Any]:
        """Return the transform of training samples: a random window and mirror image."""
        vision = vision_package().transforms.v2
        cut = self.sides is not None and self.least < 1
        window = [vision.RandomResizedCrop(self.sides, scale=(self.least, 1.0))] if cut else self._scaled()
        return self._to_tensors(*window, vision.RandomHorizontalFlip())

    def _scaled(self) -> list[Any]:
        return [] if self.sides is None else [vision_package().transforms.v2.Resize(self.sides)]

    def _to_tensors(self, *steps: Any) -> Callable[[Any, Any], Any]:
        package = vision_package()
        vision, kinds = package.transforms.v2, package.tv_tensors
        types = {kinds.Image: torch.float32, kinds.Mask: torch.int64, "others": None}
        normal = [vision.Normalize(tuple(self.mean), tuple(self.std))] if self.mean else []
        done: Callable[[Any, Any], Any] = vision.Compose(
            [*steps, vision.ToImage(), vision.ToDtype(types, scale=True), *normal, vision.ToPureTensor()]
        )
        return done


def collate_padded(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Stack images ``[3, H, W]`` and masks ``[H, W]`` of different sizes; smaller ones are filled up on the right and below.

    Images are filled with 0, which is the mean where they are normalised, and masks with `IGNORE`.

    Example:
        >>> image, mask = torch.ones(3, 2, 2), torch.ones(2, 2, dtype=torch.int64)
        >>> images, masks = collate_padded([(image, mask), (image[:, :1], mask[:1])])
        >>> tuple(images.shape), masks[1].tolist()
        ((2, 3, 2, 2), [[1, 1], [255, 255]])
    """
    height, width = (max(mask.shape[axis] for _, mask in samples) for axis in (0, 1))

    def filled(pixels: Tensor, value: int) -> Tensor:
        return functional.pad(pixels, (0, width - pixels.shape[-1], 0, height - pixels.shape[-2]), value=value)

    return torch.stack([filled(image, 0) for image, _ in samples]), torch.stack(
        [filled(mask, IGNORE) for _, mask in samples]
    )


def collate_lists(samples: Sequence[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    """Return a batch as one list of images and one of targets, as detectors take it.

    Example:
        >>> images, targets = collate_lists([(torch.zeros(3, 4, 5), {"image_id": 1}), (torch.zeros(3, 6, 7), {"image_id": 2})])
        >>> [tuple(image.shape) for image in images], [target["image_id"] for target in targets]
        ([(3, 4, 5), (3, 6, 7)], [1, 2])
    """
    return tuple(list(parts) for parts in zip(*samples, strict=True))


def vision_package() -> Any:
    """Return torchvision with its joint transforms.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    try:
        import torchvision  # type: ignore[import-untyped]
        import torchvision.transforms.v2  # type: ignore[import-untyped]
        import torchvision.tv_tensors  # type: ignore[import-untyped]
    except ImportError as error:
        raise missing_extra("torchvision", "vision", "preparing images with masks or boxes") from error
    return torchvision
