"""The operator: what it computes, what it refuses before it runs, and what a handle finds."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import library
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import approxhub as ah
from approxhub import ops
from approxhub.errors import InputError, MissingTableError, OperandRangeError
from approxhub.ops import accumulator_dtype, code_dtype, lut_gemm, multiplier_of, register
from approxhub.registry import Store

EXACT = ah.exact(8)


@pytest.fixture
def untouched(monkeypatch):
    """Fails if a request reaches a backend."""

    def never(request, *operands):
        raise AssertionError(f"a backend was asked for {request}")

    for name in ("run_gemm", "run_conv"):
        monkeypatch.setattr(f"approxhub.ops.{name}", never)


def small(fill: int = 0, name: str = "small") -> ah.Multiplier:
    """A new multiplier of 2 x 2 bits."""
    table = np.arange(16).reshape(4, 4) + fill
    return ah.Multiplier.from_table(table, name=name)


# --- sums -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_sums_are_those_of_a_loop(dtype, random_multiplier, values, slow_matmul):
    """The result is the sum over k of T[a, b], for operands of any integer dtype."""
    m = random_multiplier(7, 7, False, False)
    a, b = values(m.a, 2, 3, 5).to(dtype), values(m.b, 5, 4, seed=1).to(dtype)
    out = lut_gemm(a, b, register(m), torch.int64)
    assert out.dtype == torch.int64
    assert out.tolist() == slow_matmul(m, a, b)


def test_operand_order_peers_defect_1(random_multiplier):
    """The left operand is the activation: T[a, b], never T[b, a]."""
    m = random_multiplier(8, 8, False, False)
    a, b = torch.tensor([[3]]), torch.tensor([[200]])
    assert m.table[3, 200] != m.table[200, 3]
    assert lut_gemm(a, b, register(m), torch.int64).tolist() == [[m.table[3, 200]]]


@pytest.mark.parametrize("k", [1, 3, 27, 147])
def test_inner_tails_peers_defect_2(k):
    """T[0][0] = 64 appears in no sum of other codes, whatever K."""
    table = np.zeros((256, 256), dtype=int)
    table[0, 0] = 64
    handle = register(m := ah.Multiplier.from_table(table, name="corner"))
    a, b = torch.full((3, k), 255), torch.full((k, 5), 255)
    assert not lut_gemm(a, b, handle, torch.int32).any()
    assert (lut_gemm(a * 0, b * 0, handle, torch.int32) == 64 * k).all()
    assert m(0, 0) == 64


def test_integer_accumulation_peers_defect_6():
    """1,152 products of 8 unsigned bits sum up exactly, where float32 does not."""
    m = ah.exact(8, signed=False)
    a = torch.arange(1152)[None] % 7 + 249
    b = torch.arange(1152)[:, None] % 5 + 250
    a[0, 0] = b[0, 0] = 251
    want = sum(x * y for x, y in zip(a[0].tolist(), b[:, 0].tolist(), strict=True))
    assert want > 2**24
    assert want % 2 == 1
    assert lut_gemm(a, b, register(m), torch.int32).item() == want


@pytest.mark.parametrize(
    "shapes",
    [((0, 3), (3, 4)), ((2, 3), (3, 0)), ((2, 0), (0, 4)), ((0, 2, 3), (3, 4)), ((0, 0), (0, 0))],
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_empty_operands(shapes, dtype, untouched):
    """Without rows, columns or products the result is empty or zero, and no backend runs."""
    a, b = (torch.zeros(s, dtype=torch.int8) for s in shapes)
    out = lut_gemm(a, b, register(EXACT), dtype)
    assert out.shape == (*shapes[0][:-1], shapes[1][1])
    assert out.dtype == dtype
    assert not out.any()


def test_it_is_not_differentiable():
    """The operator takes integers, so nothing that it returns asks for a gradient."""
    a = torch.ones(2, 3, dtype=torch.int8)
    with torch.enable_grad():
        out = lut_gemm(a, a.t(), register(EXACT), torch.int32)
    assert not out.requires_grad
    with pytest.raises(InputError, match=r"torch.float32; quantise"):
        lut_gemm(torch.ones(2, 3, requires_grad=True), a.t(), register(EXACT), torch.int32)


# --- what is refused, before any kernel -----------------------------------------------------


def test_values_out_of_range(untouched):
    """A value that the operand cannot hold is refused, with the operand and its range."""
    handle = register(m := ah.exact(4, signed=True))
    ok = torch.zeros(1, 1, dtype=torch.int64)
    for a, b, name, bad in ((ok + 8, ok, "a", 8), (ok, ok - 9, "b", -9), (ok + 255, ok, "a", 255)):
        with pytest.raises(
            OperandRangeError, match=rf"operand {name}: value {bad} .* -8..7 \(4s\)"
        ):
            lut_gemm(a, b, handle, torch.int32)
    assert m(7, -8) == -56


def test_a_pattern_is_not_a_value(untouched):
    """An unsigned byte above 127 is no value of a signed 8-bit operand."""
    a = torch.tensor([[200]], dtype=torch.uint8)
    with pytest.raises(OperandRangeError, match="not bit patterns"):
        lut_gemm(a, a.to(torch.int64) - 200, register(EXACT), torch.int32)


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.bool, torch.complex64, torch.uint16, torch.uint32,
     torch.uint64],
)  # fmt: skip
@pytest.mark.parametrize("which", ["a", "b"])
def test_other_dtypes(which, dtype, untouched):
    """Only the five integer dtypes that torch computes with are taken; the error says so."""
    ok, bad = torch.zeros(2, 2, dtype=torch.int8), torch.zeros(2, 2).to(dtype)
    operands = (bad, ok) if which == "a" else (ok, bad)
    with pytest.raises(InputError, match=f"operand {which}.*{dtype}.*(quantise it|int64)"):
        lut_gemm(*operands, register(EXACT), torch.int32)


@pytest.mark.parametrize(
    "shapes", [((3,), (3, 4)), ((2, 3), (3,)), ((2, 3), (2, 3, 4)), ((2, 3), (4, 3)), ((), (1, 1))]
)
def test_shapes_that_do_not_fit(shapes, untouched):
    """Anything but (..., M, K) x (K, N) is refused with both shapes, by the fake kernel too."""
    for device in ("cpu", "meta"):
        a, b = (torch.zeros(s, dtype=torch.int8, device=device) for s in shapes)
        with pytest.raises(InputError, match=r"takes \(..., M, K\) x \(K, N\), got"):
            lut_gemm(a, b, register(EXACT), torch.int32)


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_results_are_int32_or_int64(dtype, untouched):
    """Any other type of result is refused."""
    a = torch.zeros(2, 2, dtype=torch.int8)
    with pytest.raises(InputError, match="int32 or int64, not"):
        lut_gemm(a, a, register(EXACT), dtype)


def test_operands_on_two_devices(untouched):
    """Operands on different devices are refused with both."""
    a = torch.zeros(2, 2, dtype=torch.int8)
    with pytest.raises(InputError, match="on cpu and meta"):
        lut_gemm(a, a.to("meta"), register(EXACT), torch.int32)


def test_int32_must_be_proven_enough():
    """int32 is refused where K x max|T| could overflow it, and allowed just below."""
    m = ah.Multiplier.from_table([[64, 0], [0, -(2**30)]], name="big")
    one = torch.ones(1, 1, dtype=torch.int8)
    assert accumulator_dtype(m, 1) == torch.int32
    assert lut_gemm(one, one, register(m), torch.int32).item() == -(2**30)
    assert accumulator_dtype(m, 2) == torch.int64
    pair = torch.ones(1, 2, dtype=torch.int8)
    with pytest.raises(InputError, match=r"2 products of up to 1073741824 do not fit int32"):
        lut_gemm(pair, pair.t(), register(m), torch.int32)
    assert lut_gemm(pair, pair.t(), register(m), torch.int64).item() == -(2**31)


@pytest.mark.parametrize(
    ("text", "dtype"),
    [("1u", torch.uint8), ("8u", torch.uint8), ("9u", torch.int16), ("15u", torch.int16),
     ("16u", torch.int32), ("1s", torch.int8), ("8s", torch.int8), ("9s", torch.int16),
     ("16s", torch.int16)],
)  # fmt: skip
def test_code_dtypes_hold_their_operand(text, dtype):
    """Codes are kept in the smallest dtype that holds both ends of the operand."""
    f = ah.OperandFormat.parse(text)
    info = torch.iinfo(dtype)
    assert code_dtype(f) == dtype
    assert info.min <= f.min
    assert f.max <= info.max


# --- handles ------------------------------------------------------------------------------


def test_handles_are_content_hashes():
    """Two multipliers of one table have one handle, whatever their ids; another table another."""
    assert register(small(name="one")) == register(small(name="two"))
    assert register(small()) != register(small(1))
    assert str(ah.exact(8).table_sha256) in register(EXACT)


def test_a_multiplier_is_found_while_somebody_holds_it():
    """The operator holds no multiplier itself: with the last holder the handle is gone."""
    m = small(2)
    handle = register(m)
    assert multiplier_of(handle) is m
    del m
    gc.collect()
    with pytest.raises(MissingTableError, match=r"load the one .* approxhub.load\(id\)"):
        multiplier_of(handle)


def test_the_missing_table_is_named():
    """The operator's error names the hash that is missing."""
    handle = register(small(3))
    gc.collect()
    a = torch.zeros(2, 2, dtype=torch.int8)
    with pytest.raises(MissingTableError, match=handle):
        lut_gemm(a, a, handle, torch.int32)


