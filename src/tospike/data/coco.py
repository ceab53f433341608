"""COCO 2017: boxes of 80 categories for detection, and masks of the classes of Pascal VOC for segmentation."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import Dataset

from tospike.data.base import Data, collate
from tospike.data.folders import MEAN, STD, open_image
from tospike.data.sources import source
from tospike.data.targets import Sizes, TargetPreparation, collate_lists, collate_padded, vision_package
from tospike.data.voc import CLASSES as VOC_CLASSES
from tospike.data.voc import LEAST, prepared
from tospike.errors import DataError, missing_extra
from tospike.pictures.palette import IGNORE
from tospike.tasks import Detection, Segmentation

FILES = (
    tuple(f"annotations/instances_{part}2017.json" for part in ("train", "val")),
    ("train2017/*.jpg", "val2017/*.jpg"),
)
FOLDERS = (".", "coco", "COCO", "coco2017")
ORIGIN = "Take train2017.zip, val2017.zip and annotations_trainval2017.zip from https://cocodataset.org/#download and unpack them side by side."
OF_VOC = {  # where COCO calls a class of VOC by another name
    "aeroplane": "airplane", "motorbike": "motorcycle", "diningtable": "dining table", "pottedplant": "potted plant",
    "sofa": "couch", "tvmonitor": "tv",
}  # fmt: skip
LEAST_LABELLED = 1000  # pixels that the classes of VOC must cover in a training image
KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")


@dataclass(frozen=True, eq=False)
class Part:
    """The training or the validation part of COCO.

    Attributes:
        annotations: The file with the annotations, as pycocotools reads it.
        images: Folder of the image files.
        ids: Numbers of the images, in the order of the samples.
        where: The file, for messages.
    """

    annotations: Any
    images: Path
    ids: tuple[int, ...]
    where: Path

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    def read(self, index: int) -> tuple[Any, list[dict[str, Any]], int]:
        """Return one image, the annotations of its objects, and its number."""
        number = self.ids[index]
        image = open_image(self.images / self.annotations.imgs[number]["file_name"])
        return image, self.annotations.imgToAnns.get(number, []), number


@dataclass(frozen=True, eq=False)
class CocoBoxes(Dataset[Any]):
    """Images with boxes: ``(image [3, H, W] in [0, 1], target)``.

    The target holds ``boxes [K, 4]`` (left, top, right, bottom in pixels), ``labels [K]`` int64, ``iscrowd [K]`` int64,
    ``area [K]`` in pixels, and ``image_id``.

    Attributes:
        part: The part of COCO.
        transform: Makes the tensors of an image and its boxes; see `TargetPreparation`.
        training: Whether boxes without area, and those around a crowd, are left out.
    """

    part: Part
    transform: Callable[[Any, Any], Any]
    training: bool

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        """Read one image and its boxes."""
        image, objects, number = self.part.read(index)
        width, height = image.size
        boxes = torch.tensor([entry["bbox"] for entry in objects], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes = boxes.clamp(torch.zeros(4), torch.tensor([width, height] * 2))
        crowd = torch.tensor([entry["iscrowd"] for entry in objects], dtype=torch.int64)
        labels = torch.tensor([entry["category_id"] for entry in objects], dtype=torch.int64)
        area = torch.tensor([entry["area"] for entry in objects], dtype=torch.float32)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1) & (crowd == 0) if self.training else torch.ones_like(crowd).bool()
        placed = vision_package().tv_tensors.BoundingBoxes(boxes[kept], format="XYXY", canvas_size=(height, width))
        pixels, boxes = self.transform(image, placed)
        area = area[kept] * (pixels.shape[1] * pixels.shape[2] / (height * width))
        return pixels, {
            "boxes": boxes,
            "labels": labels[kept],
            "iscrowd": crowd[kept],
            "area": area,
            "image_id": number,
        }


@dataclass(frozen=True, eq=False)
class CocoMasks(Dataset[Any]):
    """Images with masks of the classes of VOC: ``(image [3, H, W], mask [H, W])``, the mask int64, 255 where objects overlap.

    Attributes:
        part: The part of COCO.
        transform: Makes the tensors of an image and its mask; see `TargetPreparation`.
        classes: Class of each category of COCO that counts.
    """

    part: Part
    transform: Callable[[Any, Any], Any]
    classes: dict[int, int]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Read one image and draw its mask."""
        image, objects, number = self.part.read(index)
        facts = self.part.annotations.imgs[number]
        size = facts["height"], facts["width"]
        mask, covered = np.zeros(size, np.uint8), np.zeros(size, np.int64)
        for entry in objects:
            if entry["category_id"] in self.classes:
                drawn = self._drawn(entry)
                mask[drawn] = self.classes[entry["category_id"]]
                covered += drawn
        mask[covered > 1] = IGNORE
        return prepared(self.transform, image, mask, self.part.images / facts["file_name"])

    def _drawn(self, entry: dict[str, Any]) -> np.ndarray[Any, Any]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy 2, about the arrays of pycocotools
                return np.asarray(self.part.annotations.annToMask(entry), bool)
        except Exception as error:  # the reader raises whatever a damaged outline leads it to
            raise _strange(
                self.part.where, f"annotation {entry['id']}: {type(error).__name__}: {error}"[:200]
            ) from error


