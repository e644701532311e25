"""``approxhub cite``: whom to cite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from approxhub.cli.arguments import id_argument
from approxhub.cli.output import examples, json_option, print_json

if TYPE_CHECKING:
    from approxhub.registry.citation import Work

_NAMED = 8


@click.command(
    epilog=examples("cite mul8u_12N4 drum:8u/k=4 > multipliers.bib", "cite mul8s_1KV9 --style text")
)
@id_argument("ids", nargs=-1, metavar="[ID]...")
@click.option(
    "--style",
    type=click.Choice(["bibtex", "text"]),
    default="bibtex",
    show_default=True,
    help="How to print.",
)
@json_option
def command(ids: tuple[str, ...], style: str, as_json: bool) -> None:
    """Print whom to cite for multipliers, and for ApproxHub.

    An ID may be a glob on the names or ids that are listed. Papers come once each, with the
    multipliers they stand behind. Nothing is downloaded.
    """
    from approxhub.registry.citation import bibtex, software, works_of
    from approxhub.registry.selection import expand

    works, unknown = works_of(name for id in ids for name in expand(id))
    for id in unknown:
        click.echo(f"no paper is known for {id}", err=True)
    everything = [*works, software()]
    if as_json:
        print_json({"works": [_record(w) for w in everything], "unknown": unknown})
    elif style == "bibtex":
        for work in everything:
            if work.ids:
                click.echo(f"% {_multipliers(work)}")
            click.echo(bibtex(work))
    else:
        for work in everything:
            click.echo(_line(work))
            if work.ids:
                click.echo(f"  for {_multipliers(work)}")


def _multipliers(work: Work) -> str:
    """The multipliers that a work stands behind, the first few by name."""
    more = len(work.ids) - _NAMED
    return ", ".join(work.ids[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _line(work: Work) -> str:
    if work.doi is None or work.doi.casefold() in work.text.casefold():
        return work.text
    return f"{work.text}. doi: {work.doi}"


def _record(work: Work) -> dict[str, Any]:
    from approxhub.registry.citation import bibtex

    return {
        "key": work.key,
        "text": work.text,
        "doi": work.doi,
        "ids": list(work.ids),
        "bibtex": bibtex(work),
    }
