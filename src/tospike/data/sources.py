"""The registry of data sets: what each is called, which files it needs, where they are looked for, how it is read."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tospike.data.base import Data
from tospike.errors import DataError, refuse_unknown

ROOT_VARIABLE = "TOSPIKE_DATA"
COMMON_PLACES = ("data", "~/.cache/tospike", "~/.cache", "/usr/share/datasets")

Reader = Callable[..., Data]


@dataclass(frozen=True)
class Source:
    """A data set as the registry knows it.

    Attributes:
        name: Name for `load`.
        read: Reads the set from its folder: ``read(folder, augment=..., **options)``.
        layouts: Alternatives of what the folder may hold, each a tuple of patterns that must all match a file; none
            means that the set ships inside a package, which is then its only place.
        folders: Names, below a place, of the folder that may hold the files; ``"."`` is the place itself.
        places: Where to look when neither a root nor the environment says so.
        origin: Where the set can be had.
    """

    name: str
    read: Reader
    layouts: tuple[tuple[str, ...], ...]
    folders: tuple[str, ...]
    places: tuple[str, ...]
    origin: str

    def roots(self, root: str | Path | None) -> list[Path]:
        """Return the places that are searched: the root, else that of the environment, else the usual ones."""
        named = root if root is not None else os.environ.get(ROOT_VARIABLE) or None
        places = self.places if named is None or not self.layouts else (named,)
        return [Path(place).expanduser().absolute() for place in places]

    def find(self, root: str | Path | None) -> Path | None:
        """Return the first folder that holds a complete layout, or None."""
        for folder in (place / name for place in self.roots(root) for name in self.folders):
            if not self.layouts or any(all(_matches(folder, file) for file in layout) for layout in self.layouts):
                return folder
        return None

    def missing(self, root: str | Path | None) -> DataError:
        """Build the error that says what was looked for, where, and how to get it."""
        searched = ", ".join(map(str, self.roots(root)))
        below = ", ".join(name for name in self.folders if name != ".")
        return DataError(
            f"The data set {self.name} is not on this machine",
            where=(searched + (f"; and in each of them in {below}" if below else ""))
            if searched
            else "no folder was named",
            got="no folder that holds all of its files",
            expected="; or ".join(", ".join(layout) for layout in self.layouts),
            remedy=f"{self.origin} {'Put the files into a folder above, or name' if searched else 'Name'} their folder "
            f"with root= or the environment variable {ROOT_VARIABLE}.",
        )


def _matches(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None


_sources: dict[str, Source] = {}


def source(
    name: str,
    *,
    layouts: tuple[tuple[str, ...], ...] = (),
    folders: tuple[str, ...] = (".",),
    places: tuple[str, ...] = COMMON_PLACES,
    origin: str = "",
) -> Callable[[Reader], Reader]:
    """Register the function below it as the reader of a data set; see `Source` for the arguments."""

    def register(read: Reader) -> Reader:
        _sources[name] = Source(name, read, layouts, folders, places, origin)
        return read

    return register


def available() -> tuple[str, ...]:
    """Return the names that `load` knows, whether or not their files are on this machine.

    Example:
        >>> "fashion-mnist" in available()
        True
    """
    return tuple(_sources)


def find(name: str, root: str | Path | None = None) -> Path | None:
    """Return the folder that holds a data set, or None when it is not on this machine.

    Args:
        name: One of `available`.
        root: Folder to look into; else the environment variable TOSPIKE_DATA; else the usual places.

    Raises:
        OptionError: The name is unknown.
    """
    return _named(name).find(root)


def is_available(name: str, root: str | Path | None = None) -> bool:
    """Return whether the files of a data set are on this machine; arguments as for `find`.

    Example:
        >>> is_available("digits")
        True
    """
    return find(name, root) is not None


def load(name: str, root: str | Path | None = None, *, augment: bool = True, **options: Any) -> Data:
    """Read a data set from the disk; nothing is ever downloaded.

    Args:
        name: One of `available`.
        root: Folder that holds the files, itself or in the folder that the set is published in; else the environment
            variable TOSPIKE_DATA; else the usual places.
        augment: Whether the training images are augmented.
        options: Settings of this set, the keyword arguments of its reader.

    Raises:
        OptionError: The name or an option is unknown.
        DataError: Files are missing or damaged.
        MissingExtraError: The set needs torchvision or Pillow.

    Example:
        >>> digits = load("digits")
        >>> digits.shape, len(digits.classes), len(digits.train), len(digits.test)
        ((1, 8, 8), 10, 1437, 360)
    """
    chosen = _named(name)
    parameters = inspect.signature(chosen.read).parameters
    known = [key for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY]
    refuse_unknown(f"option of the data set {name}", options, known)
    folder = chosen.find(root)
    if folder is None:
        raise chosen.missing(root)
    return chosen.read(folder, augment=augment, **options)


def _named(name: str) -> Source:
    refuse_unknown("data set", name, _sources)
    return _sources[name]
