"""Charts: error maps, error histograms, Pareto fronts, heat maps of tables, and bars.

Imports numpy and the multiplier; matplotlib, an extra, when something is drawn. Equal input gives
equal bytes (of one version of matplotlib).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from approxhub.errors import ChartError, InputError
from approxhub.files import replacing
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "MAX_MAPS",
    "MAX_SERIES",
    "SUFFIXES",
    "ErrorMap",
    "Point",
    "check_target",
    "draw_bars",
    "draw_error_maps",
    "draw_heatmap",
    "draw_histogram",
    "draw_pareto",
    "error_map",
    "errors_of",
    "new_figure",
]

SUFFIXES = (".png", ".svg")
"""Kinds of file that charts are written as."""

MAX_MAPS = 9
"""Error maps that fit one chart."""

MAX_SERIES = 8
"""Histograms that can be told apart in one chart."""

_CELLS = 256
_SAMPLES = 1 << 20
_BINS = 101
_LABELS = 40
_ORDERS = 1000
_DPI = 150


class ErrorMap(NamedTuple):
    """Mean error over cells of neighbouring operand values.

    Parameters
    ----------
    mean : ndarray of float64, shape (cells of a, cells of b)
        In ascending order of values, `a` first.
    exhaustive : bool
        Whether every pair of a cell was evaluated, or one in its middle.
    """

    mean: npt.NDArray[np.float64]
    exhaustive: bool


class Point(NamedTuple):
    """One multiplier in a Pareto chart.

    Parameters
    ----------
    name : str
    x, y : float
    best : bool
        Whether no other dominates it.
    """

    name: str
    x: float
    y: float
    best: bool


# --- numbers --------------------------------------------------------------------------


def error_map(m: Multiplier) -> ErrorMap:
    """Average the error ``m(a, b) - a * b`` over at most 256 x 256 cells.

    Parameters
    ----------
    m : Multiplier

    Returns
    -------
    ErrorMap

    Examples
    --------
    >>> from approxhub.multiplier import exact
    >>> error_map(exact(8)).mean.any(), error_map(exact(12)).mean.shape
    (np.False_, (256, 256))
    """
    a, b = _ascending(m.a), _ascending(m.b)
    if not m.has_table:
        a, b = _middles(a), _middles(b)
    rows = [
        _cells(m.evaluate(x[:, None], b[None, :]) - x[:, None] * b[None, :])
        for x in np.array_split(a, min(len(a), _CELLS))  # a row of cells at a time
    ]
    return ErrorMap(np.vstack(rows), m.has_table)


def _ascending(f: OperandFormat) -> npt.NDArray[np.int64]:
    return np.arange(f.min, f.max + 1, dtype=np.int64)


def _middles(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """One value out of the middle of each cell."""
    step = max(1, len(values) // _CELLS)
    return values[step // 2 :: step]


def _cells(errors: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Means over one row of cells, shape (1, cells)."""
    width = max(1, errors.shape[1] // _CELLS)
    cells = errors.reshape(-1, errors.shape[1] // width, width)
    return np.asarray(cells.mean(axis=(0, 2))[None], dtype=np.float64)


def errors_of(m: Multiplier, seed: int = 0) -> npt.NDArray[np.int64]:
    """Errors ``m(a, b) - a * b``: of all operand pairs, or of a seeded sample without a table.

    Parameters
    ----------
    m : Multiplier
    seed : int
        Seed of the sample.

    Returns
    -------
    ndarray of int64, shape (pairs,)

    Examples
    --------
    >>> from approxhub.multiplier import exact
    >>> errors_of(exact(4)).shape, errors_of(exact(16)).shape
    ((256,), (1048576,))
    """
    if m.has_table:
        a, b = m.a.values()[:, None], m.b.values()[None, :]
        return (m.table - a * b).ravel()
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(f.min, f.max, _SAMPLES, endpoint=True) for f in (m.a, m.b))
    return m.evaluate(a, b) - a * b


# --- drawing --------------------------------------------------------------------------


def draw_error_maps(multipliers: Sequence[Multiplier], path: Path) -> None:
    """Draw where in the operands' ranges multipliers err, and which way: a panel for each.

    Parameters
    ----------
    multipliers : sequence of Multiplier
        1 to 9.
    path : Path
        A ``.png`` or ``.svg`` file; replaced if it is there.

    Raises
    ------
    InputError
        If there are none or too many, or the suffix is another.
    ChartError
        If matplotlib is missing, or the file cannot be written.
    """
    _check_count(multipliers, MAX_MAPS, "error map")
    columns = min(3, len(multipliers))
    rows = -(-len(multipliers) // columns)
    with new_figure(path, (4.6 * columns, 4.0 * rows)) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(multipliers) :]:
            axes.set_visible(False)
        for axes, m in zip(panels, multipliers, strict=False):
            _draw_map(figure, axes, m)


def _draw_map(figure: Figure, axes: Axes, m: Multiplier) -> None:
    found = error_map(m)
    limit = float(np.abs(found.mean).max()) or 1.0
    image = axes.imshow(
        found.mean,
        origin="lower",
        extent=(m.b.min - 0.5, m.b.max + 0.5, m.a.min - 0.5, m.a.max + 0.5),
        aspect="auto",
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        interpolation="nearest",
    )
    axes.set_title(m.id, fontsize=9)
    axes.set_xlabel("b (weight)")
    axes.set_ylabel("a (activation)")
    averaged = m.has_table and max(m.a.size, m.b.size) > _CELLS
    how = ", averaged over cells" if averaged else "" if m.has_table else ", sampled"
    figure.colorbar(image, ax=axes, label=f"error{how}")


def draw_histogram(multipliers: Sequence[Multiplier], path: Path) -> None:
    """Draw how often multipliers err by how much.

    Parameters
    ----------
    multipliers : sequence of Multiplier
        1 to 8; if several, their errors share an axis.
    path : Path
        A ``.png`` or ``.svg`` file; replaced if it is there.

    Raises
    ------
    InputError
        If there are none or too many, or the suffix is another.
    ChartError
        If matplotlib is missing, or the file cannot be written.
    """
    _check_count(multipliers, MAX_SERIES, "histogram")
    errors = [errors_of(m) for m in multipliers]
    limit = max(int(np.abs(e).max()) for e in errors) + 0.5
    # An odd number of bins as wide as a whole number of errors: one is centred at no error.
    width = max(1, round(2 * limit / _BINS))
    bins = int(np.ceil((limit - width / 2) / width))
    edges = (np.arange(-bins, bins + 2) - 0.5) * width
    with new_figure(path, (8.0, 4.5)) as figure:
        axes = figure.subplots()
        for m, e in zip(multipliers, errors, strict=True):
            share = 100.0 * np.histogram(e, edges)[0] / e.size
            how = "" if m.has_table else f" (sample of {e.size:,})"
            axes.stairs(share, edges, label=f"{m.id}{how}", fill=len(errors) == 1)
        axes.set_yscale("log")
        axes.set_xlabel("error, product - exact product")
        axes.set_ylabel(
            f"operand pairs, % (in bins of {width:,})" if width > 1 else "operand pairs, %"
        )
        axes.legend(fontsize=8)


def draw_pareto(
    points: Sequence[Point],
    x: str,
    y: str,
    path: Path,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draw multipliers by two figures, and the front that none of them dominates.

    Parameters
    ----------
    points : sequence of Point
    x, y : str
        Labels of the axes.
    path : Path
        A ``.png`` or ``.svg`` file; replaced if it is there.
    levels : mapping of str to float, optional
        Heights to compare with: a line across for each.

    Raises
    ------
    InputError
        If there are no points, or the suffix is another.
    ChartError
        If matplotlib is missing, or the file cannot be written.
    """
    if not points:
        raise InputError("there is nothing to draw a Pareto front of")
    front = sorted((p for p in points if p.best), key=lambda p: (p.x, p.y))
    with new_figure(path, (8.0, 5.5)) as figure:
        axes = figure.subplots()
        rest = [p for p in points if not p.best]
        axes.scatter(
            [p.x for p in rest], [p.y for p in rest], s=12, color="#999999", label="others"
        )
        axes.plot(
            [p.x for p in front],
            [p.y for p in front],
            marker="o",
            markersize=4,
            drawstyle="steps-post",
            color="#4477aa",
            label="Pareto front",
        )
        # One label for each place: equal points have one, with how many they are.
        places: dict[tuple[float, float], list[str]] = {}
        for p in front:
            places.setdefault((p.x, p.y), []).append(p.name)
        for (px, py), names in list(places.items())[:_LABELS]:
            more = f" (+{len(names) - 1})" if len(names) > 1 else ""
            axes.annotate(
                names[0] + more, (px, py), xytext=(4, 4), textcoords="offset points", fontsize=6
            )
        for name, height in (levels or {}).items():
            axes.axhline(height, color="#666666", linestyle="--", linewidth=0.8, label=name)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_xscale(**_scale([p.x for p in points]))
        axes.set_yscale(**_scale([p.y for p in points]))
        axes.legend(fontsize=8)


def draw_heatmap(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    label: str,
    path: Path,
) -> None:
    """Draw a table of numbers by colour, with the numbers where they fit.

    Parameters
    ----------
    rows, columns : sequence of str
    values : sequence of sequence of float
        One list for each row; NaN where there is none.
    label : str
        What the numbers are.
    path : Path
        A ``.png`` or ``.svg`` file; replaced if it is there.

    Raises
    ------
    InputError
        If there are none, or the suffix is another.
    ChartError
        If matplotlib is missing, or the file cannot be written.
    """
    if not rows or not columns:
        raise InputError("there is nothing to draw a heat map of")
    size = (2.5 + 0.7 * len(columns), 1.8 + 0.32 * len(rows))
    with new_figure(path, size) as figure:
        axes = figure.subplots()
        image = axes.imshow(values, aspect="auto", cmap="viridis", interpolation="nearest")
        axes.set_xticks(range(len(columns)), columns, fontsize=7, rotation=45, ha="right")
        axes.set_yticks(range(len(rows)), rows, fontsize=7)
        middle = (np.nanmin(values) + np.nanmax(values)) / 2
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                if not np.isnan(value):
                    colour = "black" if value > middle else "white"
                    axes.text(
                        x, y, f"{value:.3g}", ha="center", va="center", fontsize=6, color=colour
                    )
        figure.colorbar(image, ax=axes, label=label)


def draw_bars(names: Sequence[str], values: Sequence[float], label: str, path: Path) -> None:
    """Draw a bar for each number, from zero.

    Parameters
    ----------
    names : sequence of str
    values : sequence of float
    label : str
        What the numbers are.
    path : Path
        A ``.png`` or ``.svg`` file; replaced if it is there.

    Raises
    ------
    InputError
        If there are none, or the suffix is another.
    ChartError
        If matplotlib is missing, or the file cannot be written.
    """
    if not names:
        raise InputError("there is nothing to draw bars of")
    with new_figure(path, (8.0, 1.0 + 0.36 * len(names))) as figure:
        axes = figure.subplots()
        bars = axes.barh(range(len(names)), values, height=0.7, color="#4477aa")
        axes.bar_label(bars, [f"{v:.4g}" for v in values], padding=2, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel(label)


def _scale(values: Sequence[float]) -> dict[str, Any]:
    """Linear, or logarithmic down to zero where values are of several orders."""
    positive = [v for v in values if v > 0]
    if not positive or max(positive) < _ORDERS * min(positive):
        return {"value": "linear"}
    return {"value": "symlog", "linthresh": min(positive)}


def _check_count(multipliers: Sequence[Multiplier], most: int, noun: str) -> None:
    if not 1 <= len(multipliers) <= most:
        raise InputError(f"a chart takes 1 to {most} {noun}s, got {len(multipliers)}")


def check_target(path: Path) -> None:
    """Refuse a file that no chart can be written to, before anything is computed.

    Raises
    ------
    InputError
        If its suffix is neither ``.png`` nor ``.svg``.
    ChartError
        If matplotlib is missing.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path}: charts are written as {' or '.join(SUFFIXES)}; give the file such a name"
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ChartError(
            f"charts need matplotlib ({error}); install it with: pip install 'approxhub[demo]'"
        ) from error


@contextlib.contextmanager
def new_figure(path: Path, inches: tuple[float, float]) -> Iterator[Figure]:
    """Give a figure to draw on, and then write it whole or not at all."""
    check_target(path)
    import matplotlib
    from matplotlib.figure import Figure

    kind = path.suffix.lower().removeprefix(".")
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    # Neither the user's own style nor random ids: equal charts are equal bytes.
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "svg.hashsalt": "approxhub"}):
        figure = Figure(figsize=inches, layout="constrained")
        yield figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
    _write(path, buffer.getvalue())


def _write(path: Path, data: bytes) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise ChartError(f"{path} cannot be written: {error.strerror or error}") from error
