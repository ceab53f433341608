"""The command line: parse arguments, call the public functions, print."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser
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
        sub = ArgumentParser(description=(command.__doc__ or "").splitlines()[0])
        sub.add_argument("--config", action="config", help="file that holds any of these options")
        sub.add_function_arguments(command, as_positional=True)
        choices.add_subcommand(name, sub, help=(command.__doc__ or "").splitlines()[0])
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