def test_any_equal_multiplier_keeps_a_handle():
    """A handle works as long as one of several equal multipliers lives, whichever it is."""
    for survivor in range(3):
        several = [small(4, name=f"n{i}") for i in range(3)]
        (handle,) = {register(m) for m in several}
        kept = several[survivor]
        del several
        gc.collect()
        assert multiplier_of(handle) is kept
        del kept


def test_dead_handles_leave_nothing_behind():
    """Registering thousands of multipliers that die does not fill the registry."""
    before = len(ops._live)
    for i in range(200):
        register(small(100 + i))
    gc.collect()
    register(EXACT)
    assert len(ops._live) <= before + 2


def test_pickled_multipliers_register_again():
    """An unpickled or copied multiplier has the handle of the original."""
    m = small(5)
    handle = register(m)
    data = pickle.dumps(m)
    assert copy.deepcopy(m) is m
    del m
    gc.collect()
    again = pickle.loads(data)
    assert register(again) == handle
    assert multiplier_of(handle) is again


def test_handles_are_found_in_the_cache():
    """What is not registered is looked up in the cache, verified, and kept for the next time."""
    m = small(6, name="kept")
    handle = m.identity
    Store().put(m)
    del m
    gc.collect()
    a = torch.full((1, 1), 3)
    assert lut_gemm(a, a, handle, torch.int32).item() == 15 + 6
    assert multiplier_of(handle) is multiplier_of(handle)


