"""``approxhub fetch``: bring multipliers into the cache."""

from __future__ import annotations

import click

from approxhub.cli.output import error_record, json_option, offline_option, print_json, worst_code


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--force", is_flag=True, help="Fetch even what is in the cache.")
@offline_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, ids: tuple[str, ...], force: bool, offline: bool, as_json: bool
) -> None:
    """Fetch multipliers into the cache, and verify them.

    Goes on after one that fails, and exits with the highest code of all failures.
    """
    from approxhub.registry.client import FetchResult, fetch

    done = 0

    def report(result: FetchResult) -> None:
        nonlocal done
        done += 1
        if result.error is not None:
            click.echo(f"error: {result.error}", err=True)
        elif as_json or len(ids) > 1:
            click.echo(f"[{done}/{len(ids)}] {result.id} {result.state}", err=True)
        if result.multiplier is not None:
            for note in result.multiplier.provenance.notes:
                click.echo(f"warning: {result.id}: {note}", err=True)

    results = fetch(ids, force=force, offline=offline or None, progress=report)
    if as_json:
        print_json(
            [
                {
                    "id": r.id,
                    "state": r.state,
                    "table_sha256": r.multiplier.table_sha256 if r.multiplier else None,
                    "notes": list(r.multiplier.provenance.notes) if r.multiplier else [],
                    "error": error_record(r.error),
                }
                for r in results
            ]
        )
    else:
        for r in results:
            if r.multiplier is not None:
                click.echo(f"{r.state}  {r.id}  {r.multiplier.table_sha256 or ''}".rstrip())
    ctx.exit(worst_code(r.error for r in results))
