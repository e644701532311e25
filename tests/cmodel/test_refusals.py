"""What the interpreter refuses: each construct by its name, with its line."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

import numpy as np
import pytest

from approxhub.cmodel import LIMITS, CModel, Limits, reader
from approxhub.cmodel import model as model_module
from approxhub.errors import CModelError
from approxhub.operands import OperandFormat

U4 = OperandFormat(4, signed=False)
U8 = OperandFormat(8, signed=False)

# (id, lines before the function, lines of the body, line of the fault, words of the message)
# The body starts on line 3 where nothing stands before the function.
REFUSED = [
    ("goto", "", "goto end;\nend: return a;", 3, "goto"),
    ("label", "", "end: return a;", 3, "a label"),
    ("switch", "", "switch (a) { case 1: return 2; }\nreturn 1;", 3, "switch"),
    ("float_constant", "", "\nreturn a * 1.5;", 4, "floating-point constant 1.5"),
    ("double", "", "double x = a;\nreturn x;", 3, "type 'double'"),
    ("float_cast", "", "return (float)a;", 3, "type 'float'"),
    ("string", "", 'return a["x"];', 3, "string|index"),
    ("string_value", "", 'return "x" == 0;', 3, "string literal"),
    ("struct", "", "struct s { int x; } s;\nreturn a;", 3, "struct"),
    ("member", "", "return a.x;", 3, "struct member"),
    ("union", "", "union { int x; } u;\nreturn a;", 3, "union"),
    ("enum", "", "enum { X = 3 };\nreturn a;", 3, "enum"),
    ("dereference", "", "int *p = NULL;\nreturn *p;", 4, r"dereferencing a pointer with \*"),
    ("address", "", "return &a != 0;", 3, "address of a variable"),
    ("pointer_arithmetic", "", "int *p = NULL;\np = p + 1;\nreturn a;", 4, "pointer arithmetic"),
    ("pointer_pointer", "", "int **p = NULL;\nreturn a;", 3, "pointer to a pointer"),
    ("pointer_number", "", "int *p = NULL;\nreturn p;", 4, "pointer as a number"),
    ("pointer_cast", "", "int *p = (int *)a;\nreturn a;", 3, "integer cast to a pointer"),
    ("pointer_type", "", "int *p = (long *)malloc(8);\nreturn a;", 3, "another type"),
    ("function_pointer", "", "int (*g)(int, int) = f;\nreturn a;", 3, "function pointer"),
    ("function_value", "", "return f == 0;", 3, "function pointer"),
    ("unknown_call", "", "return\nabs(a);", 4, "call of 'abs'"),
    ("free", "", "int *p = malloc(4);\nfree(p);\nreturn a;", 4, "'free'"),
    ("recursion", "", "if (a) return f(a - 1, b);\nreturn 1;", 3, "recursion"),
    ("attribute", "", "int x __attribute__((unused));\nreturn a;", 3, "attribute"),
    ("asm", "", 'int x = a;\nasm("nop");\nreturn a;', 4, "inline assembler"),
    ("typeof", "", "typeof(a) x = a;\nreturn x;", 3, "typeof"),
    ("int128", "", "__int128 x = a;\nreturn x;", 3, "128-bit"),
    ("statement_expression", "", "return ({ a; });", 3, "statement expression|not C"),
    ("variable_length", "", "int x[a];\nreturn a;", 3, "variable 'a' in a constant"),
    ("two_dimensions", "", "int x[2][2];\nreturn a;", 3, "array of arrays"),
    ("designated", "", "int x[4] = {[2] = 1};\nreturn a;", 3, "designated"),
    ("compound_literal", "", "return (int){1};", 3, "compound literal"),
    ("extern", "", "extern int x;\nreturn a;", 3, "storage class 'extern'"),
    ("undeclared", "", "return a +\nc;", 4, "'c' is not declared"),
    ("declared_twice", "", "int x;\nint x;\nreturn a;", 4, "declared twice"),
    ("const_assigned", "", "const int x = 1;\nx = 2;\nreturn a;", 4, "constant 'x'"),
    ("static_counter", "", "static int n;\nn++;\nreturn a;", 4, "static counter 'n'"),
    ("static_initial", "", "static int n = a;\nreturn n;", 3, "in a constant"),
    ("empty_return", "", "return;", 3, "return without a value"),
    ("break_outside", "", "break;\nreturn a;", 3, "break outside a loop"),
    ("huge_constant", "", "return 99999999999999999999;", 3, "does not fit"),
    ("argument_count", "int g(int x) { return x; }\n", "return g(a, b);", 4, "takes 1 arguments"),
    ("global", "int n;\n", "return n + a;", 1, "file-level variable 'n'"),
    ("define", "#define N 3\n", "return N;", 1, "#define"),
    ("pragma", "#pragma once\n", "return a;", 1, "#pragma"),
    ("conditional_text", "\n#if 1\n", "return a;", 2, "#if"),
    ("quoted_include", '#include "x.h"\n', "return a;", 1, "#include"),
    ("continued_line", "// two \\\nlines\n", "return a;", 1, "backslash"),
    ("open_comment", "int x; /* never\n", "return a;", 1, "comment that never ends"),
    ("syntax", "", "return a +;", 3, "not C"),
    ("void_function", "void g(int x) { x = 1; }\n", "g(a);\nreturn a;", 1, "returns nothing"),
    ("old_style", "int g(x) int x; { return x; }\n", "return g(a);", 1, "old-style"),
    ("variadic", "int g(int x, ...) { return x; }\n", "return g(a);", 1, "variable number"),
    ("array_parameter", "int g(int x[2]) { return 1; }\n", "return g(0);", 1, "array as a param"),
    ("pointer_parameter", "int g(int *x) { return 1; }\n", "return g(0);", 1, "a pointer here"),
    ("nul", "/* \0 */\n", "return a;", 1, "NUL"),
]


@pytest.mark.parametrize(
    ("before", "body", "line", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_construct_is_refused(before: str, body: str, line: int, message: str) -> None:
    """The construct is refused when the text is read, by its name and with its line."""
    source = f"{before}int f(int a, int b)\n{{\n{body}\n}}\n"
    with pytest.raises(CModelError, match=message) as caught:
        CModel.parse(source, a=U4, b=U4, function="f")
    assert caught.value.line == line


UNDEFINED = [
    ("unset", "int x;\nreturn x + a;", 4, "'x' is read before"),
    ("unset_sometimes", "int x;\nif (a > 3) x = 1;\nreturn x;", 5, "'x' is read before"),
    ("unset_itself", "int x = x + 1;\nreturn x;", 3, "'x' is read before"),
    (
        "unset_in_loop",
        "for (int i = 0; i < 2; i++) {\nint x;\nif (i) return x;\nx = 1; }\nreturn 1;",
        5,
        "'x' is read before",
    ),
    ("unset_element", "int x[3];\nx[0] = a;\nreturn x[1];", 5, "element is read before"),
    ("unset_elements", "int x[16];\nx[0] = 1;\nreturn x[a];", 5, "element is read before"),
    ("outside", "int x[3] = {1};\nreturn x[a];", 4, "outside the array's 0..2"),
    ("below", "int x[3] = {1};\nreturn x[-1];", 4, "index -1 is outside"),
    ("null", "int *p = NULL;\nreturn p[a];", 4, "'p' points to nothing"),
    ("zero_division", "return a / b;", 3, "division by zero"),
    ("zero_modulo", "return a % 0;", 3, "division by zero"),
    ("shift_count", "return a << (b + 30);", 3, "shift of a int by a count outside 0..31"),
    ("shift_negative", "return a >> (b - 1);", 3, "count outside"),
    ("no_return", "if (a) return b;", 1, "can end without a return"),
    ("static_value", "static int x;\nx = a;\nreturn x;", 4, "static variable"),
    ("static_element", "static int x[2];\nx[1] = b;\nreturn 1;", 4, "static variable"),
    ("store_by_operand", "int x[16];\nx[a] = 1;\nreturn 1;", 4, "first stored under a condition"),
    ("static_by_operand", "static int x[16];\nx[a] = 1;\nreturn 1;", 4, "static variable"),
    ("many_cells", "int x[2000] = {1};\nx[a] = 1;\nreturn 1;", 4, "more than 1024 cells"),
    ("size_by_operand", "int *p = malloc(a);\nreturn 1;", 3, "size of an allocation"),
    ("size_zero", "int *p = malloc(0);\nreturn 1;", 3, "array of 0 elements"),
]


@pytest.mark.parametrize(
    ("body", "line", "message"), [r[1:] for r in UNDEFINED], ids=[r[0] for r in UNDEFINED]
)
def test_undefined_behaviour_is_refused(body: str, line: int, message: str) -> None:
    """What C leaves undefined, or would depend on earlier calls, is an error with its line."""
    model = CModel.parse(f"int f(int a, int b)\n{{\n{body}\n}}\n", a=U4, b=U4)
    with pytest.raises(CModelError, match=message) as caught:
        model.tabulate()
    assert caught.value.line == line


@pytest.mark.parametrize(
    "body",
    [
        "return b ? a / b : 7;",
        "if (b == 0) return 1;\nreturn a % b;",
        "return (b != 0 && a / b > 2) || b == 0;",
        "int x[3] = {1, 2, 3};\nreturn a < 3 ? x[a] : 0;",
        "int x;\nif (a > 3) x = 1; else x = 2;\nreturn x;",
        "return b < 4 ? a << (b + 28) : 1;",
    ],
)
def test_guarded_operations_are_allowed(body: str) -> None:
    """A fault on a way that no operand pair takes is none."""
    model = CModel.parse(f"int f(int a, int b)\n{{\n{body}\n}}\n", a=U4, b=U4)
    assert model.tabulate().shape == (16, 16)


# (cap, the body that exceeds it, line)
CAPPED = [
    (Limits(source_bytes=30), "return a * b;", 1, "bytes"),
    (Limits(nodes=20), "return a + b + a + b + a + b;", 3, "syntax nodes"),
    (
        Limits(operations=100),
        "int s = 1;\nfor (int i = 0; i < 50; i++)\ns += a * i;\nreturn s;",
        5,
        "100 operations",
    ),
    (Limits(iterations=99), "while (1)\n;\nreturn a;", 3, "99 loop iterations"),
    (
        Limits(iterations=99),
        "int x[200];\nfor (int i = 0; i < 200; i++) x[i] = i;\nreturn x[a];",
        4,
        "99 loop iterations",
    ),
    (Limits(array_elements=9), "int x[10];\nreturn a;", 3, "array of 10 elements"),
    (Limits(array_elements=9), "char *p = malloc(10);\nreturn a;", 3, "array of 10 elements"),
    (
        Limits(array_bytes=99),
        "int *p, *q;\np = malloc(40);\nq = malloc(40);\nreturn a;",
        5,
        "more than 99 bytes",
    ),
    (Limits(seconds=0.0), "return a;", 1, "more than 0 s of processor time"),
    (Limits(seconds=0.0), "while (1)\n;\nreturn a;", 3, "more than 0 s of processor time"),
    (
        Limits(seconds=0.0),
        "int s = a;\n" + "s = s * b;\n" * 50 + "return s;",
        19,  # four operations a line: two reads, a product, an assignment
        "more than 0 s of processor time",
    ),
    (
        Limits(seconds=0.0),
        "int s = a;\nfor (int i = 0; i < 200; i++)\ns = (s * a + b) & 15;\nreturn s;",
        5,
        "more than 0 s of processor time",
    ),
]


@pytest.mark.parametrize(("limits", "body", "line", "message"), CAPPED)
def test_cap_is_kept(
    limits: Limits, body: str, line: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cap's excess is an error with the line and something to do."""
    model_module._program.cache_clear()
    monkeypatch.setattr(model_module, "LIMITS", limits)
    with pytest.raises(CModelError, match=message) as caught:
        CModel.parse(f"int f(int a, int b)\n{{\n{body}\n}}\n", a=U4, b=U4).tabulate()
    assert caught.value.line == line
    assert any(word in str(caught.value) for word in ("use", "simplify", "shorten", "keep"))


