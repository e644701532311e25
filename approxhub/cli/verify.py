"""``approxhub verify``: whether the cache holds what it should."""

from __future__ import annotations

import click

from approxhub.cli.arguments import cached_ids_argument
from approxhub.cli.output import (
    error_record,
    examples,
    json_option,
    offline_option,
    print_json,
    worst_code,
)


@click.command(
    epilog=examples(
        "verify", "verify mul8u_12N4", "verify 'mul8s_*' --deep", "verify --all --deep --offline"
    )
)
@cached_ids_argument(metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="The whole cache; so without any ID.")
@click.option(
    "--deep",
    is_flag=True,
    help="Also get tables from their sources again, recompute metrics, and multiply factors out.",
)
@offline_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    ids: tuple[str, ...],
    everything: bool,
    deep: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Check what lies in the cache, byte by byte.

    Objects, factors and refs are hashed again, and tables compared with the hash in the index.
    Each error says how to heal what is damaged.
    """
    from approxhub.registry.audit import VerifyResult, verify
    from approxhub.registry.selection import cached_ids, is_pattern

    if ids and everything:
        raise click.UsageError("give ids or --all, not both")
    names = [n for id in ids for n in (cached_ids(id) if is_pattern(id) else [id])]

    def report(result: VerifyResult) -> None:
        if result.error is not None:
            click.echo(f"error: {result.error}", err=True)
        elif result.note is not None:
            click.echo(f"warning: {result.name}: {result.note}", err=True)

    results = verify(names or None, deep=deep, offline=offline or None, progress=report)
    if as_json:
        print_json(
            [
                {
                    "name": r.name,
                    "ok": r.ok,
                    "error": error_record(r.error),
                    "path": None if r.path is None else str(r.path),
                    "note": r.note,
                }
                for r in results
            ]
        )
    else:
        for r in results:
            note = "  (computed, nothing to verify)" if r.computed else ""
            click.echo(f"{'ok    ' if r.ok else 'FAILED'}  {r.name}{note}")
        stored = [r for r in results if not r.computed]
        click.echo(f"{sum(r.ok for r in stored)} of {len(stored)} verified")
    ctx.exit(worst_code(r.error for r in results))
