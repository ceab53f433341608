"""From what the parser of command lines says to the errors of the library."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tospike.errors import OptionError, refuse_unknown

MISSING = re.compile(r"arguments are required: (.*)")
UNKNOWN = re.compile(r"[Uu]nrecognized arguments: (.*)")
UNREADABLE = re.compile(r'Parser key "([\w.]+)":(.*)', re.DOTALL)
VALUE = re.compile(r"(?:Got|Given) value: (.*)")
KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
SEVERAL = {int: "integers, e.g. 1,2", float: "numbers, e.g. 0.5,1", str: "names, e.g. one,two"}


def refused(message: str, line: Sequence[str], commands: Mapping[str, Callable[..., Any]]) -> OptionError:
    """Return the error for a command line that the parser refused.

    Args:
        message: What the parser says.
        line: The command line.
        commands: Functions by the names of the commands.

    Example:
        >>> print(refused("the following arguments are required: add.b", ["add", "1"], {"add": lambda a, b: a + b}))
        Arguments are missing
          where: tospike add
          got: no B
          expected: tospike add A B
          do this: See `tospike add --help`.
    """
    if not line:
        return OptionError(
            "No command is named",
            got="tospike",
            expected=f"one of {', '.join(commands)}",
            remedy="Begin with `tospike demo`.",
        )
    try:
        refuse_unknown("command", line[0], commands)
    except OptionError as error:
        return error
    command, where, remedy = commands[line[0]], f"tospike {line[0]}", f"See `tospike {line[0]} --help`."
    missing, unknown, unreadable = (pattern.search(message) for pattern in (MISSING, UNKNOWN, UNREADABLE))
    if missing:
        names = [name.strip().rpartition(".")[2].upper() for name in missing[1].split(",")]
        return OptionError("Arguments are missing", where=where, got=", ".join(f"no {name}" for name in names),
                           expected=" ".join([where, *_needed(command)]), remedy=remedy)  # fmt: skip
    if unknown:
        options = [word.partition("=")[0] for word in unknown[1].split() if word.startswith("--")]
        known = [f"--{name}" for name in inspect.signature(command).parameters if name.upper() not in _needed(command)]
        try:
            refuse_unknown("option", options, known, remedy)
        except OptionError as error:
            return error
        return OptionError(
            "Arguments are left over",
            where=where,
            got=unknown[1],
            expected=" ".join([where, *_needed(command)]),
            remedy=remedy,
        )
    if unreadable:
        name, said = unreadable[1], unreadable[2].strip()
        value = VALUE.search(said)
        return OptionError("An option cannot be read", where=f"--{name}", got=repr(value[1]) if value else said,
                           expected=_words(get_type_hints(command).get(name)) or "what its help says", remedy=remedy)  # fmt: skip
    return OptionError(
        "The command line cannot be read",
        where=where,
        got=message,
        expected=" ".join([where, *_needed(command)]),
        remedy=remedy,
    )


def _needed(command: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(command).parameters.values()
    return [parameter.name.upper() for parameter in parameters if parameter.default is inspect.Parameter.empty]


def _words(kind: Any) -> str:
    """Say what an option of a type holds; empty where the type says too little."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is list:
        return SEVERAL.get(get_args(kind)[0], _words(get_args(kind)[0]))
    parts = [_words(part) for part in get_args(kind) if part is not type(None)] if get_origin(kind) is not dict else []
    return KINDS.get(kind, " or ".join(filter(None, parts)))
