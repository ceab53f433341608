"""Files that are written in one piece or not at all."""

from __future__ import annotations

import json
import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from tospike.errors import DataError, OptionError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path beside the file to write to; it takes the file's place when the block ends well.

    The folder of the file is made. A block that fails, or is interrupted, leaves the old file as it was.

    Raises:
        OptionError: The folder cannot be written to.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder, "result.txt")) as path:
        ...         _ = path.write_text("done")
        ...     Path(folder, "result.txt").read_text()
        'done'
    """
    target = Path(path)
    with _beside(target) as folder:
        written = Path(folder, target.name)
        yield written
        os.replace(written, target)


def refuse_unwritable(path: str | os.PathLike[str]) -> None:
    """Raise if a file could not be written, before what takes long; the folder of the file is made.

    Raises:
        OptionError: The folder cannot be written to.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     refuse_unwritable(Path(folder, "deep", "result.txt"))
    """
    _beside(Path(path)).cleanup()


def _beside(target: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=target.parent)
    except OSError as error:
        raise OptionError("The output cannot be written", where=str(target), got=f"{type(error).__name__}: {error.strerror}",
                          expected="a folder that may be written to", remedy="Choose another folder, or change its rights.") from error  # fmt: skip


def refuse_existing(path: str | os.PathLike[str], force: bool) -> None:
    """Raise if a file or folder is there already and is not to be replaced.

    Raises:
        OptionError: It is there.

    Example:
        >>> refuse_existing("surely/not/there", force=False)
    """
    if Path(path).exists() and not force:
        raise OptionError("The output exists already", got=str(path), expected="a path that is free",
                          remedy="Choose another, or replace it: force=True, on the command line --force.")  # fmt: skip


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Record(ABC):
    """Base of the dataclasses that are written as JSON and read again."""

    @classmethod
    @abstractmethod
    def from_raw(cls, raw: dict[str, Any]) -> Self:
        """Build the record from the values in its JSON."""

    def to_json(self) -> str:
        """Write the record as JSON; numbers keep their full precision, and what is no number becomes null."""
        return json.dumps(_finite(asdict(self)), indent=2, allow_nan=False)  # type: ignore[call-overload]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: The file holds something else.
            OSError: The file cannot be read.
        """
        return cls.from_json(Path(path).read_bytes(), where=str(path))

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "") -> Self:
        """Read what `to_json` wrote; an error names where it came from.

        Raises:
            DataError: The text is something else.
        """
        try:
            return cls.from_raw(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"This is no {cls.__name__}", where=where, got=f"{type(error).__name__}: {error}"[:200], expected=f"the JSON that {cls.__name__}.to_json wrote",
                remedy="Name another file, or make this one anew.",
            ) from error  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to a file, in one piece or not at all."""
        with replacing(path) as written:
            written.write_text(self.to_json(), encoding="utf-8")
