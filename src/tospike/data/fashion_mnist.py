"""Fashion-MNIST: 60,000 and 10,000 grey images of clothes, 28 x 28, in the four IDX files it is published in."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tospike.data.base import Data
from tospike.data.memory import MemoryImages
from tospike.data.sources import source
from tospike.data.transforms import Cutout, RandomFlip, RandomShift
from tospike.errors import DataError

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
MEAN, STD = (0.2860,), (0.3530,)
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@source(
    "fashion-mnist",
    layouts=(tuple(f"{file}.gz" for file in FILES), FILES),
    folders=(".", "fashion-mnist", "FashionMNIST/raw"),
    origin="Install the Debian package dataset-fashion-mnist, or take the four files from "
    "https://github.com/zalandoresearch/fashion-mnist.",
)
def read_fashion_mnist(folder: Path, *, augment: bool = True, cutout: int = 0) -> Data:
    """Read Fashion-MNIST; images are ``[1, 28, 28]``, normalised by mean and deviation of the training pixels.

    Args:
        folder: Folder with the four IDX files, compressed by gzip or not.
        augment: Whether training images are shifted by up to 2 pixels and mirrored.
        cutout: Side in pixels of the square that augmentation cuts out of each training image; 0 cuts none.

    Raises:
        DataError: A file is damaged or is not of this set.

    Source: Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
        Algorithms", arXiv 1708.07747.
    """
    train, test = _part(folder, *FILES[:2]), _part(folder, *FILES[2:])
    before = (RandomShift(2), RandomFlip()) if augment else ()
    after = (Cutout(cutout),) if augment and cutout else ()
    plain = MemoryImages(*train, MEAN, STD)
    augmented = MemoryImages(*train, MEAN, STD, before=before, after=after)
    return Data("fashion-mnist", augmented, MemoryImages(*test, MEAN, STD), CLASSES, (1, 28, 28), plain, MEAN, STD)


def _part(folder: Path, images_file: str, labels_file: str) -> tuple[Tensor, Tensor]:
    images, labels = (read_idx(_existing(folder / file)) for file in (images_file, labels_file))
    strange = int((labels >= len(CLASSES)).sum())
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or strange:
        raise DataError(
            "The images and labels are not those of Fashion-MNIST",
            where=f"{folder}: {images_file} and {labels_file}",
            got=f"images {tuple(images.shape)}, labels {tuple(labels.shape)}, {strange} of them above 9",
            expected="images [N, 28, 28], labels [N] up to 9",
            remedy="Take both files from the same copy of the set.",
        )
    return images.unsqueeze(1), labels.long()


def _existing(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.exists() else path


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of unsigned bytes, compressed by gzip (``.gz``) or not.

    Returns:
        uint8 of the shape that the file states.

    Raises:
        DataError: The file is not IDX, holds another type, or is not as long as its header says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error), "a readable file") from error
    start = 4 + 4 * content[3] if len(content) > 3 else 4
    if content[:3] != b"\0\0\x08" or len(content) < start:
        raise _damaged(
            path, f"{len(content)} bytes that begin with {content[:4].hex(' ')}", "00 00 08, number of axes, sizes"
        )
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if len(content) - start != math.prod(shape):
        raise _damaged(path, f"{len(content) - start} bytes of data", f"{math.prod(shape)} for the shape {shape}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def _damaged(path: Path, got: str, expected: str) -> DataError:
    return DataError(
        "An IDX file cannot be read", where=str(path), got=got, expected=expected, remedy="Fetch the file again."
    )
