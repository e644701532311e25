"""``approxhub compare``: in what two multipliers differ, and where."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from approxhub.cli.arguments import id_argument
from approxhub.cli.output import (
    examples,
    json_option,
    number,
    offline_option,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from approxhub.multiplier import Multiplier
    from approxhub.registry.comparison import Comparison, Difference

_POSITIONS = 10


@click.command(
    epilog=examples(
        "compare mul8s_1KV9 mul8s_1KV8",
        "compare mul8u_12N4 mul8u_12N4+swap",
        "compare drum:8u/k=4 exact:8u",
    )
)
@id_argument("first", metavar="A")
@id_argument("second", metavar="B")
@click.option(
    "--positions",
    type=click.IntRange(min=1),
    default=_POSITIONS,
    show_default=True,
    metavar="N",
    help="Name the first N differing entries.",
)
@offline_option
@json_option
def command(first: str, second: str, positions: int, offline: bool, as_json: bool) -> None:
    """Show in what two multipliers differ, and where.

    A and B need the same operand formats. Their metrics stand side by side; their products are
    compared on all operand pairs, or on a sample where they are too wide for a table. Exits with
    0 whether they differ or not.
    """
    from approxhub.registry import load
    from approxhub.registry.comparison import compare

    a, b = (load(id, offline=offline or None) for id in (first, second))
    found = compare(a, b, positions=positions)
    if as_json:
        print_json(_record(a, b, found))
        return
    rows = [(k, number(v), number(w)) for k, (v, w) in _figures(a, b).items()]
    rows.append(("technology", a.hardware.technology or "-", b.hardware.technology or "-"))
    print_table(("", a.id, b.id), rows)
    click.echo()
    click.echo(f"{a.id} {found.describe().replace('it in', f'{b.id} in')}")
    if found.positions:
        click.echo()
        print_table(
            ("a", "b", a.id, b.id),
            ((str(d.a), str(d.b), str(d.first), str(d.second)) for d in found.positions),
        )


def _figures(a: Multiplier, b: Multiplier) -> dict[str, tuple[float | None, float | None]]:
    """Metrics and costs of both, of all that one of them has."""
    known: list[dict[str, Any]] = [
        {**m.metrics.to_json(), **dataclasses.asdict(m.hardware)} for m in (a, b)
    ]
    for costs in known:
        del costs["technology"]  # no number
    pairs = {k: (v, known[1][k]) for k, v in known[0].items()}
    return {k: pair for k, pair in pairs.items() if pair != (None, None)}


def _record(a: Multiplier, b: Multiplier, found: Comparison) -> dict[str, Any]:
    return {
        "first": _side(a),
        "second": _side(b),
        "equal": found.equal,
        "swapped_equal": found.swapped_equal,
        "exhaustive": found.exhaustive,
        "differing": found.differing,
        "pairs": found.pairs,
        "max_abs": found.max_abs,
        "largest": None if found.largest is None else _difference(found.largest),
        "positions": [_difference(d) for d in found.positions],
        "quadrants": [dataclasses.asdict(q) for q in found.quadrants],
    }


def _side(m: Multiplier) -> dict[str, Any]:
    return {
        "id": m.id,
        "table_sha256": m.table_sha256,
        "metrics": m.metrics.to_json(),
        "metrics_method": m.metrics.method,
        "hardware": dataclasses.asdict(m.hardware),
    }


def _difference(d: Difference) -> dict[str, int]:
    return dataclasses.asdict(d)
