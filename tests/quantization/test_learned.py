"""Learned scales against the definition, finite differences, and what training does to them."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch

import approxhub as ah
from approxhub.errors import CalibrationError
from approxhub.operands import OperandFormat
from approxhub.quantization import CodeRange, LearnedQuantizer, Quantizer, scale_parameters

S4, U8 = CodeRange.symmetric(OperandFormat(4, True)), CodeRange.full(OperandFormat(8, False))
RANGES = [
    S4,
    U8,
    CodeRange.full(OperandFormat(8, True)),
    CodeRange.symmetric(OperandFormat(2, True)),
    CodeRange.full(OperandFormat(16, False)),
]
code_ranges = pytest.mark.parametrize("codes", RANGES, ids=lambda c: f"{c.qmin}..{c.qmax}")


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _learned(codes: CodeRange, low: float = -1.0, high: float = 1.4, **options) -> LearnedQuantizer:
    q = LearnedQuantizer(codes, **options)
    q.set_range(torch.full_like(q.range_min, low), torch.full_like(q.range_max, high))
    return q


def _slow_gradients(x, upstream, s, z, codes) -> tuple[np.ndarray, float]:
    """The gradients by the input and by the base-2 logarithm of the scale, value by value."""
    by_x, by_scale = np.zeros(len(x), np.float64), 0.0
    for i, (value, g) in enumerate(zip(x.tolist(), upstream.tolist(), strict=True)):
        v = np.float32(value) / np.float32(s)
        q = float(np.rint(v)) + z
        if q < codes.qmin:
            by_scale += g * (codes.qmin - z)
        elif q > codes.qmax:
            by_scale += g * (codes.qmax - z)
        else:
            by_scale += g * (float(np.rint(v)) - float(v))
            by_x[i] = g
    largest = max(-codes.qmin, codes.qmax)
    return by_x, by_scale / math.sqrt(len(x) * largest) * s * math.log(2)


@code_ranges
@pytest.mark.parametrize("power_of_two", [False, True])
def test_gradients_equal_the_definition(codes, power_of_two):
    """Both gradients are those of the definition, inside the range and where it clamps."""
    q = _learned(codes, power_of_two=power_of_two)
    x, upstream = _normal(500).requires_grad_(), _normal(500, seed=1)
    real, _ = q(x)
    real.backward(upstream)
    by_x, by_log = _slow_gradients(x.detach(), upstream, q.scale.item(), q.zero_point.item(), codes)
    np.testing.assert_array_equal(x.grad.numpy(), by_x.astype(np.float32))
    assert q.log2_scale.grad.item() == pytest.approx(by_log, rel=1e-4)
    assert 0 < (by_x == 0).sum() < 500


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gradients_per_channel(axis):
    """Per channel, the gradient of each scale is that of its channel alone."""
    x, upstream = _normal(3, 3, 3), _normal(3, 3, 3, seed=1)
    q = LearnedQuantizer(U8, channels=3, axis=axis)
    q.set_range(torch.tensor([-1.0, -0.5, 0.0]), torch.tensor([0.3, 0.7, 1.5]))
    q(x)[0].backward(upstream)
    for c in range(3):
        alone = _learned(U8, q.range_min[c].item(), q.range_max[c].item())
        alone(x.select(axis, c))[0].backward(upstream.select(axis, c))
        assert q.log2_scale.grad[c].item() == pytest.approx(alone.log2_scale.grad.item(), rel=1e-5)


@code_ranges
def test_finite_differences_where_values_are_clamped(codes):
    """Where every value is clamped the output is differentiable: differences agree."""
    q = _learned(codes, -1.0, 1.0)
    x = torch.cat([_normal(40).abs() + 3, -_normal(10).abs() - 3])
    upstream = _normal(50, seed=1)
    q(x)[0].backward(upstream)
    size, found = 1e-2, []
    for sign in (1, -1):
        moved = copy.deepcopy(q)
        with torch.no_grad():
            moved.log2_scale += sign * size
        found.append((moved(x)[0].double() * upstream.double()).sum().item())
    slope = (found[0] - found[1]) / (2 * size)
    weight = 1 / math.sqrt(50 * codes.largest)
    assert q.log2_scale.grad.item() == pytest.approx(slope * weight, rel=1e-3)


@code_ranges
def test_it_quantises_as_the_plain_one(codes):
    """Codes and values are those of a plain quantiser of its scale and zero point."""
    q, plain = _learned(codes), Quantizer(codes)
    plain.set_range(q.range_min, q.range_max)
    assert q.scale.item() == pytest.approx(plain.scale.item(), rel=1e-6)
    assert q.zero_point == plain.zero_point
    plain.scale.copy_(q.scale)
    x = _normal(400)
    assert all(torch.equal(a, b) for a, b in zip(q(x), plain(x), strict=True))


def test_scales_stay_positive():
    """However far the parameter is pushed, the scale is a positive normal number."""
    for power_of_two in (False, True):
        q = _learned(U8, power_of_two=power_of_two)
        for value in (-1e9, -127.3, 0.3, 127.9, 1e9):
            with torch.no_grad():
                q.log2_scale.fill_(value)
            assert torch.finfo(torch.float32).tiny <= q.scale.item() <= 2.0**127


def test_power_of_two_scales_are_exact():
    """With power-of-two scales, the scale is exactly the plain quantiser's, for every exponent."""
    q = LearnedQuantizer(CodeRange(OperandFormat(8, True), -1, 1, False), power_of_two=True)
    for exponent in range(-126, 127):
        q.set_range(torch.tensor(0.0), torch.tensor(0.75 * 2.0**exponent))
        assert q.scale.item() == (2.0**exponent if exponent > -126 else q.scale.item())
        assert np.frexp(q.scale.item())[0] == 0.5


