"""What commands print: JSON, aligned tables, and records as plain values.

Imports click and the standard library.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from approxhub.errors import ApproxHubError
    from approxhub.operands import OperandFormat

__all__ = [
    "error_record",
    "format_record",
    "json_option",
    "number",
    "offline_option",
    "print_json",
    "print_table",
    "worst_code",
]

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """Give a command ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def offline_option(function: F) -> F:
    """Give a command ``--offline``."""
    option = click.option("--offline", is_flag=True, help="Use only the cache and folder mirrors.")
    return option(function)


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns, each as wide as it needs."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    for row in table:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def number(value: float | None) -> str:
    """Write a number for a person; ``-`` where there is none."""
    return "-" if value is None else f"{value:.6g}"


def format_record(f: OperandFormat) -> dict[str, Any]:
    """An operand format as plain values."""
    return dataclasses.asdict(f)


def error_record(error: ApproxHubError | None) -> dict[str, Any] | None:
    """An error as plain values."""
    if error is None:
        return None
    return {
        "type": type(error).__name__,
        "message": str(error),
        "exit_code": error.exit_code,
    }


def worst_code(errors: Iterable[ApproxHubError | None]) -> int:
    """The exit code to leave with after several errors: the highest; 0 without any."""
    return max((e.exit_code for e in errors if e is not None), default=0)
