"""Percentile, squared error and entropy against slow searches, for every kind of codes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from approxhub.errors import CalibrationError
from approxhub.operands import OperandFormat
from approxhub.quantization import (
    Calibrator,
    CodeRange,
    CodesAware,
    Entropy,
    Percentile,
    Quantizer,
    SquaredError,
    scale_and_zero_point,
)
from approxhub.quantization.histogram import Histogram
from approxhub.testing import CalibratorConformance

NAMES = ("minmax", "moving-average", "percentile(99)", "mse", "entropy")
names = pytest.mark.parametrize("name", NAMES)
CODES = [
    *(CodeRange.symmetric(OperandFormat(bits, True)) for bits in (2, 3, 4, 5, 6, 7, 8, 12, 16)),
    *(CodeRange.full(OperandFormat(bits, False)) for bits in (1, 2, 3, 4, 5, 6, 7, 8, 12, 16)),
    CodeRange.full(OperandFormat(8, True)),
    CodeRange.symmetric(OperandFormat(9, True), 255),
]
every_codes = pytest.mark.parametrize(
    "codes", CODES, ids=lambda c: f"{c.format}-{'affine' if c.affine else c.qmax}"
)
S4, U4 = CodeRange.symmetric(OperandFormat(4, True)), CodeRange.full(OperandFormat(4, False))
S8, U8 = CodeRange.symmetric(OperandFormat(8, True)), CodeRange.full(OperandFormat(8, False))


def _normal(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def _skewed(n: int, seed: int = 0) -> torch.Tensor:
    """Values of both signs, more of one, with a few outliers."""
    x = torch.nn.functional.elu(3 * _normal(n, seed)) + 0.05 * _normal(n, seed + 1)
    x[:3] = torch.tensor([20.0, 25.0, -6.0])
    return x


def _error(x: torch.Tensor, low: float, high: float, codes: CodeRange) -> float:
    """Mean squared error of quantising, value by value in float64."""
    s, z = scale_and_zero_point(torch.tensor(low), torch.tensor(high), codes)
    s, z = s.item(), z.item()
    values = x.double().numpy()
    q = np.clip(np.rint(values / s) + z, codes.qmin, codes.qmax)
    return float((((q - z) * s - values) ** 2).mean())


# --- the contract -------------------------------------------------------------------


class TestPercentile(CalibratorConformance):
    """What every calibrator must hold."""

    def make_calibrator(self) -> Calibrator:
        """One that leaves out a tenth at each side."""
        return Percentile(90)


class TestWholePercentile(CalibratorConformance):
    """With 100 percent it claims to cover everything."""

    covers = True

    def make_calibrator(self) -> Calibrator:
        """One that leaves nothing out."""
        return Percentile(100)


class TestSquaredError(CalibratorConformance):
    """What every calibrator must hold."""

    def make_calibrator(self) -> Calibrator:
        """As it is before it knows of codes."""
        return SquaredError()


class TestAffineSquaredError(CalibratorConformance):
    """What every calibrator must hold, with a search for both ends."""

    def make_calibrator(self) -> Calibrator:
        """One for unsigned codes with a zero point."""
        calibrator = SquaredError()
        calibrator.use_codes(U4, power_of_two=False)
        return calibrator


class TestEntropy(CalibratorConformance):
    """What every calibrator must hold."""

    def make_calibrator(self) -> Calibrator:
        """As it is before it knows of codes."""
        return Entropy()


class TestAffineEntropy(CalibratorConformance):
    """What every calibrator must hold, with a search for both ends."""

    def make_calibrator(self) -> Calibrator:
        """One for unsigned codes with a zero point."""
        calibrator = Entropy()
        calibrator.use_codes(U4, power_of_two=True)
        return calibrator


# --- every calibrator, every width ----------------------------------------------------


@names
@every_codes
def test_every_width(name, codes):
    """Every calibrator fits every code range: positive scale, codes in it, zero exact."""
    q = Quantizer(codes, calibrator=name)
    x = _skewed(2000)
    q.observe(x)
    real, found = q(torch.cat([x, torch.zeros(1)]))
    assert q.scale > 0
    assert ((found >= codes.qmin) & (found <= codes.qmax)).all()
    assert real[-1] == 0
    assert x.min() <= q.range_min <= q.range_max <= x.max()


@names
@pytest.mark.parametrize("value", [0.0, 1e-42, 3.5, -3.5, 3e38])
def test_constants(name, value):
    """A tensor of one value is met exactly, to rounding, and one of zeros has the scale 1."""
    for codes in (S4, U4, S8, U8):
        q = Quantizer(codes, calibrator=name)
        q.observe(torch.full((50,), value))
        assert q(torch.tensor([value]))[0].item() == pytest.approx(value, rel=1e-6, abs=1e-40)
        if value == 0:
            assert q.scale.item() == 1


@names
@pytest.mark.parametrize("sign", [1, -1])
def test_one_sided(name, sign):
    """Of one-sided data no code is spent on the other side, and the end stays within the data."""
    x = sign * _normal(3000).clamp(min=0)
    q = Quantizer(U8, calibrator=name)
    q.observe(x)
    assert q.zero_point.item() == (0 if sign > 0 else 255)
    assert 0 < max(-q.range_min, q.range_max) <= x.abs().max()


@pytest.mark.parametrize("name", ["percentile(99)", "mse", "entropy"])
@pytest.mark.parametrize("codes", [S4, U4], ids=["symmetric", "affine"])
def test_outliers_are_left_out(name, codes):
    """One outlier in fifty thousand does not take most codes, as it does with min/max."""
    x = torch.cat([_normal(50_000), torch.tensor([30.0])])
    errors = {}
    for n in ("minmax", name):
        q = Quantizer(codes, calibrator=n)
        q.observe(x)
        errors[n] = _error(x, q.range_min.item(), q.range_max.item(), codes)
    assert errors[name] < errors["minmax"] / 10


@names
def test_per_channel_is_each_channel_alone(name):
    """Per channel, range and scale are bit for bit those of each channel alone."""
    x = torch.stack([_skewed(500), 1e-3 * _normal(500), _normal(500).abs(), torch.zeros(500)])
    for codes in (S4, U4):
        q = Quantizer(codes, channels=4, calibrator=name)
        q.observe(x)
        for c in range(4):
            alone = Quantizer(codes, calibrator=name)
            alone.observe(x[c])
            assert (q.range_min[c], q.range_max[c]) == (alone.range_min, alone.range_max)
            assert (q.scale[c], q.zero_point[c]) == (alone.scale, alone.zero_point)


@pytest.mark.parametrize("name", ["minmax", "percentile(90)", "mse", "entropy"])
def test_order_does_not_matter(name):
    """Whatever the order of batches, the range is the same (a moving average's is not)."""
    batches = [_skewed(100, seed) * scale for seed, scale in enumerate((1.0, 50.0, 0.1))]
    for codes in (S4, U4):
        found = set()
        for order in itertools.permutations(batches):
            q = Quantizer(codes, calibrator=name)
            for x in order:
                q.observe(x)
            found.add((q.range_min.item(), q.range_max.item()))
        assert len(found) == 1


# --- going on -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["percentile(99)", "mse", "entropy"])
def test_resuming_widens(name):
    """A resumed range is kept, and only widened by what is found afterwards."""
    q = Quantizer(S8, calibrator=name)
    q.set_range(torch.tensor(-1.0), torch.tensor(5.0))
    q.resume()
    q.observe(_normal(500) / 100)
    assert (q.range_min.item(), q.range_max.item()) == (-1.0, 5.0)
    q.observe(1000 * _normal(500))
    alone = Quantizer(S8, calibrator=name)
    alone.observe(_normal(500) / 100)
    alone.observe(1000 * _normal(500))
    assert (q.range_min.item(), q.range_max.item()) == (
        alone.range_min.item(),
        alone.range_max.item(),
    )


@pytest.mark.parametrize("name", ["mse", "entropy"])
def test_other_codes_take_effect_when_it_observes_again(name):
    """Other codes keep the range, and the next tensor's range is the best for them."""
    x = _normal(20_000)
    q, fresh = Quantizer(S8, calibrator=name), Quantizer(S4, calibrator=name)
    q.observe(x)
    before = q.range_max.item()
    q.set_codes(S4)
    assert q.range_max.item() == before
    q.observe(x[:1])
    fresh.observe(x)
    fresh.observe(x[:1])
    assert q.range_max == fresh.range_max
    assert q.range_max.item() < before
    assert isinstance(q.calibrator, CodesAware)


# --- percentile -----------------------------------------------------------------------


@pytest.mark.parametrize("percent", [60, 90, 99, 99.9])
def test_both_tails(percent):
    """The range is from one percentile to the opposite one, as numpy has them."""
    x = _skewed(10_000)
    c = Percentile(percent)
    for part in x.split(999):
        c.observe(part, None)
    want = np.percentile(x.double().numpy(), [100 - percent, percent])
    np.testing.assert_allclose([t.item() for t in c.range()], want, rtol=1 / 256, atol=25 * 2**-15)


@pytest.mark.parametrize("percent", [50, 0, -1, 100.1, float("nan")])
def test_percent_out_of_range(percent):
    """A percentage outside (50, 100] is refused."""
    with pytest.raises(CalibrationError, match="percent"):
        Percentile(percent)


# --- squared error --------------------------------------------------------------------


@pytest.mark.parametrize("codes", [S4, U4, S8], ids=["4s", "4u", "8s"])
@pytest.mark.parametrize("range_", [(-3.0, 5.0), (-0.2, 1.1), (0.0, 0.7)])
def test_squared_error_is_the_integral(codes, range_):
    """The loss of a histogram is that of values spread evenly in its bins."""
    h = Histogram()
    h.observe(_skewed(300), None)
    c = SquaredError()
    c.use_codes(codes, power_of_two=False)
    counts, edges = h.counts.double(), h.edges()
    counts[:, h.around_zero] = 0
    s, z = (t.double() for t in scale_and_zero_point(*map(torch.tensor, range_), codes))
    got = c._loss(counts, edges, s.reshape(1, 1, 1), z.reshape(1, 1, 1)).item()
    total = 0.0
    for i in torch.nonzero(counts[0]).flatten().tolist():
        a, b, n = edges[0, i].item(), edges[0, i + 1].item(), 1000
        x = a + (b - a) * (np.arange(n) + 0.5) / n
        q = np.clip(np.rint(x / s.item()) + z.item(), codes.qmin, codes.qmax)
        total += counts[0, i].item() * (((q - z.item()) * s.item() - x) ** 2).mean()
    assert got == pytest.approx(total / counts.sum().item(), rel=1e-4)


@every_codes
@pytest.mark.parametrize("make", [_normal, _skewed], ids=["normal", "skewed"])
def test_squared_error_is_as_good_as_a_slow_search(codes, make):
    """No factor of the grid, for both ends or for one, gives a clearly smaller true error."""
    x = make(4000)
    c = SquaredError()
    c.use_codes(codes, power_of_two=False)
    c.observe(x, None)
    low, high = (t.item() for t in c.range())
    found = _error(x, low, high, codes)
    ends = x.min().item(), x.max().item()
    for k in range(65):
        f = 2 ** (-k / 8)
        tried = [(ends[0] * f, ends[1] * f)]
        if codes.affine:
            tried += [(ends[0] * f, high), (low, ends[1] * f)]
        for a, b in tried:
            assert found <= 1.05 * _error(x, a, b, codes), (k, low, high, a, b)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30), st.sampled_from([S4, U8]))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_squared_error_is_hardly_worse_than_the_whole_range(values, codes):
    """For any few values, the range found is in the data's, and about as good as all of it."""
    x = torch.tensor(values)
    c = SquaredError()
    c.use_codes(codes, power_of_two=False)
    c.observe(x, None)
    low, high = (t.item() for t in c.range())
    assert low >= min(x.min().item(), 0)
    assert high <= max(x.max().item(), 0)
    step = scale_and_zero_point(x.min(), x.max(), codes)[0].item()
    assert _error(x, low, high, codes) <= step**2 / 4 + (x.abs().max().item() / 32) ** 2


