"""Augmentation of whole batches in torch; every image has its own draw from torch's global generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tospike.errors import OptionError, missing_extra


@dataclass(frozen=True)
class RandomShift:
    """Pad by `padding` zeros on each side and cut a window of the old size at a random place.

    Attributes:
        padding: Largest shift in either direction, in pixels.

    Example:
        >>> RandomShift(2)(torch.ones(5, 1, 8, 8)).shape
        torch.Size([5, 1, 8, 8])
    """

    padding: int

    def __call__(self, images: Tensor) -> Tensor:
        """Shift every image of ``[B, C, H, W]``."""
        count, _, height, width = images.shape
        top, left = torch.randint(0, 2 * self.padding + 1, (2, count))
        windows = functional.pad(images, (self.padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        return windows[torch.arange(count), :, top, left]


@dataclass(frozen=True)
class RandomFlip:
    """Mirror left and right with probability `probability`.

    Example:
        >>> RandomFlip(1.0)(torch.tensor([[[[1, 2, 3]]]])).tolist()
        [[[[3, 2, 1]]]]
    """

    probability: float = 0.5

    def __call__(self, images: Tensor) -> Tensor:
        """Mirror images of ``[B, C, H, W]``."""
        chosen = torch.rand(len(images)) < self.probability
        return torch.where(chosen.view(-1, 1, 1, 1), images.flip(-1), images)


@dataclass(frozen=True)
class Cutout:
    """Set one square of every image to zero; its centre is uniform over the image, and the border clips it.

    Attributes:
        size: Side of the square, in pixels; it reaches from ``centre - size // 2``.

    Raises:
        OptionError: `size` is below 1.

    Source: DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout",
        arXiv 1708.04552. Differs in nothing; applied after normalisation, zero is the mean of the training images.

    Example:
        >>> int((Cutout(4)(torch.ones(1, 1, 8, 8)) == 0).sum()) in range(4, 17)
        True
    """

    size: int

    def __post_init__(self) -> None:
        """Check the size."""
        if self.size < 1:
            raise OptionError(
                "`size` of Cutout must be positive", got=str(self.size), expected="an integer >= 1",
                remedy="Leave Cutout out, or pass the side of the square in pixels.",
            )  # fmt: skip

    def __call__(self, images: Tensor) -> Tensor:
        """Cut a square out of every image of ``[B, C, H, W]``."""
        count, _, height, width = images.shape
        rows, columns = self._inside(count, height), self._inside(count, width)
        return images.masked_fill((rows[:, :, None] & columns[:, None, :]).unsqueeze(1), 0)

    def _inside(self, count: int, length: int) -> Tensor:
        start = torch.randint(0, length, (count, 1)) - self.size // 2
        places = torch.arange(length)
        return (places >= start) & (places < start + self.size)


class AutoAugment:
    """Change every image by one of the 25 sub-policies that were learned for CIFAR-10; what moves in is grey, 128.

    Raises:
        MissingExtraError: torchvision is not installed.

    Source: Cubuk et al. 2019, "AutoAugment: Learning Augmentation Policies from Data", arXiv 1805.09501, as in
        torchvision. Differs in nothing that torchvision does not.
    """

    def __init__(self) -> None:
        try:
            from torchvision.transforms import v2  # type: ignore[import-untyped]
        except ImportError as error:
            raise missing_extra("torchvision", "vision", "AutoAugment") from error
        self._policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=128)

    def __call__(self, images: Tensor) -> Tensor:
        """Change images of ``[B, 3, H, W]``, uint8, each by its own sub-policy."""
        return torch.stack([self._policy(image) for image in images])
