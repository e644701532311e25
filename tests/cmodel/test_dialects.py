"""Every dialect of C model that the source library uses, in C of our own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from approxhub.cmodel import CModel
from approxhub.operands import OperandFormat

Integers = npt.NDArray[np.int64]


def bit(x: Integers, k: int) -> Integers:
    """Bit k of each number."""
    return (x >> k) & 1


def plain_ab(a: Integers, b: Integers) -> Integers:
    """OR of two rows, a set low bit, a sign."""
    low = (bit(a, 0) & bit(b, 0)) ^ 1
    rows = np.where(bit(b, 0) == 1, a & 14, 0) | np.where(bit(b, 1) == 1, (a & 7) << 1, 0)
    return low | rows | np.where((a < 0) & (b >= 0), -32768, 0)


def swapped_names(a: Integers, b: Integers) -> Integers:
    """Of a = B and b = A."""
    cross = bit(a, 0) & bit(b, 1)
    return 1 + 2 * cross + 8 * (bit(a, 3) & bit(b, 0)) + 16 * (bit(a, 3) ^ bit(b, 1))


def unextended(a: Integers, b: Integers) -> Integers:
    """Bit 8 is the sign of a 9-bit product."""
    low = np.where((a < 0) == (b < 0), 0, 1) ^ 1
    return low + 8 * (bit(a, 1) & bit(b, 2)) - 256 * ((a < 0) | (b % 2 == 1))


def unsigned_return(a: Integers, b: Integers) -> Integers:
    """Bits 14 and 15 go with the sign of a."""
    both = (a < 0) & (bit(b, 6) == 1)
    low = (bit(a, 0) == 0) & (b >= 0)
    return low + 2 * (both ^ (b % 2 == 1)) + np.where(a < 0, 16384, 0) + np.where(both, -32768, 0)


def inverted_byte(a: Integers, b: Integers) -> Integers:
    """~ of a byte is -1 minus it."""
    n3 = 255 - (a & b)
    # -1 - a shifts arithmetically, and 32 bits come back of which 16 are kept.
    return np.where(n3 > 200, (-1 - a) >> 1, n3 * (-1 - b)) & 0xFFFF


def nested_helpers(a: Integers, b: Integers) -> Integers:
    """Sums modulo 256 inside sums."""

    def half_sum(x: Integers, y: Integers) -> Integers:
        return ((x ^ y) + 250) % 256

    def small(x: Integers, y: Integers) -> Integers:
        s = half_sum(x & 3, y)
        return (s << 2) | (half_sum(y, s) & 3)

    return (small(a, b) + small(b >> 1, a) * 16) & 0xFF


def bit_arrays(a: Integers, b: Integers) -> Integers:
    """An inverted OR, and an XOR with it."""
    s7 = bit(a, 3) & bit(b, 0)
    s8 = 1 - (bit(a, 1) | bit(b, 2))
    return s8 + 4 * s7 + 64 * (s7 ^ s8)


def composed(a: Integers, b: Integers) -> Integers:
    """Four quarters less one."""
    al, ah, bl, bh = a & 255, a >> 8, b & 255, b >> 8
    ll = (al | 1) * (bl & 0xFC)
    hl = ((ah & 0xF0) * bl) ^ 1
    hh = (bh | 1) * (ah & 0xFC)
    return (ll + (hl << 8) + (hh << 16)) & 0xFFFFFFFF


def arithmetic(a: Integers, b: Integers) -> Integers:
    """Masked product, and a remainder."""
    return ((a & 0x3E) * (b & 0x38) + 5 - (a % 3) // 2) & 0xFFF


def wide_long(a: Integers, b: Integers) -> Integers:
    """High bits of a 64-bit product, and a floored half."""
    top = (a.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(59)
    value = top.astype(np.int64) + ((a - 3) // 2) * b + 7
    return (value + 2**12) % 2**13 - 2**12


def dos_lines(a: Integers, b: Integers) -> Integers:
    """One OR gate."""
    return 16 + 2 * (bit(a, 2) | bit(b, 0))


def branching(a: Integers, b: Integers) -> Integers:
    """Pair by pair in Python."""
    out = np.empty(np.broadcast_shapes(a.shape, b.shape), dtype=np.int64)
    for i, x in enumerate(a.ravel()):
        for j, y in enumerate(b.ravel()):
            if y == 0:
                out[i, j] = 9
                continue
            m, shift = abs(int(x)), 0
            while m >= 8 and not (shift == 3 and y > 2):
                m, shift = m >> 1, shift + 1
            total = (m | 1) * y * (-1 if x < 0 else 1)
            if x >= 0:
                total += sum(k & 1 for k in range(6) if k != y)
            out[i, j] = total << shift
    return (out + 2**10) % 2**11 - 2**10


@dataclass(frozen=True)
class Dialect:
    a: str
    b: str
    expected: Callable[[Integers, Integers], Integers]
    returns: str
    parameters: tuple[str, str]


DIALECTS = {
    "plain_ab": Dialect("8s", "8s", plain_ab, "short", ("A", "B")),
    "swapped_names": Dialect("4u", "4u", swapped_names, "unsigned long", ("B", "A")),
    "unextended": Dialect("5s", "4s", unextended, "int", ("A", "B")),
    "unsigned_return": Dialect("8s", "8s", unsigned_return, "unsigned short", ("A", "B")),
    "inverted_byte": Dialect("8u", "8u", inverted_byte, "unsigned int", ("A", "B")),
    "nested_helpers": Dialect("4u", "4u", nested_helpers, "unsigned short", ("a", "b")),
    "bit_arrays": Dialect("4u", "3u", bit_arrays, "unsigned long", ("a", "b")),
    "arithmetic": Dialect("6u", "6u", arithmetic, "unsigned int", ("A", "B")),
    "wide_long": Dialect("7s", "6u", wide_long, "long", ("a", "b")),
    "dos_lines": Dialect("3u", "5u", dos_lines, "unsigned long", ("A", "B")),
    "branching": Dialect("7s", "4u", branching, "int", ("a", "b")),
}


def parsed(name: str, c_file: Callable[[str], bytes]) -> CModel:
    """The model of a fixture."""
    dialect = DIALECTS[name]
    a, b = OperandFormat.parse(dialect.a), OperandFormat.parse(dialect.b)
    return CModel.parse(c_file(name), a=a, b=b)


def low_bits(values: Integers, a: OperandFormat, b: OperandFormat) -> Integers:
    """Low bits of a result, sign-extended if an operand is signed."""
    bits = a.bits + b.bits
    return OperandFormat(16, a.signed or b.signed).to_value(values << (16 - bits)) >> (16 - bits)


@pytest.mark.parametrize("name", DIALECTS)
def test_table_equals_hand_written_expectation(name: str, c_file: Callable[[str], bytes]) -> None:
    """The table of each dialect is what numpy gives for the circuit written by hand."""
    model = parsed(name, c_file)
    dialect = DIALECTS[name]
    expected = dialect.expected(model.a.values().reshape(-1, 1), model.b.values().reshape(1, -1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = model.tabulate()
    assert table.dtype == np.int32
    assert table.shape == (model.a.size, model.b.size)
    assert table.flags.c_contiguous
    np.testing.assert_array_equal(table, expected)
    assert (model.function, model.returns) == (name, dialect.returns)
    assert model.parameters == dialect.parameters


@pytest.mark.parametrize("name", DIALECTS)
def test_table_equals_gcc(
    name: str,
    c_file: Callable[[str], bytes],
    compile_c: Callable[..., Callable[..., Integers]],
    tmp_path: object,
) -> None:
    """The table of each dialect is what gcc's machine code gives for all operand pairs."""
    model = parsed(name, c_file)
    run = compile_c(c_file(name).decode(), [name], tmp_path)
    raw = run(name, model.a.values().reshape(-1, 1), model.b.values().reshape(1, -1))
    np.testing.assert_array_equal(model.tabulate(), low_bits(raw, model.a, model.b))