# --- entropy --------------------------------------------------------------------------


def _slow_divergence(counts, edges, s: float, z: float, codes: CodeRange) -> float:
    """The documented loss, bin by bin."""
    bins = [(n, a, b) for n, a, b in zip(counts, edges[:-1], edges[1:], strict=True) if n]
    code = [round((a + b) / 2 / s) + z for _, a, b in bins]
    kept = [i for i, q in enumerate(code) if codes.qmin <= q <= codes.qmax]
    if not kept:
        return math.inf
    p = {i: bins[i][0] for i in kept}
    p[kept[0]] += sum(n for n, a, b in bins[: kept[0]])
    p[kept[-1]] += sum(n for n, a, b in bins[kept[-1] + 1 :])
    width = [max(b - a, abs(a + b) / 512) for _, a, b in bins]
    q = {}
    for i in kept:
        same = [j for j in kept if code[j] == code[i]]
        q[i] = sum(bins[j][0] for j in same) * width[i] / sum(width[j] for j in same)
    sums = sum(p.values()), sum(q.values())
    return sum(p[i] / sums[0] * math.log(p[i] / sums[0] / (q[i] / sums[1])) for i in kept)


@pytest.mark.parametrize("codes", [S4, U4, S8, U8], ids=["4s", "4u", "8s", "8u"])
def test_entropy_equals_a_slow_loop(codes):
    """The divergence of each candidate is the documented one, bin by bin."""
    h = Histogram()
    h.observe(_skewed(3000), None)
    c = Entropy()
    c.use_codes(codes, power_of_two=False)
    counts, edges = h.counts.double(), h.edges()
    counts[:, h.around_zero] = 0
    counts, edges = c._joined(counts, edges)
    for low, high in [(-6.0, 25.0), (-3.0, 3.0), (-0.5, 0.4), (0.0, 12.0), (-2.0, 0.0)]:
        s, z = scale_and_zero_point(torch.tensor(low), torch.tensor(high), codes)
        got = c._loss(counts, edges, *(t.double().reshape(1, 1, 1) for t in (s, z))).item()
        want = _slow_divergence(
            counts[0].tolist(), edges[0].tolist(), s.item(), z.item(), codes
        )  # fmt: skip
        assert got == pytest.approx(want, rel=1e-9), (low, high)


