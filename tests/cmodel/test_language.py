"""Facts of C that circuits lean on, one by one, with values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from approxhub.cmodel import CModel
from approxhub.cmodel import model as model_module
from approxhub.cmodel.nodes import VectorLoop
from approxhub.operands import OperandFormat

U8 = OperandFormat(8, signed=False)
S16 = OperandFormat(16, signed=True)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("~(uint8_t)1", -2),
        ("(uint8_t)~(uint8_t)1", 254),
        ("(uint8_t)200 + (uint8_t)100", 300),
        ("(int8_t)200", -56),
        ("-1 < 0u", 0),
        ("-1L < 0u", 1),
        ("(uint8_t)255 > (int8_t)-1", 1),
        ("-2147483648 < 0", 1),
        ("2147483648 > -1", 1),
        ("0x80000000 > -1", 0),
        ("4294967295 + 1 > 0", 1),
        ("4294967295u + 1 > 0", 0),
        ("sizeof(2147483647) * 10 + sizeof(2147483648)", 48),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("-7 >> 1", -4),
        ("1 << 31 < 0", 1),
        ("(int)3000000000u", 3000000000 - 2**32),
        ("(_Bool)256", 1),
        ("!5 + !0", 1),
        ("5 && 0 || 7", 1),
        ("(1, 2, 3)", 3),
        ("0 ? 1 : -1 < 1u", 0),
        ("(0 ? 1u : -1) > 0", 1),
        ("'A' + '\\n'", 75),
        ("010 + 0x10 + 0b10", 26),
        ("sizeof(uint16_t) * 100 + sizeof(long) * 10 + sizeof 1", 284),
        ("2 + 3 * 4 - 10 / 2 % 3", 12),
        ("6 & 3 == 3", 0),
        ("1 | 2 ^ 3 & 5", 3),
    ],
)
def test_constant_expression(expression: str, expected: int) -> None:
    """The value is C's, whether it is worked out when read or for many operand pairs."""
    plain = f"long f(int a, int b) {{ return {expression}; }}"
    assert CModel.parse(plain, a=S16, b=S16).evaluate(3, 4) == expected


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ("uint8_t p = 255; p++; return p;", 0),
        ("uint8_t p = 0; return p--;", 0),
        ("uint8_t p = 0; return --p;", 255),
        ("int8_t p = 127; p += 1; return p;", -128),
        ("uint8_t p = 200; p <<= 1; return p;", 144),
        ("int p = 3; { int p = 5; p = 6; } return p;", 3),
        ("int p = 1; for (int p = 7; p < 9; p++) ; return p;", 1),
        ("int p = 0, q = 0; while (1) { if (++p > 5) break; if (p & 1) continue; q += p; }"
         " return q * 10 + p;", 66),
        ("int p = 9; do p++; while (p < 5); return p;", 10),
        ("int x[3] = {4}; return x[0] * 10 + x[2];", 40),
        ("int x[] = {4, 5, 6}; return x[2] + sizeof(x);", 18),
        ("static const uint8_t x[4] = {1, 300, 3}; return x[1] * 10 + x[3];", 440),
        ("typedef int unused; unsigned p = 1; (void)p; return p;", 1),
        ("int *p = calloc(4, sizeof(int)); p[1] = 7; return p[1] + p[3];", 7),
    ],
)  # fmt: skip
def test_statements(statements: str, expected: int) -> None:
    """Assignment, scope, loops and arrays do what C does."""
    source = f"long f(int a, int b) {{ {statements} }}".replace("typedef int unused; ", "")
    assert CModel.parse(source, a=S16, b=S16).evaluate(3, 4) == expected


def test_own_types_and_constants() -> None:
    """A file may define type names, and tables outside the function."""
    source = """
    typedef unsigned char byte;
    typedef byte octet;
    static const octet lut[4] = {9, 8, 7, 256 + 6};
    const int offset = -1;
    octet f(octet a, octet b) { return lut[a & 3] + offset - b; }
    """
    table = CModel.parse(source, a=U8, b=U8).tabulate()
    assert table[3, 2] == 3
    assert table[0, 10] == 254


