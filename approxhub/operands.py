"""Operand formats: how many bits an operand has, and whether it is signed.

Imports numpy only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from approxhub.errors import InputError, OperandRangeError

__all__ = ["MAX_BITS", "OperandFormat"]

MAX_BITS = 16

_TEXT = re.compile(r"([0-9]{1,2})([us])")


@dataclass(frozen=True, slots=True, order=True)
class OperandFormat:
    """Width and sign of one operand of a multiplier.

    Parameters
    ----------
    bits : int
        Width in bits, 1 to 16.
    signed : bool
        Two's complement if true, else unsigned.

    Raises
    ------
    InputError
        If `bits` is not an integer from 1 to 16.

    Examples
    --------
    >>> f = OperandFormat(8, signed=True)
    >>> f.min, f.max, str(f)
    (-128, 127, '8s')
    >>> OperandFormat.parse("4u").max
    15
    """

    bits: int
    signed: bool

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, (int, np.integer)):
            raise InputError(f"operand width must be an integer, got {self.bits!r}")
        if not 1 <= self.bits <= MAX_BITS:
            raise InputError(f"operand width must be 1 to {MAX_BITS} bits, got {self.bits}")
        object.__setattr__(self, "bits", int(self.bits))
        object.__setattr__(self, "signed", bool(self.signed))

    @classmethod
    def parse(cls, text: str) -> OperandFormat:
        """Read ``'8u'`` or ``'12s'``.

        Raises
        ------
        InputError
            If `text` is not a width followed by ``u`` or ``s``.
        """
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InputError(f"{text!r} is not an operand format; write e.g. '8u' or '12s'")
        return cls(int(match[1]), match[2] == "s")

    @property
    def min(self) -> int:
        """Smallest value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        """Largest value."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def size(self) -> int:
        """Number of values, ``2**bits``."""
        return 1 << self.bits

    def values(self) -> npt.NDArray[np.int64]:
        """All values in the order of their bit patterns, shape ``(2**bits,)``, int64."""
        return self.to_value(np.arange(self.size, dtype=np.int64))

    def to_value(self, pattern: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Sign-extend the low `bits` bits of each integer: pattern to value, int64."""
        p = np.asarray(pattern).astype(np.int64) & (self.size - 1)
        if self.signed:
            half = self.size >> 1
            p = (p ^ half) - half
        return np.asarray(p, dtype=np.int64)

    def to_pattern(self, value: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Two's-complement bit pattern of each value, 0 to ``2**bits - 1``, int64."""
        return np.asarray(value).astype(np.int64) & (self.size - 1)

    def check(self, value: npt.ArrayLike, name: str) -> npt.NDArray[np.int64]:
        """Return `value` as int64, refusing what this operand cannot hold.

        Parameters
        ----------
        value : array_like of int
            Values (not bit patterns).
        name : str
            What to call the operand in an error.

        Raises
        ------
        InputError
            If `value` is not of an integer type, or no array.
        OperandRangeError
            If a value is below `min` or above `max`.
        """
        try:
            array: npt.NDArray[Any] = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"operand {name} is no array of integers: {error}") from None
        if array.dtype.kind not in "iu":
            raise InputError(
                f"operand {name} must hold integers, got dtype {array.dtype}; quantise it first"
            )
        if array.size:
            low, high = int(array.min()), int(array.max())
            if low < self.min or high > self.max:
                bad = low if low < self.min else high
                raise OperandRangeError(
                    f"operand {name}: value {bad} is outside {self.min}..{self.max} "
                    f"({self}); operands are values, not bit patterns"
                )
        return array.astype(np.int64)

    def __str__(self) -> str:
        return f"{self.bits}{'s' if self.signed else 'u'}"
