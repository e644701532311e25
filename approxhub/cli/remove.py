"""``approxhub remove``: take multipliers out of the cache."""

from __future__ import annotations

import sys

import click

from approxhub.cli.arguments import cached_ids_argument
from approxhub.cli.output import examples, json_option
from approxhub.cli.removals import dry_run_option, print_removals


@click.command(epilog=examples("remove mul8u_12N4 --yes", "remove 'local:*' --dry-run"))
@cached_ids_argument(required=True, metavar="ID...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@dry_run_option
@json_option
def command(ids: tuple[str, ...], yes: bool, dry_run: bool, as_json: bool) -> None:
    """Remove multipliers from the cache.

    An ID may be a glob on what is cached. A table, and its factors, go when no other id stands
    for it. Asks first, unless told --yes.
    """
    from approxhub.registry.housekeeping import remove
    from approxhub.registry.selection import cached_ids

    named = list(dict.fromkeys(n for id in ids for n in cached_ids(id)))
    if not yes and not dry_run:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody is there to ask: give --yes, or --dry-run to look first")
        for id in named:
            click.echo(id, err=True)
        click.confirm(f"Remove {len(named)} from the cache?", abort=True, err=True)
    print_removals(remove(named, dry_run=dry_run), dry_run, as_json)
