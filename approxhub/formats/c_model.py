"""C models: the text of a C function of two integers, read and evaluated without a compiler.

The first argument counts the rows. A function with a name of EvoApproxLib's kind, ``mul8s_...``
or ``mul8x4u_...``, says its operands. Imports the rest when a model is read.
"""

from __future__ import annotations

import re
from pathlib import Path

from approxhub.errors import InputError
from approxhub.formats.data import Operands, TableData
from approxhub.multiplier import MAX_TABLE_BITS
from approxhub.operands import OperandFormat
from approxhub.plugins.descriptors import TableFormat

__all__ = ["FORMAT"]

_FUNCTION = re.compile(rb"(\([^()]*\))\s*\{")
_NAME = re.compile(r"mul([0-9]{1,2})(?:x([0-9]{1,2}))?([us])_\w+")


def _sniff(head: bytes) -> bool:
    return any(b"," in match[1] for match in _FUNCTION.finditer(head))


def _said(function: str) -> Operands | None:
    """Operand formats that a function's name says.

    Examples
    --------
    >>> [str(f) for f in _said("mul8x4u_0AB")]
    ['8u', '4u']
    """
    match = _NAME.fullmatch(function)
    if match is None:
        return None
    a, b, sign = match.groups()
    return OperandFormat(int(a), sign == "s"), OperandFormat(int(b or a), sign == "s")


def _read(path: Path, operands: Operands | None) -> TableData:
    from approxhub.cmodel import LIMITS, CModel

    with path.open("rb") as file:
        source = file.read(LIMITS.source_bytes + 1)
    bit = OperandFormat(1, signed=False)
    function = CModel.parse(source, a=bit, b=bit).function
    said = _said(function)
    sides = operands or said
    if sides is None:
        raise InputError(
            f"C does not say how wide the operands of {function!r} are, and its name does not "
            "either; say it: --operands, in Python operands='...'"
        )
    model = CModel.parse(source, a=sides[0], b=sides[1], function=function)
    has_table = sides[0].bits + sides[1].bits <= MAX_TABLE_BITS
    return TableData(
        model.tabulate() if has_table else None,
        circuit=None if has_table else model,
        operands=said,
        index_order="pattern",
        name=function,
    )


FORMAT = TableFormat("c-model", (".c", ".h"), _sniff, _read)
