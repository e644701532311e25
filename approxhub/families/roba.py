"""RoBA: round both operands to powers of two, leave out the product of the residues."""

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

__all__ = ["FAMILY", "RobaCircuit", "roba"]


@dataclass(frozen=True)
class RobaCircuit(SignMagnitudeCircuit):
    """RoBA's product of both magnitudes."""

    family: ClassVar[str] = "roba"

    def magnitude(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of values that are not negative."""
        # Size: with a rounded up and b down (the only case above the exact product),
        # a_r*b + (a - a_r)*b_r < a_r*b <= 2**bits_a * b < 2**(bits_a + bits_b).
        rounded_a, rounded_b = self._round(a), self._round(b)
        return np.asarray(rounded_a * b + rounded_b * a - rounded_a * rounded_b)

    @staticmethod
    def _round(x: IntArray) -> IntArray:
        """Nearest power of two; halfway up, but 3 down to 2; 0 stays 0."""
        position = np.maximum(leading_one(x), 0)
        half = np.where(position > 0, (x >> np.maximum(position - 1, 0)) & 1, 0)
        up = (half == 1) & (x != 3)
        return np.where(x == 0, 0, np.int64(1) << (position + up))


def _circuit(_a: OperandFormat, _b: OperandFormat) -> RobaCircuit:
    return RobaCircuit()


FAMILY = Family(
    name="roba",
    title="RoBA: rounding-based approximate multiplier",
    circuit=_circuit,
    examples=("8u", "8s", "16u", "16s"),
    citation=(
        "R. Zendegani, M. Kamal, M. Bahadori, A. Afzali-Kusha, M. Pedram: RoBA Multiplier: A "
        "Rounding-Based Approximate Multiplier for High-Speed yet Energy-Efficient Digital Signal "
        "Processing. IEEE Transactions on Very Large Scale Integration (VLSI) Systems 25(2), "
        "393-401, 2017"
    ),
    doi="10.1109/TVLSI.2016.2587696",
)


def roba(
    bits: int = 8,
    signed: bool = True,
    *,
    b_bits: int | None = None,
    b_signed: bool | None = None,
) -> Multiplier:
    r"""Return a rounding-based approximate multiplier (RoBA).

    .. math:: T(x, w) = x_r w + w_r x - x_r w_r = x w - (x_r - x)(w_r - w)

    where :math:`x_r` is the power of two that is nearest to the magnitude :math:`x`;
    :math:`3 \cdot 2^{p-2}`, which lies halfway, is rounded up, except that 3 becomes 2, as in the
    paper. Zero gives zero. A magnitude from :math:`3 \cdot 2^{n-2}` up is rounded to :math:`2^n`.

    Signs: unsigned operands give the paper's U-RoBA, signed ones its S-RoBA (exact magnitudes in,
    exact negation out). AS-RoBA, which negates by inverting bits, is not included.

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
        With the id ``roba:8s``.

    Raises
    ------
    InputError
        If a width is not 1 to 16.

    References
    ----------
    R. Zendegani, M. Kamal, M. Bahadori, A. Afzali-Kusha, M. Pedram, "RoBA Multiplier: A
    Rounding-Based Approximate Multiplier for High-Speed yet Energy-Efficient Digital Signal
    Processing", IEEE TVLSI 25(2), 393-401, 2017, DOI 10.1109/TVLSI.2016.2587696

    Examples
    --------
    >>> m = roba(8, signed=False)
    >>> m.id, m(6, 5), m(3, 3)  # 6 becomes 8, 5 becomes 4, 3 becomes 2
    ('roba:8u', 32, 8)
    """
    return FAMILY.multiplier(*operand_formats(bits, signed, b_bits, b_signed))
