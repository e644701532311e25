"""``approxhub list``: what has a name. Reads indexes only; imports no torch and no h5py."""

from __future__ import annotations

import dataclasses
import fnmatch

import click

from approxhub.cli.output import format_record, json_option, number, print_json, print_table


@click.command()
@click.argument("pattern", required=False)
@click.option("--source", metavar="NAME", help="Only those of this source.")
@click.option("--release", metavar="NAME", help="Only those of this release.")
@click.option("--format", "formats", metavar="FORMAT", help="Operands, e.g. 8u, 12s or 8ux4u.")
@click.option("--signed/--unsigned", default=None, help="Only those with operands of this kind.")
@click.option("--cached", is_flag=True, help="Only those in the cache.")
@json_option
def command(
    pattern: str | None,
    source: str | None,
    release: str | None,
    formats: str | None,
    signed: bool | None,
    cached: bool,
    as_json: bool,
) -> None:
    """List the multipliers that have a name.

    PATTERN is a glob on the name, or on the id if it has a colon, e.g. 'mul8s_*'. Families list
    examples; they have members for every width and parameter.
    """
    from approxhub.multiplier import format_pair, parse_format_pair
    from approxhub.registry import entries
    from approxhub.registry.catalogue import source_of
    from approxhub.registry.store import Store

    pair = None if formats is None else parse_format_pair(formats)
    if source is not None:
        source_of(source)  # refuses one that nobody brought
    here = set(Store().ids())
    found = [
        e
        for e in entries()
        if source in (None, e.source)
        and release in (None, e.release)
        and pair in (None, (e.a, e.b))
        and (signed is None or e.a.signed == e.b.signed == signed)
        and (not cached or e.id in here)
        and (
            pattern is None
            or fnmatch.fnmatchcase(e.id, pattern)
            or fnmatch.fnmatchcase(e.name, pattern)
        )
    ]
    if not found:
        click.echo("no multiplier fits", err=True)
    if as_json:
        print_json(
            [
                {
                    "id": e.id,
                    "table_sha256": e.table_sha256,
                    "a": format_record(e.a),
                    "b": format_record(e.b),
                    "printed": dict(e.printed),
                    "hardware": dataclasses.asdict(e.hardware),
                    "licence": e.licence,
                    "summary": e.summary,
                    "cached": e.id in here,
                }
                for e in found
            ]
        )
        return
    if not found:
        return
    print_table(
        ("id", "operands", "MAE %", "WCE %", "EP %", "power mW", "cached"),
        (
            (
                e.id,
                format_pair(e.a, e.b),
                e.printed.get("mae_pct", "-"),
                e.printed.get("wce_pct", "-"),
                e.printed.get("ep_pct", "-"),
                number(e.hardware.power_mw),
                "yes" if e.id in here else "",
            )
            for e in found
        ),
    )
