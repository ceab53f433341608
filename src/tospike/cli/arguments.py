"""From a command line to the arguments of a function, and from what the library says of these back to options."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Sequence

import docstring_parser
from jsonargparse import ActionYesNo, ArgumentParser

from tospike.methods import METHODS

REMEDY = "do this: "  # stands before it in a message
VALUE = r"""("[^"]*"|'[^']*'|\[[^]]*\]|\([^)]*\)|[\w./-]*\w)"""


def parser_of(command: Callable[..., int]) -> ArgumentParser:
    """Return the parser of a command: its options are the arguments of the function; switches need no value, lists no brackets."""
    text = docstring_parser.parse(command.__doc__ or "")
    about = "\n\n".join(filter(None, (text.short_description, text.long_description)))
    parser = ArgumentParser(description=about)
    parser.add_argument("--config", action="config", help="file that holds any of these options")
    parameters = inspect.signature(command).parameters
    switches = {name for name, parameter in parameters.items() if isinstance(parameter.default, bool)}
    lists = {name for name in _lists(command) if parameters[name].default is inspect.Parameter.empty}
    parser.add_function_arguments(command, as_positional=True, skip=set[str | int](switches | lists))
    for parameter in text.params:
        name = parameter.arg_name
        if name in lists:
            parser.add_argument(name, nargs="+", type=str, help=parameter.description)
        if name in switches:
            parser.add_argument(
                f"--{name}",
                action=ActionYesNo(no_prefix="no_"),
                default=parameters[name].default,
                help=parameter.description,
            )
    return parser


def bracketed(command: Callable[..., int], line: Sequence[str]) -> list[str]:
    """Return a command line whose lists stand in brackets, as the parser reads them: ``--time_steps 4,8`` needs none.

    Args:
        command: The function.
        line: What follows the name of the command.
    """
    options, found, inside = {f"--{name}" for name in _lists(command)}, list[str](), False
    for word in line:
        option, equals, value = word.partition("=")
        if equals and option in options:
            word = f"{option}={_in_brackets(value)}"
        elif inside:
            word = _in_brackets(word)
        inside = word in options
        found.append(word)
    return found


def as_options(remedy: str, command: Callable[..., int]) -> str:
    """Return a remedy that names options of a command instead of arguments of functions."""
    names = inspect.signature(command).parameters
    settings: set[str] = set()
    for method in METHODS.values() if "settings" in names else ():
        settings |= {field.name for field in dataclasses.fields(method)}  # type: ignore[arg-type]

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        bare = value.strip("[]()").replace('"', "").replace("'", "").rstrip(",").replace(", ", ",")
        if name in names:
            if value in ("True", "False"):
                return f"--{'' if value == 'True' else 'no_'}{name}"
            return f"--{name} {bare}"
        if name == "calibration" and "data" in names:
            return "--data NAME"
        return f"--settings.{name} {bare}" if name in settings else found[0]

    if "shape" in names:
        remedy = remedy.replace(
            "Pass an example", "Pass --shape, batch first, e.g. --shape 1,3,224,224, for an example"
        )
    return re.sub(rf"(?<![\w.])(\w+)={VALUE}", option, remedy)  # no field of something, as in tunings[0].epochs=4


def told(message: str, command: Callable[..., int]) -> str:
    """Return a message of the library, its remedies as options of a command."""
    parts = (line.partition(REMEDY) for line in message.split("\n"))
    return "\n".join(head + label + as_options(remedy, command) for head, label, remedy in parts)


def _lists(command: Callable[..., int]) -> list[str]:
    parameters = inspect.signature(command).parameters.items()
    return [name for name, parameter in parameters if str(parameter.annotation).startswith("list[")]


def _in_brackets(value: str) -> str:
    plain = not value or value.startswith(("[", "-")) or value == "null"
    return value if plain else f"[{value}]"
