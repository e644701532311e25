"""Integer arithmetic on many operand pairs at once, with the range of every value known.

A value is a Python int where it is the same for all operand pairs, else :class:`Lanes`: a numpy
array and the interval that its entries lie in. The interval decides how narrow the array may be
(the wires of a circuit are 0 or 1 and take one byte) and whether C's wrap-around can happen.
Imports numpy and the C types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from approxhub.cmodel.types import BOOL, CType

__all__ = [
    "Condition",
    "Data",
    "Lanes",
    "add",
    "all_of",
    "any_of",
    "as_data",
    "bit_and",
    "bit_or",
    "bit_xor",
    "compare",
    "convert",
    "divide",
    "from_array",
    "inverse_of",
    "invert",
    "modulo",
    "multiply",
    "select",
    "shift_left",
    "shift_right",
    "subtract",
    "truth",
    "uniform",
]

Array = npt.NDArray[Any]

_I8 = np.dtype(np.int8)
_U8 = np.dtype(np.uint8)
_I16 = np.dtype(np.int16)
_I32 = np.dtype(np.int32)
_I64 = np.dtype(np.int64)
_U64 = np.dtype(np.uint64)
_I64_MIN = -(1 << 63)
_I64_MAX = (1 << 63) - 1
_U64_MASK = (1 << 64) - 1


class Lanes:
    """Values of one C expression for many operand pairs, all within ``lo..hi``."""

    __slots__ = ("data", "hi", "lo")

    def __init__(self, data: Array, lo: int, hi: int) -> None:
        self.data = data
        self.lo = lo
        self.hi = hi


Data = int | Lanes
#: True or False where it is the same for all operand pairs, else an array of bool.
Condition = bool | npt.NDArray[np.bool_]


def storage(lo: int, hi: int) -> np.dtype[Any]:
    """Type that numpy should hold ``lo..hi`` in: the narrowest of four signed and two unsigned."""
    if lo >= -128 and hi <= 127:
        return _I8
    if lo >= 0 and hi <= 255:
        return _U8
    if lo >= -32768 and hi <= 32767:
        return _I16
    if lo >= -(1 << 31) and hi < (1 << 31):
        return _I32
    return _I64 if hi <= _I64_MAX else _U64


def _range(x: Data) -> tuple[int, int]:
    return (x, x) if isinstance(x, int) else (x.lo, x.hi)


def _as(x: Data, dtype: np.dtype[Any]) -> Any:
    if isinstance(x, int):
        return dtype.type(x)
    return x.data if x.data.dtype is dtype else x.data.astype(dtype)


def _bits(x: Data) -> Any:
    """64-bit pattern of each value, as uint64."""
    if isinstance(x, int):
        return np.uint64(x & _U64_MASK)
    if x.data.dtype is _U64:
        return x.data
    return x.data.astype(_I64, copy=False).view(_U64)


def _packed(data: Array, lo: int, hi: int) -> Data:
    if lo == hi:
        return lo
    dtype = storage(lo, hi)
    return Lanes(data if data.dtype is dtype else data.astype(dtype), lo, hi)


def from_array(values: Array, lo: int, hi: int) -> Lanes:
    """Lanes of an integer array whose entries lie in ``lo..hi``."""
    return Lanes(values.astype(storage(lo, hi)), lo, hi)


def _from_bits(bits: Array, t: CType) -> Data:
    """Value of type `t` with the low bits of each 64-bit pattern."""
    if t.bits == 64:
        return Lanes(bits.view(_I64) if t.signed else bits, t.min, t.max)
    data = (bits & np.uint64(t.mask)).view(_I64)
    if t.signed:
        half = np.int64(t.modulus >> 1)
        data = (data ^ half) - half
    return _packed(data, t.min, t.max)


def convert(x: Data, t: CType) -> Data:
    """Conversion to a C type: modulo 2**bits, or to 0 and 1 for ``_Bool``."""
    if isinstance(x, int):
        if t.min <= x <= t.max:
            return x
        if t is BOOL:
            return 1
        x &= t.mask
        return x - t.modulus if x > t.max else x
    if t.min <= x.lo and x.hi <= t.max:
        return x
    if t is BOOL:
        return as_data(truth(x))
    page = (x.lo - t.min) // t.modulus
    if page == (x.hi - t.min) // t.modulus:
        # The whole interval moves by one multiple of 2**bits, so its order stays.
        offset = page * t.modulus
        lo, hi = x.lo - offset, x.hi - offset
        if max(hi, x.hi, -offset) <= _I64_MAX and min(lo, x.lo, -offset) >= _I64_MIN:
            dtype = storage(min(lo, x.lo, -offset), max(hi, x.hi, -offset))
            return _packed(_as(x, dtype) + dtype.type(-offset), lo, hi)
        return _packed(_bits(x) - np.uint64(offset & _U64_MASK), lo, hi)
    return _from_bits(_bits(x), t)


def _exact(ufunc: Callable[..., Array], x: Data, y: Data, lo: int, hi: int, t: CType) -> Data:
    """Apply a ring operation whose mathematical result lies in ``lo..hi``, then wrap to `t`."""
    xlo, xhi = _range(x)
    ylo, yhi = _range(y)
    low, high = min(lo, xlo, ylo), max(hi, xhi, yhi)
    if (high <= _I64_MAX and low >= _I64_MIN) or (low >= 0 and high <= _U64_MASK):
        dtype = storage(low, high)
        return convert(_packed(ufunc(_as(x, dtype), _as(y, dtype)), lo, hi), t)
    return _from_bits(ufunc(_bits(x), _bits(y)), t)


def add(x: Data, y: Data, t: CType) -> Data:
    """``x + y``, both of type `t`."""
    if isinstance(x, int) and isinstance(y, int):
        return convert(x + y, t)
    xlo, xhi = _range(x)
    ylo, yhi = _range(y)
    return _exact(np.add, x, y, xlo + ylo, xhi + yhi, t)


def subtract(x: Data, y: Data, t: CType) -> Data:
    """``x - y``, both of type `t`."""
    if isinstance(x, int) and isinstance(y, int):
        return convert(x - y, t)
    xlo, xhi = _range(x)
    ylo, yhi = _range(y)
    return _exact(np.subtract, x, y, xlo - yhi, xhi - ylo, t)


def multiply(x: Data, y: Data, t: CType) -> Data:
    """``x * y``, both of type `t`."""
    if isinstance(x, int) and isinstance(y, int):
        return convert(x * y, t)
    xlo, xhi = _range(x)
    ylo, yhi = _range(y)
    corners = (xlo * ylo, xlo * yhi, xhi * ylo, xhi * yhi)
    return _exact(np.multiply, x, y, min(corners), max(corners), t)


def divide(x: Data, y: Data, t: CType) -> Data:
    """``x / y`` towards zero; no entry of `y` is 0."""
    return _quotient(x, y, t)[0]


def modulo(x: Data, y: Data, t: CType) -> Data:
    """``x % y`` with the sign of `x`; no entry of `y` is 0."""
    return _quotient(x, y, t)[1]


def _quotient(x: Data, y: Data, t: CType) -> tuple[Data, Data]:
    if isinstance(x, int) and isinstance(y, int):
        q = abs(x) // abs(y)
        q = q if (x < 0) == (y < 0) else -q
        return convert(q, t), convert(x - q * y, t)
    if not t.signed:
        dtype = storage(0, max(_range(x)[1], _range(y)[1]))
        p, d = _as(x, dtype), _as(y, dtype)
        high = _range(x)[1]
        return _packed(p // d, 0, high), _packed(p % d, 0, min(high, _range(y)[1] - 1))
    # Magnitudes as 64-bit patterns: abs(-2**63) fits there, and its negation wraps like C's.
    # (Arrays also for constants: numpy warns when a scalar wraps.)
    xb, yb = np.atleast_1d(_bits(x)), np.atleast_1d(_bits(y))
    xn, yn = xb.view(_I64) < 0, yb.view(_I64) < 0
    xm = np.where(xn, np.invert(xb) + np.uint64(1), xb)
    ym = np.where(yn, np.invert(yb) + np.uint64(1), yb)
    quotient, rest = xm // ym, xm % ym
    quotient = np.where(xn != yn, np.invert(quotient) + np.uint64(1), quotient)
    rest = np.where(xn, np.invert(rest) + np.uint64(1), rest)
    return _from_bits(quotient, t), _from_bits(rest, t)


def invert(x: Data, t: CType) -> Data:
    """``~x`` for `x` of type `t`."""
    # Both forms equal the complement and never leave the type.
    return subtract(-1 if t.signed else t.max, x, t)


def _width(*bounds: int) -> int:
    return max(b.bit_length() if b >= 0 else (~b).bit_length() for b in bounds)


def bit_and(x: Data, y: Data, t: CType) -> Data:
    """``x & y``, both of type `t`."""
    if isinstance(x, int) and isinstance(y, int):
        return x & y
    xlo, xhi = _range(x)
    ylo, yhi = _range(y)
    if xlo >= 0 or ylo >= 0:
        hi = min(xhi if xlo >= 0 else t.max, yhi if ylo >= 0 else t.max)
        # Dropping high bits of the other side first is harmless: this side has none there.
        dtype = storage(0, hi)
        if isinstance(x, int):
            x &= _fitting(dtype)
        if isinstance(y, int):
            y &= _fitting(dtype)
        return _packed(np.bitwise_and(_as(x, dtype), _as(y, dtype)), 0, hi)
    width = _width(xlo, xhi, ylo, yhi)
    lo, hi = -(1 << width), (1 << width) - 1
    dtype = storage(lo, hi)
    return _packed(np.bitwise_and(_as(x, dtype), _as(y, dtype)), lo, hi)


def _fitting(dtype: np.dtype[Any]) -> int:
    return _U64_MASK if dtype is _U64 else int(np.iinfo(dtype).max)


def _bit_join(ufunc: Callable[..., Array], x: Data, y: Data) -> Data:
    xlo, xhi = _range(x)
    ylo, yhi = _range(y)
    width = _width(xlo, xhi, ylo, yhi)
    lo = 0 if xlo >= 0 and ylo >= 0 else -(1 << width)
    hi = (1 << width) - 1
    dtype = storage(lo, hi)
    return _packed(ufunc(_as(x, dtype), _as(y, dtype)), lo, hi)


def bit_or(x: Data, y: Data, t: CType) -> Data:
    """``x | y``, both of type `t`."""
    if isinstance(x, int) and isinstance(y, int):
        return x | y
    return _bit_join(np.bitwise_or, x, y)


def bit_xor(x: Data, y: Data, t: CType) -> Data:
    """``x ^ y``, both of type `t`."""
    if isinstance(x, int) and isinstance(y, int):
        return x ^ y
    return _bit_join(np.bitwise_xor, x, y)


def shift_left(x: Data, n: Data, t: CType) -> Data:
    """``x << n`` with ``0 <= n < t.bits``; what leaves the type is lost."""
    if isinstance(x, int) and isinstance(n, int):
        return convert(x << n, t)
    xlo, xhi = _range(x)
    nlo, nhi = _range(n)
    lo = min(xlo << nlo, xlo << nhi)
    hi = max(xhi << nlo, xhi << nhi)
    low, high = min(lo, xlo), max(hi, xhi)
    if (high <= _I64_MAX and low >= _I64_MIN) or (low >= 0 and high <= _U64_MASK):
        dtype = storage(low, high)
        return convert(_packed(np.left_shift(_as(x, dtype), _as(n, dtype)), lo, hi), t)
    return _from_bits(np.left_shift(_bits(x), _bits(n)), t)


def shift_right(x: Data, n: Data, t: CType) -> Data:
    """``x >> n`` with ``0 <= n < t.bits``; arithmetic for a negative `x`, as gcc has it."""
    if isinstance(x, int) and isinstance(n, int):
        return x >> n
    xlo, xhi = _range(x)
    nlo, nhi = _range(n)
    lo = min(xlo >> nlo, xlo >> nhi)
    hi = max(xhi >> nlo, xhi >> nhi)
    dtype = storage(xlo, xhi)
    return _packed(np.right_shift(_as(x, dtype), _as(n, dtype)), lo, hi)


_COMPARISONS: dict[str, tuple[Callable[..., Array], Callable[[int, int], bool]]] = {
    "<": (np.less, lambda x, y: x < y),
    "<=": (np.less_equal, lambda x, y: x <= y),
    ">": (np.greater, lambda x, y: x > y),
    ">=": (np.greater_equal, lambda x, y: x >= y),
    "==": (np.equal, lambda x, y: x == y),
    "!=": (np.not_equal, lambda x, y: x != y),
}


def compare(operator: str, x: Data, y: Data) -> Condition:
    """One of C's six comparisons, on operands of one type."""
    ufunc, plain = _COMPARISONS[operator]
    if isinstance(x, int) and isinstance(y, int):
        return plain(x, y)
    xlo, xhi = _range(x)
    ylo, yhi = _range(y)
    if xhi < ylo or yhi < xlo:
        return plain(xlo, ylo)
    dtype = storage(min(xlo, ylo), max(xhi, yhi))
    return uniform(ufunc(_as(x, dtype), _as(y, dtype)))


