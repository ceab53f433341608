"""Pascal VOC 2012 with its masks of 20 classes and background, and the masks that SBD adds to it for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tospike.data.base import Data, collate
from tospike.data.folders import MEAN, STD, open_image
from tospike.data.sources import source
from tospike.data.targets import Sizes, TargetPreparation, collate_padded, vision_package
from tospike.errors import DataError
from tospike.pictures.palette import IGNORE
from tospike.tasks import Segmentation

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LEAST = 0.25  # share of a training image that its random window covers at least
SBD_FOLDERS = (".", "dataset", "benchmark_RELEASE/dataset")
SBD_LAYOUT = ("img", "cls", "train.txt", "val.txt")


@dataclass(frozen=True, eq=False)
class MaskFiles(Dataset[Any]):
    """Image files with files of their masks: ``(image [3, H, W], mask [H, W])``, the mask int64, 255 where it says nothing.

    Attributes:
        files: Image file and mask file (``*.png``, or ``*.mat`` of SBD) of each sample.
        transform: Makes the tensors of an image and its mask; see `TargetPreparation`.
    """

    files: tuple[tuple[Path, Path], ...]
    transform: Callable[[Any, Any], Any]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Read one image and its mask."""
        image_file, mask_file = self.files[index]
        return prepared(self.transform, open_image(image_file), read_mask(mask_file), mask_file)


@source(
    "voc-segmentation",
    layouts=(
        ("JPEGImages/*.jpg", "SegmentationClass/*.png", "ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt"),
    ),
    folders=(".", "VOC2012", "VOCdevkit/VOC2012"),
    origin="Take the training and validation data (VOCtrainval_11-May-2012.tar) from "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and unpack them.",
)  # fmt: skip
def read_voc(
    folder: Path,
    *,
    augment: bool = True,
    size: Sizes = None,
    sbd: str | Path | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Data:
    """Read Pascal VOC 2012 for segmentation: ``(image [3, H, W] normalised, mask [H, W])``, 1,464 and 1,449 images.

    With SBD the training part is the one known as "train aug", 10,582 images: those of VOC's train, and those of SBD's train
    and val that are in neither part of VOC. Where the size is None, batches are filled up to their largest image.

    Args:
        folder: Folder with ``JPEGImages``, ``SegmentationClass`` and ``ImageSets/Segmentation``.
        augment: Whether training images are mirrored, and, where they are scaled, a window of a quarter or more is cut out.
        size: Height and width that images and masks are scaled to, or one number for a square; None keeps their own.
        sbd: Folder with SBD as published (``benchmark_RELEASE``), whose masks are added to the training part.
        mean: Mean of each channel, on the scale of [0, 1].
        std: Standard deviation of each channel, on the scale of [0, 1].

    Raises:
        DataError: A file is missing, or, when it is read, damaged.
        MissingExtraError: torchvision or Pillow is not installed.

    Source: Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge". SBD: Hariharan et al. 2011, "Semantic
        Contours from Inverse Detectors".
    """
    preparation = TargetPreparation(size, mean, std, LEAST)
    names = {part: _listed(folder / "ImageSets/Segmentation" / f"{part}.txt") for part in ("train", "val")}
    files = {
        part: _existing(folder / "JPEGImages", folder / "SegmentationClass", ".png", names[part]) for part in names
    }
    train = files["train"] if sbd is None else files["train"] + _sbd_files(Path(sbd), {*names["train"], *names["val"]})
    plain, held_out = (MaskFiles(part, preparation.plain()) for part in (train, files["val"]))
    augmented = MaskFiles(train, preparation.augmented()) if augment else plain
    return Data(
        "voc-segmentation", augmented, held_out, CLASSES, preparation.shape, plain, tuple(mean), tuple(std),
        collate_padded if size is None else collate, Segmentation(names=CLASSES),
    )  # fmt: skip


def prepared(
    transform: Callable[[Any, Any], Any], image: Any, mask: np.ndarray[Any, Any], where: Path
) -> tuple[Tensor, Tensor]:
    """Return an image and its mask as the transform makes them.

    Raises:
        DataError: Image and mask differ in size.
    """
    if image.size[::-1] != mask.shape:
        raise DataError(
            "An image and its mask differ in size", where=str(where), got=f"image {image.size[::-1]}, mask {mask.shape}",
            expected="the same height and width", remedy="Take both from the same copy of the set.",
        )  # fmt: skip
    image, labels = transform(image, vision_package().tv_tensors.Mask(torch.from_numpy(mask)))
    return image, labels


def read_mask(path: Path) -> np.ndarray[Any, Any]:
    """Read the class of every pixel, uint8 ``[H, W]``, from a palette image or from a MATLAB file of SBD.

    Raises:
        DataError: The file is damaged, or holds something else.
    """
    try:
        mask = _sbd_mask(path) if path.suffix == ".mat" else _palette_mask(path)
    except Exception as error:  # the readers raise whatever a damaged file leads them to
        raise _strange(path, f"{type(error).__name__}: {error}"[:200]) from error
    strange = np.setdiff1d(mask, [*range(len(CLASSES)), IGNORE])
    if mask.ndim != 2 or strange.size:
        raise _strange(path, f"shape {mask.shape}, values {', '.join(map(str, strange[:8]))}")
    return mask.astype(np.uint8)


def _palette_mask(path: Path) -> np.ndarray[Any, Any]:
    from PIL import Image

    with Image.open(path) as image:
        if image.mode not in ("P", "L"):
            raise ValueError(f"an image of mode {image.mode}")
        return np.array(image)


def _sbd_mask(path: Path) -> np.ndarray[Any, Any]:
    from scipy.io import loadmat

    return np.asarray(loadmat(path)["GTcls"][0]["Segmentation"][0])


def _strange(path: Path, got: str) -> DataError:
    return DataError(
        "A mask cannot be read", where=str(path), got=got, remedy="Fetch the file again.",
        expected="a palette image, or GTcls of SBD, with the classes 0 to 20, and 255 where nothing is said",
    )  # fmt: skip


def _sbd_files(folder: Path, without: set[str]) -> tuple[tuple[Path, Path], ...]:
    found = next(
        (folder / name for name in SBD_FOLDERS if all((folder / name / part).exists() for part in SBD_LAYOUT)), None
    )
    if found is None:
        raise DataError(
            "SBD is not in this folder", where=f"{folder}; and in it in {', '.join(SBD_FOLDERS[1:])}",
            got="no folder that holds all of its files", expected=", ".join(SBD_LAYOUT),
            remedy="Take benchmark.tgz from http://home.bharathh.info/pubs/codes/SBD/download.html, unpack it, and name its folder with sbd=.",
        )  # fmt: skip
    names = {*_listed(found / "train.txt"), *_listed(found / "val.txt")} - without
    return _existing(found / "img", found / "cls", ".mat", sorted(names))


def _listed(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split()


def _existing(images: Path, masks: Path, ending: str, names: Sequence[str]) -> tuple[tuple[Path, Path], ...]:
    files = tuple((images / f"{name}.jpg", masks / f"{name}{ending}") for name in names)
    lacking = [file for pair in files for file in pair if not file.exists()]
    if lacking:
        raise DataError(
            "Files that a list names are missing", where=f"{images} and {masks}",
            got=f"{len(lacking)} missing: {', '.join(file.name for file in lacking[:8])}{' …' if len(lacking) > 8 else ''}",
            expected=f"{len(files)} images with masks", remedy="Unpack the published archive again.",
        )  # fmt: skip
    return files
