"""From what a file says, and what the caller adds, to `T[a, b]` by bit patterns; and back.

What neither says is an error wherever it matters: an operand's sign is never guessed from the
entries. Imports numpy and the multiplier.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from approxhub.errors import InputError, TableFileError
from approxhub.formats.data import INT32, MAX_ENTRIES, Operands, TableData
from approxhub.multiplier import MAX_TABLE_BITS, Circuit, Multiplier, format_pair
from approxhub.operands import MAX_BITS, OperandFormat

__all__ = ["INDEX_ORDERS", "OPERAND_ORDERS", "assemble", "check_orders", "disassemble", "file_side"]

INDEX_ORDERS = ("pattern", "offset")
OPERAND_ORDERS = ("ab", "ba")

Ints = npt.NDArray[np.int64]
_AXES = ("row", "column")


def check_orders(index_order: str | None, operand_order: str | None) -> None:
    """Refuse an order that there is not.

    Raises
    ------
    InputError
        If one is neither None nor one of its two names.
    """
    for what, value, known in (
        ("index_order", index_order, INDEX_ORDERS),
        ("operand_order", operand_order, OPERAND_ORDERS),
    ):
        if value is not None and value not in known:
            raise InputError(f"{what} must be {known[0]!r} or {known[1]!r}, got {value!r}")


def file_side(operands: Operands | None, operand_order: str) -> Operands | None:
    """Formats of activation and weight as formats of rows and columns, or the other way round."""
    return operands if operands is None or operand_order == "ab" else operands[::-1]


def assemble(
    data: TableData,
    *,
    operands: Operands | None,
    index_order: str | None,
    operand_order: str | None,
) -> tuple[Operands, npt.NDArray[np.int64] | None, Circuit | None]:
    """Apply what the caller says to what a file says.

    Parameters
    ----------
    data : TableData
        What the file says.
    operands : pair of OperandFormat, optional
        Formats of the activation and the weight.
    index_order, operand_order : str, optional
        As in :class:`~approxhub.formats.TableData`; activation first when nobody says.

    Returns
    -------
    operands : pair of OperandFormat
    table : ndarray of int64, shape (2**a.bits, 2**b.bits), or None
    circuit : Circuit or None
        Where there is no table.

    Raises
    ------
    InputError
        If something is missing that nothing in the file says.
    TableFileError
        If the file says otherwise, or its entries do not make a table.
    """
    check_orders(index_order, operand_order)
    order = _agreed("the operand order", data.operand_order, operand_order) or "ab"
    index = _agreed("the index order", data.index_order, index_order)
    sides = _operands(data, file_side(operands, order))
    both = file_side(sides, order)
    assert both is not None
    if data.circuit is not None:
        if order == "ba":
            raise InputError(
                "a circuit too wide for a table takes the activation first; import it so, and add "
                "+swap to its id where you use it"
            )
        return both, None, data.circuit
    entries = _shaped(data.grid, sides)
    by_value = any(labels is not None and labels.min() < 0 for labels in (data.rows, data.columns))
    places = [
        _places(axis, fmt, labels, index, by_value)
        for axis, fmt, labels in zip(_AXES, sides, (data.rows, data.columns), strict=True)
    ]
    _check_entries(entries, sides)
    if any((p != np.arange(p.size)).any() for p in places):
        entries = entries[np.ix_(*places)]
    return both, entries.T if order == "ba" else entries, None


def disassemble(multiplier: Multiplier, *, index_order: str, operand_order: str) -> TableData:
    """Lay a multiplier out as a file is to hold it; everything is known in the result.

    Raises
    ------
    InputError
        If an order is not one.
    """
    check_orders(index_order, operand_order)
    sides = file_side((multiplier.a, multiplier.b), operand_order)
    assert sides is not None
    said = TableData(
        operands=sides,
        index_order=index_order,
        operand_order=operand_order,
        name=multiplier.id.rpartition("/")[2].rpartition(":")[2],
        hardware=multiplier.hardware,
        provenance=multiplier.provenance,
    )
    if not multiplier.has_table:
        return replace(said, circuit=multiplier.circuit)
    table = multiplier.table.T if operand_order == "ba" else multiplier.table
    values = [np.sort(f.values()) if index_order == "offset" else f.values() for f in sides]
    patterns = [f.to_pattern(v) for f, v in zip(sides, values, strict=True)]
    return replace(said, entries=table[np.ix_(*patterns)], rows=values[0], columns=values[1])


def _agreed(what: str, said: str | None, given: str | None) -> str | None:
    if said is not None and given is not None and said != given:
        raise TableFileError(f"the file says {said!r} of {what}, and you say {given!r}; leave it")
    return said or given


def _operands(data: TableData, given: Operands | None) -> Operands:
    """Formats of rows and columns."""
    said = data.operands or _labelled(data)
    if said is not None and given is not None and said != given:
        raise TableFileError(
            f"the file says {said[0]} of what counts its rows and {said[1]} of its columns, and "
            f"you say {given[0]} and {given[1]}"
        )
    found = said or given
    if found is None:
        hint = ""
        shape = () if data.entries is None else data.entries.shape
        if len(shape) == 2 and all(map(_power_of_two, shape)):
            # Unsigned first: no order is needed then.
            sizes = [n.bit_length() - 1 for n in shape]
            texts = (format_pair(*(OperandFormat(n, s) for n in sizes)) for s in (False, True))
            hint = f", e.g. {' or '.join(texts)} (activation first)"
        raise InputError(
            f"the file does not say whether its operands are signed; say it{hint}: "
            "--operands, in Python operands='...'"
        )
    return found


def _labelled(data: TableData) -> Operands | None:
    """Formats that the labels of both axes give away: only negative labels tell a sign."""
    if data.rows is None or data.columns is None:
        return None
    if data.rows.min() >= 0 and data.columns.min() >= 0:
        return None
    sizes = (data.rows.size, data.columns.size)
    if not all(map(_power_of_two, sizes)):
        raise TableFileError(_wrong_shape(sizes))
    bits = [n.bit_length() - 1 for n in sizes]
    signs = (bool(data.rows.min() < 0), bool(data.columns.min() < 0))
    return OperandFormat(bits[0], signs[0]), OperandFormat(bits[1], signs[1])


def _power_of_two(n: int) -> bool:
    return 2 <= n <= 1 << MAX_BITS and not n & (n - 1)


def _wrong_shape(shape: tuple[int, ...]) -> str:
    return (
        f"a table has 2**bits rows and columns, e.g. 256 x 256; this one has "
        f"{' x '.join(map(str, shape))}"
    )


def _shaped(entries: npt.NDArray[Any], sides: Operands) -> npt.NDArray[Any]:
    wanted = (sides[0].size, sides[1].size)
    if sum(f.bits for f in sides) > MAX_TABLE_BITS or entries.size > MAX_ENTRIES:
        raise TableFileError(
            f"a table has at most 2**{MAX_TABLE_BITS} entries; give a C model of a wider circuit"
        )
    if entries.ndim == 1 and entries.size == wanted[0] * wanted[1]:
        return entries.reshape(wanted)
    if entries.ndim == 2 and not all(map(_power_of_two, entries.shape)):
        raise TableFileError(_wrong_shape(entries.shape))
    if entries.shape != wanted:
        raise TableFileError(
            f"it has {' x '.join(map(str, entries.shape))} entries, and operands of {sides[0]} by "
            f"{sides[1]} need {wanted[0]} x {wanted[1]}"
        )
    return entries


def _places(
    axis: str, fmt: OperandFormat, labels: Ints | None, index: str | None, by_value: bool
) -> Ints:
    """Where on an axis of the file each bit pattern of its operand stands."""
    if labels is None or not by_value:
        if not fmt.signed:
            wanted = fmt.values()
        elif index is None:
            raise InputError(
                f"the file does not say in which order its {axis}s stand, and {fmt} is signed: say "
                "'pattern' (0 first, then to the negative ones) or 'offset' (the smallest value "
                "first): --index-order, in Python index_order='...'"
            )
        else:
            wanted = np.arange(fmt.size) if index == "pattern" else fmt.values() - fmt.min
    else:
        wanted = fmt.values()
    if labels is None:
        return wanted
    order = np.argsort(labels, kind="stable")
    ascending = np.sort(wanted)
    same = labels[order] == ascending if labels.size == ascending.size else np.zeros(1, bool)
    if not same.all():
        raise TableFileError(
            f"its {axis}s are labelled {labels.min()} to {labels.max()}, {labels.size} of them; "
            f"{fmt} needs each of {ascending[0]} to {ascending[-1]} once"
        )
    places: Ints = order[wanted - ascending[0]]
    return places


def _check_entries(entries: npt.NDArray[Any], sides: Operands) -> None:
    """Refuse entries that are no products of 32 bits, or patterns rather than products."""
    low, high = int(entries.min()), int(entries.max())
    if low < INT32.min or high > INT32.max:
        bad = low if low < INT32.min else high
        raise TableFileError(f"{_place(entries, bad)}: products have at most 32 bits")
    bits = sides[0].bits + sides[1].bits
    half = 1 << (bits - 1)
    signed = sides[0].signed or sides[1].signed
    if signed and entries.dtype.kind == "u" and entries.dtype.itemsize * 8 == bits and high >= half:
        raise TableFileError(
            f"{_place(entries, high)}: the products of signed operands stand in an unsigned type "
            f"of {bits} bits, so this may be the bit pattern of {high - 2 * half}; save them in a "
            "signed type"
        )


def _place(entries: npt.NDArray[Any], value: int) -> str:
    row, column = np.argwhere(entries == value)[0]
    return f"row {row}, column {column} (counted from 0): entry {value}"
