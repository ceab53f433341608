"""Digits: 1,797 grey images of handwritten digits, 8 x 8, that ship inside scikit-learn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

from tospike.data.base import Data
from tospike.data.memory import MemoryImages
from tospike.data.sources import source
from tospike.data.transforms import RandomShift

TEST_IMAGES = 360


_package = find_spec("sklearn")


@source("digits", places=tuple((_package and _package.submodule_search_locations) or ()))
def read_digits(folder: Path, *, augment: bool = True) -> Data:
    """Read the digits; images are ``[1, 8, 8]`` in [0, 1], split once and for all into 1,437 and 360 by class.

    Args:
        folder: Unused: scikit-learn knows where its own file is.
        augment: Whether training images are shifted by up to 1 pixel.

    Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI repository (its test part, which
        is what scikit-learn ships). The split is ours.
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

    images, classes = load_digits(return_X_y=True)
    rows = range(len(classes))
    train, test = (
        (torch.from_numpy(images[part]).to(torch.uint8).view(-1, 1, 8, 8), torch.from_numpy(classes[part]).long())
        for part in train_test_split(rows, test_size=TEST_IMAGES, stratify=classes, random_state=0)
    )
    plain, held_out = (MemoryImages(*part, (0.0,), (1.0,), scale=16.0) for part in (train, test))
    augmented = MemoryImages(*train, (0.0,), (1.0,), scale=16.0, before=(RandomShift(1),) if augment else ())
    return Data("digits", augmented, held_out, tuple("0123456789"), (1, 8, 8), plain)
