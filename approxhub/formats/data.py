"""What a file says of a table, before anybody adds what it does not say.

Imports numpy, the multiplier's records and the errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from approxhub.errors import TableFileError
from approxhub.multiplier import MAX_TABLE_BITS, Circuit, Hardware, Provenance
from approxhub.operands import OperandFormat

__all__ = ["INT32", "MAX_ENTRIES", "MAX_FILE_BYTES", "Operands", "TableData", "smallest_dtype"]

MAX_ENTRIES = 1 << MAX_TABLE_BITS
"""Entries that a table may have."""

MAX_FILE_BYTES = 1 << 29
"""Bytes of a file that is read at all: the largest table as `a b result` triples fits."""

INT32 = np.iinfo(np.int32)

Operands = tuple[OperandFormat, OperandFormat]


@dataclass(frozen=True, slots=True, eq=False)
class TableData:
    """What a file says of a table, or what is to be written into one; None where it says nothing.

    Parameters
    ----------
    entries : ndarray of int, shape (rows, columns) or (rows * columns,), optional
        The products in the file's own order, in the file's own integer type. One axis for a file
        that only counts them.
    circuit : Circuit, optional
        Instead of entries, for operands too wide for a table.
    operands : pair of OperandFormat, optional
        Formats of what counts the rows and of what counts the columns.
    rows, columns : ndarray of int64, optional
        The label that each row (column) carries, where the file writes one.
    index_order : {'pattern', 'offset'}, optional
        What stands first on an axis of a signed operand without labels: 0 (two's complement bit
        patterns) or the smallest value.
    operand_order : {'ab', 'ba'}, optional
        Whether the activation counts the rows (``'ab'``) or the columns.
    name : str, optional
        What the file's content calls the table.
    format : str, optional
        Name of the format it was read in; filled in when it has been read.
    hardware, provenance : Hardware, Provenance
        What else it says.
    """

    entries: npt.NDArray[Any] | None = None
    circuit: Circuit | None = None
    operands: Operands | None = None
    rows: npt.NDArray[np.int64] | None = None
    columns: npt.NDArray[np.int64] | None = None
    index_order: str | None = None
    operand_order: str | None = None
    name: str | None = None
    format: str | None = None
    hardware: Hardware = field(default_factory=Hardware)
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def grid(self) -> npt.NDArray[Any]:
        """The entries; refuses a circuit without any.

        Raises
        ------
        TableFileError
            If there are none.
        """
        if self.entries is None:
            raise TableFileError(
                "the operands are too wide for a table, and this format holds nothing else; "
                "use --format h5"
            )
        return self.entries


def smallest_dtype(entries: npt.NDArray[Any], *, signed: bool) -> np.dtype[Any]:
    """Return the smallest little-endian integer type that holds all entries.

    Parameters
    ----------
    entries : ndarray of int
    signed : bool
        Whether it has to be a signed type whatever the entries.

    Examples
    --------
    >>> smallest_dtype(np.array([0, 200]), signed=False).name
    'uint8'
    >>> smallest_dtype(np.array([0, 200]), signed=True).name
    'int16'
    """
    low, high = int(entries.min()), int(entries.max())
    for bits in (8, 16, 32, 64):
        for kind in ("i",) if signed or low < 0 else ("u", "i"):
            dtype = np.dtype(f"<{kind}{bits // 8}")
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return dtype
    raise TableFileError(f"entries from {low} to {high} fit no integer type")
