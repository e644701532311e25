"""Truncated operands: the lowest bits of each operand are not connected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from approxhub.families.base import Family, FamilyCircuit, IntArray, Parameter, operand_formats
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["FAMILY", "TruncationCircuit", "truncation"]


@dataclass(frozen=True)
class TruncationCircuit(FamilyCircuit):
    """Exact product of operands whose lowest `drop_a` and `drop_b` bits are cleared."""

    family: ClassVar[str] = "truncation"

    drop_a: int
    drop_b: int

    def evaluate(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of broadcastable int64 arrays of values, int64."""
        # Clearing bits keeps an operand in its own range, so |product| <= 2**(bits_a + bits_b - 2)
        # with signs and < 2**(bits_a + bits_b) without.
        return ((a >> self.drop_a) << self.drop_a) * ((b >> self.drop_b) << self.drop_b)


def _circuit(_a: OperandFormat, _b: OperandFormat, **values: int) -> TruncationCircuit:
    return TruncationCircuit(values["a"], values["b"])


FAMILY = Family(
    name="truncation",
    title="truncated operands: the lowest bits of each are dropped",
    circuit=_circuit,
    parameters=(
        Parameter(
            "a", "low bits of the activation that are dropped", lambda a, *_: (0, a.bits - 1)
        ),
        Parameter("b", "low bits of the weight that are dropped", lambda _a, b, _: (0, b.bits - 1)),
    ),
    examples=("8u/a=2,b=2", "8s/a=2,b=2", "8u/a=3,b=3", "8s/a=3,b=3", "8s/a=3,b=0"),
    citation=(
        "V. Mrazek, Z. Vasicek, L. Sekanina, H. Jiang, J. Han: Scalable Construction of "
        "Approximate Multipliers With Formally Guaranteed Worst Case Error. IEEE Transactions on "
        "Very Large Scale Integration (VLSI) Systems 26(11), 2572-2576, 2018"
    ),
    doi="10.1109/TVLSI.2018.2856362",
)


def truncation(
    bits: int = 8,
    signed: bool = True,
    *,
    a: int,
    b: int,
    b_bits: int | None = None,
    b_signed: bool | None = None,
) -> Multiplier:
    r"""Return a multiplier whose operands lose their lowest bits.

    .. math:: T(x, w) = 2^{a+b} \lfloor x / 2^a \rfloor \lfloor w / 2^b \rfloor

    Static truncation of the *operands*. Dropping low *columns of partial products* is another
    design: :func:`broken_array` with ``h=0``.

    Signs: two's complement. The dropped wires are low bits of the code, so a negative operand is
    rounded towards minus infinity, as in EvoApproxLib, whose v1.1 circuits ``mul8s_1L2H``,
    ``mul8s_1L2D`` and ``mul8s_1L1G`` are ``truncation:8s`` with ``a=b`` = 1, 2 and 3, and whose
    ``mul8s_1KR8``, ``mul8s_1KTY`` and ``mul8s_1KR3`` are ``a`` = 1, 3 and 6 with ``b=0``.

    Parameters
    ----------
    bits : int
        Width of the activation operand, 1 to 16.
    signed : bool
        Whether it is two's complement.
    a, b : int
        Low bits dropped of the activation and of the weight; at least one bit of each stays.
    b_bits, b_signed : int, bool, optional
        Width and sign of the weight operand; as the activation's when not given.

    Returns
    -------
    Multiplier
        With the id ``truncation:8s/a=2,b=2``.

    Raises
    ------
    InputError
        If a width is not 1 to 16, or `a` or `b` is not 0 to one less than its operand's width.

    References
    ----------
    Instances under formal error bounds: V. Mrazek, Z. Vasicek, L. Sekanina, H. Jiang, J. Han,
    "Scalable Construction of Approximate Multipliers With Formally Guaranteed Worst Case Error",
    IEEE TVLSI 26(11), 2018, DOI 10.1109/TVLSI.2018.2856362. No paper introduces the method.

    Examples
    --------
    >>> m = truncation(8, signed=False, a=2, b=1)
    >>> m.id, m(7, 7)
    ('truncation:8u/a=2,b=1', 24)
    >>> truncation(8, a=1, b=1)(-3, 3)
    -8
    """
    return FAMILY.multiplier(*operand_formats(bits, signed, b_bits, b_signed), a=a, b=b)