def test_learning_lowers_the_error():
    """Adam at 1e-2 brings a scale that is over twice too large close to the best one."""
    x = _normal(4000)
    q = _learned(S4, -6.0, 6.0)
    optimiser = torch.optim.Adam(scale_parameters(q), lr=1e-2, eps=1e-12)
    for _ in range(300):
        optimiser.zero_grad()
        (q(x)[0] - x).square().mean().backward()
        optimiser.step()
    best = Quantizer(S4, calibrator="mse")
    best.observe(x)
    assert q.scale.item() == pytest.approx(best.scale.item(), rel=0.15)


# --- state ----------------------------------------------------------------------


def test_the_calibrator_gives_the_first_scale_only():
    """Until the first pass with a gradient it observes; then only learning moves the scale."""
    q = LearnedQuantizer(U8)
    with pytest.raises(CalibrationError, match="no range yet"):
        q.codes(torch.zeros(1))
    for high in (1.0, 3.0):
        q.observe(torch.tensor([0.0, high]))
        q(torch.ones(1))[0].detach()
    assert q.learning
    q = LearnedQuantizer(U8)
    for high in (1.0, 3.0):
        q.observe(torch.tensor([0.0, high]))
        with torch.no_grad():
            q(torch.ones(1, requires_grad=True))
    assert not q.learning
    assert q.range_max.item() == 3.0
    q(torch.ones(1))
    before = q.scale.item(), q.zero_point.item()
    q.observe(torch.tensor([-50.0, 50.0]))
    q.fit(torch.tensor([-50.0, 50.0]))
    assert (q.scale.item(), q.zero_point.item()) == before
    q.restart()
    q.observe(torch.tensor([-50.0, 50.0]))
    assert q.range_max.item() == 50.0


def test_a_loaded_scale_counts_as_learned():
    """After loading, training goes on from the loaded scale, and not from a new range."""
    q = _learned(U8, channels=2)
    with torch.no_grad():
        q.log2_scale += torch.tensor([0.3, -0.7])
    other = LearnedQuantizer(U8, channels=2)
    other.load_state_dict(q.state_dict())
    other.calibrated = True  # as a layer's state says
    other.resume()
    other.observe(_normal(2, 50))
    assert torch.equal(other.scale, q.scale)


def test_other_codes_cover_what_the_learned_scale_covers():
    """Other codes take over the range of the learned scale, not the one it started from."""
    q = _learned(CodeRange.symmetric(OperandFormat(8, True)), channels=2, axis=1)
    with torch.no_grad():
        q.log2_scale += torch.tensor([1.0, -1.0])
    reach = q.scale * 127
    q.set_codes(S4)
    torch.testing.assert_close(q.scale * 7, reach)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q))])
def test_copies(clone):
    """Copies quantise alike and learn apart; half() leaves the parameter float32."""
    q = _learned(U8)
    other = clone(q).half()
    assert other.log2_scale.dtype == torch.float32
    assert other.scale == q.scale
    with torch.no_grad():
        other.log2_scale += 1
    assert other.scale != q.scale
    other.reset()
    assert other.scale.item() == 1
    assert not other.calibrated


def test_from_a_plain_quantiser():
    """A quantiser made from another has its codes, options and range, and goes on observing."""
    plain = Quantizer(U8, channels=2, axis=1, calibrator="percentile(100)", power_of_two=True)
    assert not LearnedQuantizer.from_quantizer(plain).calibrated
    plain.observe(torch.tensor([[-1.0, 0.0], [2.0, 9.0]]))
    q = LearnedQuantizer.from_quantizer(plain)
    assert torch.equal(q.scale, plain.scale)
    assert torch.equal(q.zero_point, plain.zero_point)
    assert (q.axis, q.calibrator_name, q.power_of_two) == (1, "percentile(100)", True)
    q.observe(torch.tensor([[3.0, 3.0]]))
    assert q.range_max.tolist() == [3.0, 9.0]


def test_in_a_layer():
    """As a layer's input quantiser it learns in training, and evaluation leaves it alone."""
    net = ah.approximate(torch.nn.Sequential(torch.nn.Linear(8, 4)), "drum:8s/k=4")
    net[0].input_quantizer = LearnedQuantizer.from_quantizer(net[0].input_quantizer)
    ah.calibrate(net, [_normal(32, 8)])
    (scale,) = scale_parameters(net)
    before = scale.item()
    net.train()
    net(_normal(32, 8)).square().mean().backward()
    assert scale.grad.item() != 0
    torch.optim.Adam([scale], lr=1e-2, eps=1e-12).step()
    assert scale.item() == pytest.approx(before - math.copysign(1e-2, scale.grad.item()), abs=1e-5)
    after = scale.item()
    net(100 * _normal(32, 8))
    net.eval()(_normal(32, 8))
    assert scale.item() == after


def test_no_learned_scales():
    """A model without learned scales has none to optimise."""
    assert scale_parameters(torch.nn.Linear(2, 2)) == []
