"""``a b result`` triples of values, a line each, every operand pair once.

Separated by blanks, commas or semicolons; a line of column names may stand first. The first
column is the operand that counts the rows. Imports numpy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from approxhub.errors import TableFileError
from approxhub.formats.data import MAX_ENTRIES, Operands, TableData
from approxhub.formats.lines import integers, is_integers, text_lines
from approxhub.formats.text import first_line
from approxhub.plugins.descriptors import TableFormat

__all__ = ["FORMAT"]

_SEPARATORS = bytes.maketrans(b",;\t", b"   ")


def _tokens(line: bytes) -> list[bytes]:
    return line.translate(_SEPARATORS).split()


def _is_header(tokens: list[bytes]) -> bool:
    return len(tokens) == 3 and all(t.strip(b'"').isalpha() for t in tokens)


def _sniff(head: bytes) -> bool:
    tokens = _tokens(first_line(head))
    return len(tokens) == 3 and (is_integers(tokens) or _is_header(tokens))


def _read(path: Path, operands: Operands | None) -> TableData:
    flat: list[int] = []
    lines: list[int] = []
    for number, line in text_lines(path):
        tokens = _tokens(line)
        if not lines and _is_header(tokens):
            continue
        if len(tokens) != 3:
            raise TableFileError(f"line {number}: {len(tokens)} numbers, not 'a b result'")
        if len(lines) == MAX_ENTRIES:
            raise TableFileError(f"line {number}: more than {MAX_ENTRIES:,} triples")
        flat += integers(tokens, number)
        lines.append(number)
    if not lines:
        raise TableFileError("there are no triples in it")
    triples = np.array(flat, dtype=np.int64).reshape(-1, 3)
    rows, x = np.unique(triples[:, 0], return_inverse=True)
    columns, y = np.unique(triples[:, 1], return_inverse=True)
    place = x * columns.size + y
    order = np.argsort(place, kind="stable")
    twice = np.flatnonzero(np.diff(place[order]) == 0)
    if twice.size:
        again, before = order[twice + 1], order[twice]
        first = int(again.argmin())
        a, b, _ = triples[again[first]]
        raise TableFileError(
            f"line {lines[again[first]]}: the pair {a} {b} stands in line {lines[before[first]]} "
            "already"
        )
    if place.size != rows.size * columns.size:
        # All places are different: the first gap is where the sorted ones run ahead.
        gap = int(np.argmax(np.append(place[order], -1) != np.arange(place.size + 1)))
        raise TableFileError(
            f"the pair {rows[gap // columns.size]} {columns[gap % columns.size]} is missing: there "
            f"are {place.size} triples of {rows.size} x {columns.size} pairs"
        )
    entries = triples[order, 2].reshape(rows.size, columns.size)
    return TableData(entries, rows=rows, columns=columns)


def _write(data: TableData, path: Path) -> None:
    entries = data.grid.tolist()
    assert data.rows is not None
    assert data.columns is not None
    columns = data.columns.tolist()
    with path.open("w", encoding="ascii", newline="\n") as file:
        for a, row in zip(data.rows.tolist(), entries, strict=True):
            file.writelines(f"{a} {b} {c}\n" for b, c in zip(columns, row, strict=True))


FORMAT = TableFormat("triples", (".triples", ".txt", ".csv", ".tsv"), _sniff, _read, _write)
