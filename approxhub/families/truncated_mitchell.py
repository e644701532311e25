"""Mitchell's multiplier with truncated operands (Mitch-w): w leading bits of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from approxhub.families.base import (
    Family,
    IntArray,
    Parameter,
    leading_segment,
    operand_formats,
)
from approxhub.families.mitchell import MitchellCircuit
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["FAMILY", "TruncatedMitchellCircuit", "truncated_mitchell"]


@dataclass(frozen=True)
class TruncatedMitchellCircuit(MitchellCircuit):
    """Mitchell's product of the `w` leading bits of both magnitudes."""

    family: ClassVar[str] = "mitchw"

    w: int

    def magnitude(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of values that are not negative, never above Mitchell's."""
        return super().magnitude(leading_segment(a, self.w), leading_segment(b, self.w))


def _circuit(_a: OperandFormat, _b: OperandFormat, **values: int) -> TruncatedMitchellCircuit:
    return TruncatedMitchellCircuit(values["w"])


FAMILY = Family(
    name="mitchw",
    title="Mitch-w: Mitchell's logarithmic multiplier of w leading bits",
    circuit=_circuit,
    parameters=(
        Parameter(
            "w",
            "bits kept of each operand, the leading one and w - 1 of the fraction",
            lambda a, b, _: (1, max(a.bits, b.bits)),
        ),
    ),
    examples=("8u/w=4", "8s/w=4", "8u/w=6", "8s/w=6", "16u/w=6", "16s/w=6"),
    citation=(
        "M. S. Kim, A. A. Del Barrio, R. Hermida, N. Bagherzadeh: Low-Power Implementation of "
        "Mitchell's Approximate Logarithmic Multiplication for Convolutional Neural Networks. "
        "Asia and South Pacific Design Automation Conference (ASP-DAC), 617-622, 2018"
    ),
    doi="10.1109/ASPDAC.2018.8297391",
)


def truncated_mitchell(
    bits: int = 8,
    signed: bool = True,
    *,
    w: int,
    b_bits: int | None = None,
    b_signed: bool | None = None,
) -> Multiplier:
    r"""Return Mitchell's multiplier with truncated operands (Mitch-w).

    With magnitudes :math:`2^p (1 + f)` and :math:`2^q (1 + g)` and fractions of which `w` - 1
    bits are kept, :math:`f_w = \lfloor 2^{w-1} f \rfloor / 2^{w-1}` and :math:`g_w` alike:

    .. math::

        T = \begin{cases} 2^{p+q} (1 + f_w + g_w) & f_w + g_w < 1 \\
        2^{p+q+1} (f_w + g_w) & f_w + g_w \ge 1 \end{cases}

    and 0 if an operand is 0. It is :func:`mitchell` of the segments that :func:`dsm` multiplies.
    `w` counts the leading one, as the authors do: only so is the bias of Mitch-w6 the -5.9 % that
    they give.

    Signs: magnitudes enter an unsigned core of the operands' widths, and the product is negated
    where the signs differ. The authors' cheaper negation by one's complement is not included.

    Parameters
    ----------
    bits : int
        Width of the activation operand, 1 to 16.
    signed : bool
        Whether it is two's complement.
    w : int
        Bits kept of each operand, 1 (powers of two) to the larger width (all of Mitchell's).
    b_bits, b_signed : int, bool, optional
        Width and sign of the weight operand; as the activation's when not given.

    Returns
    -------
    Multiplier
        With the id ``mitchw:8s/w=6``.

    Raises
    ------
    InputError
        If a width is not 1 to 16, or `w` is out of its range.

    References
    ----------
    M. S. Kim, A. A. Del Barrio, R. Hermida, N. Bagherzadeh, "Low-Power Implementation of
    Mitchell's Approximate Logarithmic Multiplication for Convolutional Neural Networks", ASP-DAC
    2018, DOI 10.1109/ASPDAC.2018.8297391

    Examples
    --------
    >>> m = truncated_mitchell(8, signed=False, w=2)
    >>> m.id, m(7, 7)  # of 6 and 6: 4 * 4 * 2 * (1/2 + 1/2)
    ('mitchw:8u/w=2', 32)
    """
    return FAMILY.multiplier(*operand_formats(bits, signed, b_bits, b_signed), w=w)
