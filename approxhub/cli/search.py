"""``approxhub search``: what says something. As ``list``, by words instead of globs."""

from __future__ import annotations

import click

from approxhub.cli.output import examples
from approxhub.cli.selecting import listing_options, print_listing
from approxhub.registry.selection import Query


@click.command(
    epilog=examples(
        "search mahdiani",
        "search neural networks --max-power 0.2 --sort mae",
    )
)
@click.argument("words", nargs=-1, required=True, metavar="WORD...")
@listing_options
def command(query: Query, only_ids: bool, as_json: bool) -> None:
    """Search the multipliers that have a name, for words.

    Every WORD must occur in id, summary, citation, DOI, licence or technology; case does not
    matter. All options are those of `approxhub list`, and nothing found is no error here either.
    """
    print_listing(query, only_ids, as_json)
