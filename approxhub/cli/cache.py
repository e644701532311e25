"""``approxhub cache``: where the cache is, what it takes, and clearing it."""

from __future__ import annotations

import dataclasses

import click

from approxhub.cli.output import examples, json_option, print_json, print_table, size
from approxhub.cli.removals import dry_run_option, print_removals


@click.group(epilog=examples("cache dir", "cache du", "cache prune --dry-run"))
def command() -> None:
    """Show the cache's folder and size, and clear it of what nothing needs."""


@command.command("dir")
@json_option
def folder(as_json: bool) -> None:
    """Print the folder of the cache; APPROXHUB_HOME moves it."""
    from approxhub.registry.store import default_root

    root = default_root()
    if as_json:
        print_json({"path": str(root), "exists": root.is_dir()})
    else:
        click.echo(root)


@command.command()
@json_option
def du(as_json: bool) -> None:
    """Print how much the cache holds.

    Refs say which id stands for which table, objects hold the tables, factors the tables' integer
    factors.
    """
    from approxhub.registry.housekeeping import Usage, usage

    found = usage()
    total = Usage(sum(u.files for u in found.values()), sum(u.bytes for u in found.values()))
    found["total"] = total
    if as_json:
        print_json({kind: dataclasses.asdict(u) for kind, u in found.items()})
    else:
        print_table(
            ("kind", "files", "size"),
            ((kind, f"{u.files:,}", size(u.bytes)) for kind, u in found.items()),
        )


@command.command(short_help="Remove what nothing needs.")
@click.option(
    "--damaged", is_flag=True, help="Also remove damaged files, and ids of damaged tables."
)
@dry_run_option
@json_option
def prune(damaged: bool, dry_run: bool, as_json: bool) -> None:
    """Remove what nothing needs: tables and factors without an id, and half-written files.

    Half-written files go when they are an hour old.
    """
    from approxhub.registry import housekeeping

    print_removals(housekeeping.prune(damaged=damaged, dry_run=dry_run), dry_run, as_json)
