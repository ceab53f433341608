"""Threads for the compiled kernel: those that torch's own loops run in, where they can be reached."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

Part = Callable[[int], None]


def in_parallel(run: Part, parts: int) -> None:
    """Call ``run(part)`` for each part, each in a thread of its own; what it calls has to release Python's lock.

    GNU OpenMP's threads wait for their next loop in a loop themselves, so that others get no processor for a while after each layer:
    where torch brings this library, its threads are used, else a pool.

    Raises:
        Exception: What the first part that failed has raised.
    """
    if parts == 1:
        run(0)
        return
    library = _openmp()
    if library is not None:
        _as_team(library, run, parts)
        return
    waiting = [_pool(os.getpid(), parts - 1).submit(run, part) for part in range(1, parts)]  # no thread survives a fork
    run(0)
    for done in waiting:
        done.result()


def _as_team(library: Any, run: Part, parts: int) -> None:
    failed: list[BaseException] = []

    def each(_: Any) -> None:
        mine, team = library.omp_get_thread_num(), library.omp_get_num_threads()
        try:
            for part in range(mine, parts, team):  # a team may be smaller than was asked for
                run(part)
        except BaseException as error:
            failed.append(error)

    library.GOMP_parallel(_CALLBACK(each), None, parts, 0)
    if failed:
        raise failed[0]


_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _openmp() -> Any:
    """Return the GNU OpenMP library that torch has loaded; None if it uses another."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        library = ctypes.CDLL(str(path))
        if hasattr(library, "GOMP_parallel"):
            library.GOMP_parallel.argtypes = (_CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            library.GOMP_parallel.restype = None
            return library
    return None


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix=f"tospike-{process}")
