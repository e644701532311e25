"""``approxhub sweep``: a model of yours with many multipliers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from approxhub.cli.arguments import id_argument
from approxhub.cli.experiments import experiment_options, finish, run
from approxhub.cli.output import examples


@click.command(
    epilog=examples(
        "sweep experiment:model float exact:8s 'mul8s_*' --path results",
        "sweep experiment:model exact:8s drum:8s/k=4 --plot accuracy.svg",
        "sweep experiment:model drum:8s/k=3 --per-layer --layers 'conv*' --json",
    )
)
@experiment_options
@id_argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option(
    "--path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Keep rows in PATH.json and PATH.csv as they are finished, and go on from there.",
)
@click.option("--per-layer", is_flag=True, help="One layer approximate at a time, others exact.")
@click.option(
    "--layers",
    multiple=True,
    metavar="PATTERN",
    help="With --per-layer, only these layers; may be repeated.",
)
@click.option(
    "--keep-going",
    is_flag=True,
    help="Go on where a multiplier cannot be had or evaluated; exit with the worst code.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw the results into a .png or .svg file: over energy where it is known, as a map of "
    "layers with --per-layer, else as bars; needs matplotlib.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    ids: tuple[str, ...],
    path: Path | None,
    per_layer: bool,
    layers: tuple[str, ...],
    keep_going: bool,
    plot: Path | None,
    evaluator: str | None,
    calibration: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Evaluate a model of yours with many multipliers; goes on where it was stopped.

    MODEL is a function, as package.module:function, that returns a trained torch model; the
    working folder is looked in first. The functions `evaluate` (takes a model; returns a number,
    or a mapping of names to numbers) and `calibration` (returns batches) are looked for beside
    it. It is called once for each multiplier, after one calibration.

    An ID may be a glob on the names or ids that are listed, or `float`, for the model as it is.
    """
    from approxhub.charts import check_target
    from approxhub.registry.selection import expand

    if layers and not per_layer:
        raise click.UsageError("--layers goes with --per-layer")
    if plot is not None:
        check_target(plot)
    wanted = list(dict.fromkeys(id for text in ids for id in expand(text)))
    results = run(
        model, wanted, evaluator, calibration,
        per_layer=(layers or ("*",)) if per_layer else None,
        path=path, skip_failures=keep_going, **options,
    )  # fmt: skip
    if plot is not None and results.rows:
        results.plot(plot)
        click.echo(f"wrote {plot}", err=True)
    finish(ctx, results, as_json)
