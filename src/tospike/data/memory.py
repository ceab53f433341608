"""Image sets that fit into memory: a batch is cut out, augmented and normalised as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tospike.errors import DataError

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Batch(Sequence[Any]):
    """A batch that was read as a whole; as a sequence it is its samples, so that any collate function takes it.

    Attributes:
        images: ``[B, C, H, W]``.
        labels: ``[B]``, int64.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...
    @overload
    def __getitem__(self, index: slice) -> Batch: ...
    def __getitem__(self, index: int | slice) -> tuple[Tensor, int] | Batch:
        """Return one sample, or the batch of a slice."""
        if isinstance(index, slice):
            return Batch(self.images[index], self.labels[index])
        return self.images[index], int(self.labels[index])


@dataclass(frozen=True, eq=False)
class MemoryImages(Dataset[Any]):
    """Labelled images held as integers, given out normalised: ``(after((before(x) / scale - mean) / std), label)``.

    A loader that asks for many samples at once gets them in one piece (`Batch`), with one tensor operation per step
    instead of one per image.

    Attributes:
        images: ``[N, C, H, W]``, uint8.
        labels: ``[N]``, int64.
        mean: Mean of each channel, on the scale of [0, 1].
        std: Standard deviation of each channel, on the scale of [0, 1].
        scale: The integer that stands for 1.
        before: Augmentation of the integers, ``[B, C, H, W]`` to the same shape.
        after: Augmentation of the normalised images, ``[B, C, H, W]`` to the same shape.

    Raises:
        DataError: Images and labels are not of these shapes and types, or differ in number.

    Example:
        >>> images = MemoryImages(torch.full((3, 1, 2, 2), 255, dtype=torch.uint8), torch.arange(3), (0.5,), (0.25,))
        >>> pixels, label = images[2]
        >>> pixels[0, 0].tolist(), label
        ([2.0, 2.0], 2)
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0
    before: tuple[Transform, ...] = ()
    after: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        """Check that images and labels belong together."""
        fits = (
            self.images.ndim == 4 and self.images.dtype == torch.uint8 and self.labels.dtype == torch.int64
            and self.labels.shape == self.images.shape[:1] and len(self.mean) == len(self.std) == self.images.shape[1]
        )  # fmt: skip
        if not fits:
            raise DataError(
                "Images and labels do not fit together",
                got=f"images {tuple(self.images.shape)} {self.images.dtype}, labels {tuple(self.labels.shape)} "
                f"{self.labels.dtype}, {len(self.mean)} means, {len(self.std)} standard deviations",
                expected="images [N, C, H, W] torch.uint8, labels [N] torch.int64, C means and standard deviations",
                remedy="Look for a file that was cut off or belongs to another set.",
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image ``[C, H, W]``, float32, and its class."""
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return many images at once, augmented each by its own draw from torch's global generator."""
        chosen = torch.as_tensor(indices)
        images = self.images[chosen]
        for transform in self.before:
            images = transform(images)
        std = torch.tensor(self.std).view(-1, 1, 1)
        pixels = images.float().div_(std * self.scale).sub_(torch.tensor(self.mean).view(-1, 1, 1) / std)
        for transform in self.after:
            pixels = transform(pixels)
        return Batch(pixels, self.labels[chosen])

    def plain(self) -> MemoryImages:
        """Return the same images, in the same memory, without augmentation."""
        return replace(self, before=(), after=())
