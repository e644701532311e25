"""Random programs: the interpreter and gcc agree on every operand pair."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from approxhub.cmodel import CModel
from approxhub.operands import OperandFormat

TYPES = [
    "int8_t", "uint8_t", "int16_t", "uint16_t", "int32_t", "uint32_t", "int64_t", "uint64_t",
    "_Bool", "unsigned", "long", "unsigned long", "char", "short", "long long",
]  # fmt: skip
CONSTANTS = [
    "0", "1", "2", "3", "7", "0x80", "255", "0xFFFF", "32767", "0x7FFFFFFF", "0x80000000",
    "2147483648", "0xFFFFFFFFu", "4294967296", "1L", "5UL", "0x7FFFFFFFFFFFFFFF", "017", "'A'",
    "0xFFFFFFFFFFFFFFFF", "10ull",
]  # fmt: skip

ASSIGNMENTS = ["=", "+=", "-=", "*=", "&=", "|=", "^="]

# Casts keep the result of each shift and division defined, whatever the operands are.
_BINARY = ["({0} + {1})", "({0} - {1})", "({0} * {1})", "({0} & {1})", "({0} | {1})", "({0} ^ {1})"]
_OTHERS = [
    "({0} << ({1} & 31))", "({0} >> ({1} & 31))", "((uint64_t){0} >> ({1} & 63))",
    "((long){0} << ({1} & 63))", "({0} / (({1} & 15) + 1))", "({0} % (({1} & 7) | 1))",
    "((int){0} / -3)", "((long){0} % -5)", "({0} < {1})", "({0} >= {1})", "({0} == {1})",
    "({0} != {1})", "({0} > {1})", "({0} <= {1})", "({0} && {1})", "({0} || {1})",
    "({1} ? {0} / {1} * ({1} != -1) : 3)",
]  # fmt: skip


def _extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.builds(
        lambda form, x, y: form.format(x, y), st.sampled_from(_BINARY + _BINARY[3:]), inner, inner
    )
    # The guarded division would trap on INT_MIN / -1 in machine code, so it is left to bytes.
    other = st.builds(
        lambda form, x, y: form.format(x, y), st.sampled_from(_OTHERS[:-1]), inner, inner
    )
    guarded = st.builds(lambda x: _OTHERS[-1].format("a", f"((int8_t){x})"), inner)
    unary = st.builds(lambda op, x: f"({op}{x})", st.sampled_from(["~", "-", "!", "+"]), inner)
    cast = st.builds(lambda t, x: f"(({t}){x})", st.sampled_from(TYPES), inner)
    choice = st.builds(lambda c, x, y: f"({c} ? {x} : {y})", inner, inner, inner)
    return st.one_of(binary, binary, other, unary, cast, choice, guarded)


expressions = st.recursive(
    st.one_of(st.sampled_from(["a", "b", "u", "v"]), st.sampled_from(CONSTANTS)),
    _extend,
    max_leaves=12,
)


@st.composite
def functions(draw: st.DrawFn) -> str:
    """Body of a function with variables of random types, assignments, an if and a loop."""
    lines = [
        f"{draw(st.sampled_from(TYPES))} u = b;",
        f"{draw(st.sampled_from(TYPES))} v = a;",
        f"{draw(st.sampled_from(TYPES))} x[3] = {{1, 2}};",
        f"u = {draw(expressions)};",
        f"v {draw(st.sampled_from(ASSIGNMENTS))} {draw(expressions)};",
    ]
    if draw(st.booleans()):
        lines.append(f"if ({draw(expressions)}) u = {draw(expressions)};")
        lines.append(f"else {{ v = {draw(expressions)}; u++; }}")
    if draw(st.booleans()):
        lines.append(f"for (int i = 0; i < {draw(st.integers(0, 4))}; i++) {{")
        lines.append(f"  if ({draw(expressions)}) continue;")
        lines.append(f"  u += i; x[(u & 1) + i % 2] = {draw(expressions)}; x[1] <<= 1;")
        lines.append(f"  if ({draw(expressions)}) break; }}")
    if draw(st.booleans()):
        lines.append(f"if ({draw(expressions)}) return {draw(expressions)};")
    lines.append(f"return {draw(expressions)} ^ x[2] ^ x[{draw(st.integers(0, 1))}];")
    return "\n  ".join(lines)


A = OperandFormat(16, signed=True)
# Values at which types end, and some between.
EDGES = np.array(
    [-32768, -32767, -256, -255, -129, -128, -127, -3, -2, -1, 0, 1, 2, 3, 5, 31, 32, 63, 64, 127,
     128, 129, 255, 256, 1000, 32767]
)  # fmt: skip


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, which is only the oracle here")
@settings(
    derandomize=True,
    deadline=None,
    max_examples=6,
    phases=[Phase.generate],  # shrinking compiles thousands of files; the failure shows its text
    suppress_health_check=list(HealthCheck),
)
@given(bodies=st.lists(functions(), min_size=12, max_size=20), types=st.data())
def test_random_programs_agree_with_gcc(
    bodies: list[str],
    types: st.DataObject,
    compile_c: Callable[..., Callable[..., npt.NDArray[np.int64]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """All 64 bits of random C functions are those of gcc, for edge values of both operands."""
    texts: dict[str, str] = {}
    for k, body in enumerate(bodies):
        first, second, result = (
            types.draw(st.sampled_from(["int16_t", "uint16_t", "int", "unsigned", "long"])),
            types.draw(st.sampled_from(["int16_t", "uint16_t", "int", "uint64_t"])),
            types.draw(st.sampled_from(TYPES)),
        )
        part = f"{result} f{k}({first} a, {second} b)\n{{\n  {body}\n}}\n"
        # A model's result is cut to 32 bits here, so the high half has a function of its own.
        part += f"long g{k}({first} a, {second} b) {{ return (long)f{k}(a, b) >> 32; }}\n"
        texts |= {f"f{k}": part, f"g{k}": part}
    names = list(texts)
    run = compile_c(
        "#include <stdint.h>\n" + "".join(texts[f] for f in names[::2]),
        names,
        tmp_path_factory.mktemp("random"),
    )
    a, b = EDGES.reshape(-1, 1), EDGES.reshape(1, -1)
    for name, text in texts.items():
        expected = run(name, a, b)
        expected = ((expected & 0xFFFFFFFF) ^ (1 << 31)) - (1 << 31)
        model = CModel.parse(text, a=A, b=A, function=name)
        np.testing.assert_array_equal(model.evaluate(a, b), expected, err_msg=text)
        # One pair at a time takes the way of plain numbers instead of arrays.
        for i, j in ((0, 3), (9, 9), (25, 0)):
            assert model.evaluate(EDGES[i], EDGES[j]) == expected[i, j], text
