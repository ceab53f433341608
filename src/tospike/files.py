"""Files that are written in one piece or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tospike.errors import OptionError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path beside the file to write to; it takes the file's place when the block ends well.

    The folder of the file is made. A block that fails, or is interrupted, leaves the old file as it was.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder, "result.txt")) as path:
        ...         _ = path.write_text("done")
        ...     Path(folder, "result.txt").read_text()
        'done'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        written = Path(folder, target.name)
        yield written
        os.replace(written, target)


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
