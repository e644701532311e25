"""Reports for a person: tables, as aligned text or as Markdown. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from approxhub.bench.names import (
    C_LOOP,
    C_LOOP_NATIVE,
    FAKE_QUANTISED,
    FP32,
    INT8,
    ONE_THREAD,
    SCALAR_LOOKUP,
)
from approxhub.bench.report import Report, Row

__all__ = ["Table", "markdown", "tables_of"]

_NONE = "-"


@dataclass(frozen=True, slots=True)
class Table:
    """A table for a person.

    Parameters
    ----------
    title : str
    header : tuple of str
    rows : tuple of tuple of str
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of(report: Report, suite: str) -> list[Table]:
    """Tables of one suite of a report; none if it was not run.

    Examples
    --------
    >>> row = Row("tables", "2 x 2 x 2", "roba:8s", seconds=1e-9, products=8,
    ...           details={"way": "lookup", "threads": 1})
    >>> tables_of(Report({}, {}, {}, (), (row,)), "tables")[0].rows
    (('roba:8s', 'lookup', '-', '8.00', '-', '-', '-', '-'),)
    """
    if report.settings.get("device", "cpu") != "cpu":
        return _card(report.of(suite))
    return _TABLES[suite](report.of(suite))


def markdown(report: Report, suite: str) -> str:
    """Tables of one suite as Markdown, with what they were measured on and how to repeat it."""
    said = report.machine
    lines = [
        f"{said.get('device_name', said['cpu'])}, {said['cores']} core(s), {said['isa']}; "
        f"torch {report.versions['torch']}, gcc {report.versions['gcc']}; "
        f"medians of {report.settings['rounds']} rounds.",
        "Repeat it with:",
        "",
        "```sh",
        report.settings["command"],
        "```",
        "",
    ]
    for table in tables_of(report, suite):
        lines += [f"**{table.title}**", "", _line(table.header)]
        lines += ["|" + "---|" * len(table.header), *(_line(row) for row in table.rows), ""]
    if report.notes:
        lines += [*(f"- {note}" for note in report.notes), ""]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# --- cells ----------------------------------------------------------------------------


def _number(value: float | None) -> str:
    """Three digits, without an exponent."""
    if value is None:
        return _NONE
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return f"{value:.{digits}f}"


def _milliseconds(row: Row) -> str:
    return _number(None if row.seconds is None else 1e3 * row.seconds)


def _giga(row: Row) -> str:
    return _number(None if row.rate is None else row.rate / 1e9)


def _times(row: Row, yardstick: str) -> str:
    return _number(row.against.get(yardstick))


def _detail(row: Row, key: str) -> str:
    value = row.details.get(key)
    return _NONE if value is None else str(value)


def _slower(row: Row, yardstick: str) -> str:
    """Its time over the yardstick's."""
    times = row.against.get(yardstick)
    return _number(1 / times if times else None)


# --- tables -----------------------------------------------------------------------------