# (loop over t, which holds 20 numbers, value of t as a function of nothing; whether at once)
LOOPS = [
    ("for (int i = 0; i < 20; i++) t[i] = 2 * i + 1;", [2 * i + 1 for i in range(20)], True),
    ("for (int i = 3; i <= 7; ++i) t[i] = i;", [i if 3 <= i <= 7 else 0 for i in range(20)], True),
    ("int i, n = 5; for (i = 0; i < n; i += 1) { t[i] = i ^ n; } t[19] = i;",
     [i ^ 5 if i < 5 else 0 for i in range(19)] + [5], True),
    ("for (int i = 0; i < 4; i++) for (int j = 0; j < 5; j++) t[i * 5 + j] = i - j;",
     [i - j for i in range(4) for j in range(5)], True),
    ("for (int i = 0; i < 4; i++) for (int j = 0; j < 5; j++) t[j] = i + j;",
     [3 + j for j in range(5)] + [0] * 15, True),
    ("for (int i = 0; i < 9; i++) t[6] = i;", [8 * (k == 6) for k in range(20)], True),
    ("for (int i = 5; i < 5; i++) t[i] = i;", [0] * 20, True),
    ("for (uint8_t i = 0; i < 4; i++) { t[i] = i; u[i] = t[i]; } t[9] = u[3];",
     [0, 1, 2, 3] + [0] * 5 + [3] + [0] * 10, True),
    ("t[0] = 1; for (int i = 1; i < 20; i++) t[i] = t[i - 1] * 3 % 11;",
     [3**i % 11 for i in range(20)], True),
    ("for (int i = 0; i < 4; i++) for (int j = 0; j < i; j++) t[i * 5 + j] = 1;",
     [int(k % 5 < k // 5) for k in range(20)], True),
    ("for (int i = 19; i >= 0; i--) t[i] = i;", list(range(20)), False),
    ("for (int i = 0; i < 20; i += 2) t[i] = i;", [0 if i % 2 else i for i in range(20)], False),
    ("int s = 0; for (int i = 0; i < 20; i++) { s += i; t[i] = s; }",
     [i * (i + 1) // 2 for i in range(20)], False),
]  # fmt: skip


def count_vector_loops(node: object) -> int:
    """How many of a body's loops were taken for independent."""
    if isinstance(node, VectorLoop):
        return 1
    parts = getattr(node, "statements", ()) or (getattr(node, "body", None),)
    return sum(count_vector_loops(part) for part in parts if part is not None)


@pytest.mark.parametrize(("loop", "expected", "at_once"), LOOPS)
def test_filling_loops(loop: str, expected: list[int], at_once: bool) -> None:
    """Loops that fill arrays give what they give one by one, also where order matters."""
    source = f"""long f(int a, int b) {{
        static long t[20]; long u[20] = {{0}};
        for (int i = 0; i < 20; i++) t[i] = 0;
        {loop}
        return t[a];
    }}"""
    model = CModel.parse(source, a=OperandFormat(7, signed=False), b=S16)
    values = model.evaluate(np.arange(20), 0)
    assert values.tolist() == expected
    body = model_module._program(source, None).function.body
    assert count_vector_loops(body) == 1 + at_once


def test_loop_through_two_names_of_one_array() -> None:
    """Two pointers to one array: a store through one is seen through the other, in order."""
    source = """long f(int a, int b) {
        int *p = malloc(40), *q = p;
        p[0] = 1;
        for (int i = 1; i < 10; i++) p[i] = q[i - 1] * 2;
        return p[a];
    }"""
    model = CModel.parse(source, a=U8, b=U8)
    assert model.evaluate(np.arange(10), 0).tolist() == [2**i for i in range(10)]
