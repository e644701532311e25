"""``approxhub verify``: whether the cache holds what it should."""

from __future__ import annotations

import click

from approxhub.cli.output import error_record, json_option, print_json, worst_code


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="The whole cache; so without any ID.")
@json_option
@click.pass_context
def command(ctx: click.Context, ids: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Check what lies in the cache, byte by byte.

    Objects and refs are hashed again, and tables compared with the hash in the index.
    """
    from approxhub.registry.audit import verify

    if ids and everything:
        raise click.UsageError("give ids or --all, not both")
    results = verify(ids or None)
    for r in results:
        if r.error is not None:
            click.echo(f"error: {r.error}", err=True)
    if as_json:
        print_json([{"name": r.name, "ok": r.ok, "error": error_record(r.error)} for r in results])
    else:
        for r in results:
            note = "  (computed, nothing to verify)" if r.computed else ""
            click.echo(f"{'ok    ' if r.ok else 'FAILED'}  {r.name}{note}")
        stored = [r for r in results if not r.computed]
        click.echo(f"{sum(r.ok for r in stored)} of {len(stored)} verified")
    ctx.exit(worst_code(r.error for r in results))
