"""Charts of a report: how cost grows, and what tables, convolutions and networks reach.

Imports matplotlib, an extra, when something is drawn. Equal reports give equal bytes (of one
version of matplotlib).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from approxhub.bench.names import C_LOOP, FP32, INT8, SCALAR_LOOKUP
from approxhub.bench.report import Report, Row
from approxhub.charts import check_target, new_figure
from approxhub.errors import BenchmarkError

__all__ = ["check_folder", "draw_charts"]

_BAR = 0.22  # inches of height for each bar
_PANELS = 2  # beside each other
_YARDSTICKS: dict[str, dict[str, Any]] = {
    FP32: {"color": "#666666", "linestyle": "--"},
    INT8: {"color": "#aaaaaa", "linestyle": ":"},
}


def check_folder(folder: Path) -> None:
    """Make a folder for charts, before anything is timed.

    Raises
    ------
    BenchmarkError
        If it cannot be made.
    ChartError
        If matplotlib is missing.
    """
    check_target(folder / "chart.svg")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchmarkError(f"the folder {folder} cannot be made: {error}") from error


def draw_charts(report: Report, folder: Path) -> list[Path]:
    """Draw what there is to draw of a report.

    Parameters
    ----------
    report : Report
    folder : Path
        Where it is; files in it are replaced.

    Returns
    -------
    list of Path
        The files written: one for each suite that has a chart.

    Raises
    ------
    ChartError
        If matplotlib is missing, or a file cannot be written.
    """
    written = []
    for suite, draw in _CHARTS.items():
        rows = report.of(suite)
        if rows:
            written.append(folder / f"{suite}.svg")
            draw(rows, written[-1])
    return written


def _scaling(rows: Sequence[Row], path: Path) -> None:
    """A panel for each sweep: products a second over the value."""
    cases = list(dict.fromkeys(r.case for r in rows if r.details["sweep"] != "threads"))
    lines = -(-len(cases) // _PANELS)
    with new_figure(path, (5.5 * _PANELS, 3.6 * lines)) as figure:
        panels = figure.subplots(lines, _PANELS, squeeze=False).ravel()
        for axes in panels[len(cases) :]:
            axes.set_visible(False)
        for axes, case in zip(panels, cases, strict=False):
            here = [r for r in rows if r.case == case]
            for name in dict.fromkeys(r.name for r in here):
                points = [(r.details["value"], (r.rate or 0) / 1e9) for r in here if r.name == name]
                style = _YARDSTICKS.get(name, {})
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, **style)
            sweep = str(here[0].details["sweep"])
            if not sweep.startswith("rank"):  # which begins at 0
                axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_title(case, fontsize=9)
            axes.set_xlabel(sweep)
            axes.set_ylabel("G products/s")
            axes.legend(fontsize=7)


def _bars(yardstick: str, label: str) -> Callable[[Sequence[Row], Path], None]:
    """A chart of how many times as fast as a yardstick each multiplier is; layers left out."""

    def draw(rows: Sequence[Row], path: Path) -> None:
        shown = [
            r
            for r in rows
            if yardstick in r.against
            and "multiplier" in r.details
            and r.details.get("kind") != "layer"
        ]
        one_case = len({r.case for r in shown}) == 1
        names = [r.name if one_case else f"{r.name}: {r.case}" for r in shown]
        with new_figure(path, (8.0, 1.0 + _BAR * max(1, len(shown)))) as figure:
            axes = figure.subplots()
            # From the yardstick on, to the left if slower: a bar's end is what counts.
            widths = [r.against[yardstick] - 1 for r in shown]
            axes.barh(range(len(shown)), widths, left=1.0, color="#4477aa")
            axes.set_yticks(range(len(shown)), names, fontsize=6)
            axes.invert_yaxis()
            axes.set_xscale("log")
            axes.axvline(1.0, color="#999999", linewidth=0.8)
            axes.set_xlabel(label)

    return draw


_CHARTS: dict[str, Callable[[Sequence[Row], Path], None]] = {
    "tables": _bars(C_LOOP, "times as fast as the C loop, gcc -O2"),
    "conv": _bars(SCALAR_LOOKUP, "times as fast as the portable lookup"),
    "scaling": _scaling,
    "network": _bars(FP32, "times as fast as torch fp32"),
}