def test_endless_loops_end() -> None:
    """With the default caps an endless loop is an error, not a hang."""
    assert LIMITS.iterations < 10_000_000
    model = CModel.parse("int f(int a, int b)\n{\nfor (;;) a = 1;\n}", a=U4, b=U4)
    with pytest.raises(CModelError, match="line 3: more than"):
        model.evaluate(1, 1)


SLOW = {
    "operators": "int s = a; for (int i = 0; i < 60000; i++) s = s / (i + 1) * b; return s;",
    "reads": "int s = 1; for (int i = 0; i < 1000000; i++) { a, b, s; } return s;",
    "cells": """int x[1000], i, j;
        for (i = 0; i < 1000; i++) x[i] = a + i;
        for (j = 0; j < 4000; j++) x[(a * 61 + b * 7 + j) % 1000] = x[(b * 67 + a) % 1000] & 255;
        return x[0];""",
}


@pytest.mark.parametrize("body", SLOW.values(), ids=SLOW)
def test_time_is_bounded(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is slow in whatever way is given up soon after its time."""
    monkeypatch.setattr(model_module, "LIMITS", Limits(seconds=0.05))
    model = CModel.parse(f"int f(int a, int b) {{ {body} }}", a=U8, b=U8)
    started = time.thread_time()
    with pytest.raises(CModelError, match=r"more than 0\.05 s of processor time"):
        model.tabulate()
    assert time.thread_time() - started < 2


def test_more_pairs_may_take_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for 2**20 operand pairs: twice as many may take twice as long."""
    allowed = []

    class Spy(model_module.Machine):  # type: ignore[name-defined,misc]
        def __init__(self, limits: Limits, statics: list[Any], until: float = math.inf) -> None:
            super().__init__(limits, statics, until)
            allowed.append(until - time.thread_time())

    monkeypatch.setattr(model_module, "Machine", Spy)
    model = CModel.parse("int f(int a, int b) { return a; }", a=U8, b=U8)
    for pairs, seconds in ((1, 60), (1 << 20, 60), ((1 << 20) + 1, 120)):
        allowed.clear()
        model.evaluate(np.zeros(pairs, int), 1)
        assert seconds - 5 < allowed[1] <= seconds  # the first one is for the statics


@pytest.mark.parametrize(
    "text",
    ["'\\" * 400_000, '"\\' * 400_000, "'" * 800_000, '"a' * 400_000, "'/*" * 300_000],
    ids=range(5),
)
def test_open_literals_take_no_time(text: str) -> None:
    """Quotes that are never closed do not make the search for comments start over at each one."""
    started = time.thread_time()
    with contextlib.suppress(CModelError):
        reader.plain_text(text + "x")
    assert time.thread_time() - started < 5


@pytest.mark.parametrize("before", ["f", "int f", "int f[3]", "int *f"])
def test_body_without_parameters(before: str) -> None:
    """Found by fuzzing: what pycparser takes for a function without parameters is refused."""
    with pytest.raises(CModelError, match=r"line 1: 'f' has a body and no parameter list|not C"):
        CModel.parse(f"{before} {{ return 1; }} int g(int a, int b) {{ return a; }}", a=U4, b=U4)


@pytest.mark.parametrize("digits", ["9" * 5000, "0x" + "f" * 5000, "0" * 5000, "1" * 129])
def test_endless_constants(digits: str) -> None:
    """A constant of more digits than Python reads is refused, and not printed in full."""
    with pytest.raises(CModelError, match=r"line 1: the constant .{40}\.{3} is too long") as caught:
        CModel.parse(f"int f(int a, int b) {{ return {digits}; }}", a=U4, b=U4)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize(
    "expression",
    ["~" * 20_000 + "a", "+".join(["a"] * 20_000)],
    ids=["unary", "sum"],
)
def test_deep_nesting_is_an_error(expression: str) -> None:
    """A nesting that Python cannot follow is a CModelError."""
    source = f"int f(int a, int b)\n{{ return\n{expression}; }}"
    with pytest.raises(CModelError, match="nested too deeply"):
        CModel.parse(source, a=U4, b=U4).tabulate()


def test_deep_brackets_are_read_or_refused() -> None:
    """Many brackets make no difference or are a CModelError; pycparser's version decides which."""
    source = "int f(int a, int b) { return " + "(" * 20_000 + "a + 1" + ")" * 20_000 + "; }"
    try:
        found = CModel.parse(source, a=U4, b=U4).evaluate(3, 0)
    except CModelError:
        return
    assert found == 4


def test_unused_functions_are_not_looked_at() -> None:
    """A main function that prints does not keep the multiplier beside it from being read."""
    source = """
    #include <stdio.h>
    int f(int a, int b) { return a * b + 1; }
    int main(void) { printf("%d", f(3, 4)); return 0; }
    """
    assert CModel.parse(source, a=U4, b=U4, function="f").evaluate(3, 4) == 13
