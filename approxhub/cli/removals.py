"""How `remove` and `cache prune` print what they remove. Imports click and what commands print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from approxhub.cli.output import print_json, size

if TYPE_CHECKING:
    from approxhub.registry.housekeeping import Removal

__all__ = ["dry_run_option", "print_removals"]

F = TypeVar("F", bound=Callable[..., Any])


def dry_run_option(function: F) -> F:
    """Give a command ``--dry-run``."""
    option = click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be.")
    return option(function)


def print_removals(removals: Sequence[Removal], dry_run: bool, as_json: bool) -> None:
    """Print what was removed, or would be: a line for each file."""
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "bytes": sum(r.bytes for r in removals),
                "files": [
                    {"path": str(r.path), "bytes": r.bytes, "reason": r.reason} for r in removals
                ],
            }
        )
        return
    verb = "would remove" if dry_run else "removed"
    for r in removals:
        click.echo(f"{verb}  {r.path}  {size(r.bytes)}  ({r.reason})")
    total = size(sum(r.bytes for r in removals))
    click.echo(f"{verb} {len(removals)} file{'' if len(removals) == 1 else 's'}, {total}", err=True)
