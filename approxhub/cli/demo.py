"""``approxhub demo``: what approximate multipliers do to a small network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from approxhub.cli.output import json_option, print_json, print_table, worst_code
from approxhub.cli.progress import progress_bar

if TYPE_CHECKING:
    from approxhub.demo import DemoResult


@click.command()
@click.option(
    "--multiplier",
    "-m",
    "first",
    multiple=True,
    metavar="ID...",
    help="Multipliers to try instead of the built-in seven; fetched where needed.",
)
@click.argument("more", nargs=-1, metavar="")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**31 - 1),
    help="Seed of the network.",
)
@click.option(
    "--seeds",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Train this many networks; the table shows mean and 95 % interval.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="approxhub-demo",
    show_default=True,
    help="Folder for the chart (demo.png) and the rows (demo.json).",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    first: tuple[str, ...],
    more: tuple[str, ...],
    seed: int,
    seeds: int,
    out: Path,
    as_json: bool,
) -> None:
    """Show what approximate multipliers do to a small network, and what training wins back.

    Trains a convolutional network on scikit-learn's handwritten digits, evaluates it with exact
    and approximate multipliers, and retrains it with the two that lose most. Uses the network
    only for multipliers named with --multiplier that are not in the cache yet.
    """
    from approxhub.demo import draw_chart, run_demo
    from approxhub.errors import DemoError

    if more and not first:
        raise click.UsageError(f"unexpected argument {more[0]!r}; name it with --multiplier")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(
            f"the folder {out} cannot be made: {error}; choose one with --out"
        ) from None
    with progress_bar() as progress:
        result = run_demo([*first, *more] or None, seed=seed, seeds=seeds, progress=progress)
    for name, cause in result.failed:
        click.echo(f"warning: left out {name}: {cause}", err=True)
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)
    text = json.dumps(result.to_json(), indent=2, allow_nan=False)
    try:
        (out / "demo.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DemoError(f"{out / 'demo.json'} could not be written: {error}") from error
    draw_chart(result, out / "demo.png")
    click.echo(f"wrote {out / 'demo.png'} and {out / 'demo.json'}", err=True)
    ctx.exit(worst_code(cause for _, cause in result.failed))


def _print(result: DemoResult) -> None:
    rows = []
    for r in result.rows:
        accuracy = f"{100 * r.accuracy:.1f} %"
        if r.interval is not None:
            accuracy += f" [{100 * r.interval[0]:.1f}, {100 * r.interval[1]:.1f}]"
        rows.append(
            (
                r.stage,
                r.multiplier or "-",
                r.mapping or "-",
                accuracy,
                f"{r.correct}/{r.total}",
                "-" if r.loss is None else f"{r.loss:+.1f}".replace("+0.0", "0.0"),
                "-" if r.relative_energy is None else f"{r.relative_energy:.2f}",
            )
        )
    print_table(
        ("stage", "multiplier", "mapping", "accuracy", "correct", "points lost", "energy"), rows
    )
    click.echo(
        f"\n{result.operations:,} multiplications a digit. Points lost are against exact\n"
        "arithmetic of the same width, sign and mapping, trained for as long; energy likewise."
    )
    if any(r.relative_energy is None for r in result.rows if r.stage == "approximate"):
        click.echo(
            "Energy is '-' where no power is published for a circuit, as for formulas; try\n"
            "  approxhub demo --multiplier mul8s_1KV9 mul8s_1L12 mul8u_17KS"
        )
