"""The command line: parse arguments, call the public functions, print."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings
from rich.console import Console

import tospike
from tospike.errors import TospikeError, UnsupportedOperationError


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 for a network that does not convert, 2 for an error."""
    from tospike.cli.arguments import told
    from tospike.cli.commands import COMMANDS

    line = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS.get(line[0]) if line else None
    try:
        return _run(line, COMMANDS)
    except TospikeError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {type(error).__name__}", highlight=False)
        print(str(error) if command is None else told(str(error), command), file=sys.stderr)
        return 1 if isinstance(error, UnsupportedOperationError) else 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(stopped or "interrupted", file=sys.stderr)
        return 130


def _run(line: list[str], commands: dict[str, Callable[..., Any]]) -> int:
    """Parse a command line and call its command."""
    from tospike.cli.arguments import bracketed, parser_of
    from tospike.cli.usage import refused

    set_parsing_settings(add_print_completion_argument=True)  # tospike --print_completion shtab-bash
    parser = ArgumentParser(
        prog="tospike",
        description="Turn a trained network into a spiking one, and see what it cost.",
        version=tospike.__version__,
        exit_on_error=False,
    )
    choices = parser.add_subcommands(required=True)
    for name, command in commands.items():
        choices.add_subcommand(name, parser_of(command), help=(command.__doc__ or "").splitlines()[0])
    if line and line[0] in commands:
        line[1:] = bracketed(commands[line[0]], line[1:])
    try:
        arguments = parser.parse_args(line)
    except ArgumentError as error:
        raise refused(str(error), line, commands) from error
    options = arguments[arguments.subcommand].as_dict()
    options.pop("config", None)
    return int(commands[arguments.subcommand](**options))
