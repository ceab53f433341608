"""Save an SNN to a file, and load it anywhere: no class of the user's is needed, and no code from the file runs."""

from __future__ import annotations

import copyreg
import os
from pathlib import Path
from typing import Any

from tospike.archive.container import digest, pack, unpack
from tospike.archive.network import describe, rebuild
from tospike.errors import DataError, MissingExtraError, require_type
from tospike.files import refuse_existing, replacing
from tospike.run.network import SNN


def save(snn: SNN, path: str | os.PathLike[str], *, force: bool = False) -> str:
    """Write an SNN to a ``.tospike`` file: graph, weights, thresholds, settings and record, in one piece or not at all.

    The file is a ZIP archive of ``network.json`` and ``weights.safetensors``, with the SHA-256 of all of it at its end. Equal networks
    give equal bytes.

    Args:
        snn: A converted network.
        path: File to write.
        force: Replace a file that is there.

    Returns:
        The hash, which identifies the network.

    Raises:
        OptionError: The file exists.
        UnsupportedOperationError: The network calls functions or modules that are not torch's; all of them are listed.

    Example:
        >>> import tempfile, torch, tospike as ts
        >>> ann = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> snn, x = ts.convert(ann, ts.LTB(batches=10), calibration=[torch.randn(64, 2)]), torch.randn(3, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = ts.save(snn, f"{folder}/net.tospike")
        ...     torch.equal(ts.load(f"{folder}/net.tospike")(x, time_steps=8), snn(x, time_steps=8))
        True
    """
    require_type("snn", snn, SNN, "an SNN", "Pass what ts.convert returned.")
    refuse_existing(path, force)
    packed = pack(*describe(snn))
    with replacing(path) as written:
        written.write_bytes(packed)
    return digest(packed)


def load(path: str | os.PathLike[str]) -> SNN:
    """Return the SNN in a file, on the CPU.

    No code from the file runs: it can name operations of torch on tensors, layers of torch, and the neurons of this library.

    Args:
        path: A file that `save` wrote.

    Raises:
        DataError: The file is missing, of another tool, damaged, altered, or written by a newer version.
        MissingExtraError: The network calls a function of a library that is not installed.

    Example:
        See `save`.
    """
    try:
        packed = Path(path).read_bytes()
    except OSError as error:
        raise DataError("The file cannot be read", where=str(path), got=error.strerror or str(error), expected="a .tospike file",
                        remedy="Check the path; tospike convert and ts.save write such files.") from error  # fmt: skip
    return _loads(packed, str(path))


def _loads(packed: bytes, where: str = "a pickle") -> SNN:
    try:
        return rebuild(*unpack(packed))
    except MissingExtraError:
        raise
    except Exception as error:  # whatever an altered description can cause, it is the file that is wrong
        problem = error.problem if isinstance(error, DataError) else None
        raise DataError(
            problem.what if problem else "The file does not describe a network", where=where,
            got=problem.got if problem else f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200],
            expected=problem.expected if problem and problem.expected else "a file that ts.save wrote",
            remedy=problem.remedy if problem and problem.remedy else "Copy the file again, or convert and save the network anew.",
        ) from error  # fmt: skip


def _reduce(snn: SNN) -> tuple[Any, ...]:
    return _loads, (pack(*describe(snn)),)


copyreg.pickle(SNN, _reduce)
