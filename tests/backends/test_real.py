"""Quantising and dequantising in the engine give the bits that their definitions in torch give."""

import pytest
import torch

import approxhub as ah
from approxhub.backends import real
from approxhub.backends.native import chosen_isa, load_library
from approxhub.errors import BackendUnavailableError, CalibrationError
from approxhub.quantization import Quantizer
from approxhub.quantization.mapping import CodeRange

SIGNED, UNSIGNED = ah.OperandFormat(8, signed=True), ah.OperandFormat(8, signed=False)
RANGES = {
    "symmetric": CodeRange.symmetric(SIGNED),
    "affine": CodeRange.full(UNSIGNED),
    "affine-signed": CodeRange.full(SIGNED),
    "narrow": CodeRange.full(ah.OperandFormat(3, signed=False)),
}


def isas():
    """Instruction sets of this machine; none where the engine was not built."""
    try:
        return list(load_library().isas)
    except BackendUnavailableError:
        return []


@pytest.fixture(params=isas() or [pytest.param("", marks=pytest.mark.skip("no CPU engine"))])
def isa(request, monkeypatch):
    """Every instruction set in turn."""
    monkeypatch.setenv("APPROXHUB_CPU_ISA", request.param)
    assert chosen_isa(load_library()) == request.param
    return request.param


