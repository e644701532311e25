"""Partial product perforation: some successive rows of partial products are not made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from approxhub.families.base import Family, FamilyCircuit, IntArray, Parameter, operand_formats
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["FAMILY", "PerforationCircuit", "perforation"]


@dataclass(frozen=True)
class PerforationCircuit(FamilyCircuit):
    """Exact product with a weight whose bits `j` to `j + k - 1` are cleared."""

    family: ClassVar[str] = "perforation"

    b_bits: int
    j: int
    k: int

    def evaluate(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of broadcastable int64 arrays of values, int64."""
        # The kept bits of a weight, signed or not, stay within -2**(bits-1) .. 2**bits - 1.
        above = self.j + self.k
        kept = b & ((1 << self.j) - 1)
        if above < self.b_bits:  # else the highest bit is perforated too, and its sign with it
            kept = kept + ((b >> above) << above)
        return a * kept


def _circuit(_a: OperandFormat, b: OperandFormat, **values: int) -> PerforationCircuit:
    return PerforationCircuit(b.bits, values["j"], values["k"])


FAMILY = Family(
    name="perforation",
    title="partial product perforation: k successive partial products are left out",
    circuit=_circuit,
    parameters=(
        Parameter("j", "first partial product that is left out", lambda _a, b, _: (0, b.bits - 1)),
        Parameter(
            "k",
            "partial products left out, one for each bit of the weight from j up",
            lambda _, b, given: (0, min(b.bits - given["j"], b.bits - 1)),
        ),
    ),
    examples=("8u/j=0,k=2", "8s/j=0,k=2", "8u/j=2,k=2", "8s/j=2,k=2", "16u/j=0,k=4"),
    citation=(
        "G. Zervakis, K. Tsoumanis, S. Xydis, D. Soudris, K. Pekmestzi: Design-Efficient "
        "Approximate Multiplication Circuits Through Partial Product Perforation. IEEE "
        "Transactions on Very Large Scale Integration (VLSI) Systems 24(10), 3105-3117, 2016"
    ),
    doi="10.1109/TVLSI.2016.2535398",
)


def perforation(
    bits: int = 8,
    signed: bool = True,
    *,
    j: int,
    k: int,
    b_bits: int | None = None,
    b_signed: bool | None = None,
) -> Multiplier:
    r"""Return a multiplier with perforated partial products.

    .. math:: T(x, w) = \sum_{i \notin [j,\, j+k)} s_i\, w_i\, x\, 2^i

    where :math:`w_i` are the bits of the weight and :math:`s` is -1 for the highest bit of a
    signed one, else 1. As in the paper the second operand selects the partial products, and `k`
    of them, from the `j`-th up, are never made. (Modifier ``+swap`` perforates the other
    operand.) With ``j=0`` it is :func:`truncation` of the weight by `k` bits.

    Signs: two's complement; a partial product that is left out counts as zero, that of the sign
    bit too, so that ``j + k`` equal to the width makes negative weights positive. Partial
    products of Booth's digits are not included.

    Parameters
    ----------
    bits : int
        Width of the activation operand, 1 to 16.
    signed : bool
        Whether it is two's complement.
    j : int
        First partial product that is left out, 0 to one less than the weight's width.
    k : int
        How many are left out: 0 (which is exact) to the weight's width less `j`; at least one
        partial product stays.
    b_bits, b_signed : int, bool, optional
        Width and sign of the weight operand; as the activation's when not given.

    Returns
    -------
    Multiplier
        With the id ``perforation:8s/j=2,k=2``.

    Raises
    ------
    InputError
        If a width is not 1 to 16, or `j` or `k` is out of its range.

    References
    ----------
    G. Zervakis, K. Tsoumanis, S. Xydis, D. Soudris, K. Pekmestzi, "Design-Efficient Approximate
    Multiplication Circuits Through Partial Product Perforation", IEEE TVLSI 24(10), 3105-3117,
    2016, DOI 10.1109/TVLSI.2016.2535398

    Examples
    --------
    >>> m = perforation(8, signed=False, j=1, k=2)
    >>> m.id, m(10, 15)  # 0b1111 becomes 0b1001
    ('perforation:8u/j=1,k=2', 90)
    """
    return FAMILY.multiplier(*operand_formats(bits, signed, b_bits, b_signed), j=j, k=k)