def _by(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _kind(rows: Iterable[Row], kind: str) -> list[Row]:
    return [r for r in rows if r.details.get("kind") == kind]


def _pivot(
    title: str, corner: str, rows: Sequence[Row], down: Callable[[Row], str],
    cell: Callable[[Row], str],
) -> Table:  # fmt: skip
    """A line for each value of `down`, and a column for each name."""
    names = list(dict.fromkeys(r.name for r in rows))
    lines = []
    for value, group in _by(rows, down).items():
        cells = {r.name: cell(r) for r in group}
        lines.append((value, *(cells.get(n, _NONE) for n in names)))
    return Table(title, (corner, *names), tuple(lines))


def _products(rows: Sequence[Row]) -> list[Table]:
    header = (
        "", "way", "int8 products", "G products/s", "x C loop -O2", "x C loop -O3 native",
        "x torch fp32", "x torch int8",
    )  # fmt: skip
    return [
        Table(
            case,
            header,
            tuple(
                (
                    r.name, _detail(r, "way"), _detail(r, "int8_products"), _giga(r),
                    *(_times(r, y) for y in (C_LOOP, C_LOOP_NATIVE, FP32, INT8)),
                )
                for r in group
            ),
        )
        for case, group in _by(rows, lambda r: r.case).items()
    ]  # fmt: skip


def _card(rows: Sequence[Row]) -> list[Table]:
    """A race on a card: rates where products are counted, and times over the yardsticks."""
    found = []
    for case, group in _by(rows, lambda r: r.case).items():
        yardsticks = list(dict.fromkeys(y for r in group for y in r.against))
        header = ("", "ms", "G products/s", *(f"x {y}" for y in yardsticks))
        lines = tuple(
            (r.name, _milliseconds(r), _giga(r), *(_times(r, y) for y in yardsticks)) for r in group
        )
        found.append(Table(case, header, lines))
    return found


def _conv(rows: Sequence[Row]) -> list[Table]:
    header = ("convolution", "", "ms", "G products/s", "x scalar lookup", "x torch fp32")
    return [
        Table(
            f"threads: {threads}",
            header,
            tuple(
                (
                    r.case.rpartition(",")[0], r.name, _milliseconds(r), _giga(r),
                    _times(r, SCALAR_LOOKUP), _times(r, FP32),
                )
                for r in group
            ),
        )
        for threads, group in _by(rows, lambda r: _detail(r, "threads")).items()
    ]  # fmt: skip


def _scaling(rows: Sequence[Row]) -> list[Table]:
    found = []
    for case, group in _by(rows, lambda r: r.case).items():
        sweep = _detail(group[0], "sweep")
        if sweep == "threads":
            times = [r for r in group if r.details["value"] != 1]
            lines = tuple(
                (r.name, _detail(r, "value"), _milliseconds(r), _times(r, ONE_THREAD))
                for r in times
            )
            found.append(Table(case, ("", "threads", "ms", "x one thread"), lines))
        else:
            title = f"G products/s against {case}"
            found.append(_pivot(title, sweep, group, lambda r: _detail(r, "value"), _giga))
    return found


def _network(rows: Sequence[Row]) -> list[Table]:
    found = []
    whole = _kind(rows, "network")
    for threads, group in _by(whole, lambda r: _detail(r, "threads")).items():
        lines = tuple(
            (
                f"{_detail(r, 'network')}, {r.details['image']} x {r.details['image']}",
                _detail(r, "batch"), r.name, _milliseconds(r), _slower(r, FP32),
            )
            for r in group
        )  # fmt: skip
        header = ("network", "batch", "", "ms a batch", "time over torch fp32's")
        found.append(Table(f"networks, threads: {threads}", header, lines))
    for threads, group in _by(_kind(rows, "layer"), lambda r: _detail(r, "threads")).items():
        title = f"layers of {_detail(group[0], 'network')}, batch 1, ms, threads: {threads}"
        layers = _pivot(title, "layer", group, lambda r: _detail(r, "layer"), _milliseconds)
        found.append(layers)
    memory = tuple(
        (
            r.case.removeprefix("peak memory, "), r.name,
            _number(float(r.details["bytes"] or 0) / 1e6), _detail(r, "over_fp32"),
        )
        for r in _kind(rows, "memory")
    )  # fmt: skip
    if memory:
        taken = ("layer", "", "MB", "over torch fp32's")
        found.append(Table("peak memory of a layer", taken, memory))
    return found


def _train(rows: Sequence[Row]) -> list[Table]:
    raced = [*_kind(rows, "step"), *_kind(rows, "quantiser")]
    header = ("", "ms", "time over torch fake-quantise's")
    found = [
        Table(
            case,
            header,
            tuple((r.name, _milliseconds(r), _slower(r, FAKE_QUANTISED)) for r in group),
        )
        for case, group in _by(raced, lambda r: r.case).items()
    ]
    for case, group in _by(_kind(rows, "memory"), lambda r: r.case).items():
        lines = tuple(
            (
                r.name,
                _number(float(r.details["bytes"] or 0) / 1e6),
                _detail(r, "over_fake_quantised"),
            )
            for r in group
        )
        found.append(Table(case, ("", "MB", "over torch fake-quantise's"), lines))
    return found


def _roofline(rows: Sequence[Row]) -> list[Table]:
    machine = tuple(
        (r.name, _per_second(r), f"G {_detail(r, 'unit')}/s") for r in _kind(rows, "machine")
    )
    found = [Table("what the machine does, threads: 1", ("", "rate", "unit"), machine)]
    kernels = [r for r in rows if r.details.get("kind") in ("peak", "kernel")]
    for case, group in _by(kernels, lambda r: r.case).items():
        rates = tuple(
            (
                r.name, _detail(r, "way"), _detail(r, "kernel"), _per_second(r),
                _percent(r.details.get("of_peak")),
            )
            for r in group
        )  # fmt: skip
        header = ("", "way", "bound by", "G of these a second", "of the peak")
        found.append(Table(case, header, rates))
    for case, group in _by(_kind(rows, "part"), lambda r: r.case).items():
        found.append(
            _pivot(
                f"{case}, ms", "part", group, lambda r: _detail(r, "part"),
                lambda r: f"{_milliseconds(r)} ({_percent(r.details['share'])})",
            )
        )  # fmt: skip
    return found


def _per_second(row: Row) -> str:
    rate = row.details["per_second"]
    return _number(None if rate is None else float(rate) / 1e9)


def _percent(share: object) -> str:
    return f"{100 * share:.0f} %" if isinstance(share, float) else _NONE


_TABLES: dict[str, Callable[[Sequence[Row]], list[Table]]] = {
    "gemm": _products,
    "tables": _products,
    "conv": _conv,
    "scaling": _scaling,
    "network": _network,
    "train": _train,
    "roofline": lambda rows: _roofline(rows) if rows else [],
}