def test_a_fresh_process_finds_the_table():
    """A handle alone is enough in another process, if the table is in the cache."""
    m = small(7, name="travels")
    absent = small(8)
    Store().put(m)
    code = textwrap.dedent(f"""\
        import torch
        import approxhub.ops

        a = torch.full((1, 2), 3)
        print(torch.ops.approxhub.lut_gemm(a, a.t(), {m.identity!r}, torch.int32).item())
        torch.ops.approxhub.lut_gemm(a, a.t(), {absent.identity!r}, torch.int32)
        """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(2 * (15 + 7))
    assert "MissingTableError" in done.stderr
    assert absent.identity in done.stderr


@pytest.mark.parametrize("handle", ["", "nonsense", "../../etc/passwd", "8ux8u-" + "0" * 64])
def test_handles_that_name_nothing(handle):
    """A handle that is none, or that nobody knows, is a MissingTableError."""
    a = torch.zeros(2, 2, dtype=torch.int8)
    with pytest.raises(MissingTableError):
        lut_gemm(a, a, handle, torch.int32)


# --- the compiler ---------------------------------------------------------------------------


def test_fake_kernel():
    """On meta tensors the result has its shape and type, without table or backend."""
    a = torch.empty(2, 3, 4, dtype=torch.int8, device="meta")
    b = torch.empty(4, 5, dtype=torch.int8, device="meta")
    out = lut_gemm(a, b, "no such handle", torch.int64)
    assert (out.shape, out.dtype, out.device.type) == ((2, 3, 5), torch.int64, "meta")
    assert out.is_contiguous()


class _Names(TorchDispatchMode):
    """Notes which operators are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


class _FunctionNames(TorchFunctionMode):
    """Likewise, before dispatch."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name() if isinstance(func, torch._ops.OpOverload) else "")
        return func(*args, **(kwargs or {}))


class _Tensor(torch.Tensor):
    """A subclass without a mind of its own."""


def _calls():
    """Each operator on fixed operands, which may be wrapped, and what it gives."""
    m = ah.exact(8)
    a, b = (torch.arange(n).to(torch.uint8) for n in (6, 12))
    x, w = a.reshape(1, 2, 3), b.reshape(3, 2, 2)
    pad = torch.zeros((), dtype=torch.int32)
    gemm = (a.reshape(2, 3), b.reshape(3, 4))
    conv = (x, w, pad)
    handle = register(m)
    return m, {
        "approxhub::lut_gemm": (
            lambda wrap: lut_gemm(*map(wrap, gemm), handle, torch.int32),
            lambda: torch.ops.approxhub.lut_gemm.default(*gemm, handle, torch.int32),
        ),
        "approxhub::lut_conv": (
            lambda wrap: ops.lut_conv(*map(wrap, conv), handle, [1], [1, 1], [1], 1, torch.int32),
            lambda: torch.ops.approxhub.lut_conv.default(
                *conv, handle, [1], [1, 1], [1], 1, torch.int32
            ),
        ),
    }


@pytest.mark.parametrize("name", ["approxhub::lut_gemm", "approxhub::lut_conv"])
def test_who_watches_sees_the_operator(name):
    """Modes, the profiler and subclasses meet the operator, which otherwise nothing dispatches."""
    _held, calls = _calls()
    call, operator = calls[name]
    want = operator()
    assert torch.equal(call(lambda t: t), want)
    for mode in (_Names(), _FunctionNames()):
        with mode:
            found = call(lambda t: t)
        assert torch.equal(found, want)
        assert name in mode.names
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call(lambda t: t)
    assert name in [event.name for event in profile.events()]
    assert type(call(lambda t: t.as_subclass(_Tensor))) is _Tensor
    assert call(lambda t: t.to("meta")).is_meta
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert isinstance(call(lambda t: t), FakeTensor)


def test_operands_may_be_named():
    """Operands given by name are the same operands."""
    m = ah.exact(8)
    a, b = torch.arange(6).reshape(2, 3), torch.arange(12).reshape(3, 4)
    found = lut_gemm(b=b, a=a, handle=register(m), dtype=torch.int64, trusted=True)
    assert torch.equal(found, a @ b)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_opcheck(dtype, values):
    """torch's opcheck finds schema, fake kernel and dispatch in order."""
    m = ah.exact(8)
    a, b = values(m.a, 2, 5, 7).to(torch.int8), values(m.b, 7, 3).to(torch.int8)
    library.opcheck(torch.ops.approxhub.lut_gemm.default, (a, b, register(m), dtype))
    library.opcheck(
        torch.ops.approxhub.lut_gemm.default, (a[0].t(), values(m.b, 3, 5).t(), register(m), dtype)
    )


def program(handle):
    """A function that torch.compile must take whole."""

    def run(a, b):
        return torch.relu(lut_gemm(a * 2, b, handle, torch.int64).view(-1, 3) + a.sum())

    return run


@pytest.mark.parametrize(
    "compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own
def test_compiled_functions_hold_the_operator(compiler, random_multiplier, values):
    """torch.compile(fullgraph=True) takes the operator whole and gives the same integers."""
    if compiler == "inductor":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            pytest.skip(str(error))
    m = random_multiplier(8, 8, True, True)
    run = program(register(m))
    compiled = torch.compile(run, fullgraph=True, backend=compiler)
    for rows in (4, 9):
        a, b = values(m.a, rows, 5) // 2, values(m.b, 3, 5, seed=1).t()
        assert torch.equal(compiled(a, b), run(a, b))
