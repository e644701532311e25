"""Broken array of carry-save cells: cells are left out, adders, carries and all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from approxhub.families.base import Family, FamilyCircuit, IntArray, Parameter, operand_formats
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["FAMILY", "BrokenCarrySaveCircuit", "broken_carry_save"]


@dataclass(frozen=True)
class BrokenCarrySaveCircuit(FamilyCircuit):
    """What a carry-save array gives whose cells above row `h` and right of column `v` are gone."""

    family: ClassVar[str] = "bamcsa"

    a: OperandFormat
    b: OperandFormat
    h: int
    v: int

    def evaluate(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of broadcastable int64 arrays of values, int64."""
        # No carry out of a cell that is left ends in one that is gone (columns and rows only
        # grow), so the array adds up the bits of its cells: at most 2**(bits_a + bits_b + 1).
        every_b = (1 << self.b.bits) - 1
        sign_b = 1 << (self.b.bits - 1) if self.b.signed else 0
        code_b = b & every_b
        total = np.full(np.broadcast_shapes(a.shape, b.shape), self._constants(), dtype=np.int64)
        for i in range(self.h, self.a.bits):
            sign_row = self.a.signed and i == self.a.bits - 1
            inverted = sign_b ^ (every_b if sign_row else 0)
            left = every_b >> max(self.v - i, 0) << max(self.v - i, 0)
            total += (((-((a >> i) & 1) & code_b) ^ inverted) & left) << i
        width = self.a.bits + self.b.bits
        total &= (1 << width) - 1
        if self.a.signed or self.b.signed:
            total -= (total >> (width - 1)) << width
        return total

    def _constants(self) -> int:
        """Ones that Baugh and Wooley add, without those in broken columns."""
        columns = [f.bits - 1 for f in (self.a, self.b) if f.signed]
        if columns:
            columns.append(self.a.bits + self.b.bits - 1)
        return sum(1 << c for c in columns if c >= self.v)


FAMILY = Family(
    name="bamcsa",
    title="broken array of carry-save cells, Baugh-Wooley where signed",
    circuit=BrokenCarrySaveCircuit,
    parameters=(
        Parameter(
            "h",
            "horizontal break level, rows of cells omitted, one for each low bit of the activation",
            lambda a, *_: (0, a.bits - 1),
        ),
        Parameter(
            "v",
            "vertical break level, low columns of cells omitted",
            lambda a, b, _: (0, a.bits + b.bits - 2),
        ),
    ),
    examples=("8u/h=0,v=6", "8s/h=0,v=4", "8u/h=2,v=6", "8s/h=0,v=9", "16s/h=0,v=12"),
    citation=(
        "H. R. Mahdiani, A. Ahmadi, S. M. Fakhraie, C. Lucas: Bio-Inspired Imprecise "
        "Computational Blocks for Efficient VLSI Implementation of Soft-Computing Applications. "
        "IEEE Transactions on Circuits and Systems I: Regular Papers 57(4), 850-862, 2010"
    ),
    doi="10.1109/TCSI.2009.2027626",
)


def broken_carry_save(
    bits: int = 8,
    signed: bool = True,
    *,
    h: int,
    v: int,
    b_bits: int | None = None,
    b_signed: bool | None = None,
) -> Multiplier:
    r"""Return a broken carry-save array multiplier, the array itself with cells taken out.

    The array has a row :math:`i` for each bit of the activation (width :math:`m`) and a cell
    :math:`j` in it for each bit of the weight (width :math:`n`). A cell makes the partial product
    :math:`p_{ij}` of its two bits and adds it, in a full adder, to the sum from cell
    :math:`(i-1, j+1)` and the carry from cell :math:`(i-1, j)`. Its column is :math:`i + j`. A
    row of adders below merges the last sums and carries. Cells in the `h` first rows and in the
    `v` lowest columns are omitted whole, and what they would have given reads as 0:

    .. math::

        T(x, w) = \sum_{i \ge h} \; \sum_{j \ge 0,\, i+j \ge v} p_{ij} 2^{i+j}
        + \sum_{c \in C,\, c \ge v} 2^c \pmod{2^{m+n}}

    Sums stay in their column and carries move up one, both to a later row, so nothing that is
    left ever flows into what is omitted: no carry is lost beside those that the omitted cells
    themselves would have made.

    Signs: unsigned, :math:`p_{ij} = x_i w_j` and :math:`C` is empty. Then this is the same product
    as :func:`broken_array`, which omits partial products. With signs the array is that of Baugh
    and Wooley: :math:`p_{ij}` is inverted where exactly one of its bits is a sign bit;
    :math:`C` holds column :math:`m-1` if the activation is signed, :math:`n-1` if the weight is,
    and :math:`m+n-1` if either is; and the sum is read as two's complement. An omitted inverted
    cell counts as 0, not as the 1 that it gives for most operands: then zero times zero is not
    zero, and this is another design than :func:`broken_array`. Below that, for ``h=0`` and ``v``
    below both widths, the two are the same. The paper draws unsigned cells; how they meet
    Baugh-Wooley's is our reading of it.

    Parameters
    ----------
    bits : int
        Width of the activation operand, 1 to 16.
    signed : bool
        Whether it is two's complement.
    h : int
        Horizontal break level: 0 to one less than the activation's width.
    v : int
        Vertical break level: 0 to the sum of both widths less 2, which leaves one cell.
    b_bits, b_signed : int, bool, optional
        Width and sign of the weight operand; as the activation's when not given.

    Returns
    -------
    Multiplier
        With the id ``bamcsa:8s/h=0,v=9``.

    Raises
    ------
    InputError
        If a width is not 1 to 16, or `h` or `v` is out of its range.

    References
    ----------
    H. R. Mahdiani, A. Ahmadi, S. M. Fakhraie, C. Lucas, "Bio-Inspired Imprecise Computational
    Blocks for Efficient VLSI Implementation of Soft-Computing Applications", IEEE TCAS-I 57(4),
    850-862, 2010, DOI 10.1109/TCSI.2009.2027626

    C. R. Baugh, B. A. Wooley, "A Two's Complement Parallel Array Multiplication Algorithm", IEEE
    Transactions on Computers C-22(12), 1045-1047, 1973, DOI 10.1109/T-C.1973.223648

    Examples
    --------
    >>> m = broken_carry_save(4, signed=False, h=1, v=2)
    >>> m.id, m(3, 3)  # of the cells 1, 2, 2 and 4 only the last is left
    ('bamcsa:4u/h=1,v=2', 4)
    >>> broken_carry_save(4, h=1, v=0)(0, 0)  # cell (0, 3) is a NAND and would have given 8
    -8
    """
    return FAMILY.multiplier(*operand_formats(bits, signed, b_bits, b_signed), h=h, v=v)
