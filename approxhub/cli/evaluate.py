"""``approxhub evaluate``: a model of yours with one multiplier."""

from __future__ import annotations

from typing import Any

import click

from approxhub.cli.arguments import complete_known
from approxhub.cli.experiments import experiment_options, finish, run
from approxhub.cli.output import examples


@click.command(
    epilog=examples(
        "evaluate experiment:model drum:8s/k=4",
        "evaluate experiment:model mul8u_12N4 --mapping signmag-weights --json",
        "evaluate experiment:model --layer 'conv*=drum:8s/k=3' --layer 'fc=exact:8s'",
    )
)
@experiment_options
@click.argument("multiplier", required=False, metavar="[ID]", shell_complete=complete_known)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="PATTERN=ID",
    help="A multiplier for the layers that a pattern fits, in place of ID; may be repeated. "
    "Layers that none fits multiply exactly.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    multiplier: str | None,
    layers: tuple[str, ...],
    evaluator: str | None,
    calibration: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Evaluate a model of yours with a multiplier.

    MODEL is a function, as package.module:function, that returns a trained torch model; the
    working folder is looked in first. The functions `evaluate` (takes a model; returns a number,
    or a mapping of names to numbers) and `calibration` (returns batches) are looked for beside
    it. ID may be `float`, for the model as it is.
    """
    if (multiplier is None) == (not layers):
        raise click.UsageError("give an ID or --layer, and not both")
    chosen: Any = multiplier if multiplier is not None else dict(map(_assignment, layers))
    finish(
        ctx,
        run(model, [chosen], evaluator, calibration, **options),
        as_json,
    )


def _assignment(text: str) -> tuple[str, str]:
    pattern, equals, id = text.partition("=")
    if not (pattern and equals and id):
        raise click.BadParameter(f"{text!r} is not of the form PATTERN=ID", param_hint="--layer")
    return pattern, id
