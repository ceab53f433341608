"""Scenes composed of Fashion-MNIST items: small real images for segmentation and detection, drawn by a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from tospike.data.base import Data
from tospike.data.fashion_mnist import CLASSES, FILES, read_fashion_mnist
from tospike.data.memory import MemoryImages
from tospike.data.sources import source
from tospike.data.targets import collate_lists
from tospike.errors import is_count, require
from tospike.progress import track
from tospike.tasks import Detection, Segmentation

MEAN, STD = (0.37, 0.37, 0.37), (0.14, 0.14, 0.14)
LAYOUTS = (tuple(f"{file}.gz" for file in FILES), FILES)
FOLDERS = (".", "fashion-mnist", "FashionMNIST/raw")
ORIGIN = "Its items are those of Fashion-MNIST: install the Debian package dataset-fashion-mnist."
VISIBLE = 40  # of 255: item pixels that are brighter belong to its silhouette
SHOWN_FROM = 1000  # scenes that take over two seconds
TRIES = 20  # places that are tried for an item before it is left out


@dataclass(frozen=True)
class Scene:
    """One composed image and what is in it.

    Attributes:
        image: ``[3, H, W]``, uint8.
        mask: ``[H, W]``, uint8; 0 is background, 1 + c an item of class c.
        boxes: ``[K, 4]``, float32: left, top, right, bottom of each silhouette, in pixels.
        classes: ``[K]``, int64, 0 to 9.
    """

    image: Tensor
    mask: Tensor
    boxes: Tensor
    classes: Tensor


def compose(items: MemoryImages, draw: np.random.Generator, size: int, most: int) -> Scene:
    """Compose one scene: 1 to `most` items at random places and scales, tinted, on a noisy background.

    Items are 0.6 to 1.4 times their 28 pixels; their silhouettes' boxes overlap by at most a fifth of the smaller one.

    Example:
        >>> items = MemoryImages(torch.full((3, 1, 28, 28), 200, dtype=torch.uint8), torch.arange(3), (0.0,), (1.0,))
        >>> scene = compose(items, np.random.default_rng(0), 64, 3)
        >>> scene.image.shape, scene.mask.shape, len(scene.boxes) == len(scene.classes)
        (torch.Size([3, 64, 64]), torch.Size([64, 64]), True)
    """
    coarse = torch.from_numpy(draw.uniform(0.1, 0.6, (1, 3, 4, 4)).astype(np.float32))
    canvas = functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)[0]
    canvas += torch.from_numpy(draw.normal(0.0, 0.06, canvas.shape).astype(np.float32))
    mask = torch.zeros(size, size, dtype=torch.uint8)
    boxes: list[list[float]] = []
    classes: list[int] = []
    for index in draw.integers(len(items), size=int(draw.integers(1, most + 1))).tolist():
        alpha, silhouette = _scaled(items.images[index, 0], float(draw.uniform(0.6, 1.4)))
        tint = torch.from_numpy(draw.uniform(0.4, 1.0, 3).astype(np.float32))
        place = _place(silhouette, draw, size, boxes)
        if place is None:
            continue
        top, left, box = place
        height, width = silhouette.shape
        window = (slice(top, top + height), slice(left, left + width))
        canvas[(slice(None), *window)] = torch.where(
            silhouette, tint[:, None, None] * alpha, canvas[(slice(None), *window)]
        )
        mask[window] = torch.where(
            silhouette, torch.tensor(1 + int(items.labels[index]), dtype=torch.uint8), mask[window]
        )
        boxes.append(box)
        classes.append(int(items.labels[index]))
    image = canvas.clamp(0, 1).mul(255).round().to(torch.uint8)
    return Scene(
        image, mask, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(classes, dtype=torch.int64)
    )


def _scaled(item: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return brightness and silhouette of a scaled item, both cut to the silhouette, ``[h, w]``."""
    filled = torch.from_numpy(binary_fill_holes(item.numpy() > VISIBLE))
    filled[item.argmax() // 28, item.argmax() % 28] = True  # an item is never empty
    side = max(8, round(28 * scale))
    planes = torch.stack([item.float() / 255, filled.float()])[None]
    bright, inside = functional.interpolate(planes, size=(side, side), mode="bilinear", antialias=True)[0]
    silhouette = inside >= min(0.5, float(inside.max()))
    rows, columns = silhouette.any(1).nonzero(), silhouette.any(0).nonzero()
    window = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    return bright[window].clamp(0.15, 1), silhouette[window]


def _place(
    silhouette: Tensor, draw: np.random.Generator, size: int, taken: list[list[float]]
) -> tuple[int, int, list[float]] | None:
    height, width = silhouette.shape
    if max(height, width) > size:
        return None
    for _ in range(TRIES):
        top, left = (int(draw.integers(size - side + 1)) for side in (height, width))
        box = [float(left), float(top), float(left + width), float(top + height)]
        if all(_overlap(box, other) <= 0.2 for other in taken):
            return top, left, box
    return None


def _overlap(one: list[float], other: list[float]) -> float:
    """Return the common area as a share of the smaller box."""
    sides = [min(one[2 + axis], other[2 + axis]) - max(one[axis], other[axis]) for axis in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(sides[0], 0.0) * max(sides[1], 0.0) / min(areas)


def _compose_all(folder: Path, sizes: tuple[int, int], size: int, most: int, seed: int) -> Iterator[list[Scene]]:
    """Yield the training scenes, then the test scenes; a scene depends on the seed and its number alone."""
    require(
        "the scenes",
        *((name, value, is_count(value), "an integer >= 1", 100) for name, value in zip(("train_count", "test_count"), sizes, strict=True)),
        ("size", size, is_count(size) and size >= 32, "an integer >= 32, in pixels", 64),
        ("most", most, is_count(most), "an integer >= 1", 4),
        ("seed", seed, seed == 0 or is_count(seed), "an integer >= 0", 0),
    )  # fmt: skip
    found = read_fashion_mnist(folder, augment=False)
    for part, (samples, count) in enumerate(zip((found.train, found.test), sizes, strict=True)):
        assert isinstance(samples, MemoryImages)
        numbers = track(range(count), f"compose {('training', 'test')[part]} scenes", shown=count > SHOWN_FROM)
        yield [compose(samples, np.random.default_rng([seed, part, number]), size, most) for number in numbers]


@dataclass(frozen=True, eq=False)
class SegmentedScenes(Dataset[Any]):
    """Scenes with masks; a sample is ``(image [3, H, W] normalised, mask [H, W] int64)``.

    Attributes:
        images: ``[N, 3, H, W]``, uint8.
        masks: ``[N, H, W]``, uint8.
        flip: Mirror every second sample, drawn from torch's global generator.
    """

    images: Tensor
    masks: Tensor
    flip: bool = False

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one scene."""
        image, mask = self.images[index], self.masks[index]
        if self.flip and torch.rand(()) < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        pixels = (image.float() / 255 - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
        return pixels, mask.long()


@dataclass(frozen=True, eq=False)
class BoxedScenes(Dataset[Any]):
    """Scenes with boxes; a sample is ``(image [3, H, W] in [0, 1], {"boxes": [K, 4], "labels": [K], "image_id": i})``.

    Labels are 1 to 10, as torchvision's detectors count them: 0 is background.

    Attributes:
        scenes: The scenes.
        flip: Mirror every second sample, drawn from torch's global generator.
    """

    scenes: tuple[Scene, ...]
    flip: bool = False

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        """Return one scene."""
        scene = self.scenes[index]
        image, boxes = scene.image.float() / 255, scene.boxes
        if self.flip and torch.rand(()) < 0.5:
            image, (left, top, right, bottom) = image.flip(-1), boxes.unbind(1)
            boxes = torch.stack([image.shape[-1] - right, top, image.shape[-1] - left, bottom], 1)
        return image, {"boxes": boxes, "labels": scene.classes + 1, "image_id": index}


@source("fashion-scenes", layouts=LAYOUTS, folders=FOLDERS, origin=ORIGIN)
def read_scenes(
    folder: Path, *, augment: bool = True, train_count: int = 6000, test_count: int = 1000, size: int = 64, most: int = 4, seed: int = 0,
) -> Data:  # fmt: skip
    """Compose scenes of Fashion-MNIST items with a class for every pixel; images are ``[3, size, size]``, normalised.

    Training scenes hold training items, test scenes test items. Masks are ``[size, size]``: 0 is background, 1 + c class c.

    Args:
        folder: Folder with the four IDX files of Fashion-MNIST.
        augment: Whether training scenes are mirrored.
        train_count: Training scenes.
        test_count: Test scenes.
        size: Height and width in pixels.
        most: Items in a scene, at most.
        seed: Seed; a scene depends on it and on its number alone.

    Raises:
        OptionError: A setting is out of range.
        DataError: A file of Fashion-MNIST is damaged.

    Source: own construction from Fashion-MNIST (Xiao, Rasul and Vollgraf 2017).
    """
    train, test = (
        SegmentedScenes(torch.stack([scene.image for scene in part]), torch.stack([scene.mask for scene in part]), flip)
        for part, flip in zip(
            _compose_all(folder, (train_count, test_count), size, most, seed), (augment, False), strict=True
        )
    )
    plain = SegmentedScenes(train.images, train.masks)
    return Data(
        "fashion-scenes",
        train,
        test,
        ("background", *CLASSES),
        (3, size, size),
        plain,
        MEAN,
        STD,
        task=Segmentation(names=("background", *CLASSES)),
    )


@source("fashion-detection", layouts=LAYOUTS, folders=FOLDERS, origin=ORIGIN)
def read_detection_scenes(
    folder: Path, *, augment: bool = True, train_count: int = 6000, test_count: int = 1000, size: int = 96, most: int = 5, seed: int = 0,
) -> Data:  # fmt: skip
    """Compose scenes of Fashion-MNIST items with a box for every item; arguments as for `read_scenes`.

    A sample is ``(image [3, size, size] in [0, 1], {"boxes", "labels", "image_id"})``; torchvision's detectors normalise images themselves.

    Raises:
        OptionError: A setting is out of range.
        DataError: A file of Fashion-MNIST is damaged.

    Source: own construction from Fashion-MNIST (Xiao, Rasul and Vollgraf 2017).
    """
    train, test = (
        BoxedScenes(tuple(part), flip)
        for part, flip in zip(
            _compose_all(folder, (train_count, test_count), size, most, seed), (augment, False), strict=True
        )
    )
    return Data("fashion-detection", train, test, ("background", *CLASSES), (3, size, size), BoxedScenes(train.scenes),
                collate=collate_lists, task=Detection(names=("background", *CLASSES)))  # fmt: skip