def numbers(*shape):
    """Numbers on both sides of a range, with halves between codes and zeros of both signs."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * 3
    flat = x.view(-1)
    flat[::7] = torch.round(flat[::7] * 2) / 2
    flat[3::11] = 0.0
    flat[4::11] = -0.0
    flat[5::13] *= 1e6
    flat[6::13] = 1e-42  # a subnormal number
    return x


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("name", RANGES)
def test_codes_are_those_of_torch(isa, name, axis):
    """Codes, real values and what was clamped, for one scale and for one a channel."""
    x = numbers(5, 7, 33)
    q = Quantizer(RANGES[name], channels=None if axis is None else x.shape[axis], axis=axis or 0)
    q.observe(x.clamp(-4, 5))
    dtype = torch.int8 if RANGES[name].format.signed else torch.uint8
    with ah.use_backend("reference"):
        want_real, want = q.quantize(x, dtype, with_real=True)
    for with_real in (False, True):
        got_real, got = q.quantize(x, dtype, with_real=with_real)
        assert torch.equal(got, want)
        assert got.dtype == dtype
        if with_real:
            assert torch.equal(got_real, want_real)
            assert torch.equal(torch.signbit(got_real), torch.signbit(want_real))


def test_the_gradient_stops_where_a_number_was_clamped(isa):
    """The mask of the engine is the one of torch."""
    grads = []
    for backend in ("cpu", "reference"):
        x = numbers(4, 50).requires_grad_()
        q = Quantizer(RANGES["affine"])
        q.set_range(torch.tensor(-1.0), torch.tensor(2.0))
        with ah.use_backend(backend):
            value, _ = q.quantize(x, torch.uint8, with_real=True)
        value.sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)
    assert 0 < grads[0].sum() < grads[0].numel()


def test_the_sign_of_zero_is_kept(isa):
    """A code of -0.0 at the very end of the range stays what it is in torch."""
    q = Quantizer(RANGES["affine"])
    q.set_range(torch.tensor(0.0), torch.tensor(2.0))
    x = torch.tensor([-0.0, 0.0, -1e-9, 1e-9] * 20)
    with ah.use_backend("reference"):
        want, _ = q.quantize(x, torch.uint8, with_real=True)
    got, _ = q.quantize(x, torch.uint8, with_real=True)
    assert torch.equal(torch.signbit(got), torch.signbit(want))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 17, 40_000])
def test_what_is_not_finite_is_refused(isa, bad, at):
    """NaN and infinity have no code, wherever they are."""
    x = torch.zeros(50_000)
    x[at] = bad
    q = Quantizer(RANGES["symmetric"])
    q.set_range(torch.tensor(-1.0), torch.tensor(1.0))
    with pytest.raises(CalibrationError, match="NaN or infinity"):
        q.quantize(x, torch.int8, with_real=False)


@pytest.mark.parametrize("layout", ["channels_last", "expanded", "sliced"])
def test_other_layouts(isa, layout):
    """Codes lie where their numbers lie, whatever the strides."""
    x = numbers(2, 3, 4, 5)
    x = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "expanded": x[:1].expand(4, -1, -1, -1),
        "sliced": x[..., ::2],
    }[layout]
    q = Quantizer(RANGES["affine"])
    q.observe(x)
    _, got = q.quantize(x, torch.uint8, with_real=False)
    assert torch.equal(got.to(torch.float32), q.codes(x))


def definition(acc, term, zero, sums, scale, bias, dim):
    """The epilogue, step by step."""
    shape = [1] * acc.dim()
    shape[dim] = -1
    total = acc.long() + term.reshape(shape)
    if sums is not None:
        each = sums.repeat_interleave(acc.shape[dim] // sums.shape[dim], dim)
        total = total - zero.expand(acc.shape[dim]).reshape(shape) * each
    y = total.to(torch.float32) * scale.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_sums", [False, True])
@pytest.mark.parametrize("with_term", [False, True])
@pytest.mark.parametrize(
    ("shape", "dim", "groups"),
    [
        ((9, 37), -1, 1),
        ((2, 515), -1, 1),
        ((3, 6, 5, 7), 1, 2),
        ((2, 4, 11), 1, 4),
        ((3, 8, 1, 1), 1, 1),
    ],
)
def test_sums_to_real_numbers(isa, shape, dim, groups, with_term, with_sums, with_bias):
    """Every shape, with and without terms, sums of codes and a bias, to the last bit and sign."""
    generator = torch.Generator().manual_seed(1)

    def draw(limit, *size):
        return torch.randint(-limit, limit, size, generator=generator)

    channels = shape[dim]
    acc = draw(2**24, *shape).to(torch.int32)
    acc.view(-1)[::5] = 0
    term, zero = draw(2**20, channels), draw(256, channels)
    term[0] = 0
    sums_shape = list(shape)
    sums_shape[dim] = groups
    sums = draw(2**20, *sums_shape) if with_sums else None
    scale = torch.rand(channels, generator=generator) * 1e-3
    bias = torch.randn(channels, generator=generator) if with_bias else None
    got = real.dequantize(acc, 2**29, term if with_term else None, zero, sums, scale, bias, dim)
    want = definition(
        acc, term if with_term else torch.zeros_like(term), zero, sums, scale, bias, dim
    )
    assert torch.equal(got, want)
    assert torch.equal(torch.signbit(got), torch.signbit(want))


def test_what_may_not_fit_is_left_to_torch(isa):
    """Sums of 64 bits, bounds beyond 32, and a forced backend are not for the engine."""
    acc, one = torch.zeros(2, 3, dtype=torch.int32), torch.ones(3)
    term = torch.zeros(3, dtype=torch.int64)
    assert real.dequantize(acc, 2**31 - 1, term, None, None, one, None, -1) is not None
    assert real.dequantize(acc, 2**31, term, None, None, one, None, -1) is None
    assert real.dequantize(acc.long(), 5, term, None, None, one, None, -1) is None
    with ah.use_backend("reference"):
        assert real.dequantize(acc, 5, term, None, None, one, None, -1) is None


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16])
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
@pytest.mark.parametrize("layout", ["dense", "turned", "sliced"])
def test_sums_of_codes(isa, layout, dim, dtype):
    """Sums are those of torch in int64, over any dimension and whatever the strides."""
    info = torch.iinfo(dtype)
    codes = torch.randint(info.min, info.max + 1, (5, 1100, 7), dtype=dtype)
    codes = {"dense": codes, "turned": codes.mT, "sliced": codes[:, ::3]}[layout]
    found = real.summed(codes, dim)
    assert found.dtype == torch.int64
    assert torch.equal(found, codes.sum(dim, dtype=torch.int64))


def test_sums_of_codes_that_the_engine_must_not_see(isa):
    """Where the engine must not look, torch sums: on a forced backend, and in a transform."""
    codes = torch.randint(-128, 128, (4, 9, 3), dtype=torch.int8)
    want = codes.sum(1, dtype=torch.int64)
    with ah.use_backend("reference"):
        assert torch.equal(real.summed(codes, 1), want)
    assert torch.equal(torch.vmap(lambda t: real.summed(t, 0))(codes), want)
    assert real.summed(codes.to("meta"), 1).shape == want.shape


@pytest.fixture
def layer():
    """A layer in evaluation, and an input of it."""
    torch.manual_seed(0)
    made = ah.nn.Linear(5, 3, multiplier=ah.exact(8, signed=True))
    x = torch.randn(4, 5)
    made(x)
    return made.eval(), x


@torch.no_grad()
def test_defaults_of_torch_do_not_matter(isa, layer):
    """Another default device or type is not where the engine's own tensors go."""
    made, x = layer
    want = made(x)
    with torch.device("meta"):
        assert torch.equal(made(x), want)
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.bfloat16, torch.float64):
            torch.set_default_dtype(dtype)
            assert torch.equal(made(x), want)
    finally:
        torch.set_default_dtype(before)


@torch.no_grad()
def test_what_memory_does_not_show_is_not_for_the_engine(isa, layer):
    """A negated view, and a program that is being traced, give what torch gives."""
    made, x = layer
    assert torch.equal(made(torch._neg_view(x)), made(-x))
    conjugate = torch.complex(x, x).conj().imag
    assert conjugate.is_neg()
    assert torch.equal(made(conjugate), made(-x))


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_a_traced_layer_computes(isa, layer):
    """torch.jit.trace records operations, not memory that the engine wrote to."""
    made, x = layer
    traced = torch.jit.trace(made, (torch.zeros_like(x),), check_trace=False)
    assert torch.equal(traced(x), made(x))
