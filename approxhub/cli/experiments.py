"""What `evaluate` and `sweep` share: the experiment, given as functions of a module.

Imports click; torch only when something is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from approxhub.cli.output import json_option, print_json, print_table, worst_code
from approxhub.cli.progress import progress_bar

if TYPE_CHECKING:
    from approxhub.experiments import Results

__all__ = ["experiment_options", "finish", "run"]

F = TypeVar("F", bound=Callable[..., Any])


def experiment_options(function: F) -> F:
    """Give a command MODEL and the options that say how it is evaluated."""
    made: Any = json_option(function)
    for option in (
        click.option(
            "--seed",
            default=0,
            show_default=True,
            type=click.IntRange(0, 2**32 - 1),
            help="What torch, numpy and random are seeded with before each evaluation.",
        ),
        click.option(
            "--reestimate-batch-norm",
            is_flag=True,
            help="Take the statistics of batch normalisation anew through the multiplier.",
        ),
        click.option(
            "--compensate",
            is_flag=True,
            help="Fold the multiplier's mean error into the biases, per channel.",
        ),
        click.option(
            "--mapping", metavar="NAME", help="The operand mapping, e.g. affine; else the default."
        ),
        click.option(
            "--calibration",
            metavar="TARGET",
            help="Function that returns the batches to calibrate with.  "
            "[default: calibration, in MODEL's module]",
        ),
        click.option(
            "--evaluate",
            "evaluator",
            metavar="TARGET",
            help="Function that takes a model and returns a number, or a mapping of names to "
            "numbers.  [default: evaluate, in MODEL's module]",
        ),
        click.argument("model"),
    ):
        made = option(made)
    return made  # type: ignore[no-any-return]


def run(
    model: str,
    multipliers: Sequence[Any],
    evaluator: str | None,
    calibration: str | None,
    *,
    per_layer: Sequence[str] | None = None,
    **options: Any,
) -> Results:
    """Find the functions of an experiment, and run it; progress goes to stderr.

    What a typing error can spoil is looked at before the model is asked for.
    """
    from approxhub.experiments import sensitivity, sweep, targets

    module, _ = targets.split(model)
    calibration = calibration or f"{module}:calibration"
    evaluate = targets.find(evaluator or f"{module}:evaluate")
    for target in (model, calibration):
        targets.find(target)
    _check(multipliers, **options)
    try:
        net, batches = map(_called, (model, calibration))
        with progress_bar() as progress:
            if per_layer is None:
                return sweep(net, multipliers, evaluate, batches, progress=progress, **options)
            return sensitivity(
                net, multipliers, evaluate, batches, layers=per_layer, progress=progress, **options
            )
    except KeyboardInterrupt:
        _say_what_is_kept(options.get("path"))
        raise


def _check(
    multipliers: Sequence[Any],
    *,
    path: Path | None = None,
    mapping: str | None = None,
    compensate: bool = False,
    skip_failures: bool = False,
    **_: Any,
) -> None:
    """Load the multipliers and open the file of results, as the sweep will."""
    from approxhub.experiments.ledger import Ledger, stem
    from approxhub.experiments.trials import choose
    from approxhub.quantization import OperandMapping

    found = None if mapping is None else OperandMapping.parse(mapping)
    choose(multipliers, found, compensate=compensate, skip_failures=skip_failures)
    with Ledger.opened(None if path is None else stem(path)):
        pass


def _called(target: str) -> Any:
    from approxhub.experiments import targets

    click.echo(f"calling {target}", err=True)
    return targets.call(target)


def _say_what_is_kept(path: Path | None) -> None:
    """After Ctrl-C: how many rows there are, and where."""
    from approxhub.experiments.ledger import read_file, stem

    if path is None:
        return
    file = stem(path)
    found = read_file(file)
    count = 0 if found is None else len(found[1])
    rows = "1 row is" if count == 1 else f"{count} rows are"
    click.echo(f"\n{rows} kept in {file}.json; the same command goes on from there", err=True)


def finish(ctx: click.Context, results: Results, as_json: bool) -> None:
    """Print results, say what failed, and leave with the worst code."""
    for name, cause in results.failed:
        click.echo(f"warning: left out {name}: {cause}", err=True)
    if as_json:
        print_json(results.to_json())
    elif results.rows:
        head, *rows = results.table()
        print_table(head, rows)
    ctx.exit(worst_code(cause for _, cause in results.failed))