def uniform(mask: npt.NDArray[np.bool_]) -> Condition:
    """A condition, as a plain bool where all its entries agree."""
    if mask.all():
        return True
    return mask if mask.any() else False


def truth(x: Data) -> Condition:
    """``x != 0``."""
    if isinstance(x, int):
        return x != 0
    if x.lo > 0 or x.hi < 0:
        return True
    return uniform(x.data != 0)


def as_data(condition: Condition) -> Data:
    """A condition as C's 0 or 1."""
    if isinstance(condition, bool):
        return int(condition)
    return Lanes(condition.view(np.int8), 0, 1)


def all_of(x: Condition, y: Condition) -> Condition:
    """Both conditions."""
    if isinstance(x, bool):
        return y if x else False
    if isinstance(y, bool):
        return x if y else False
    return uniform(x & y)


def any_of(x: Condition, y: Condition) -> Condition:
    """Either condition."""
    if isinstance(x, bool):
        return True if x else y
    if isinstance(y, bool):
        return True if y else x
    return uniform(x | y)


def inverse_of(x: Condition) -> Condition:
    """The opposite condition."""
    return not x if isinstance(x, bool) else ~x


def select(mask: Condition, x: Data, y: Data) -> Data:
    """`x` where `mask` holds, else `y`."""
    if isinstance(mask, bool):
        return x if mask else y
    xlo, xhi = _range(x)
    ylo, yhi = _range(y)
    lo, hi = min(xlo, ylo), max(xhi, yhi)
    if lo < 0 and hi > _I64_MAX:  # pragma: no cover - both sides have one C type
        raise OverflowError("a selection mixes negative values with values above 2**63")
    dtype = storage(lo, hi)
    return _packed(np.where(mask, _as(x, dtype), _as(y, dtype)), lo, hi)
