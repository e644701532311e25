"""NumPy's ``.npy`` (one array) and ``.npz`` (a zip of arrays), never with pickled objects.

Headers are checked before anything is made of their word. Our ``.npz`` says everything that a
table needs: arrays ``table``, ``operands`` (activation first), ``index_order`` and
``operand_order``. Imports numpy.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from approxhub.errors import ApproxHubError, TableFileError
from approxhub.formats.assembly import INDEX_ORDERS, OPERAND_ORDERS, file_side
from approxhub.formats.data import MAX_ENTRIES, Operands, TableData, smallest_dtype
from approxhub.multiplier import format_pair, parse_format_pair
from approxhub.plugins.descriptors import TableFormat

__all__ = ["FORMAT", "ZIP_FORMAT"]

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_MAX_HEADER = 1 << 16
_MAX_MEMBERS = 16
_MAX_TEXT = 64
_TABLE = "table"
# What zipfile raises of an archive that is damaged, encrypted, or of names that are no text.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    UnicodeDecodeError,
)
_SAID = ("operands", "index_order", "operand_order")


def _array(stream: IO[bytes], size: int, where: str = "") -> npt.NDArray[Any]:
    """One ``.npy`` of integers (or one short text), of `size` bytes."""
    head = io.BytesIO(stream.read(min(size, _MAX_HEADER)))
    try:
        version = np.lib.format.read_magic(head)
        if version not in _HEADERS:
            raise TableFileError(f"{where}version {version} of .npy; save it again as 1.0")
        shape, by_column, dtype = _HEADERS[version](head)
    except ApproxHubError:
        raise
    except Exception as error:  # numpy evaluates the header as a literal: many ways to fail
        raise TableFileError(f"{where}no sound .npy header: {str(error)[:200]}") from None
    text = dtype.kind == "U" and shape == () and dtype.itemsize <= 4 * _MAX_TEXT
    if not text and (dtype.kind not in "iu" or dtype.names is not None):
        raise TableFileError(
            f"{where}its entries are of type {dtype}, not integers; round and convert them first, "
            "if they are whole numbers"
        )
    count = 1
    for n in shape:
        if not isinstance(n, int) or n < 1 or count > MAX_ENTRIES:
            raise TableFileError(f"{where}an array of shape {str(shape)[:80]} is no table")
        count *= n
    if len(shape) > 2 or count > MAX_ENTRIES:
        raise TableFileError(f"{where}an array of shape {str(shape)[:80]} is no table")
    start = head.tell()
    if size - start != count * dtype.itemsize:
        raise TableFileError(
            f"{where}{size - start:,} bytes of entries, and its header promises "
            f"{count * dtype.itemsize:,}; is it cut off?"
        )
    body = head.read() + stream.read(size)
    if len(body) != count * dtype.itemsize:
        raise TableFileError(f"{where}it is shorter than it says; is it cut off?")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if by_column else "C")


def _read(path: Path, operands: Operands | None) -> TableData:
    with path.open("rb") as file:
        return TableData(_array(file, path.stat().st_size))


def _write(data: TableData, path: Path) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array(file, _smallest(data), version=(1, 0), allow_pickle=False)


def _smallest(data: TableData) -> npt.NDArray[Any]:
    assert data.operands is not None
    signed = data.operands[0].signed or data.operands[1].signed
    return data.grid.astype(smallest_dtype(data.grid, signed=signed))


def _read_zip(path: Path, operands: Operands | None) -> TableData:
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = _members(archive)
    except _BROKEN as error:
        raise TableFileError(f"it is no sound .npz: {error}") from None
    said = {name: str(arrays.pop(name)) for name in _SAID if name in arrays}
    for name, known in (("index_order", INDEX_ORDERS), ("operand_order", OPERAND_ORDERS)):
        if name in said and said[name] not in known:
            raise TableFileError(f"array {name!r}: {said[name]!r} is none of {', '.join(known)}")
    order = said.get("operand_order")
    both = parse_format_pair(said["operands"]) if "operands" in said else None
    return TableData(
        _table(arrays),
        operands=file_side(both, order or "ab"),
        index_order=said.get("index_order"),
        operand_order=order,
    )


def _members(archive: zipfile.ZipFile) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an archive, whose members say truly how large they are."""
    infos = archive.infolist()
    if len(infos) > _MAX_MEMBERS:
        raise TableFileError(f"it holds {len(infos):,} arrays; at most {_MAX_MEMBERS} are read")
    total = sum(info.file_size for info in infos)
    if total > 8 * MAX_ENTRIES + _MAX_MEMBERS * _MAX_HEADER:
        raise TableFileError(f"it unpacks to {total:,} bytes, more than the largest table has")
    arrays: dict[str, npt.NDArray[Any]] = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name in arrays or name == info.filename:
            raise TableFileError(f"{info.filename[:80]!r} is no array, or stands twice")
        with archive.open(info) as member:  # stops at the size that the archive says
            arrays[name] = _array(member, info.file_size, f"array {name[:80]!r}: ")
    return arrays


def _table(arrays: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    if _TABLE in arrays:
        return arrays[_TABLE]
    tables = {name: array for name, array in arrays.items() if array.dtype.kind in "iu"}
    if len(tables) != 1:
        names = ", ".join(repr(n[:40]) for n in tables) or "none"
        raise TableFileError(
            f"it holds several arrays or none ({names}); call the one that is meant {_TABLE!r}, or "
            "save it alone"
        )
    return next(iter(tables.values()))


def _write_zip(data: TableData, path: Path) -> None:
    both = file_side(data.operands, data.operand_order or "ab")
    assert both is not None
    arrays = {
        _TABLE: _smallest(data),
        "operands": np.array(format_pair(*both)),
        "index_order": np.array(data.index_order),
        "operand_order": np.array(data.operand_order),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            # A fixed date: the same table gives the same bytes.
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w") as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


FORMAT = TableFormat("npy", (".npy",), lambda head: head.startswith(b"\x93NUMPY"), _read, _write)
ZIP_FORMAT = TableFormat(
    "npz", (".npz",), lambda head: head.startswith(b"PK\x03\x04"), _read_zip, _write_zip
)
