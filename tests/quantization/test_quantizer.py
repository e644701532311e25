"""The quantiser against numpy: scales, zero points, one rounding, and when its state moves."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from approxhub.errors import CalibrationError, CheckpointError, InputError, NotFoundError
from approxhub.operands import OperandFormat
from approxhub.quantization import CodeRange, Quantizer, scale_and_zero_point

U8, S8 = OperandFormat(8, False), OperandFormat(8, True)
RANGES = [
    CodeRange.full(U8),
    CodeRange.full(S8),
    CodeRange.symmetric(S8),
    CodeRange.full(OperandFormat(1, False)),
    CodeRange.symmetric(OperandFormat(2, True)),
    CodeRange.full(OperandFormat(16, False)),
    CodeRange.full(OperandFormat(16, True)),
    CodeRange.symmetric(OperandFormat(16, True)),
]
code_ranges = pytest.mark.parametrize(
    "codes", RANGES, ids=lambda c: f"{c.format}-{'affine' if c.affine else 'symmetric'}"
)
reals = st.floats(-1e6, 1e6, width=32)


def _numpy_parameters(low, high, codes: CodeRange) -> tuple[np.ndarray, np.ndarray]:
    low = np.minimum(np.asarray(low, np.float32), np.float32(0))
    high = np.maximum(np.asarray(high, np.float32), np.float32(0))
    if not codes.affine:
        scale = np.maximum(-low, high) / np.float32(codes.qmax)
        return np.where(scale == 0, np.float32(1), scale), np.zeros(low.shape, np.int32)
    scale = (high - low) / np.float32(codes.qmax - codes.qmin)
    scale = np.where(scale == 0, np.float32(1), scale)
    zero = np.clip(np.rint(codes.qmin - low / scale), codes.qmin, codes.qmax)
    return scale, zero.astype(np.int32)


def _fitted(codes: CodeRange, low: float = -1.3, high: float = 2.9) -> Quantizer:
    q = Quantizer(codes)
    q.set_range(torch.tensor(low), torch.tensor(high))
    return q


def _buffers(q: Quantizer) -> dict[str, list[float]]:
    return {name: b.reshape(-1).tolist() for name, b in q.named_buffers()}


# --- scale and zero point ---------------------------------------------------


@code_ranges
@given(low=reals, high=reals)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_scale_and_zero_point_equal_numpy(codes, low, high):
    """Scale and zero point follow the documented formula bit for bit."""
    low, high = min(low, high), max(low, high)
    scale, zero = scale_and_zero_point(torch.tensor(low), torch.tensor(high), codes)
    want_scale, want_zero = _numpy_parameters(low, high, codes)
    if want_scale >= np.finfo(np.float32).tiny:  # below, see the test of tiny ranges
        assert scale.numpy() == want_scale
        assert zero.numpy() == want_zero
    assert scale.dtype == torch.float32
    assert zero.dtype == torch.int32
    assert codes.qmin <= int(zero) <= codes.qmax


@code_ranges
@given(low=reals, high=reals)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_real_zero_has_a_code(codes, low, high):
    """Whatever the range, real zero has a code of its own that means exactly zero."""
    q = Quantizer(codes)
    q.set_range(torch.tensor(min(low, high)), torch.tensor(max(low, high)))
    real, code = q(torch.zeros(1))
    assert code.item() == q.zero_point.item()
    assert real.item() == 0.0


def test_per_channel_equals_each_channel_alone():
    """Per-channel parameters are those of each channel's own range."""
    low, high = torch.tensor([-1.0, 0.5, -3.0, 0.0]), torch.tensor([2.0, 1.5, -1.0, 0.0])
    for codes in RANGES:
        scale, zero = scale_and_zero_point(low, high, codes)
        for c in range(4):
            alone = scale_and_zero_point(low[c], high[c], codes)
            assert (scale[c], zero[c]) == alone


@code_ranges
def test_empty_range(codes):
    """A range of zero alone gets the scale 1, so that nothing divides by zero."""
    q = Quantizer(codes)
    q.observe(torch.zeros(3))
    assert q.scale.item() == 1.0
    assert q.dequantize(q.codes(torch.zeros(2))).tolist() == [0.0, 0.0]


