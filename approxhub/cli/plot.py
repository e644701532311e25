"""``approxhub plot``: error maps, error histograms and Pareto fronts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from approxhub.cli.arguments import id_argument
from approxhub.cli.output import examples, json_option, offline_option, print_json
from approxhub.cli.selecting import columns_option, filter_options, selected
from approxhub.registry.selection import COLUMNS, Column, Query, expand, select

_AXES = ("power", "mae")


@click.command(
    epilog=examples(
        "plot mul8u_12N4 -o map.png",
        "plot mul8s_1KV9 drum:8s/k=4 --kind histogram -o errors.svg",
        "plot --kind pareto --format 8u --technology PDK45 -o front.svg",
    )
)
@id_argument("patterns", nargs=-1, metavar="[ID]...")
@click.option(
    "--kind",
    type=click.Choice(["error-map", "histogram", "pareto"]),
    default="error-map",
    show_default=True,
    help="What to draw.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="Where to draw it: a .png or .svg file.",
)
@columns_option("--axes", help="For pareto: the two figures to draw.  [default: power,mae]")
@offline_option
@json_option
@filter_options
def command(
    query: Query, kind: str, output: Path, axes: tuple[str, ...], offline: bool, as_json: bool
) -> None:
    """Draw error maps, error histograms and Pareto fronts.

    An ID may be a glob on the names or ids that are listed. Error maps and histograms are of
    multipliers, fetched where needed. A Pareto front is of a selection: its IDs and filters are
    those of `approxhub list`, and its figures those that the sources print.

    Needs matplotlib: pip install 'approxhub[demo]'.
    """
    from approxhub.charts import check_target

    check_target(output)
    if kind == "pareto":
        ids = _pareto(query, axes or _AXES, output)
    elif axes or query != Query(patterns=query.patterns):
        raise click.UsageError(f"filters and --axes are for --kind pareto, not for {kind}")
    else:
        ids = _errors(query.patterns, kind, output, offline)
    if as_json:
        print_json({"file": str(output), "kind": kind, "ids": ids})
    else:
        click.echo(output)


def _errors(patterns: tuple[str, ...], kind: str, output: Path, offline: bool) -> list[str]:
    """Draw what multipliers do; returns their ids."""
    from approxhub.charts import MAX_MAPS, MAX_SERIES, draw_error_maps, draw_histogram
    from approxhub.registry import load

    ids = list(dict.fromkeys(id for p in patterns for id in expand(p)))
    draw, most = {
        "error-map": (draw_error_maps, MAX_MAPS),
        "histogram": (draw_histogram, MAX_SERIES),
    }[kind]
    if not 1 <= len(ids) <= most:  # before any of them is fetched
        raise click.UsageError(f"name 1 to {most} multipliers for a {kind}, not {len(ids)}")
    multipliers = [load(id, offline=offline or None) for id in ids]
    draw(multipliers, output)
    return [m.id for m in multipliers]


def _pareto(query: Query, names: tuple[str, ...], output: Path) -> list[str]:
    """Draw a selection; returns the ids of its Pareto front."""
    from approxhub.charts import Point, draw_pareto
    from approxhub.errors import NotFoundError

    if len(names) != 2 or names[0] == names[1]:
        raise click.BadParameter("name two different columns, e.g. power,mae", param_hint="--axes")
    best = selected(dataclasses.replace(query, pareto=names)).rows
    if not best:
        raise NotFoundError("there is nothing to draw: no multiplier fits")
    front = {r.entry.id for r in best}
    points = [
        Point(r.entry.name, x, y, r.entry.id in front)
        for r in select(query).rows
        if (x := r.figures[names[0]]) is not None and (y := r.figures[names[1]]) is not None
    ]
    x_label, y_label = (_label(COLUMNS[n]) for n in names)
    draw_pareto(points, x_label, y_label, output)
    return [r.entry.id for r in best]


def _label(column: Column) -> str:
    return f"{column.meaning}, {column.unit}" if column.unit else column.meaning
