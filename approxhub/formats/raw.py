"""Raw little-endian integers, row by row, without any header: what TFApprox reads.

Two bytes an entry (131,072 for 256 x 256), or four. Entries are signed if an operand is.
Imports numpy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from approxhub.errors import InputError, TableFileError
from approxhub.formats.data import MAX_ENTRIES, Operands, TableData
from approxhub.plugins.descriptors import TableFormat

__all__ = ["FORMAT"]

_SIZES = (2, 4)
_TEXT = bytes(range(32, 127)) + b"\t\r\n"
_MAGIC = (b"\x93NUMPY", b"PK\x03\x04", b"\x89HDF", b"APPROXHUB-")


def _sniff(head: bytes) -> bool:
    return bool(head.translate(None, _TEXT)) and not head.startswith(_MAGIC)


def _dtype(size: int, operands: Operands) -> str:
    return f"<{'i' if operands[0].signed or operands[1].signed else 'u'}{size}"


def _read(path: Path, operands: Operands | None) -> TableData:
    length = path.stat().st_size
    if operands is None:
        hint = "; 131,072 bytes may be 8u or 8s" if length == 131_072 else ""
        raise InputError(
            "a raw file says nothing but its numbers; say the operands: --operands, in Python "
            f"operands='...'{hint}"
        )
    count = operands[0].size * operands[1].size
    if count > MAX_ENTRIES:
        raise TableFileError(f"a table has at most {MAX_ENTRIES:,} entries, not {count:,}")
    if length not in [count * size for size in _SIZES]:
        raise TableFileError(
            f"it has {length:,} bytes; {count:,} entries of operands {operands[0]} by "
            f"{operands[1]} take {2 * count:,} or {4 * count:,}"
        )
    entries = np.fromfile(path, dtype=_dtype(length // count, operands), count=count)
    return TableData(entries)


def _write(data: TableData, path: Path) -> None:
    assert data.operands is not None
    entries = data.grid
    for size in _SIZES:
        dtype = np.dtype(_dtype(size, data.operands))
        limits = np.iinfo(dtype)
        if limits.min <= entries.min() and entries.max() <= limits.max:
            path.write_bytes(entries.astype(dtype).tobytes())
            return
    raise TableFileError(
        "unsigned operands with a negative product: a raw file could not say so; use another format"
    )


FORMAT = TableFormat("raw", (".bin", ".raw"), _sniff, _read, _write)
