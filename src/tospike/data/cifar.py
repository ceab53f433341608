"""CIFAR-10 and CIFAR-100: 50,000 and 10,000 colour images, 32 x 32, in the layouts they are published in."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tospike.data.base import Data
from tospike.data.memory import MemoryImages
from tospike.data.sources import source
from tospike.data.transforms import AutoAugment, Cutout, RandomFlip, RandomShift
from tospike.errors import DataError

PIXELS = 3 * 32 * 32
ORIGIN = "Take the archive from https://www.cs.toronto.edu/~kriz/cifar.html and unpack it."


@dataclass(frozen=True)
class Published:
    """One of the two sets as it is published.

    Attributes:
        name: Name of the set.
        train, test: Files of the pickled layout; the binary one has the same names with ``.bin`` added.
        meta, names_key: File of the pickled layout with the class names, and their key in it.
        names: File of the binary layout with the class names, one a line.
        labels_key: Key of the labels in the pickled files.
        label_bytes: Bytes before the pixels in a record of the binary layout; the last of them is the label.
        mean, std: Normalisation of each channel, on the scale of [0, 1].
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    names_key: bytes
    names: str
    labels_key: bytes
    label_bytes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def layouts(self) -> tuple[tuple[str, ...], ...]:
        """Files of the pickled and of the binary layout."""
        files = self.train + self.test
        return (*files, self.meta), (*(f"{file}.bin" for file in files), self.names)


CIFAR10 = Published(
    "cifar10", tuple(f"data_batch_{number}" for number in range(1, 6)), ("test_batch",),
    meta="batches.meta", names_key=b"label_names", names="batches.meta.txt", labels_key=b"labels", label_bytes=1,
    mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010),
)  # fmt: skip
CIFAR100 = Published(
    "cifar100", ("train",), ("test",),
    meta="meta", names_key=b"fine_label_names", names="fine_label_names.txt", labels_key=b"fine_labels", label_bytes=2,
    mean=(129.3 / 255, 124.1 / 255, 112.4 / 255), std=(68.2 / 255, 65.4 / 255, 70.4 / 255),
)  # fmt: skip


@source(
    CIFAR10.name, layouts=CIFAR10.layouts, folders=(".", "cifar-10-batches-py", "cifar-10-batches-bin"), origin=ORIGIN
)
def read_cifar10(folder: Path, *, augment: bool = True, auto_augment: bool = True, cutout: int = 16) -> Data:
    """Read CIFAR-10; images are ``[3, 32, 32]``, normalised.

    Augmentation is a shift by up to 4 pixels, a mirror image, the AutoAugment policy for CIFAR-10, and, after
    normalisation, Cutout.

    Args:
        folder: Folder of the pickled or of the binary layout.
        augment: Whether training images are augmented.
        auto_augment: Whether augmentation includes AutoAugment (needs torchvision).
        cutout: Side in pixels of the square that augmentation cuts out; 0 cuts none.

    Raises:
        DataError: A file is damaged, or a pickled one asks for more than arrays.
        MissingExtraError: AutoAugment is wanted and torchvision is not installed.

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images". Augmentation as in Bu et al. 2022,
        "Optimal ANN-SNN Conversion for High-accuracy and Ultra-low-latency Spiking Neural Networks", arXiv 2303.04347.
        Differs in the policy's magnitudes, which are torchvision's.
    """
    return _read(CIFAR10, folder, augment, auto_augment, cutout)


@source(CIFAR100.name, layouts=CIFAR100.layouts, folders=(".", "cifar-100-python", "cifar-100-binary"), origin=ORIGIN)
def read_cifar100(folder: Path, *, augment: bool = True, auto_augment: bool = True, cutout: int = 16) -> Data:
    """Read CIFAR-100 with its 100 fine classes; otherwise as `read_cifar10`, with its own normalisation."""
    return _read(CIFAR100, folder, augment, auto_augment, cutout)


def _read(published: Published, folder: Path, augment: bool, auto_augment: bool, cutout: int) -> Data:
    pickled = (folder / published.meta).exists()
    classes = _class_names(published, folder, pickled)
    train, test = (
        _part(published, [folder / (file if pickled else f"{file}.bin") for file in files], pickled, len(classes))
        for files in (published.train, published.test)
    )
    statistics = (published.mean, published.std)
    before = (RandomShift(4), RandomFlip(), *((AutoAugment(),) if auto_augment else ())) if augment else ()
    after = (Cutout(cutout),) if augment and cutout else ()
    augmented = MemoryImages(*train, *statistics, before=before, after=after)
    plain, held_out = (MemoryImages(*part, *statistics) for part in (train, test))
    return Data(published.name, augmented, held_out, classes, (3, 32, 32), plain, *statistics)


def _class_names(published: Published, folder: Path, pickled: bool) -> tuple[str, ...]:
    if not pickled:
        return tuple((folder / published.names).read_text(encoding="utf-8").split())
    path = folder / published.meta
    names = _entry(path, _unpickle(path), published.names_key)
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


def _part(published: Published, files: list[Path], pickled: bool, classes: int) -> tuple[Tensor, Tensor]:
    read = _pickled_file if pickled else _binary_file
    parts = [read(published, file) for file in files]
    for file, (_, labels) in zip(files, parts, strict=True):
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise _damaged(file, f"labels from {labels.min()} to {labels.max()}", f"labels from 0 to {classes - 1}")
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return torch.from_numpy(pixels).view(-1, 3, 32, 32), torch.from_numpy(labels)


def _binary_file(published: Published, path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    content = np.fromfile(path, dtype=np.uint8)
    record = published.label_bytes + PIXELS
    if content.size % record:
        raise _damaged(path, f"{content.size} bytes", f"a multiple of {record}, the bytes of one image with its label")
    records = content.reshape(-1, record)
    return records[:, published.label_bytes :], records[:, published.label_bytes - 1].astype(np.int64)


def _pickled_file(published: Published, path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    content = _unpickle(path)
    pixels, labels = (_entry(path, content, key) for key in (b"data", published.labels_key))
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (len(labels), PIXELS):
        got = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise _damaged(path, f"pixels {got} and {len(labels)} labels", f"pixels uint8 ({len(labels)}, {PIXELS})")
    return pixels, np.asarray(labels, dtype=np.int64)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads plain values and arrays; a file that asks for anything else is refused before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        """Admit the three things that a pickled array consists of, under the module names of every NumPy."""
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"the file asks for {module}.{name}")


def _unpickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle can fail in any way at all
        raise _damaged(path, f"{type(error).__name__}: {error}", "a pickle of plain values and arrays") from error


def _entry(path: Path, content: Any, key: bytes) -> Any:
    if not isinstance(content, dict) or key not in content:
        got = f"keys {sorted(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise _damaged(path, got, f"a dict with the key {key!r}")
    return content[key]


def _damaged(path: Path, got: str, expected: str) -> DataError:
    return DataError(
        "A CIFAR file cannot be read", where=str(path), got=got, expected=expected,
        remedy="Unpack the published archive again.",
    )  # fmt: skip