@source("coco-detection", layouts=(sum(FILES, ()),), folders=FOLDERS, origin=ORIGIN)
def read_coco_boxes(folder: Path, *, augment: bool = True, size: Sizes = None) -> Data:
    """Read COCO 2017 for detection: ``(image [3, H, W] in [0, 1], target)``, 118,287 and 5,000 images; see `CocoBoxes`.

    Images are not normalised, since the detectors of torchvision do that themselves. Labels are the category numbers of COCO,
    as those detectors use them; numbers without a category are called "N/A". A batch is a list of images and one of targets.

    Args:
        folder: Folder with ``annotations``, ``train2017`` and ``val2017``.
        augment: Whether training images are mirrored.
        size: Height and width that images and boxes are scaled to, or one number for a square; None keeps their own.

    Raises:
        DataError: The annotations are damaged, or, when it is read, an image is.
        MissingExtraError: pycocotools, torchvision or Pillow is not installed.

    Source: Lin et al. 2014, "Microsoft COCO: Common Objects in Context", arXiv 1405.0312.
    """
    preparation = TargetPreparation(size)
    train, test = (_part(folder, name) for name in ("train", "val"))
    plain, held_out = (CocoBoxes(part, preparation.plain(), part is train) for part in (train, test))
    augmented = CocoBoxes(train, preparation.augmented(), True) if augment else plain
    names = {number: str(category["name"]) for number, category in train.annotations.cats.items()}
    classes = ("background", *(names.get(number, "N/A") for number in range(1, max(names, default=0) + 1)))
    return Data(
        "coco-detection",
        augmented,
        held_out,
        classes,
        preparation.shape,
        plain,
        collate=collate_lists,
        task=Detection(names=classes),
    )


@source("coco-segmentation", layouts=(sum(FILES, ()),), folders=FOLDERS, origin=ORIGIN)
def read_coco_masks(
    folder: Path,
    *,
    augment: bool = True,
    size: Sizes = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Data:
    """Read COCO 2017 for segmentation into the classes of Pascal VOC: ``(image [3, H, W] normalised, mask [H, W])``.

    Pixels of two objects are 255; training images in which objects of these classes cover 1,000 pixels or fewer are left out.
    Where the size is None, batches are filled up to their largest image.

    Args:
        folder: Folder with ``annotations``, ``train2017`` and ``val2017``.
        augment: Whether training images are mirrored, and, where they are scaled, a window of a quarter or more is cut out.
        size: Height and width that images and masks are scaled to, or one number for a square; None keeps their own.
        mean: Mean of each channel, on the scale of [0, 1].
        std: Standard deviation of each channel, on the scale of [0, 1].

    Raises:
        DataError: The annotations are damaged, or, when it is read, an image is.
        MissingExtraError: pycocotools, torchvision or Pillow is not installed.

    Source: Lin et al. 2014, arXiv 1405.0312; classes and choice of images as in torchvision's reference training of segmentation.
    """
    preparation = TargetPreparation(size, mean, std, LEAST)
    train, test = (_part(folder, name) for name in ("train", "val"))
    classes = {
        number: VOC_CLASSES.index(voc)
        for voc in VOC_CLASSES
        for number, category in train.annotations.cats.items()
        if category["name"] == OF_VOC.get(voc, voc)
    }
    train = Part(train.annotations, train.images, _labelled(train, classes), train.where)
    plain, held_out = (CocoMasks(part, preparation.plain(), classes) for part in (train, test))
    augmented = CocoMasks(train, preparation.augmented(), classes) if augment else plain
    return Data(
        "coco-segmentation", augmented, held_out, VOC_CLASSES, preparation.shape, plain, tuple(mean), tuple(std),
        collate_padded if size is None else collate, Segmentation(names=VOC_CLASSES),
    )  # fmt: skip


def _labelled(part: Part, classes: dict[int, int]) -> tuple[int, ...]:
    covered = dict.fromkeys(part.ids, 0.0)
    for entry in part.annotations.anns.values():
        covered[entry["image_id"]] += entry["area"] * (entry["category_id"] in classes)
    return tuple(number for number in part.ids if covered[number] > LEAST_LABELLED)


def _part(folder: Path, name: str) -> Part:
    path = folder / f"annotations/instances_{name}2017.json"
    annotations = _read(path)
    return Part(annotations, folder / f"{name}2017", tuple(sorted(annotations.imgs)), path)


def _read(path: Path) -> Any:
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise missing_extra("pycocotools", "detection", "reading the annotations of COCO") from error
    try:
        with (
            Console(stderr=True).status(f"Reading {path}"),
            redirect_stdout(io.StringIO()),
        ):  # the reader tells its progress
            annotations = COCO(path)
            _check(annotations)
    except Exception as error:  # the reader raises whatever a damaged file leads it to
        raise _strange(path, f"{type(error).__name__}: {error}"[:200]) from error
    return annotations


def _check(annotations: Any) -> None:
    """Raise unless all that samples are made of is there, so that a gap shows before hours of training."""
    lacking = [key for key in ("images", "annotations", "categories") if key not in annotations.dataset]
    if lacking:
        raise ValueError(f"no {', '.join(lacking)}")
    for entry in annotations.anns.values():
        lacking = [key for key in KEYS if key not in entry]
        if lacking:
            raise ValueError(f"annotation {entry['id']} has no {', '.join(lacking)}")
        image, category, box = entry["image_id"], entry["category_id"], entry["bbox"]
        if image not in annotations.imgs or category not in annotations.cats or len(box) != 4:
            raise ValueError(f"annotation {entry['id']} is of image {image}, category {category}, box {box}")


def _strange(path: Path, got: str) -> DataError:
    return DataError(
        "The annotations of COCO cannot be read", where=str(path), got=got,
        expected=f"images, categories, and annotations with {', '.join(KEYS)}", remedy="Unpack the published archive again.",
    )  # fmt: skip
