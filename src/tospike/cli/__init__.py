"""The command line: parse arguments, call the public functions, print."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser, set_parsing_settings
from rich.console import Console

import tospike
from tospike.errors import TospikeError, UnsupportedOperationError


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 for a network that does not convert, 2 for an error."""
    from tospike.cli import commands
    from tospike.cli.arguments import bracketed, parser_of, told

    set_parsing_settings(add_print_completion_argument=True)  # tospike --print_completion shtab-bash
    parser = ArgumentParser(
        prog="tospike",
        description="Turn a trained network into a spiking one, and see what it cost.",
        version=tospike.__version__,
    )
    choices = parser.add_subcommands(required=True)
    for name, command in commands.COMMANDS.items():
        choices.add_subcommand(name, parser_of(command), help=(command.__doc__ or "").splitlines()[0])
    line = list(sys.argv[1:] if argv is None else argv)
    if line and line[0] in commands.COMMANDS:
        line[1:] = bracketed(commands.COMMANDS[line[0]], line[1:])
    arguments = parser.parse_args(line)
    command = commands.COMMANDS[arguments.subcommand]
    options = arguments[arguments.subcommand].as_dict()
    options.pop("config", None)
    try:
        return int(command(**options))
    except TospikeError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {type(error).__name__}", highlight=False)
        print(told(str(error), command), file=sys.stderr)
        return 1 if isinstance(error, UnsupportedOperationError) else 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(stopped or "interrupted", file=sys.stderr)
        return 130
