"""``approxhub bench``: how fast the CPU engine is here, against what else one could run."""

from __future__ import annotations

from pathlib import Path

import click

from approxhub.bench.names import SUITES
from approxhub.cli.output import examples, print_json, print_table
from approxhub.cli.progress import progress_bar

_STDOUT = Path("-")


class _Several(click.Command):
    """A command whose repeatable options also take several values at once: ``--threads 1 2``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write ``--option a b`` as ``--option a --option b``."""
        several = {
            name
            for p in self.params
            if isinstance(p, click.Option) and p.multiple
            for name in p.opts
        }
        written: list[str] = []
        option = None
        for word in args:
            if word.startswith("-"):
                option = word if word in several else None
            elif option is not None and written[-1] != option:
                written.append(option)
            written.append(word)
        return super().parse_args(ctx, written)


@click.command(
    cls=_Several,
    epilog=examples(
        "bench gemm",
        "bench tables --multiplier 'mul8s_*' 'mul8u_*' --json results.json",
        "bench conv network --threads 1 2 --rounds 5 --plot charts",
        "bench --quick",
    ),
)
@click.argument("suites", nargs=-1, metavar="[SUITE]...", type=click.Choice(SUITES))
@click.option(
    "--multiplier",
    "-m",
    "multipliers",
    multiple=True,
    metavar="ID...",
    help="Multipliers to time instead of each suite's own, or patterns such as 'mul8s_*'; "
    "fetched where needed.",
)
@click.option(
    "--threads",
    multiple=True,
    default=(1,),
    metavar="N...",
    type=click.IntRange(min=1),
    help="How many threads to use, one number after the other.  [default: 1]",
)
@click.option(
    "--rounds",
    default=7,
    show_default=True,
    type=click.IntRange(min=1),
    help="How often each entrant is timed.",
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="DEVICE",
    help="Where to run: cpu, or a device of a plug-in's backend, such as cuda (suites gemm, conv "
    "and network).",
)
@click.option("--quick", is_flag=True, help="Tiny shapes: that it works, not how fast it is.")
@click.option(
    "--json",
    "target",
    is_flag=False,
    flag_value=str(_STDOUT),
    metavar="[FILE]",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Print JSON, or write it to a file whose name ends in .json.",
)
@click.option(
    "--plot",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Draw charts into a folder, as .svg files; needs matplotlib.",
)
def command(
    suites: tuple[str, ...],
    multipliers: tuple[str, ...],
    threads: tuple[int, ...],
    rounds: int,
    device: str,
    quick: bool,
    target: Path | None,
    plot: Path | None,
) -> None:
    """Time the CPU engine against C loops and torch.

    A SUITE is one of: gemm, tables, conv, scaling, network, train, roofline; all if none is named.
    Everything that is timed is first compared with the reference, integer by integer. Ratios are
    taken within a round, so that a machine whose speed drifts favours nothing.

    On another device, a plug-in's backend is timed in each of its ways against torch there.

    Exits with 1 if anything that was to be timed is wrong, or if there is no CPU engine, or no
    backend for the device.
    """
    if target is not None and target != _STDOUT and target.suffix != ".json":
        raise click.BadParameter(
            f"{str(target)!r} does not end in .json; name the suites before the options",
            param_hint="--json",
        )
    from approxhub.bench import Settings, run
    from approxhub.bench.charts import check_folder, draw_charts
    from approxhub.bench.present import tables_of
    from approxhub.bench.report import check_file

    if target is not None and target != _STDOUT:
        check_file(target)
    if plot is not None:
        check_folder(plot)
    settings = Settings(suites, multipliers, threads, rounds, quick, device)
    with progress_bar() as progress:
        report = run(settings, progress)
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    if target == _STDOUT:
        print_json(report.to_json())
    else:
        for suite in suites or SUITES:
            for table in tables_of(report, suite):
                click.echo(f"\n{suite}: {table.title}")
                print_table(table.header, table.rows)
        if target is not None:
            report.write(target)
            click.echo(f"wrote {target}", err=True)
    if plot is not None:
        for path in draw_charts(report, plot):
            click.echo(f"wrote {path}", err=True)