@code_ranges
@pytest.mark.parametrize("size", [1e-45, 1e-39, 1e-30, 1e30, 3e38])
def test_tiny_and_huge_ranges(codes, size):
    """Ranges at the ends of float32 give finite positive scales and finite values."""
    for low, high in ((-size, size), (0.0, size), (-size, 0.0)):
        q = _fitted(codes, low, high)
        assert 0 < q.scale.item() < float("inf")
        real, found = q(torch.tensor([low, 0.0, high, low / 3]))
        assert torch.isfinite(real).all()
        assert real[1] == 0
        assert ((found >= codes.qmin) & (found <= codes.qmax)).all()
        if size == 3e38:  # its span alone is more than float32 holds
            assert real[2].item() == pytest.approx(high, rel=2.1 / (codes.qmax - codes.qmin))


# --- power-of-two scales ------------------------------------------------------


@code_ranges
@given(low=reals, high=reals)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_power_of_two_scales(codes, low, high):
    """The scale is the next power of two, so the range stays covered; the zero point follows."""
    ends = torch.tensor(min(low, high)), torch.tensor(max(low, high))
    plain, _ = scale_and_zero_point(*ends, codes)
    scale, zero = scale_and_zero_point(*ends, codes, power_of_two=True)
    assert np.frexp(scale.item())[0] == 0.5
    assert scale / 2 < plain <= scale
    if codes.affine:
        want = np.rint(codes.qmin - np.minimum(ends[0].numpy(), 0) / scale.numpy())
        assert zero.item() == np.clip(want, codes.qmin, codes.qmax)
        reach = [(q - zero.item()) * scale.item() for q in (codes.qmin, codes.qmax)]
        half = scale.item() / 2 * (1 + 1e-6)  # what rounding the zero point costs
    else:
        assert zero.item() == 0
        reach, half = [codes.qmin * scale.item(), codes.qmax * scale.item()], 0
    assert reach[0] - half <= min(ends[0].item(), 0)
    assert reach[1] + half >= max(ends[1].item(), 0)


def test_powers_of_two_stay_as_they_are():
    """A scale that is a power of two is not rounded, from the smallest normal one to 2^127."""
    codes = CodeRange(S8, -1, 1, affine=False)
    ends = torch.exp2(torch.arange(-126, 128, dtype=torch.float64)).to(torch.float32)
    scale, _ = scale_and_zero_point(-ends, ends, codes, power_of_two=True)
    assert torch.equal(scale, ends)
    above = torch.nextafter(ends[:-1], ends[1:])
    assert torch.equal(scale_and_zero_point(-above, above, codes, True)[0], ends[1:])
    assert scale_and_zero_point(-above, torch.tensor(3e38), codes, True)[0].max() == 2.0**127


def test_power_of_two_survives():
    """Other codes, a copy and a loaded state keep the option; the repr shows it."""
    q = Quantizer(CodeRange.full(U8), power_of_two=True, channels=2)
    q.observe(torch.tensor([[-1.0, 1.3], [0.0, 100.0]]))
    assert q.scale.tolist() == [2.0**-6, 0.5]
    other = Quantizer(CodeRange.full(U8), channels=2)
    other.load_state_dict(q.state_dict())
    for one in (q, other, copy.deepcopy(q), pickle.loads(pickle.dumps(q))):
        assert one.power_of_two
        one.set_range(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 3.0]))
        one.set_codes(CodeRange.symmetric(OperandFormat(4, True)))
        assert one.scale.tolist() == [0.25, 0.5]
        assert "symmetric, power_of_two" in repr(one)
    q.load_state_dict(Quantizer(CodeRange.full(U8), channels=2).state_dict())
    assert not q.power_of_two


def test_foreign_extra_state():
    """A state that says neither yes nor no is refused, and changes nothing."""
    q = Quantizer(CodeRange.full(U8), power_of_two=True)
    for state in (torch.tensor([2]), torch.tensor([0, 1]), {"power_of_two": False}):
        with pytest.raises(CheckpointError, match="extra state"):
            q.set_extra_state(state)
    assert q.power_of_two


# --- codes ------------------------------------------------------------------