@pytest.mark.parametrize("name", DIALECTS)
def test_circuits_tell_operands_apart(name: str, c_file: Callable[[str], bytes]) -> None:
    """The fixtures show a swap of operands and an unwritten corner: not symmetric, T[0,0] != 0."""
    table = parsed(name, c_file).tabulate()
    n = min(table.shape)
    assert (table[:n, :n] != table[:n, :n].T).any()
    assert table[0, 0] != 0


def test_first_argument_is_operand_a(c_file: Callable[[str], bytes]) -> None:
    """Of a function (B, A) the first argument is still operand a."""
    model = parsed("swapped_names", c_file)
    assert model.evaluate(8, 0) == 1 + 16 + 0
    assert model.evaluate(0, 8) == 1


def test_dos_line_ends_are_read(c_file: Callable[[str], bytes]) -> None:
    """The fixture really has CR LF, and the hash is of the bytes as they are."""
    raw = c_file("dos_lines")
    assert raw.count(b"\r\n") == raw.count(b"\n") > 5
    model = parsed("dos_lines", c_file)
    unix = CModel.parse(raw.replace(b"\r\n", b"\n"), a=model.a, b=model.b)
    assert unix.source_sha256 != model.source_sha256
    np.testing.assert_array_equal(unix.tabulate(), model.tabulate())


@pytest.fixture(scope="module")
def pairs() -> tuple[Integers, Integers]:
    """Random pairs of 16-bit operands."""
    rng = np.random.default_rng(20)
    return rng.integers(0, 2**16, 300_000), rng.integers(0, 2**16, 300_000)


def composed_model(c_file: Callable[[str], bytes]) -> CModel:
    """The model of the composed fixture."""
    u16 = OperandFormat(16, signed=False)
    return CModel.parse(c_file("composed"), a=u16, b=u16)


def test_composed_model_equals_expectation(
    c_file: Callable[[str], bytes], pairs: tuple[Integers, Integers]
) -> None:
    """16 x 16 bits from tables in static pointers, filled by loops: as by hand."""
    model = composed_model(c_file)
    assert model.function == "composed"
    np.testing.assert_array_equal(model.evaluate(*pairs), composed(*pairs))
    assert model.evaluate(0, 0) == 256


def test_composed_model_equals_gcc(
    c_file: Callable[[str], bytes],
    pairs: tuple[Integers, Integers],
    compile_c: Callable[..., Callable[..., Integers]],
    tmp_path: object,
) -> None:
    """16 x 16 bits from tables in static pointers, filled by loops: as gcc has it."""
    run = compile_c(c_file("composed").decode(), ["composed"], tmp_path)
    np.testing.assert_array_equal(composed_model(c_file).evaluate(*pairs), run("composed", *pairs))
