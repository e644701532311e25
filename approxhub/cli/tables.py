"""Options of the commands that read and write table files. Imports click."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["table_options"]

F = TypeVar("F", bound=Callable[..., Any])


def table_options(function: F) -> F:
    """Give a command ``--format``, ``--index-order`` and ``--operand-order``."""
    for option in (
        click.option(
            "--operand-order",
            type=click.Choice(("ab", "ba")),
            help="What counts the rows: ab the activation (the default), ba the weight.",
        ),
        click.option(
            "--index-order",
            type=click.Choice(("pattern", "offset")),
            help="Order of a signed operand: pattern 0..127, -128..-1; offset -128..127.",
        ),
        click.option(
            "--format", metavar="NAME", help="File format; told by the file when not given."
        ),
    ):
        function = option(function)
    return function
