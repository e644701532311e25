"""TOSAM: truncated fractions are added, shorter rounded ones multiplied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from approxhub.families.base import (
    Family,
    IntArray,
    Parameter,
    SignMagnitudeCircuit,
    characteristic_fraction,
    operand_formats,
)
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["FAMILY", "TosamCircuit", "tosam"]


@dataclass(frozen=True)
class TosamCircuit(SignMagnitudeCircuit):
    """TOSAM(`h`, `t`) of both magnitudes."""

    family: ClassVar[str] = "tosam"

    h: int
    t: int

    def magnitude(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of values that are not negative."""
        # Every term is scaled by 2**scale, which all of them take whole. The sum of the terms is
        # below 4, so the product is below 2**(bits_a + bits_b); h < t <= 15 and p + q <= 30, so
        # nothing exceeds 2**62 before the last shift, which drops what is below one.
        p, f = characteristic_fraction(a, self.t)
        q, g = characteristic_fraction(b, self.t)
        scale = max(self.t, 2 * self.h + 2)
        total = (1 << scale) + ((f + g) << (scale - self.t))
        total = total + ((self._odd(f) * self._odd(g)) << (scale - 2 * self.h - 2))
        return np.where((a == 0) | (b == 0), 0, (total << (p + q)) >> scale)

    def _odd(self, fraction: IntArray) -> IntArray:
        """`h` bits of a fraction and a one after them."""
        return np.asarray(2 * (fraction >> (self.t - self.h)) + 1)


def _circuit(_a: OperandFormat, _b: OperandFormat, **values: int) -> TosamCircuit:
    return TosamCircuit(values["h"], values["t"])


def _fraction_bits(a: OperandFormat, b: OperandFormat) -> int:
    """Bits of the longest fraction; one for operands that have none."""
    return max(a.bits - 1, b.bits - 1, 1)


FAMILY = Family(
    name="tosam",
    title="TOSAM: truncation- and rounding-based, h bits of fractions multiplied, t added",
    circuit=_circuit,
    parameters=(
        Parameter(
            "h",
            "fraction bits of each operand that are multiplied",
            lambda a, b, _: (0, _fraction_bits(a, b) - 1),
        ),
        Parameter(
            "t",
            "fraction bits of each operand that are added",
            lambda a, b, given: (given["h"] + 1, _fraction_bits(a, b)),
        ),
    ),
    examples=("8u/h=0,t=3", "8s/h=0,t=3", "8u/h=1,t=5", "8s/h=1,t=5", "16u/h=2,t=6", "16u/h=5,t=9"),
    citation=(
        "S. Vahdat, M. Kamal, A. Afzali-Kusha, M. Pedram: TOSAM: An Energy-Efficient Truncation- "
        "and Rounding-Based Scalable Approximate Multiplier. IEEE Transactions on Very Large Scale "
        "Integration (VLSI) Systems 27(5), 1161-1173, 2019"
    ),
    doi="10.1109/TVLSI.2018.2890712",
)


def tosam(
    bits: int = 8,
    signed: bool = True,
    *,
    h: int,
    t: int,
    b_bits: int | None = None,
    b_signed: bool | None = None,
) -> Multiplier:
    r"""Return a truncation- and rounding-based scalable multiplier, TOSAM(h, t).

    With magnitudes :math:`x = 2^p (1 + f)` and :math:`w = 2^q (1 + g)`, fractions below 1:

    .. math::

        T(x, w) = \left\lfloor 2^{p+q} \left(1 + f_t + g_t + f_h^*\, g_h^*\right) \right\rfloor,
        \qquad f_t = \frac{\lfloor 2^t f \rfloor}{2^t}, \quad
        f_h^* = \frac{2 \lfloor 2^h f \rfloor + 1}{2^{h+1}}

    and 0 if an operand is 0. What is added is cut to `t` bits; what is multiplied is rounded to
    the nearest odd number of `h + 1` bits. A fraction of fewer bits is filled up with zeros.
    The mean relative error, computed for unsigned operands of 16 bits, is 10.91 % for
    TOSAM(0,2), 7.61 % for (0,3), 3.95 % for (1,5), 2.06 % for (2,6), 1.05 % for (3,7) and 0.26 %
    for (5,9); the paper's abstract has 11 % to 0.3 %.

    Signs: magnitudes enter an unsigned core of the operands' widths, and the product is negated
    where the signs differ.

    Parameters
    ----------
    bits : int
        Width of the activation operand, 1 to 16.
    signed : bool
        Whether it is two's complement.
    h : int
        Fraction bits that are multiplied: 0 to the larger width less 2.
    t : int
        Fraction bits that are added: more than `h`, up to the larger width less 1 (1 for widths
        of 1).
    b_bits, b_signed : int, bool, optional
        Width and sign of the weight operand; as the activation's when not given.

    Returns
    -------
    Multiplier
        With the id ``tosam:8s/h=1,t=5``.

    Raises
    ------
    InputError
        If a width is not 1 to 16, or `h` or `t` is out of its range.

    References
    ----------
    S. Vahdat, M. Kamal, A. Afzali-Kusha, M. Pedram, "TOSAM: An Energy-Efficient Truncation- and
    Rounding-Based Scalable Approximate Multiplier", IEEE TVLSI 27(5), 1161-1173, 2019,
    DOI 10.1109/TVLSI.2018.2890712

    Examples
    --------
    >>> m = tosam(8, signed=False, h=1, t=3)
    >>> m.id, m(100, 200)  # 64 * 128 * (1 + 4/8 + 4/8 + 3/4 * 3/4)
    ('tosam:8u/h=1,t=3', 20992)
    """
    return FAMILY.multiplier(*operand_formats(bits, signed, b_bits, b_signed), h=h, t=t)
