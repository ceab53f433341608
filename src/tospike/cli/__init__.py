"""The command line: parse arguments, call the public functions, print."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

import docstring_parser
from jsonargparse import ActionYesNo, ArgumentParser, set_parsing_settings
from rich.console import Console

from tospike.errors import TospikeError


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 for a network that does not convert, 2 for an error."""
    from tospike.cli import commands

    set_parsing_settings(add_print_completion_argument=True)  # tospike --print_completion shtab-bash
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
    """Return the parser of a command: its options are the arguments of the function; switches need no value, lists no brackets."""
    text = docstring_parser.parse(command.__doc__ or "")
    about = "\n\n".join(filter(None, (text.short_description, text.long_description)))
    parser = ArgumentParser(description=about)
    parser.add_argument("--config", action="config", help="file that holds any of these options")
    parameters = inspect.signature(command).parameters
    switches = {name for name, parameter in parameters.items() if isinstance(parameter.default, bool)}
    lists = {
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.annotation == "list[str]"
    }
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
