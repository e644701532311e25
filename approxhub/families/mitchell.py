"""Mitchell's multiplier: add straight-line approximations of the binary logarithms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from approxhub.families.base import (
    Family,
    IntArray,
    SignMagnitudeCircuit,
    leading_one,
    operand_formats,
)
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["FAMILY", "MitchellCircuit", "mitchell"]


@dataclass(frozen=True)
class MitchellCircuit(SignMagnitudeCircuit):
    """Mitchell's product of both magnitudes, with full-width fractions."""

    family: ClassVar[str] = "mitchell"

    def magnitude(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of values that are not negative."""
        # Everything is scaled by 2**(p+q), where p and q are the characteristics: the sum of the
        # fractions is then an integer, and no bit of it is ever dropped.
        one_a = np.int64(1) << np.maximum(leading_one(a), 0)
        one_b = np.int64(1) << np.maximum(leading_one(b), 0)
        one = one_a * one_b
        fractions = (a - one_a) * one_b + (b - one_b) * one_a
        # Never above the exact product, so below 2**(bits_a + bits_b): the difference is
        # xy >= 0 without and (1-x)(1-y) >= 0 with a carry, times 2**(p+q).
        product = np.where(fractions < one, one + fractions, 2 * fractions)
        return np.where((a == 0) | (b == 0), 0, product)


def _circuit(_a: OperandFormat, _b: OperandFormat) -> MitchellCircuit:
    return MitchellCircuit()


FAMILY = Family(
    name="mitchell",
    title="Mitchell's logarithmic multiplier",
    circuit=_circuit,
    examples=("8u", "8s", "16u", "16s"),
    citation=(
        "J. N. Mitchell: Computer Multiplication and Division Using Binary Logarithms. "
        "IRE Transactions on Electronic Computers EC-11(4), 512-517, 1962"
    ),
    doi="10.1109/TEC.1962.5219391",
)


def mitchell(
    bits: int = 8,
    signed: bool = True,
    *,
    b_bits: int | None = None,
    b_signed: bool | None = None,
) -> Multiplier:
    r"""Return Mitchell's logarithmic multiplier.

    With magnitudes :math:`x = 2^p (1 + f)` and :math:`w = 2^q (1 + g)`, fractions below 1:

    .. math::

        T(x, w) = \begin{cases} 2^{p+q} (1 + f + g) & f + g < 1 \\
        2^{p+q+1} (f + g) & f + g \ge 1 \end{cases}

    and 0 if an operand is 0. The fractions keep all their bits, so every product is the integer
    that the formula gives; a design that shortens them is another one. The result is never above
    the exact product, and at most a ninth below it.

    Signs: the paper multiplies magnitudes only. Here they enter an unsigned core of the operands'
    widths, and the product is negated where the signs differ.

    Parameters
    ----------
    bits : int
        Width of the activation operand, 1 to 16.
    signed : bool
        Whether it is two's complement.
    b_bits, b_signed : int, bool, optional
        Width and sign of the weight operand; as the activation's when not given.

    Returns
    -------
    Multiplier
        With the id ``mitchell:8s``.

    Raises
    ------
    InputError
        If a width is not 1 to 16.

    References
    ----------
    J. N. Mitchell, "Computer Multiplication and Division Using Binary Logarithms", IRE
    Transactions on Electronic Computers EC-11(4), 512-517, 1962, DOI 10.1109/TEC.1962.5219391

    Examples
    --------
    >>> m = mitchell(8, signed=False)
    >>> m.id, m(3, 3), m(4, 100)
    ('mitchell:8u', 8, 400)
    """
    return FAMILY.multiplier(*operand_formats(bits, signed, b_bits, b_signed))
