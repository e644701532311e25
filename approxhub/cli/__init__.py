"""The command line: ``approxhub``.

Commands are imported when they are run. Imports click and the errors, nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import keyword
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

import click

from approxhub import __version__
from approxhub.errors import ApproxHubError, PluginError

__all__ = ["cli", "main"]

# Name of each command (and of its module) and what help says of it: to say that, help imports none.
COMMANDS = {
    "backends": "Show what can run integer matrix products here.",
    "bench": "Time the CPU engine against C loops and torch.",
    "cache": "Show the cache's folder and size, and clear it of what nothing needs.",
    "cite": "Print whom to cite for multipliers, and for ApproxHub.",
    "compare": "Show in what two multipliers differ, and where.",
    "completion": "Print the script that makes a shell complete commands and ids.",
    "conformance": "Run the contract's tests on an installed plug-in, by name.",
    "demo": "Show what approximate multipliers do to a small network, and what training wins back.",
    "doctor": "Check this installation, and say what to do where it is not healthy.",
    "evaluate": "Evaluate a model of yours with a multiplier.",
    "export": "Write a multiplier's products into a file.",
    "fetch": "Fetch multipliers into the cache, and verify them.",
    "import": "Import a table, and say what it is.",
    "index": "Publish multipliers as an index, and use the indexes of others.",
    "info": "Show all that is known of a multiplier.",
    "list": "List the multipliers that have a name.",
    "new-plugin": "Write a complete plug-in package: it installs, and passes its tests, as it is.",
    "plot": "Draw error maps, error histograms and Pareto fronts.",
    "plugins": "Show the plug-ins that were found, and why some do not work.",
    "remove": "Remove multipliers from the cache.",
    "search": "Search the multipliers that have a name, for words.",
    "sweep": "Evaluate a model of yours with many multipliers; goes on where it was stopped.",
    "verify": "Check what lies in the cache, byte by byte.",
}


_CLOSED_PIPE = 141  # what a shell reports of a program that SIGPIPE ended, as it does most


def _module(name: str) -> str:
    """Name of a command's module: a keyword of Python's cannot be one, nor what has a hyphen."""
    return f"{name}_" if keyword.iskeyword(name) else name.replace("-", "_")


class LazyGroup(click.Group):
    """A group that imports a command when it is run.

    Plug-ins are asked for commands only when help is shown or a command is not one of ours, so
    that ours stay quick. They cannot replace one of ours.
    """

    _plugins_asked = False

    def _ask_plugins(self) -> None:
        if not self._plugins_asked:
            self._plugins_asked = True
            from approxhub.plugins import host

            host().add_commands(self)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command; refuses a name that is taken."""
        called = name or cmd.name
        if called in COMMANDS or called in self.commands:
            raise PluginError(f"the command {called!r} exists already")
        super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, those of plug-ins too."""
        self._ask_plugins()
        return sorted([*COMMANDS, *self.commands])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one of our commands, or look among those of plug-ins."""
        if cmd_name in COMMANDS:
            command = importlib.import_module(f"approxhub.cli.{_module(cmd_name)}").command
            assert isinstance(command, click.Command)
            return command
        self._ask_plugins()
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing ours."""
        rows = [
            (n, COMMANDS[n] if n in COMMANDS else self.commands[n].get_short_help_str(70))
            for n in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments; help and version are printed here."""
        with _output_may_fail():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; our own errors are printed without a traceback."""
        with _output_may_fail(), warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except ApproxHubError as error:
                click.echo(f"error: {error}", err=True)
                ctx.exit(error.exit_code)


@contextlib.contextmanager
def _output_may_fail() -> Iterator[None]:
    """End quietly where nobody reads on, and with one line where output cannot be written."""
    try:
        yield
    except OSError as error:
        if not _is_of_output(error):
            raise
        _discard_output()
        if error.errno == errno.EPIPE:
            raise click.exceptions.Exit(_CLOSED_PIPE) from None
        with contextlib.suppress(OSError):
            click.echo(f"error: output cannot be written: {error.strerror or error}", err=True)
        raise click.exceptions.Exit(1) from None


def _is_of_output(error: OSError) -> bool:
    """Whether an error came out of printing, rather than of some file or connection."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_code is click.echo.__code__


def _discard_output() -> None:
    """Let what is still waiting go nowhere, or Python complains about it at its end."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
            continue
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    click.echo(f"warning: {message}", err=True)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 network or offline.",
)
@click.version_option(__version__, prog_name="approxhub")
def cli() -> None:
    """Name an approximate multiplier, and see what it does to a neural network."""


def main() -> None:
    """Entry point of the ``approxhub`` command."""
    cli(prog_name="approxhub")
