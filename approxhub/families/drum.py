"""DRUM: a k-bit window at the leading one of each operand, its lowest bit set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from approxhub.families.base import (
    Family,
    IntArray,
    Parameter,
    SignMagnitudeCircuit,
    dropped_bits,
    operand_formats,
)
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["FAMILY", "DrumCircuit", "drum"]


@dataclass(frozen=True)
class DrumCircuit(SignMagnitudeCircuit):
    """Product of the unbiased `k`-bit windows of both magnitudes."""

    family: ClassVar[str] = "drum"

    k: int

    def magnitude(self, a: IntArray, b: IntArray, /) -> IntArray:
        """Products of values that are not negative."""
        # A window keeps the leading one and sets no bit above it: both factors stay below
        # 2**bits, their product below 2**(bits_a + bits_b).
        return self._window(a) * self._window(b)

    def _window(self, x: IntArray) -> IntArray:
        shift = dropped_bits(x, self.k)
        return np.where(shift > 0, ((x >> shift) | 1) << shift, x)


def _circuit(_a: OperandFormat, _b: OperandFormat, **values: int) -> DrumCircuit:
    return DrumCircuit(values["k"])


FAMILY = Family(
    name="drum",
    title="DRUM: dynamic range unbiased multiplier, k leading bits of each operand",
    circuit=_circuit,
    parameters=(
        Parameter("k", "bits kept of each operand", lambda a, b, _: (1, max(a.bits, b.bits))),
    ),
    examples=("8u/k=3", "8s/k=3", "8u/k=4", "8s/k=4", "8u/k=6", "8s/k=6", "16u/k=6", "16s/k=6"),
    citation=(
        "S. Hashemi, R. I. Bahar, S. Reda: DRUM: A Dynamic Range Unbiased Multiplier for "
        "Approximate Applications. IEEE/ACM International Conference on Computer-Aided Design "
        "(ICCAD), 418-425, 2015"
    ),
    doi="10.1109/ICCAD.2015.7372600",
)


def drum(
    bits: int = 8,
    signed: bool = True,
    *,
    k: int,
    b_bits: int | None = None,
    b_signed: bool | None = None,
) -> Multiplier:
    r"""Return a dynamic range unbiased multiplier (DRUM).

    With :math:`t` the position of the leading one of a magnitude :math:`x`:

    .. math::

        T(x, w) = d(x)\, d(w), \qquad
        d(x) = \begin{cases} x & t < k \\
        \left(\lfloor x / 2^{t-k+1} \rfloor \mathbin{|} 1\right) 2^{t-k+1} & t \ge k \end{cases}

    The window's lowest bit is set to one, the expected value of what is cut off.

    Signs: as in the paper, magnitudes enter an unsigned core of the operands' widths, and the
    product is negated where the signs differ. (The authors' published Verilog for signed operands
    joins the signs with AND; that gives wrong signs, and the paper's text is followed.)

    Parameters
    ----------
    bits : int
        Width of the activation operand, 1 to 16.
    signed : bool
        Whether it is two's complement.
    k : int
        Bits kept of each operand, 1 to the larger width (which is exact).
    b_bits, b_signed : int, bool, optional
        Width and sign of the weight operand; as the activation's when not given.

    Returns
    -------
    Multiplier
        With the id ``drum:8s/k=4``.

    Raises
    ------
    InputError
        If a width is not 1 to 16, or `k` is out of its range.

    References
    ----------
    S. Hashemi, R. I. Bahar, S. Reda, "DRUM: A Dynamic Range Unbiased Multiplier for Approximate
    Applications", ICCAD 2015, DOI 10.1109/ICCAD.2015.7372600

    Examples
    --------
    >>> m = drum(8, signed=False, k=4)
    >>> m.id, m(200, 3)  # 0b11001000 becomes 0b11010000
    ('drum:8u/k=4', 624)
    """
    return FAMILY.multiplier(*operand_formats(bits, signed, b_bits, b_signed), k=k)