@code_ranges
def test_codes_equal_numpy(codes):
    """Codes are clamp(round_half_even(x / s) + z), and real values (q - z) * s, bit for bit."""
    x = np.random.default_rng(3).normal(0.4, 2, (41, 13)).astype(np.float32)
    q = _fitted(codes)
    real, found = q(torch.from_numpy(x))
    scale, zero = _numpy_parameters(-1.3, 2.9, codes)
    want = np.clip(np.rint(x / scale) + zero, codes.qmin, codes.qmax)
    np.testing.assert_array_equal(found.numpy(), want)
    np.testing.assert_array_equal(q.codes(torch.from_numpy(x)).numpy(), want)
    want_real = (want.astype(np.float32) - np.float32(zero)) * np.float32(scale)
    np.testing.assert_array_equal(real.numpy(), want_real)


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20)
)
@settings(derandomize=True, deadline=None, max_examples=100)
def test_one_rounding_for_codes_and_values(values):
    """Real values are exactly those of the codes, for any finite input."""
    x = torch.tensor(values, dtype=torch.float32)
    for codes in RANGES:
        q = _fitted(codes)
        real, found = q(x)
        assert torch.equal(real, q.dequantize(found))
        assert torch.equal(found, found.round().clamp(codes.qmin, codes.qmax))


def test_halves_round_to_even():
    """Values half-way between two codes take the even one."""
    q = Quantizer(CodeRange.symmetric(S8))
    q.set_range(torch.tensor(-127.0), torch.tensor(127.0))  # scale 1
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
    assert q.codes(x).tolist() == [-2.0, -2.0, 0.0, 0.0, 2.0, 2.0, 4.0]


def test_zero_point_does_not_change_the_rounding():
    """The rounding is that of x / s: an odd zero point does not turn half-even into half-odd."""
    q = Quantizer(CodeRange.full(U8))
    q.set_range(torch.tensor(-1.0), torch.tensor(254.0))  # scale 1, zero point 1
    assert q.zero_point.item() == 1
    assert q.codes(torch.tensor([0.5, 1.5, 2.5])).tolist() == [1.0, 3.0, 3.0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_per_channel_axis(axis):
    """Every index of the channel axis is quantised with its own scale."""
    x = torch.randn((3, 3, 3), generator=torch.Generator().manual_seed(0))
    x = x * torch.tensor([1.0, 10.0, 100.0]).reshape([3 if i == axis else 1 for i in range(3)])
    q = Quantizer(CodeRange.full(U8), channels=3, axis=axis)
    q.observe(x)
    real, codes = q(x)
    for c in range(3):
        alone = Quantizer(CodeRange.full(U8))
        alone.observe(x.select(axis, c))
        one_real, one = alone(x.select(axis, c))
        assert torch.equal(codes.select(axis, c), one)
        assert torch.equal(real.select(axis, c), one_real)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 3)])
def test_empty_tensors(shape):
    """An empty tensor has no codes, teaches a calibrator nothing, and is no error."""
    q = _fitted(CodeRange.full(U8))
    before = _buffers(q)
    q.observe(torch.empty(shape))
    assert q.codes(torch.empty(shape)).shape == shape
    assert _buffers(q) == before
    fresh = Quantizer(CodeRange.full(U8))
    fresh.observe(torch.empty(shape))
    assert not fresh.calibrated


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_dtypes_are_quantised_as_float32(dtype):
    """Inputs of any float dtype are rounded in float32; results are float32."""
    x = torch.randn(50, generator=torch.Generator().manual_seed(1)).to(dtype)
    q = _fitted(CodeRange.full(U8))
    real, codes = q(x)
    assert torch.equal(codes, q.codes(x.float()))
    assert real.dtype == codes.dtype == torch.float32


# --- bad values ---------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_calibrating_on_bad_values(bad):
    """NaN and infinity are refused in calibration, and leave the state as it was."""
    q = _fitted(CodeRange.full(U8))
    q.resume()
    before = _buffers(q)
    with pytest.raises(CalibrationError, match="NaN or infinity"):
        q.observe(torch.tensor([0.0, bad]))
    assert _buffers(q) == before
    assert q.calibrator.range()[1].item() == pytest.approx(2.9)


def test_quantising_nan_and_infinity():
    """NaN and infinity have no code and are refused; large finite values are clamped."""
    q = _fitted(CodeRange.full(U8))
    with pytest.raises(CalibrationError, match="NaN"):
        q.codes(torch.tensor([1.0, float("nan")]))
    with pytest.raises(CalibrationError, match="NaN"):
        q(torch.tensor([float("nan")]))
    with pytest.raises(CalibrationError, match="infinity"):
        q.codes(torch.tensor([float("inf")]))
    assert q.codes(torch.tensor([3e38, -3e38])).tolist() == [255.0, 0.0]


