"""The command line: parse arguments, call the public functions, print."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

import docstring_parser
from jsonargparse import ActionYesNo, ArgumentParser
from rich.console import Console

from tospike.errors import TospikeError


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 for a network that does not convert, 2 for an error."""
    from tospike.cli import commands

    parser = ArgumentParser(
        prog="tospike", description="Turn a trained network into a spiking one, and see what it cost."
    )
    choices = parser.add_subcommands(required=True)
    for name, command in commands.COMMANDS.items():
        choices.add_subcommand(name, _parser(command), help=(command.__doc__ or "").splitlines()[0])
    arguments = parser.parse_args(argv)
    options = arguments[arguments.subcommand].as_dict()
    options.pop("config", None)
    try:
        return int(commands.COMMANDS[arguments.subcommand](**options))
    except TospikeError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {type(error).__name__}", highlight=False)
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(stopped or "interrupted", file=sys.stderr)
        return 130


def _parser(command: Callable[..., int]) -> ArgumentParser:
    """Return the parser of a command: its options are the arguments of the function, and switches need no value."""
    text = docstring_parser.parse(command.__doc__ or "")
    about = "\n\n".join(filter(None, (text.short_description, text.long_description)))
    parser = ArgumentParser(description=about)
    parser.add_argument("--config", action="config", help="file that holds any of these options")
    defaults = {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
    switches = {name for name, default in defaults.items() if isinstance(default, bool)}
    parser.add_function_arguments(command, as_positional=True, skip=set[str | int](switches))
    for parameter in text.params:
        if parameter.arg_name in switches:
            parser.add_argument(
                f"--{parameter.arg_name}", action=ActionYesNo(no_prefix="no_"), default=defaults[parameter.arg_name], help=parameter.description
            )  # fmt: skip
    return parser
