r"""Comma-separated values: the table alone, or with the operands' values in a first row and column.

The corner between them may say the operand order: ``a\b`` or ``b\a``, what counts rows first.
Semicolons and tabulators separate too; numbers may stand in quotes. Imports numpy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from approxhub.errors import TableFileError
from approxhub.formats.data import MAX_ENTRIES, Operands, TableData
from approxhub.formats.lines import integers, text_lines
from approxhub.formats.text import first_line
from approxhub.plugins.descriptors import TableFormat

__all__ = ["FORMAT"]

_SEPARATORS = (b",", b";", b"\t")
_CORNERS = {b"a\\b": "ab", b"b\\a": "ba"}


def _separator(line: bytes) -> bytes:
    return next((s for s in _SEPARATORS if s in line), b",")


def _cells(line: bytes, separator: bytes) -> list[bytes]:
    return [c.strip().strip(b'"') for c in line.split(separator)]


def _is_number(cell: bytes) -> bool:
    return cell.lstrip(b"+-").isdigit()


def _sniff(head: bytes) -> bool:
    line = first_line(head)
    separator = _separator(line)
    if separator not in line:
        return False
    cells = _cells(line, separator)
    body = cells[1:] if b"\n" in head else cells[1:-1]  # the last one may be cut
    if len(cells) == 3:  # triples, unless it can be the first row over operands of one bit
        return sorted(body) in ([b"0", b"1"], [b"-1", b"0"])
    return bool(body) and all(map(_is_number, body))


def _read(path: Path, operands: Operands | None) -> TableData:
    rows: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    separator, corner, width = b"", None, 0
    for number, line in text_lines(path):
        separator = separator or _separator(line)
        cells = _cells(line, separator)
        if not rows and not _is_number(cells[0]):  # the corner of a first row and column
            corner, cells = cells[0], [b"0", *cells[1:]]
        row = integers(cells, number)
        width = width or len(row)
        if len(row) != width:
            raise TableFileError(f"line {number}: {len(row)} numbers, and {width} in the first row")
        if (len(rows) + 1) * width > 2 * MAX_ENTRIES:
            raise TableFileError(f"line {number}: more than {MAX_ENTRIES:,} entries")
        rows.append(np.array(row, dtype=np.int64))
    if not rows:
        raise TableFileError("there are no numbers in it")
    grid = np.array(rows)
    odd = [n > 2 and n % 2 == 1 for n in grid.shape]
    if corner is None and odd == [False, False]:
        return TableData(grid)
    if odd != [True, True]:
        raise TableFileError(
            f"it has {grid.shape[0]} x {grid.shape[1]} numbers: give the operands' values in a "
            "first row and a first column, or in neither"
        )
    return TableData(
        grid[1:, 1:],
        rows=grid[1:, 0],
        columns=grid[0, 1:],
        operand_order=None if corner is None else _CORNERS.get(corner),
    )


def _write(data: TableData, path: Path) -> None:
    entries = data.grid.tolist()
    assert data.rows is not None
    assert data.columns is not None
    corner = next(c.decode() for c, order in _CORNERS.items() if order == data.operand_order)
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.write(",".join([corner, *map(str, data.columns.tolist())]) + "\n")
        for a, row in zip(data.rows.tolist(), entries, strict=True):
            file.write(",".join(map(str, [a, *row])) + "\n")


FORMAT = TableFormat("csv", (".csv", ".tsv"), _sniff, _read, _write)