def test_no_range_yet():
    """A quantiser without a range refuses to quantise, and says what to do."""
    q = Quantizer(CodeRange.full(U8))
    with pytest.raises(CalibrationError, match=r"approxhub\.calibrate"):
        q.codes(torch.zeros(1))


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (torch.tensor(1.0), torch.tensor(0.0)),
        (torch.tensor(float("nan")), torch.tensor(0.0)),
        (torch.tensor(0.0), torch.tensor(float("inf"))),
        (torch.zeros(2), torch.ones(2)),
    ],
)
def test_bad_ranges(low, high):
    """A range upside down, not finite or of the wrong shape is refused; the state stays."""
    q = _fitted(CodeRange.full(U8))
    before = _buffers(q)
    with pytest.raises(CalibrationError, match="range"):
        q.set_range(low, high)
    assert _buffers(q) == before


# --- state ----------------------------------------------------------------------


def test_state_moves_only_in_observe():
    """Quantising, in training mode too, moves nothing; observing does."""
    q = _fitted(CodeRange.full(U8)).train()
    before = _buffers(q)
    q.codes(torch.tensor([99.0]))
    q(torch.tensor([99.0], requires_grad=True))
    q.dequantize(torch.tensor([3.0]))
    assert _buffers(q) == before
    q.observe(torch.tensor([99.0]))
    assert _buffers(q) != before


def test_set_codes_keeps_the_range():
    """Other codes for the same range give the parameters of a fresh fit with those codes."""
    q = _fitted(CodeRange.full(U8))
    for codes in RANGES:
        q.set_codes(codes)
        fresh = _fitted(codes)
        assert _buffers(q) == _buffers(fresh)
        assert torch.equal(
            q.codes(torch.linspace(-2, 3, 50)), fresh.codes(torch.linspace(-2, 3, 50))
        )


def test_restart_forgets_and_reset_clears():
    """After restart a new range is found from scratch; reset makes it new altogether."""
    q = Quantizer(CodeRange.full(U8), calibrator="minmax")
    q.observe(torch.tensor([-100.0, 100.0]))
    q.restart("moving-average")
    assert not q.calibrated
    assert q.calibrator_name == "moving-average"
    q.observe(torch.tensor([-1.0, 1.0]))
    assert q.range_max.item() == 1.0
    q.reset()
    assert _buffers(q) == _buffers(Quantizer(CodeRange.full(U8)))
    assert not q.calibrated


def test_restart_with_an_unknown_name_changes_nothing():
    """A calibrator that does not exist is refused, and the quantiser keeps its own."""
    q = _fitted(CodeRange.full(U8))
    with pytest.raises(NotFoundError):
        q.restart("nothing")
    assert q.calibrator_name == "minmax"
    assert q.calibrated


def test_fit_is_to_one_tensor_alone():
    """Fitting forgets what was seen; a tensor that can not be fitted leaves everything."""
    q = Quantizer(CodeRange.full(U8))
    q.observe(torch.tensor([-100.0, 100.0]))
    q.fit(torch.tensor([-1.0, 2.0]))
    assert (q.range_min.item(), q.range_max.item()) == (-1.0, 2.0)
    before = _buffers(q)
    with pytest.raises(CalibrationError):
        q.fit(torch.tensor([float("nan")]))
    assert _buffers(q) == before
    q.observe(torch.tensor([3.0]))
    assert (q.range_min.item(), q.range_max.item()) == (-1.0, 3.0)


def test_resume_goes_on_from_loaded_buffers():
    """After loading a state, minimum and maximum widen from the loaded range."""
    q = _fitted(CodeRange.full(U8), -5.0, 5.0)
    other = Quantizer(CodeRange.full(U8))
    other.load_state_dict(q.state_dict())
    other.calibrated = True
    other.resume()
    other.observe(torch.tensor([0.0, 7.0]))
    assert (other.range_min.item(), other.range_max.item()) == (-5.0, 7.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda q: q.half(),
        lambda q: q.bfloat16(),
        lambda q: q.double(),
        lambda q: q.to(torch.float16),
        lambda q: q.to("cpu", torch.float64),
        lambda q: q.type(torch.float16),
        lambda q: torch.nn.Sequential(q).half()[0],
    ],
)
def test_state_keeps_its_dtype(change):
    """half() and to(dtype) round no scale: float32 stays float32, int32 stays int32."""
    q = _fitted(CodeRange.full(U8))
    before = _buffers(q)
    q = change(q)
    assert {b.dtype for b in q.buffers()} == {torch.float32, torch.int32}
    assert q.zero_point.dtype == torch.int32
    assert _buffers(q) == before


