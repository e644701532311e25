"""Whitespace-separated text, a row of the table a line: what numpy's ``savetxt`` writes.

A file of one number a line is taken as a list, row by row. Imports numpy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from approxhub.errors import TableFileError
from approxhub.formats.data import MAX_ENTRIES, Operands, TableData
from approxhub.formats.lines import integers, is_integers, text_lines
from approxhub.plugins.descriptors import TableFormat

__all__ = ["FORMAT", "first_line"]


def first_line(head: bytes) -> bytes:
    """The first line of a file that is not empty and no comment, as far as it is there."""
    for line in head.removeprefix(b"\xef\xbb\xbf").splitlines():
        line = line.strip()
        if line and not line.startswith(b"#"):
            return line
    return b""


def _sniff(head: bytes) -> bool:
    tokens = first_line(head).split()
    if b"\n" not in head:
        tokens = tokens[:-1] or tokens  # the last number may be cut
    return is_integers(tokens) and len(tokens) != 3  # those are triples


def _read(path: Path, operands: Operands | None) -> TableData:
    rows: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    width = 0
    for number, line in text_lines(path):
        row = integers(line.split(), number)
        width = width or len(row)
        if len(row) != width:
            raise TableFileError(f"line {number}: {len(row)} numbers, not {width} as above")
        if (len(rows) + 1) * width > MAX_ENTRIES:
            raise TableFileError(f"line {number}: more than {MAX_ENTRIES:,} entries")
        rows.append(np.array(row, dtype=np.int64))
    if not rows:
        raise TableFileError("there are no numbers in it")
    entries = np.array(rows)
    return TableData(entries[:, 0] if width == 1 else entries)


def _write(data: TableData, path: Path) -> None:
    with path.open("w", encoding="ascii", newline="\n") as file:
        for row in data.grid.tolist():
            file.write(" ".join(map(str, row)) + "\n")


FORMAT = TableFormat("text", (".txt",), _sniff, _read, _write)
