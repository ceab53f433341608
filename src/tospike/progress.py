"""Progress bars: on the error stream, since the output may be read by another program."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")


def track(items: Iterable[T], what: str, *, total: int | None = None, shown: bool = True) -> Iterable[T]:
    """Yield items, with a bar that goes away at the end.

    Args:
        items: What is worked through.
        what: What is done, in a word.
        total: How many there are, where the items do not know.
        shown: Whether there is a bar.

    Example:
        >>> list(track([1, 2], "count", shown=False))
        [1, 2]
    """
    if not shown:  # a disabled bar of rich would still print an empty line
        return items
    return rich_track(items, what, total=total, transient=True, console=Console(stderr=True))
