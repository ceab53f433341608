"""A run folder: what each command made, and the options that make it again."""

from __future__ import annotations

import platform
from pathlib import Path
from types import NoneType
from typing import Any

import torch
import yaml

import tospike
from tospike.errors import DataError, OptionError
from tospike.files import replacing

TEXTS = ("network", "weights", "data", "root", "snn", "out")
OF = "# Of: "  # stands before the hash in a record


class Folder:
    """A folder to which commands write; ``COMMAND.yaml`` beside the output of a command holds its options.

    A command that was run with the same options on the same SNN is not run again; with other options it is refused, unless it is forced. The options are
    written after the output, so that a command which was interrupted runs anew. ``tospike COMMAND --config COMMAND.yaml`` repeats it.

    Args:
        path: The folder; made when something is written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def options(self, command: str) -> dict[str, Any]:
        """Return the options of a command that was run; empty if it was not.

        Raises:
            DataError: The file cannot be read.
        """
        file = self.path / f"{command}.yaml"
        if not file.exists():
            return {}
        try:
            found = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            found = error
        if not isinstance(found, dict) or any(not isinstance(found.get(name), (str, NoneType)) for name in TEXTS):
            raise DataError("The options of a run cannot be read", where=str(file), got=str(found)[:100], expected="what tospike wrote there",
                            remedy=f"Delete the file and run tospike {command} again, or choose another folder.")  # fmt: skip
        return found

    def source(self, command: str) -> str:
        """Return the hash of what a command was run on; empty if its record states none."""
        file = self.path / f"{command}.yaml"
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
        return next((line.removeprefix(OF) for line in lines if line.startswith(OF)), "")

    def is_done(self, command: str, options: dict[str, Any], force: bool, output: str, source: str = "") -> bool:
        """Tell whether a command was run with these options already.

        Args:
            command: Name of the command.
            options: Its options.
            force: Run it again in any case.
            output: File that it writes.
            source: Hash of what it is run on; on another one than before it is run anew.

        Raises:
            OptionError: It was run with others, and is not forced.
        """
        before = self.options(command)
        other = [key for key in options if before and options[key] != before.get(key)]
        if other and not force:
            raise OptionError(
                f"The folder holds a run of {command} with other options", where=str(self.path),
                got="; ".join(f"{key}={options[key]!r}" for key in other), expected="; ".join(f"{key}={before.get(key)!r}" for key in other),
                remedy="Choose another folder, or replace the run with --force.",
            )  # fmt: skip
        return bool(before) and not force and self.source(command) == source and (self.path / output).exists()

    def begin(self, command: str, output: str, source: str = "") -> None:
        """Take the record of a command away, whose output is about to be replaced, and the output too if it is of another source.

        An interrupted command then leaves nothing behind that looks like the output of what is there now.
        """
        if self.source(command) != source:
            (self.path / output).unlink(missing_ok=True)
        (self.path / f"{command}.yaml").unlink(missing_ok=True)

    def done(self, command: str, options: dict[str, Any], source: str = "") -> None:
        """Write the options of a command whose output is written, and the hash of what it was run on."""
        head = f"# tospike {tospike.__version__}, torch {torch.__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        file = self.path / f"{command}.yaml"
        head += f"# Again: tospike {command} --config {file} --force\n"  # where this was run
        head += f"{OF}{source}\n" if source else ""
        with replacing(file) as written:
            written.write_text(head + yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