@pytest.mark.parametrize("make", [_normal, _skewed, lambda n: _normal(n).abs()])
def test_entropy_joins_fine_bins(make):
    """Joined bins have every value, ascend, and each is where its values are."""
    x = make(5000)
    h = Histogram()
    h.observe(x, None)
    counts, edges = Entropy()._joined(h.counts.double(), h.edges())
    assert counts.sum().item() == len(x)
    assert (edges.diff() >= 0).all()
    assert edges.shape[1] == counts.shape[1] + 1
    below = counts[0].cumsum(0).numpy()
    values = np.sort(x.double().numpy())
    for edge, n in zip(edges[0, 1:].tolist(), below, strict=True):
        slack = abs(edge) / 64 + 2**-15 * np.abs(values).max()
        first, last = np.searchsorted(values, [edge - slack, edge + slack])
        assert first <= n <= last
        if np.abs(values).max() / 15 < edge < values[-1]:  # not joined: exactly there
            assert n == np.searchsorted(values, edge)


def test_entropy_prefers_less_than_the_extremes_only_where_codes_are_few():
    """Few codes leave rare values out; 16 bits are finer than the bins and cover all."""
    x = _normal(50_000)
    ends = {}
    for bits in (2, 4, 8, 16):
        c = Entropy()
        c.use_codes(CodeRange.symmetric(OperandFormat(bits, True)), power_of_two=False)
        c.observe(x, None)
        ends[bits] = c.range()[1].item()
    assert ends[2] < ends[4] < ends[8] <= ends[16] == x.max().item()
