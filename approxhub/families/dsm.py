"""Dynamic segments: the m leading bits of each operand, also known as LoBA0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from approxhub.families.base import (
    Family,
    IntArray,
    Parameter,
    SignMagnitudeCircuit,
    leading_segment,
    operand_formats,
)
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["FAMILY", "DsmCircuit", "dsm"]


@dataclass(frozen=True)
class DsmCircuit(SignMagnitudeCircuit):
    """Product of the `m`-bit segments at the leading ones of both magnitudes."""

    family: ClassVar[str] = "dsm"

    m: int

    def magnitude(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of values that are not negative, never above the exact ones."""
        return leading_segment(a, self.m) * leading_segment(b, self.m)


def _circuit(_a: OperandFormat, _b: OperandFormat, **values: int) -> DsmCircuit:
    return DsmCircuit(values["m"])


FAMILY = Family(
    name="dsm",
    title="DSM, also LoBA0: dynamic segments, m leading bits of each operand",
    circuit=_circuit,
    parameters=(Parameter("m", "bits of each segment", lambda a, b, _: (1, max(a.bits, b.bits))),),
    examples=("8u/m=4", "8s/m=4", "8u/m=3", "8s/m=3", "16u/m=8", "16s/m=8"),
    citation=(
        "S. Narayanamoorthy, H. A. Moghaddam, Z. Liu, T. Park, N. S. Kim: Energy-Efficient "
        "Approximate Multiplication for Digital Signal Processing and Classification "
        "Applications. IEEE Transactions on Very Large Scale Integration (VLSI) Systems 23(6), "
        "1180-1184, 2015"
    ),
    doi="10.1109/TVLSI.2014.2333366",
)


def dsm(
    bits: int = 8,
    signed: bool = True,
    *,
    m: int,
    b_bits: int | None = None,
    b_signed: bool | None = None,
) -> Multiplier:
    r"""Return a multiplier of dynamic segments (DSM), which is also LoBA0.

    With :math:`t` the position of the leading one of a magnitude :math:`x`:

    .. math::

        T(x, w) = d(x)\, d(w), \qquad
        d(x) = \lfloor x / 2^s \rfloor\, 2^s, \quad s = \max(t - m + 1,\, 0)

    Each operand keeps the `m` bits from its leading one down; the rest is dropped, so the product
    is never above the exact one. :func:`drum` is the same with the segment's lowest bit set,
    which takes the bias away; :func:`ssm` has fixed places for the segments. The multiplier
    LoBA0, published later with segments of k bits, is this function with ``m=k``; LoBA1 and up
    add products of the next segments and are not included.

    Signs: magnitudes enter an unsigned core of the operands' widths, and the product is negated
    where the signs differ.

    Parameters
    ----------
    bits : int
        Width of the activation operand, 1 to 16.
    signed : bool
        Whether it is two's complement.
    m : int
        Bits of each segment, 1 to the larger width (which is exact).
    b_bits, b_signed : int, bool, optional
        Width and sign of the weight operand; as the activation's when not given.

    Returns
    -------
    Multiplier
        With the id ``dsm:8s/m=4``.

    Raises
    ------
    InputError
        If a width is not 1 to 16, or `m` is out of its range.

    References
    ----------
    S. Narayanamoorthy, H. A. Moghaddam, Z. Liu, T. Park, N. S. Kim, "Energy-Efficient Approximate
    Multiplication for Digital Signal Processing and Classification Applications", IEEE TVLSI
    23(6), 1180-1184, 2015, DOI 10.1109/TVLSI.2014.2333366

    LoBA0: B. Garg, S. K. Patel, S. Dutt, "LoBA: A Leading One Bit Based Imprecise Multiplier for
    Efficient Image Processing", Journal of Electronic Testing 36, 429-437, 2020,
    DOI 10.1007/s10836-020-05883-4

    Examples
    --------
    >>> multiplier = dsm(8, signed=False, m=4)
    >>> multiplier.id, multiplier(201, 3)  # 0b11001001 becomes 0b11000000
    ('dsm:8u/m=4', 576)
    """
    return FAMILY.multiplier(*operand_formats(bits, signed, b_bits, b_signed), m=m)
