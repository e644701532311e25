"""Static segments: m bits of each operand, taken from one of two or three fixed places."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from approxhub.families.base import (
    Family,
    IntArray,
    Parameter,
    SignMagnitudeCircuit,
    operand_formats,
)
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["FAMILY", "SsmCircuit", "ssm"]


@dataclass(frozen=True)
class SsmCircuit(SignMagnitudeCircuit):
    """Product of `m`-bit segments at `p` fixed places of both magnitudes."""

    family: ClassVar[str] = "ssm"

    a_bits: int
    b_bits: int
    m: int
    p: int

    def magnitude(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of values that are not negative, never above the exact ones."""
        return self._segment(a, self.a_bits) * self._segment(b, self.b_bits)

    def _segment(self, x: IntArray, bits: int) -> IntArray:
        top = max(bits - self.m, 0)
        places = (0, top) if self.p == 2 else (0, top // 2, top)
        shift = np.zeros_like(x)
        for lower, place in pairwise(places):  # move up while a bit sticks out above
            shift = np.where(x >> (lower + self.m) != 0, place, shift)
        return (x >> shift) << shift


def _circuit(a: OperandFormat, b: OperandFormat, **values: int) -> SsmCircuit:
    return SsmCircuit(a.bits, b.bits, values["m"], values["p"])


def _fewest_places(a: OperandFormat, b: OperandFormat, m: int) -> int:
    """Places that it takes for every leading one to lie in a segment."""
    return 2 if 2 * m >= max(a.bits, b.bits) else 3


FAMILY = Family(
    name="ssm",
    title="SSM: static segments, m bits of each operand at one of p places",
    circuit=_circuit,
    parameters=(
        Parameter(
            "m",
            "bits of each segment",
            lambda a, b, _: (-(-max(a.bits, b.bits) // 3), max(a.bits, b.bits)),
        ),
        Parameter(
            "p", "places of a segment", lambda a, b, given: (_fewest_places(a, b, given["m"]), 3)
        ),
    ),
    examples=("8u/m=4,p=2", "8s/m=4,p=2", "8u/m=4,p=3", "8s/m=4,p=3", "16u/m=8,p=2", "16u/m=8,p=3"),
    citation=(
        "S. Narayanamoorthy, H. A. Moghaddam, Z. Liu, T. Park, N. S. Kim: Energy-Efficient "
        "Approximate Multiplication for Digital Signal Processing and Classification "
        "Applications. IEEE Transactions on Very Large Scale Integration (VLSI) Systems 23(6), "
        "1180-1184, 2015"
    ),
    doi="10.1109/TVLSI.2014.2333366",
)


def ssm(
    bits: int = 8,
    signed: bool = True,
    *,
    m: int,
    p: int = 2,
    b_bits: int | None = None,
    b_signed: bool | None = None,
) -> Multiplier:
    r"""Return a multiplier of static segments (SSM; with three places, ESSM).

    .. math::

        T(x, w) = d(x)\, d(w), \qquad d(x) = \lfloor x / 2^s \rfloor\, 2^s

    where :math:`s` is the lowest place whose segment, bits :math:`s` to :math:`s + m - 1`, has
    all ones of the magnitude :math:`x` or ones above which there are none. The places of an
    operand of :math:`n` bits are 0 and :math:`n - m`, the paper's SSM, or with ``p=3`` also
    :math:`\lfloor (n-m)/2 \rfloor` between them, its ESSM. What lies below the segment is
    dropped, so the product is never above the exact one. An operand of at most `m` bits is kept
    whole.

    The paper's example has operands of 16 bits and ``m=8``, where :math:`(n-m)/2` is whole; that
    it is rounded down where it is not is our choice.

    Signs: magnitudes enter an unsigned core of the operands' widths, and the product is negated
    where the signs differ.

    Parameters
    ----------
    bits : int
        Width of the activation operand, 1 to 16.
    signed : bool
        Whether it is two's complement.
    m : int
        Bits of each segment, from a third of the larger width, so that three segments cover it,
        to all of it (which is exact).
    p : int
        Places of a segment, 2 or 3; 2 only if `m` is at least half of the larger width.
    b_bits, b_signed : int, bool, optional
        Width and sign of the weight operand; as the activation's when not given.

    Returns
    -------
    Multiplier
        With the id ``ssm:8s/m=4,p=2``.

    Raises
    ------
    InputError
        If a width is not 1 to 16, or `m` or `p` is out of its range.

    References
    ----------
    S. Narayanamoorthy, H. A. Moghaddam, Z. Liu, T. Park, N. S. Kim, "Energy-Efficient Approximate
    Multiplication for Digital Signal Processing and Classification Applications", IEEE TVLSI
    23(6), 1180-1184, 2015, DOI 10.1109/TVLSI.2014.2333366

    Examples
    --------
    >>> multiplier = ssm(8, signed=False, m=4, p=2)
    >>> multiplier.id, multiplier(31, 15)  # 0b00011111 becomes 0b00010000, 15 stays
    ('ssm:8u/m=4,p=2', 240)
    >>> ssm(8, signed=False, m=4, p=3)(31, 15)  # 0b00011100
    420
    """
    return FAMILY.multiplier(*operand_formats(bits, signed, b_bits, b_signed), m=m, p=p)
