"""The options that choose multipliers, and how a selection is printed.

`list` and `search` are two faces of it; `plot` draws what it selects. Imports click, the
selection and what commands print; no torch and no h5py.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from approxhub.cli.arguments import complete_source
from approxhub.cli.output import format_record, json_option, number, print_json, print_table
from approxhub.registry.selection import COLUMNS, Query, Row, Selection, select

__all__ = ["columns_option", "filter_options", "listing_options", "print_listing", "selected"]

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[Any], Any]

_SHOWN = ("mae", "wce", "ep", "power")
_BOUNDED = {"max": "at_most", "min": "at_least"}


def _parse_columns(
    _ctx: click.Context, _param: click.Parameter, text: str | None
) -> tuple[str, ...]:
    names = tuple(n.strip() for n in text.split(",")) if text else ()
    for name in names:
        if name not in COLUMNS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(COLUMNS)}")
    return names


def _parse_width(
    _ctx: click.Context, _param: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,2})(?:x(\d{1,2}))?", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no width; write e.g. 8, or 8x4 (activation first)")
    return int(found[1]), int(found[2] or found[1])


def columns_option(*names: str, **options: Any) -> Decorator:
    """Give a command an option that takes names of columns, separated by commas."""
    return click.option(*names, metavar="COLUMNS", callback=_parse_columns, **options)


def _keyword(end: str, column: str) -> str:
    return f"{end}_{column.replace('-', '_')}"


def _bound_options() -> list[Decorator]:
    found = []
    for column in COLUMNS.values():
        for end, field in _BOUNDED.items():
            word = field.replace("_", " ")
            found.append(
                click.option(
                    f"--{end}-{column.name}",
                    _keyword(end, column.name),
                    type=float,
                    metavar={"%": "PERCENT", "": "N"}.get(column.unit, column.unit),
                    help=f"{column.meaning[0].upper()}{column.meaning[1:]} {word} this.",
                )
            )
    return found


_FILTERS: list[Decorator] = [
    click.option(
        "--source",
        metavar="NAME",
        shell_complete=complete_source,
        help="Only those of this source or family.",
    ),
    click.option("--release", metavar="NAME", help="Only those of this release."),
    click.option("--technology", metavar="NAME", help="Only those with costs in this technology."),
    click.option("--format", "formats", metavar="FORMAT", help="Operands, e.g. 8u, 12s or 8ux4u."),
    click.option(
        "--width",
        metavar="BITS",
        callback=_parse_width,
        help="Bits of the operands, whatever their signs, e.g. 8 or 8x4.",
    ),
    click.option("--signed/--unsigned", default=None, help="Only those with such operands."),
    click.option("--exact/--approximate", default=None, help="Only exact ones, or the others."),
    click.option("--cached", is_flag=True, help="Only those in the cache."),
    *_bound_options(),
    click.option(
        "--computed",
        is_flag=True,
        help="Compute errors that no source prints, of formulas and of what is in the cache.",
    ),
]

_ORDER: list[Decorator] = [
    click.option(
        "--sort",
        type=click.Choice(["id", *COLUMNS]),
        help="Sort by a column, smallest first.",
    ),
    click.option("--reverse", is_flag=True, help="The other way round."),
    click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Only the first N."),
    columns_option(
        "--pareto",
        help="Only those that no other beats in these columns, e.g. power,mae.",
    ),
]


def _query(options: dict[str, Any]) -> Query:
    """Take what the options say out of a command's keywords."""
    from approxhub.multiplier import parse_format_pair

    bounds: dict[str, dict[str, float]] = {field: {} for field in _BOUNDED.values()}
    for end, field in _BOUNDED.items():
        for column in COLUMNS:
            value = options.pop(_keyword(end, column))
            if value is not None:
                bounds[field][column] = value
    formats = options.pop("formats")
    a, b = (None, None) if formats is None else parse_format_pair(formats)
    names = {f.name for f in dataclasses.fields(Query)}
    taken = {n: options.pop(n) for n in list(options) if n in names}
    return Query(a=a, b=b, at_most=bounds["at_most"], at_least=bounds["at_least"], **taken)


def filter_options(function: F) -> F:
    """Give a command the options that filter; it gets them as `query`."""
    return _with_options(function, _FILTERS)


def listing_options(function: F) -> F:
    """Give a command the options that filter, sort and print; it gets `query` and `print_as`."""
    ids = click.option("--ids", "only_ids", is_flag=True, help="Print ids only, one on a line.")
    return _with_options(ids(json_option(function)), [*_FILTERS, *_ORDER])


def _with_options(function: F, options: list[Decorator]) -> F:
    @functools.wraps(function)
    def call(**keywords: Any) -> Any:
        query = _query(keywords)
        return function(query=query, **keywords)

    made: Any = call
    for option in reversed(options):
        made = option(made)
    return made  # type: ignore[no-any-return]


def selected(query: Query) -> Selection:
    """Select, and say on stderr what was left out or does not compare."""
    found = select(query)
    for name, count in found.lacking.items():
        what = "is not known to be exact or not" if name == "exact" else f"has no {name}"
        printed = name in COLUMNS and COLUMNS[name].unit == "%"  # errors, that can be computed
        how = " (see --computed)" if printed and not query.computed else ""
        click.echo(f"left out, as it {what}: {count:,}{how}", err=True)
    if found.mixed:
        click.echo(
            f"warning: costs in different technologies ({', '.join(found.mixed)}) do not compare; "
            "choose one with --technology",
            err=True,
        )
    if not found.rows and query.limit != 0:
        from approxhub.cli.alternatives import alternatives  # which only this needs

        for line in ("no multiplier fits", *alternatives(query)):
            click.echo(line, err=True)
    return found


def print_listing(query: Query, only_ids: bool, as_json: bool) -> None:
    """Print a selection: as JSON, as ids, or as a table with the columns that the query names."""
    if only_ids and as_json:
        raise click.UsageError("give --ids or --json, not both")
    rows = selected(query).rows
    if as_json:
        print_json([_record(r) for r in rows])
    elif only_ids:
        for r in rows:
            click.echo(r.entry.id)
    elif rows:
        _print_rows(query, rows)


def _print_rows(query: Query, rows: tuple[Row, ...]) -> None:
    from approxhub.multiplier import format_pair

    columns = [COLUMNS[n] for n in dict.fromkeys((*_SHOWN, *(c.name for c in query.columns)))]
    titles = [f"{c.name.upper() if c.unit == '%' else c.name} {c.unit}".rstrip() for c in columns]
    print_table(
        ("id", "operands", *titles, "cached"),
        (
            (
                r.entry.id,
                format_pair(r.entry.a, r.entry.b),
                *(number(r.figures[c.name]) for c in columns),
                "yes" if r.cached else "",
            )
            for r in rows
        ),
    )


def _record(row: Row) -> dict[str, Any]:
    entry = row.entry
    return {
        "id": entry.id,
        "table_sha256": entry.table_sha256,
        "a": format_record(entry.a),
        "b": format_record(entry.b),
        "printed": dict(entry.printed),
        "figures": {c.key: row.figures[c.name] for c in COLUMNS.values()},
        "hardware": dataclasses.asdict(entry.hardware),
        "licence": entry.licence,
        "citation": entry.citation,
        "doi": entry.doi,
        "summary": entry.summary,
        "cached": row.cached,
    }
