"""The file: a ZIP archive of a description and weights, stored as they are, with the hash of all of it at the end.

Any ZIP program opens it; ``weights.safetensors`` and ``network.json`` can be read by other tools. Nothing is ever unpacked to a disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from tospike.errors import DataError

FORMAT = 1
DESCRIPTION, WEIGHTS = "network.json", "weights.safetensors"
_MARK = b"tospike sha256 "
_TAIL = len(_MARK) + 64  # the comment of the archive, at the very end of the file


def pack(description: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """Return the bytes of a file; equal content gives equal bytes.

    Args:
        description: Plain values.
        tensors: Contiguous tensors that share no memory.

    Example:
        >>> import torch
        >>> packed = pack({"format": 1}, {"w": torch.zeros(2)})
        >>> packed == pack({"format": 1}, {"w": torch.zeros(2)}), unpack(packed)
        (True, ({'format': 1}, {'w': tensor([0., 0.])}))
    """
    members = {
        DESCRIPTION: json.dumps(description, indent=1, allow_nan=False).encode(),
        WEIGHTS: tensors_to_bytes(tensors),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
        archive.comment = _MARK + b"0" * 64
    view = buffer.getbuffer()
    view[-64:] = hashlib.sha256(view[:-_TAIL]).hexdigest().encode()
    return bytes(view)


def digest(packed: bytes) -> str:
    """Return the hash that a file states of itself."""
    return packed[-64:].decode(errors="replace")


def unpack(packed: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return description and tensors of a file.

    Raises:
        DataError: It is of another tool, truncated or altered, holds what does not belong there, or was written by a newer version.
    """
    if not packed.startswith(b"PK"):
        raise DataError("This is no .tospike file", got=f"{len(packed):,} bytes that start with {packed[:8]!r}")
    if packed[-_TAIL:-64] != _MARK:
        raise DataError(
            "The file is truncated, or was written by another tool", got=f"no hash at its end ({len(packed):,} bytes)"
        )
    actual = hashlib.sha256(memoryview(packed)[:-_TAIL]).hexdigest()
    if actual.encode() != packed[-64:]:
        raise DataError(
            "The file is damaged or was altered",
            got=f"sha256 {actual[:16]}…",
            expected=f"{packed[-64:-48].decode(errors='replace')}…",
        )
    try:
        return _members(packed)
    except (
        zipfile.BadZipFile,
        SafetensorError,
        ValueError,
        RecursionError,
        NotImplementedError,
        EOFError,
        OSError,
    ) as error:
        raise DataError("The archive cannot be read", got=f"{type(error).__name__}: {error}"[:200]) from error


def _members(packed: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if names != [DESCRIPTION, WEIGHTS]:
            raise DataError(
                "The archive holds other files", got=", ".join(names)[:200], expected=f"{DESCRIPTION}, {WEIGHTS}"
            )
        if any(e.compress_type != zipfile.ZIP_STORED or e.file_size > len(packed) for e in entries):  # a bomb
            raise DataError(
                "The archive is compressed", got="compressed members", expected="members stored as they are"
            )
        description = json.loads(archive.read(DESCRIPTION))
        if not isinstance(description, dict) or type(description.get("format")) is not int:
            raise DataError("The description names no format", got=str(description)[:80])
        if description["format"] < 1:
            raise DataError("The description names no format", got=str(description["format"]))
        if description["format"] > FORMAT:
            raise DataError("The file was written by a newer tospike", got=f"format {description['format']}, {description.get('made by')}"[:200],
                            expected=f"format {FORMAT} or older", remedy="Install a newer tospike.")  # fmt: skip
        return description, tensors_from_bytes(archive.read(WEIGHTS))
