"""Kulkarni's underdesigned multiplier: 2x2 blocks that give 7 for 3 times 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from approxhub.families.base import Family, IntArray, SignMagnitudeCircuit, operand_formats
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["FAMILY", "KulkarniCircuit", "kulkarni"]

_LOW_BITS_OF_DIGITS = 0x5555


@dataclass(frozen=True)
class KulkarniCircuit(SignMagnitudeCircuit):
    """Product of both magnitudes from underdesigned 2x2 blocks."""

    family: ClassVar[str] = "kulkarni"

    def magnitude(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of values that are not negative, never above the exact ones."""
        return a * b - 2 * self._threes(a) * self._threes(b)

    @staticmethod
    def _threes(x: IntArray) -> IntArray:
        """One in every base-4 digit that is 3, zero in the others."""
        return x & (x >> 1) & _LOW_BITS_OF_DIGITS


def _circuit(_a: OperandFormat, _b: OperandFormat) -> KulkarniCircuit:
    return KulkarniCircuit()


FAMILY = Family(
    name="kulkarni",
    title="Kulkarni's underdesigned multiplier of 2x2 blocks",
    circuit=_circuit,
    examples=("8u", "8s", "16u", "16s"),
    citation=(
        "P. Kulkarni, P. Gupta, M. Ercegovac: Trading Accuracy for Power with an Underdesigned "
        "Multiplier Architecture. 24th International Conference on VLSI Design, 346-351, 2011"
    ),
    doi="10.1109/VLSID.2011.51",
)


def kulkarni(
    bits: int = 8,
    signed: bool = True,
    *,
    b_bits: int | None = None,
    b_signed: bool | None = None,
) -> Multiplier:
    r"""Return Kulkarni's underdesigned multiplier, built from 2x2 blocks.

    The block multiplies two digits of two bits exactly, except that 3 times 3 gives 7, which
    saves the fourth output bit. Four multipliers of half the width and exact adders make one of
    twice the width, so that in base 4, with digits :math:`x_i` and :math:`w_j`:

    .. math::

        T(x, w) = \sum_{i, j} 4^{i+j} B(x_i, w_j)
        = x w - 2\, u(x)\, u(w), \qquad u(x) = \sum_{i:\, x_i = 3} 4^i

    with :math:`B` the block. The error has rank 1.

    A width that is not a power of two is filled up with zeros on top; a block with a zero is
    exact, so how far it is filled up does not matter.

    Signs: the paper multiplies unsigned numbers. Here magnitudes enter such a core of the
    operands' widths, and the product is negated where the signs differ.

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
        With the id ``kulkarni:8s``.

    Raises
    ------
    InputError
        If a width is not 1 to 16.

    References
    ----------
    P. Kulkarni, P. Gupta, M. Ercegovac, "Trading Accuracy for Power with an Underdesigned
    Multiplier Architecture", 24th International Conference on VLSI Design, 346-351, 2011,
    DOI 10.1109/VLSID.2011.51

    Examples
    --------
    >>> m = kulkarni(8, signed=False)
    >>> m.id, m(3, 3), m(12, 3), m(3, 7)
    ('kulkarni:8u', 7, 28, 19)
    """
    return FAMILY.multiplier(*operand_formats(bits, signed, b_bits, b_signed))
