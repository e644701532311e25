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
    "aligned",
    "error_record",
    "examples",
    "format_record",
    "json_option",
    "number",
    "offline_option",
    "print_json",
    "print_table",
    "size",
    "worst_code",
]

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """Give a command ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def examples(*lines: str) -> str:
    """Give help's last part: command lines, as they are."""
    return "\n".join(["\b", "Examples:", *(f"  approxhub {line}" for line in lines)])


def offline_option(function: F) -> F:
    """Give a command ``--offline``."""
    option = click.option("--offline", is_flag=True, help="Use only the cache and folder mirrors.")
    return option(function)


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns, each as wide as it needs."""
    for line in aligned([header, *rows]):
        click.echo(line)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns, each as wide as it needs."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def number(value: float | None) -> str:
    """Write a number for a person; ``-`` where there is none."""
    return "-" if value is None else f"{value:.6g}"


def size(length: int) -> str:
    """Write a number of bytes for a person.

    Examples
    --------
    >>> size(999), size(20_480)
    ('999 B', '20.5 kB')
    """
    value = float(length)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


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
