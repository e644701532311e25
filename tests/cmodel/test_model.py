"""The public face of a C model: choice of the function, values, tables, identity."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from approxhub.cmodel import CModel
from approxhub.errors import CModelError, InputError, OperandRangeError
from approxhub.operands import OperandFormat

U4 = OperandFormat(4, signed=False)
S4 = OperandFormat(4, signed=True)
U12 = OperandFormat(12, signed=False)


def test_hash_is_of_the_given_bytes() -> None:
    """source_sha256 is the SHA-256 of the bytes, whatever encoding the comments have."""
    raw = "/* Vašíček */ int f(int a, int b) { return a - b; }".encode("iso8859-2")
    model = CModel.parse(raw, a=U4, b=U4)
    assert model.source_sha256 == hashlib.sha256(raw).hexdigest()
    text = raw.decode("ascii", "ignore")
    assert CModel.parse(text, a=U4, b=U4).source_sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_pickle_and_hash() -> None:
    """A model survives pickling, and is equal to and hashes like another of the same text."""
    source = "int f(int a, int b) { return a + 2 * b; }"
    model = CModel.parse(source, a=U4, b=S4)
    again = pickle.loads(pickle.dumps(model))
    assert again == model == CModel.parse(source, a=U4, b=S4)
    assert len({again, model}) == 1
    assert model != CModel.parse(source, a=U4, b=U4)
    np.testing.assert_array_equal(again.tabulate(), model.tabulate())


@pytest.mark.parametrize(
    ("source", "chosen"),
    [
        ("int f(int a, int b) { return a; } int g(int a) { return a; }", "f"),
        ("int f(int a, int b) { return a; } int g(int a, int b) { return f(b, a); }", "g"),
        ("static int f(int a, int b) { return a; } int g(int a, int b) { return 1; }", "g"),
        ("int g(int a, int b) { return 1; } int f(int a, int *b) { return a; }", "g"),
    ],
)
def test_multiplier_is_found(source: str, chosen: str) -> None:
    """Without a name the only function of two integers that no other one calls is taken."""
    assert CModel.parse(source, a=U4, b=U4).function == chosen


@pytest.mark.parametrize(
    ("source", "function", "message"),
    [
        ("int f(int a, int b) { return a; } int g(int a, int b) { return b; }", None, "f, g"),
        ("int f(int a) { return a; }", None, "no function takes two integers"),
        ("", None, "no function"),
        ("int f(int a, int b) { return a; }", "h", "no function 'h' .it has: f"),
        ("int f(int a, int b, int c) { return a; }", "f", "two operands"),
    ],
)
def test_multiplier_is_not_found(source: str, function: str | None, message: str) -> None:
    """No candidate, several, or a wrong name: an error that says which there are."""
    with pytest.raises(CModelError, match=message):
        CModel.parse(source, a=U4, b=U4, function=function)


def test_named_function_is_taken() -> None:
    """A name decides among several functions."""
    source = "int f(int a, int b) { return a; } int g(int a, int b) { return b; }"
    model = CModel.parse(source, a=U4, b=U4, function="f")
    assert model.evaluate(5, 7) == 5


def test_evaluate_broadcasts_values() -> None:
    """Evaluate takes values of any shapes that broadcast, and gives int64."""
    model = CModel.parse("int f(int a, int b) { return a * 2 - b; }", a=S4, b=U4)
    a = np.arange(-8, 8).reshape(2, 8, 1).astype(np.int8)
    b = np.array([0, 3, 15], dtype=np.uint8)
    out = model.evaluate(a, b)
    assert out.dtype == np.int64
    np.testing.assert_array_equal(out, a.astype(int) * 2 - b)
    scalar = model.evaluate(3, 1)
    assert scalar.shape == ()
    assert scalar == 5
    assert model.evaluate(np.zeros((0, 3), dtype=int), b).shape == (0, 3)
    assert CModel.parse("int f(int a, int b) { return 3; }", a=U4, b=U4).evaluate(
        np.zeros((2, 1), dtype=int), b
    ).tolist() == [[3, 3, 3], [3, 3, 3]]


def test_blocks_join_seamlessly() -> None:
    """Arrays larger than a block give what single pairs give, also when cut along two axes."""
    u16 = OperandFormat(16, signed=False)
    model = CModel.parse("unsigned f(unsigned a, unsigned b) { return a * b ^ 5; }", a=u16, b=u16)
    rng = np.random.default_rng(3)
    a = rng.integers(0, 2**16, (3, 1, 700))
    b = rng.integers(0, 2**16, (1, 900, 700))
    np.testing.assert_array_equal(model.evaluate(a, b), a * b ^ 5)
    a, b = rng.integers(0, 2**16, (2, 1)), rng.integers(0, 2**16, (1, 300_001))
    np.testing.assert_array_equal(model.evaluate(a, b), a * b ^ 5)


def test_values_are_checked() -> None:
    """A pattern in place of a value, or a float, is refused."""
    model = CModel.parse("int f(int a, int b) { return a * b; }", a=S4, b=U4)
    with pytest.raises(OperandRangeError, match="operand a: value 8"):
        model.evaluate(8, 1)
    with pytest.raises(OperandRangeError, match="operand b: value -1"):
        model.evaluate(1, -1)
    with pytest.raises(InputError, match="float64"):
        model.evaluate(1.0, 1)


def test_wide_table_is_made_in_blocks() -> None:
    """A 12 x 12 table has all 2**24 products."""
    model = CModel.parse(
        "long f(uint16_t a, uint16_t b) { return a * b - (a > b) + 1; }", a=U12, b=U12
    )
    table = model.tabulate()
    a = np.arange(4096).reshape(-1, 1)
    b = np.arange(4096).reshape(1, -1)
    assert (table == (a * b - (a > b) + 1) % 2**24).all()


def test_too_wide_table_is_refused() -> None:
    """More than 24 operand bits have no table, and the error says what to call instead."""
    s13 = OperandFormat(13, signed=True)
    model = CModel.parse("int f(int a, int b) { return a * b; }", a=s13, b=U12)
    with pytest.raises(CModelError, match="use evaluate"):
        model.tabulate()
    assert model.evaluate(-4096, 4095) == -4096 * 4095


def test_narrow_parameter_is_refused() -> None:
    """An operand wider than the C parameter would lose bits silently."""
    with pytest.raises(CModelError, match=r"'a' of 'f' is of type unsigned char.*12u"):
        CModel.parse("int f(uint8_t a, int b) { return a; }", a=U12, b=U12)


def test_result_is_cut_and_extended() -> None:
    """Low bits are kept; they are sign-extended if and only if an operand is signed."""
    source = "long f(long a, long b) { return 0xFF80 + (a & b); }"
    for a, b, expected in ((U4, U4, 0x80), (S4, U4, -128), (U4, S4, -128), (S4, S4, -128)):
        assert CModel.parse(source, a=a, b=b).evaluate(0, 0) == expected
        assert CModel.parse(source, a=a, b=b).tabulate()[0, 0] == expected


def test_rows_are_bit_patterns() -> None:
    """Row and column of the table are two's-complement patterns of the values."""
    model = CModel.parse("int f(int a, int b) { return 4 * a + b; }", a=S4, b=U4)
    table = model.tabulate()
    assert table[0b1111, 3] == -4 + 3
    assert table[0b1000, 0] == -32
    assert table[0b0111, 15] == 28 + 15


def test_static_table_outlives_no_evaluation() -> None:
    """Each evaluation starts with fresh statics, so it does not depend on the ones before."""
    source = """
    int f(int a, int b) {
        static int ready = 0;
        static int lut[16];
        if (!ready) { ready = 1; for (int i = 0; i < 16; i++) lut[i] = 3 * i + 1; }
        return lut[a] + b;
    }"""
    model = CModel.parse(source, a=U4, b=U4)
    for _ in range(2):
        np.testing.assert_array_equal(
            model.tabulate(), 3 * np.arange(16)[:, None] + 1 + np.arange(16)
        )


def test_core_does_not_import_the_interpreter() -> None:
    """Importing the operand formats and errors pulls in neither pycparser nor the C models."""
    code = (
        "import sys, approxhub.errors, approxhub.operands, approxhub.ids;"
        "assert not {'pycparser', 'approxhub.cmodel'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
