"""Broken-array multiplier (BAM): part of the partial products is left out of the array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from approxhub.families.base import Family, FamilyCircuit, IntArray, Parameter, operand_formats
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["FAMILY", "BrokenArrayCircuit", "broken_array"]


@dataclass(frozen=True)
class BrokenArrayCircuit(FamilyCircuit):
    """Sum of the partial products in rows `h` and above and in columns `v` and above."""

    family: ClassVar[str] = "bam"

    a: OperandFormat
    b: OperandFormat
    h: int
    v: int

    def evaluate(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of broadcastable int64 arrays of values, int64."""
        # Size: the rows' weights add up to less than 2**bits_a in size, and what is left of b
        # stays in b's range, so |product| < 2**(bits_a + bits_b) for every width and sign.
        total = np.zeros(np.broadcast_shapes(a.shape, b.shape), dtype=np.int64)
        for i in range(self.h, self.a.bits):
            cut = max(self.v - i, 0)
            if cut >= self.b.bits:  # nothing left; a shift would keep the sign of b
                continue
            row = ((a >> i) & 1) * (((b >> cut) << cut) << i)
            # The highest bit of a two's-complement operand weighs -2**(bits-1).
            total += -row if self.a.signed and i == self.a.bits - 1 else row
        return total


FAMILY = Family(
    name="bam",
    title="broken-array multiplier: rows and columns of partial products are omitted",
    circuit=BrokenArrayCircuit,
    parameters=(
        Parameter(
            "h",
            "horizontal break level, rows omitted, one for each low bit of the activation",
            lambda a, *_: (0, a.bits - 1),
        ),
        Parameter(
            "v",
            "vertical break level, low columns omitted",
            lambda a, b, _: (0, a.bits + b.bits - 2),
        ),
    ),
    examples=("8u/h=0,v=6", "8s/h=0,v=4", "8u/h=2,v=6", "8s/h=1,v=4", "8s/h=2,v=5"),
    citation=(
        "H. R. Mahdiani, A. Ahmadi, S. M. Fakhraie, C. Lucas: Bio-Inspired Imprecise "
        "Computational Blocks for Efficient VLSI Implementation of Soft-Computing Applications. "
        "IEEE Transactions on Circuits and Systems I: Regular Papers 57(4), 850-862, 2010"
    ),
    doi="10.1109/TCSI.2009.2027626",
)


def broken_array(
    bits: int = 8,
    signed: bool = True,
    *,
    h: int,
    v: int,
    b_bits: int | None = None,
    b_signed: bool | None = None,
) -> Multiplier:
    r"""Return a broken-array multiplier (BAM).

    .. math:: T(x, w) = \sum_{i \ge h} \; \sum_{j \ge 0,\, i+j \ge v} s_i\, s'_j\, x_i w_j 2^{i+j}

    where :math:`x_i` and :math:`w_j` are bits of the codes and :math:`s` is -1 for the highest bit
    of a signed operand, else 1. The array has a row for each bit of the activation. The horizontal
    break level `h` omits the rows of its `h` lowest bits, the vertical break level `v` all cells
    in the `v` columns of lowest weight. ``h=0`` is the *truncated array multiplier*. How the cells
    add up what is left, with carries rippling or saved, makes no difference here; with omitted
    sign bits it can, see :func:`broken_carry_save`.

    Signs: two's complement, an omitted cell counts as zero. The paper keeps the cells of sign
    bits in a signed array; EvoApproxLib, which publishes circuits of this design, omits them like
    any other, and so do we: its v1.1 circuits ``mul8s_1KVA``, ``mul8s_1KVB`` and ``mul8s_1KX2``
    are ``bam:8s/h=0`` with ``v`` = 2, 3 and 4, ``mul8s_1KR6`` and ``mul8s_1KRC`` are ``h=1`` with
    ``v`` = 3 and 4, and ``mul8s_1KVL`` is ``h=2,v=5``. For ``h=0`` and ``v`` below both widths no
    cell of a sign bit is omitted, and the two readings agree.

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
        With the id ``bam:8s/h=1,v=3``.

    Raises
    ------
    InputError
        If a width is not 1 to 16, or `h` or `v` is out of its range.

    References
    ----------
    H. R. Mahdiani, A. Ahmadi, S. M. Fakhraie, C. Lucas, "Bio-Inspired Imprecise Computational
    Blocks for Efficient VLSI Implementation of Soft-Computing Applications", IEEE TCAS-I 57(4),
    850-862, 2010, DOI 10.1109/TCSI.2009.2027626

    Examples
    --------
    >>> m = broken_array(4, signed=False, h=1, v=2)
    >>> m.id, m(3, 3)  # of the cells 1, 2, 2 and 4 only the last is left
    ('bam:4u/h=1,v=2', 4)
    """
    return FAMILY.multiplier(*operand_formats(bits, signed, b_bits, b_signed), h=h, v=v)
