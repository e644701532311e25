"""``approxhub fetch``: bring multipliers into the cache."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TextIO

import click

from approxhub.cli.arguments import id_argument
from approxhub.cli.output import error_record, examples, json_option, offline_option, print_json
from approxhub.cli.progress import progress_bar

if TYPE_CHECKING:
    from approxhub.registry.client import FetchResult

_JOBS = 4


@click.command(
    epilog=examples(
        "fetch mul8s_1KV9 evoapproxlib:v1.1/mul8u_12N4",
        "fetch 'mul8s_*' --jobs 8",
        "fetch --from ids.txt --offline",
    )
)
@id_argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="Fetch all that any source lists.")
@click.option(
    "--from",
    "file",
    type=click.File(encoding="utf-8"),
    help="Read ids from a file, one on a line, # before a comment; - for standard input.",
)
@click.option("--force", is_flag=True, help="Fetch even what is in the cache.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=_JOBS,
    show_default=True,
    metavar="N",
    help="Fetch N at a time.",
)
@offline_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    ids: tuple[str, ...],
    everything: bool,
    file: TextIO | None,
    force: bool,
    jobs: int,
    offline: bool,
    as_json: bool,
) -> None:
    """Fetch multipliers into the cache, and verify them.

    An ID may be a glob on the names or ids that are listed. Goes on after one that fails, and
    exits with the highest code of all failures.
    """
    from approxhub.registry.client import fetch_each

    words = [*ids, *_lines(file)]
    if not words and not everything and file is None:
        raise click.UsageError("name an ID, or give --all or --from")
    wanted = _expanded(words, everything)
    results = fetch_each(
        (w for w in wanted if isinstance(w, str)), force=force, offline=offline or None, jobs=jobs
    )
    records = []
    with progress_bar() as progress:
        for word in wanted:
            result = next(results) if isinstance(word, str) else word
            records.append(_record(result))
            if as_json or len(wanted) > 1:
                progress(len(records), len(wanted), f"{result.id} {result.state}")
            _complain(result)
    if len(wanted) > 1:
        states = Counter(r["state"] for r in records)
        click.echo(", ".join(f"{n} {state}" for state, n in sorted(states.items())), err=True)
    if as_json:
        print_json(records)
    else:
        for r in records:
            if r["error"] is None:
                click.echo(f"{r['state']}  {r['id']}  {r['table_sha256'] or ''}".rstrip())
    ctx.exit(max((r["error"]["exit_code"] for r in records if r["error"]), default=0))


def _lines(file: TextIO | None) -> list[str]:
    """What stands on the lines of a file, without comments."""
    if file is None:
        return []
    try:
        lines = [line.partition("#")[0].strip() for line in file]
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{file.name} is not UTF-8 text: {error}") from None
    return [line for line in lines if line]


def _expanded(words: list[str], everything: bool) -> list[str | FetchResult]:
    """Each id once, with what became of a glob that fits nothing in its place."""
    from approxhub.errors import UnknownMultiplierError
    from approxhub.registry.catalogue import entries, source_of
    from approxhub.registry.client import FetchResult
    from approxhub.registry.selection import expand

    found: dict[str, str | FetchResult] = {}
    for word in words:
        try:
            found.update((id, id) for id in expand(word))
        except UnknownMultiplierError as error:
            found[word] = FetchResult(word, "failed", error=error)
    if everything:
        found.update((e.id, e.id) for e in entries() if source_of(e.source).cache)
    return list(found.values())


def _record(result: FetchResult) -> dict[str, Any]:
    made = result.multiplier
    return {
        "id": result.id,
        "state": result.state,
        "table_sha256": made.table_sha256 if made else None,
        "notes": list(made.provenance.notes) if made else [],
        "error": error_record(result.error),
    }


def _complain(result: FetchResult) -> None:
    if result.error is not None:
        click.echo(f"error: {result.error}", err=True)
    if result.multiplier is not None:
        for note in result.multiplier.provenance.notes:
            click.echo(f"warning: {result.id}: {note}", err=True)
