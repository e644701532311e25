"""``approxhub list``: what has a name. Reads indexes only; imports no torch and no h5py."""

from __future__ import annotations

import click

from approxhub.cli.arguments import id_argument
from approxhub.cli.output import examples
from approxhub.cli.selecting import listing_options, print_listing
from approxhub.registry.selection import Query


@click.command(
    epilog=examples(
        "list 'mul8s_*' --sort power",
        "list --format 8u --technology PDK45 --max-mae 0.5 --pareto power,mae",
        "list --format 8s --ids | approxhub fetch --from -",
    )
)
@id_argument("patterns", nargs=-1, metavar="[PATTERN]...")
@listing_options
def command(query: Query, only_ids: bool, as_json: bool) -> None:
    """List the multipliers that have a name.

    A PATTERN is a glob on the name or the id, e.g. 'mul8s_*'; of several, one must fit. Families
    list examples; they have members for every width and parameter.

    Figures are those that the sources print, mean and worst-case error in percent of 2^(bits of
    both operands). Multipliers that lack one are left out of a bound on it, and how many they
    are is said.

    That nothing fits is no error: the exit code is 0, and stderr says what would fit.
    """
    print_listing(query, only_ids, as_json)
