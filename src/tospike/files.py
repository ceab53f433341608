"""Files that are written in one piece or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
