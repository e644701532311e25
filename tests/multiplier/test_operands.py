"""Operand formats: ranges, patterns, and what they refuse."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from approxhub.errors import ApproxHubError, InputError, OperandRangeError
from approxhub.operands import MAX_BITS, OperandFormat

formats = st.builds(OperandFormat, st.integers(1, MAX_BITS), st.booleans())


@pytest.mark.parametrize(
    ("bits", "signed", "low", "high", "text"),
    [
        (1, False, 0, 1, "1u"),
        (1, True, -1, 0, "1s"),
        (8, False, 0, 255, "8u"),
        (8, True, -128, 127, "8s"),
        (9, True, -256, 255, "9s"),
        (16, False, 0, 65535, "16u"),
        (16, True, -32768, 32767, "16s"),
    ],
)
def test_range_and_text(bits, signed, low, high, text):
    """Smallest and largest value, number of values and text of known formats."""
    f = OperandFormat(bits, signed)
    assert (f.min, f.max, f.size, str(f)) == (low, high, 1 << bits, text)
    assert OperandFormat.parse(text) == f


def test_values_stand_in_the_order_of_their_patterns():
    """The values of 3s are 0 to 3, then -4 to -1."""
    assert OperandFormat(3, True).values().tolist() == [0, 1, 2, 3, -4, -3, -2, -1]
    assert OperandFormat(3, False).values().tolist() == list(range(8))
    assert OperandFormat(3, True).values().dtype == np.int64


@settings(derandomize=True, deadline=None)
@given(formats, st.data())
def test_patterns_and_values_are_inverse(f, data):
    """A value's pattern is its code modulo 2**bits, and leads back to the value."""
    value = data.draw(st.integers(f.min, f.max))
    pattern = int(f.to_pattern(value))
    assert pattern == value % 2**f.bits
    assert int(f.to_value(pattern)) == value


def test_only_the_low_bits_of_a_pattern_count():
    """Bits above the operand's width are ignored, then the sign is extended."""
    f = OperandFormat(4, True)
    assert f.to_value([0x18, 0xF7, -1]).tolist() == [-8, 7, -1]
    assert f.to_value(np.array([255], dtype=np.uint8)).tolist() == [-1]


@pytest.mark.parametrize(
    "text", ["", "8", "u", "8x", "8U", "s8", " 8u", "8u ", "-8u", "8.0u", "100u", "٨u", "8u\n"]
)
def test_other_texts_are_refused(text):
    """Only an ASCII width followed by u or s is a format."""
    with pytest.raises(InputError, match="is not an operand format"):
        OperandFormat.parse(text)


@pytest.mark.parametrize("bits", [0, 17, -8])
def test_widths_are_1_to_16(bits):
    """Other widths are refused with the limits."""
    with pytest.raises(InputError, match="must be 1 to 16 bits"):
        OperandFormat(bits, False)


@pytest.mark.parametrize("bits", [8.0, "8", None, True])
def test_widths_are_integers(bits):
    """A width of another type is refused."""
    with pytest.raises(InputError, match="must be an integer"):
        OperandFormat(bits, False)


def test_a_numpy_width_becomes_a_plain_one():
    """Formats of NumPy's numbers equal, hash and print like those of Python's."""
    f = OperandFormat(np.int64(8), np.bool_(True))
    assert (f, hash(f), str(f)) == (OperandFormat(8, True), hash(OperandFormat(8, True)), "8s")
    assert type(f.bits) is int
    assert type(f.signed) is bool


@pytest.mark.parametrize(
    ("f", "value", "bad"),
    [
        (OperandFormat(8, False), [0, 256], 256),
        (OperandFormat(8, False), [-1, 0], -1),
        (OperandFormat(8, True), 128, 128),
        (OperandFormat(8, True), -129, -129),
        (OperandFormat(8, True), np.array([200], dtype=np.uint8), 200),
        (OperandFormat(16, False), np.uint64(2**64 - 1), 2**64 - 1),
    ],
)
def test_values_out_of_range_are_refused(f, value, bad):
    """The error names the operand, the value and the range, and is a ValueError."""
    with pytest.raises(OperandRangeError, match=rf"operand w: value {bad} is outside {f.min}"):
        f.check(value, "w")
    assert issubclass(OperandRangeError, (ValueError, ApproxHubError))


@pytest.mark.parametrize("value", [1.0, [0.5], True, [True, False], "1", None, [1j]])
def test_values_that_are_not_integers_are_refused(value):
    """Floats, booleans and texts are not codes: they must be quantised first."""
    with pytest.raises(InputError, match="operand a must hold integers"):
        OperandFormat(8, True).check(value, "a")


def test_ragged_values_are_refused():
    """Rows of different lengths are no array."""
    with pytest.raises(InputError, match="operand a is no array of integers"):
        OperandFormat(8, True).check([[1], [1, 2]], "a")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_every_integer_type_is_taken(dtype):
    """Any integer type comes back as int64, shape kept, empty arrays too."""
    out = OperandFormat(8, True).check(np.array([[0, 127]], dtype=dtype), "a")
    assert (out.dtype, out.shape, out.tolist()) == (np.int64, (1, 2), [[0, 127]])
    assert OperandFormat(8, True).check(np.empty((0, 3), dtype=dtype), "a").shape == (0, 3)


def test_formats_are_values():
    """Formats compare, sort, hash, pickle and do not change."""
    f = OperandFormat(8, True)
    assert pickle.loads(pickle.dumps(f)) == f
    assert sorted([f, OperandFormat(4, False)])[0].bits == 4
    assert f != OperandFormat(8, False)
    with pytest.raises(AttributeError):
        f.bits = 9
