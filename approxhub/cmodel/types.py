"""C's integer types on a machine with 64-bit ``long`` (LP64), and how C mixes them.

Imports nothing of the package.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BOOL",
    "CHAR",
    "INT",
    "LONG",
    "SHORT",
    "STDINT",
    "UCHAR",
    "UINT",
    "ULONG",
    "USHORT",
    "ArrayType",
    "CType",
    "PointerType",
    "common",
    "from_words",
    "promote",
]


class CType:
    """One integer type: its width, its sign and the values it holds.

    The types are singletons and compared by identity.

    Examples
    --------
    >>> UCHAR.min, UCHAR.max, UCHAR.size
    (0, 255, 1)
    """

    __slots__ = ("bits", "mask", "max", "min", "modulus", "name", "rank", "signed", "size")

    def __init__(self, name: str, bits: int, signed: bool, rank: int) -> None:
        self.name = name
        self.bits = bits
        self.signed = signed
        self.rank = rank
        self.size = max(1, bits // 8)
        self.modulus = 1 << bits
        self.mask = self.modulus - 1
        self.min = -(self.modulus >> 1) if signed else 0
        self.max = (self.modulus >> 1) - 1 if signed else self.mask

    def holds(self, other: CType) -> bool:
        """Whether every value of `other` is a value of this type."""
        return self.min <= other.min and other.max <= self.max

    def __repr__(self) -> str:
        return f"<C type {self.name}>"


BOOL = CType("_Bool", 1, False, 0)
CHAR = CType("signed char", 8, True, 1)
UCHAR = CType("unsigned char", 8, False, 1)
SHORT = CType("short", 16, True, 2)
USHORT = CType("unsigned short", 16, False, 2)
INT = CType("int", 32, True, 3)
UINT = CType("unsigned int", 32, False, 3)
LONG = CType("long", 64, True, 4)
ULONG = CType("unsigned long", 64, False, 4)

#: What <stdint.h>, <stddef.h> and <stdbool.h> name.
STDINT: dict[str, CType] = {
    "int8_t": CHAR,
    "uint8_t": UCHAR,
    "int16_t": SHORT,
    "uint16_t": USHORT,
    "int32_t": INT,
    "uint32_t": UINT,
    "int64_t": LONG,
    "uint64_t": ULONG,
    "int_fast8_t": CHAR,
    "uint_fast8_t": UCHAR,
    "int_least8_t": CHAR,
    "uint_least8_t": UCHAR,
    "int_least16_t": SHORT,
    "uint_least16_t": USHORT,
    "int_least32_t": INT,
    "uint_least32_t": UINT,
    "intptr_t": LONG,
    "uintptr_t": ULONG,
    "intmax_t": LONG,
    "uintmax_t": ULONG,
    "size_t": ULONG,
    "ptrdiff_t": LONG,
    "bool": BOOL,
}

_WORDS: dict[tuple[str, ...], CType] = {
    ("_Bool",): BOOL,
    ("char",): CHAR,
    ("char", "signed"): CHAR,
    ("char", "unsigned"): UCHAR,
    ("short",): SHORT,
    ("short", "signed"): SHORT,
    ("short", "unsigned"): USHORT,
    ("signed",): INT,
    ("unsigned",): UINT,
    (): INT,
    ("long",): LONG,
    ("long", "signed"): LONG,
    ("long", "unsigned"): ULONG,
    ("long", "long"): LONG,
    ("long", "long", "signed"): LONG,
    ("long", "long", "unsigned"): ULONG,
}


@dataclass(frozen=True, slots=True)
class PointerType:
    """A pointer to the first element of an allocated array."""

    element: CType


@dataclass(frozen=True, slots=True)
class ArrayType:
    """A one-dimensional array of known length."""

    element: CType
    length: int

    @property
    def size(self) -> int:
        """Bytes, as ``sizeof`` gives them."""
        return self.element.size * self.length


def from_words(words: list[str]) -> CType | None:
    """Type that a list of keywords names, or None if it is not an integer type.

    Examples
    --------
    >>> from_words(["long", "unsigned", "int"]).name
    'unsigned long'
    >>> from_words(["double"]) is None
    True
    """
    if not words:
        return None
    rest = sorted(words)
    if "int" in rest and "char" not in rest and "_Bool" not in rest:
        rest.remove("int")
    return _WORDS.get(tuple(rest))


def promote(t: CType) -> CType:
    """Integer promotion: whatever is narrower than ``int`` becomes ``int``."""
    return INT if t.rank < INT.rank else t


def common(x: CType, y: CType) -> CType:
    """Type in which C evaluates an arithmetic operator on `x` and `y`.

    Examples
    --------
    >>> common(UCHAR, UCHAR).name, common(INT, UINT).name, common(LONG, UINT).name
    ('int', 'unsigned int', 'long')
    """
    x, y = promote(x), promote(y)
    if x is y:
        return x
    if x.signed == y.signed:
        return x if x.rank > y.rank else y
    unsigned, signed = (y, x) if x.signed else (x, y)
    # LP64: a signed type of greater rank always holds the unsigned one of smaller rank.
    return unsigned if unsigned.rank >= signed.rank else signed