def test_meta_device():
    """On the meta device the state keeps its dtypes and quantising gives shapes."""
    q = _fitted(CodeRange.full(U8)).to("meta")
    assert {b.device.type for b in q.buffers()} == {"meta"}
    assert q.scale.dtype == torch.float32
    real, codes = q(torch.empty(2, 3, device="meta"))
    assert real.shape == codes.shape == (2, 3)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q))])
def test_copies_are_equal_and_apart(clone):
    """Copies and pickles quantise alike, and go on observing on their own."""
    q = Quantizer(CodeRange.full(U8), calibrator="minmax")
    q.observe(torch.tensor([-1.0, 2.0]))
    before = _buffers(q)
    other = clone(q)
    assert _buffers(other) == before
    assert other.code_range == q.code_range
    other.observe(torch.tensor([5.0]))
    assert (other.range_min.item(), other.range_max.item()) == (-1.0, 5.0)
    assert _buffers(q) == before


# --- gradient ---------------------------------------------------------------------


@code_ranges
def test_gradient_is_straight_through_inside_and_zero_outside(codes):
    """The gradient passes where the value was not clamped, and is zero where it was."""
    q = _fitted(codes)
    x = torch.linspace(-6, 6, 97).requires_grad_()
    upstream = torch.arange(97.0) + 1
    real, _ = q(x)
    real.backward(upstream)
    scale, zero = _numpy_parameters(-1.3, 2.9, codes)
    free = np.rint(x.detach().numpy() / scale) + zero
    inside = (free >= codes.qmin) & (free <= codes.qmax)
    assert inside.any()
    assert not inside.all()
    np.testing.assert_array_equal(x.grad.numpy(), upstream.numpy() * inside)


def test_no_gradient_where_none_is_wanted():
    """Codes never carry a gradient, and values only where the input wants one."""
    q = _fitted(CodeRange.full(U8))
    real, codes = q(torch.ones(2, requires_grad=True))
    assert real.requires_grad
    assert not codes.requires_grad
    assert not q(torch.ones(2))[0].requires_grad
    with torch.no_grad():
        assert not q(torch.ones(2, requires_grad=True))[0].requires_grad


def test_repr_says_what_it_is():
    """The repr has the codes, the kind, the calibrator and whether there is a range."""
    q = Quantizer(CodeRange.full(U8), channels=2)
    assert "0..255 affine, minmax, axis=0, not calibrated" in repr(q)
    q.observe(torch.ones(2, 2))
    assert "not calibrated" not in repr(q)


def test_compiled_code_refuses_what_has_no_code():
    """Under torch.compile, too, NaN is an error and not some code."""
    q = _fitted(CodeRange.full(U8))
    compiled = torch.compile(q.codes, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.tensor([0.5])), q.codes(torch.tensor([0.5])))
    with pytest.raises(RuntimeError, match="NaN or infinity"):
        compiled(torch.tensor([float("nan")]))


@pytest.mark.parametrize("shape", [(50, 4), (2, 4), (4,), ()])
def test_channels_that_are_not_there_are_refused(shape):
    """A tensor of other channels is refused before anything reads scales that are not there."""
    q = Quantizer(CodeRange.symmetric(S8), channels=3)
    q.fit(torch.randn(3, 4))
    for call in (q.codes, q, lambda x: q.quantize(x, torch.int8, False)):
        with pytest.raises(InputError, match="3 channels along axis 0"):
            call(torch.ones(shape))


def test_a_zero_point_that_is_no_integer_is_refused():
    """It is not rounded to one that somebody else did not mean; the quantiser is as before."""
    q = Quantizer(CodeRange.full(U8))
    with pytest.raises(CalibrationError, match="zero points must be codes"):
        q.adopt(torch.tensor(0.1), torch.tensor(1.7), (0, 255))
    assert not q.calibrated
    q.adopt(torch.tensor(0.1), torch.tensor(2.0), (0, 255))
    assert q.zero_point == 2
