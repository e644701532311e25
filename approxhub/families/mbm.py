"""MBM: Mitchell's product and a constant that takes most of its bias away."""

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

__all__ = ["FAMILY", "MbmCircuit", "mbm"]

_CORRECTION, _CORRECTION_BITS = 5, 6  # 5/64, the first six bits of 1/12


@dataclass(frozen=True)
class MbmCircuit(SignMagnitudeCircuit):
    """Corrected Mitchell product of both magnitudes, fractions `t` bits shorter."""

    family: ClassVar[str] = "mbm"

    a_bits: int
    b_bits: int
    t: int

    def magnitude(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of values that are not negative."""
        # Scaled by 2**bits both fractions are integers. The mantissa stays below 2**(bits + 2),
        # so with bits <= 15 and p + q <= 30 all is below 2**55 before the last shift.
        bits = max(self.a_bits, self.b_bits) - 1
        p, f = characteristic_fraction(a, bits)
        q, g = characteristic_fraction(b, bits)
        total = self._shortened(f) + self._shortened(g)
        mantissa = np.where(total >> bits == 0, (1 << bits) + total, 2 * total)
        corrected = (mantissa << _CORRECTION_BITS) + (_CORRECTION << bits)
        product = (corrected << (p + q)) >> (bits + _CORRECTION_BITS)
        # The correction lifts the largest products over the width of the output.
        largest = (1 << (self.a_bits + self.b_bits)) - 1
        return np.where((a == 0) | (b == 0), 0, np.minimum(product, largest))

    def _shortened(self, fraction: IntArray) -> IntArray:
        return ((fraction >> self.t) | 1) << self.t if self.t else fraction


def _circuit(a: OperandFormat, b: OperandFormat, **values: int) -> MbmCircuit:
    return MbmCircuit(a.bits, b.bits, values["t"])


FAMILY = Family(
    name="mbm",
    title="MBM: minimally biased multiplier, Mitchell's with a constant correction",
    circuit=_circuit,
    parameters=(
        Parameter(
            "t",
            "low bits dropped of each fraction",
            lambda a, b, _: (0, max(a.bits - 2, b.bits - 2, 0)),
        ),
    ),
    examples=("8u/t=0", "8s/t=0", "8u/t=3", "8s/t=3", "16u/t=0", "16u/t=8"),
    citation=(
        "H. Saadat, H. Bokhari, S. Parameswaran: Minimally Biased Multipliers for Approximate "
        "Integer and Floating-Point Multiplication. IEEE Transactions on Computer-Aided Design of "
        "Integrated Circuits and Systems 37(11), 2623-2635, 2018"
    ),
    doi="10.1109/TCAD.2018.2857262",
)


def mbm(
    bits: int = 8,
    signed: bool = True,
    *,
    t: int = 0,
    b_bits: int | None = None,
    b_signed: bool | None = None,
) -> Multiplier:
    r"""Return a minimally biased multiplier (MBM).

    With magnitudes :math:`2^p (1 + f)` and :math:`2^q (1 + g)`, fractions below 1:

    .. math::

        T = \left\lfloor 2^{p+q} \left(c + \begin{cases} 1 + f + g & f + g < 1 \\
        2 (f + g) & f + g \ge 1 \end{cases} \right) \right\rfloor,
        \qquad c = \tfrac{5}{64}

    and 0 if an operand is 0. The constant is what Mitchell's product lacks on average over an
    interval between powers of two, :math:`1/12`, in six bits.

    With :math:`N` the larger width, both fractions have :math:`N - 1` bits. The `t` lowest are
    dropped, and if any are, the lowest bit that is left is set to one. (So the same authors
    describe it for their later design REALM, whose published errors only this rule gives; we had
    no copy of the MBM paper that says it.) A product too large for the width of the output, which
    the correction makes possible for unsigned operands, becomes the largest that fits; this is
    our choice.

    Signs: magnitudes enter an unsigned core of the operands' widths, and the product is negated
    where the signs differ.

    Parameters
    ----------
    bits : int
        Width of the activation operand, 1 to 16.
    signed : bool
        Whether it is two's complement.
    t : int
        Low bits dropped of each fraction: 0 to the larger width less 2, which leaves one.
    b_bits, b_signed : int, bool, optional
        Width and sign of the weight operand; as the activation's when not given.

    Returns
    -------
    Multiplier
        With the id ``mbm:8s/t=0``.

    Raises
    ------
    InputError
        If a width is not 1 to 16, or `t` is out of its range.

    References
    ----------
    H. Saadat, H. Bokhari, S. Parameswaran, "Minimally Biased Multipliers for Approximate Integer
    and Floating-Point Multiplication", IEEE TCAD 37(11), 2623-2635, 2018,
    DOI 10.1109/TCAD.2018.2857262

    Examples
    --------
    >>> m = mbm(8, signed=False)
    >>> m.id, m(64, 128), m(96, 192)  # 8192 * (1 + 5/64), 8192 * (2 + 5/64) for 18432
    ('mbm:8u/t=0', 8832, 17024)
    """
    return FAMILY.multiplier(*operand_formats(bits, signed, b_bits, b_signed), t=t)
