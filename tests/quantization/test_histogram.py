"""The streaming histogram against numpy: counts, edges, percentiles, and the order of data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from approxhub.errors import CalibrationError
from approxhub.quantization.histogram import Histogram

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = arrays(np.float32, st.integers(1, 40), elements=FLOATS)
PERCENTS = (0, 0.1, 1, 25, 50, 75, 99, 99.9, 100)


def _seen(*batches: np.ndarray, axis: int | None = None) -> Histogram:
    h = Histogram()
    for x in batches:
        h.observe(torch.from_numpy(x), axis)
    return h


def _slow_counts(values: np.ndarray) -> dict[tuple[int, int], int]:
    """Counts by (sign, upper 16 bits), one value at a time."""
    bits = [int(b) >> 16 for b in np.abs(values).view(np.uint32)]
    top, found = max(bits), {}
    for value, key in zip(values, bits, strict=True):
        bin_ = (0, 0) if value == 0 or key <= top - 2048 else (int(np.sign(value)), key)
        found[bin_] = found.get(bin_, 0) + 1
    return found


def _fast_counts(h: Histogram, values: np.ndarray) -> dict[tuple[int, int], int]:
    top = max(int(b) >> 16 for b in np.abs(values).view(np.uint32))
    found = {}
    for i in torch.nonzero(h.counts[0]).flatten().tolist():
        step = i - h.around_zero
        bin_ = (int(np.sign(step)), top - 2048 + abs(step)) if step else (0, 0)
        found[bin_] = int(h.counts[0, i])
    return found


def _within(estimate: float, values: np.ndarray, percent: float) -> bool:
    """Whether an estimate keeps the stated error."""
    exact = np.sort(values.astype(np.float64))
    place = percent / 100 * (len(values) - 1)
    near = [abs(exact[int(np.floor(place))]), abs(exact[int(np.ceil(place))])]
    largest = np.abs(exact).max()
    bound = max(max(near) / 256, largest * 2**-15) + largest * 1e-7 + 1e-40
    return abs(estimate - np.percentile(exact, percent)) <= bound


@given(ROWS)
@settings(derandomize=True, deadline=None, max_examples=100)
def test_counts_equal_a_slow_loop(values):
    """Every value is counted in the bin of its sign and upper bits, or in the one around zero."""
    assert _fast_counts(_seen(values), values) == _slow_counts(values)


@given(ROWS, st.lists(st.integers(0, 40), max_size=4), st.integers(0, 2**32 - 1))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_neither_order_nor_batches_matter(values, cuts, seed):
    """The same values in another order, in other batches, give the same counts, bit for bit."""
    shuffled = np.random.default_rng(seed).permutation(values)
    parts = [p for p in np.split(shuffled, sorted(cuts)) if len(p)]
    one, many = _seen(values), _seen(*parts)
    assert torch.equal(one.counts, many.counts)
    assert torch.equal(one.edges(), many.edges())
    assert (one.low, one.high) == (many.low, many.high)


def test_growing_loses_no_count():
    """Magnitudes that grow by a factor of 1e12 leave every value counted."""
    rng = np.random.default_rng(0)
    batches = [(rng.normal(0, 10.0**e, 500)).astype(np.float32) for e in range(-6, 7)]
    h = Histogram()
    for i, x in enumerate(batches, 1):
        h.observe(torch.from_numpy(x), None)
        assert h.total.tolist() == [500 * i]


@given(ROWS)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_bins_hold_their_values(values):
    """Edges ascend, end at the extremes, and as many values lie between two as are counted."""
    h = _seen(values)
    edges, counts = h.edges()[0].numpy(), h.counts[0].numpy()
    assert (np.diff(edges) >= 0).all()
    assert (edges[0], edges[-1]) == (values.min(), values.max())
    for i in np.flatnonzero(counts):
        inside = (values >= edges[i]) & (values <= edges[i + 1])
        assert inside.sum() >= counts[i]


@given(ROWS)
@settings(derandomize=True, deadline=None, max_examples=100)
def test_percentiles_keep_the_stated_error(values):
    """Any percentile is within a 256th of its own size, or 2^-15 of the largest, of numpy's."""
    h = _seen(values)
    for percent in PERCENTS:
        assert _within(h.percentile(percent).item(), values, percent), percent
    assert h.percentile(0).item() == values.min()
    assert h.percentile(100).item() == values.max()


@pytest.mark.parametrize("spread", [1.0, 1e-3, 30.0])
@pytest.mark.parametrize("sided", [False, True])
def test_percentiles_of_many_values(spread, sided):
    """So it is for many values in many batches, one-sided ones with many zeros, and outliers."""
    rng = np.random.default_rng(3)
    batches = [rng.normal(0.1, spread, 5000).astype(np.float32) for _ in range(4)]
    batches = [np.maximum(b, 0) if sided else b for b in batches]
    batches[2][:3] = 1000 * spread
    everything = np.concatenate(batches)
    for percent in (0.01, 0.1, 1, 50, 90, 99, 99.9, 99.99):
        assert _within(_seen(*batches).percentile(percent).item(), everything, percent)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_channels_are_apart(axis):
    """Per channel, counts, edges and percentiles are those of each channel alone."""
    rng = np.random.default_rng(5)
    x = rng.normal(0, 1, (3, 3, 3)).astype(np.float32)
    x *= np.array([1e-6, 1.0, 1e6], np.float32).reshape(
        [3 if i == axis % 3 else 1 for i in range(3)]
    )
    both = [x, -3 * x]
    h = _seen(*both, axis=axis)
    for c in range(3):
        alone = _seen(*(np.ascontiguousarray(np.take(b, c, axis)) for b in both))
        assert torch.equal(h.counts[c], alone.counts[0])
        assert torch.equal(h.edges()[c], alone.edges()[0])
        assert h.percentile(90)[c] == alone.percentile(90)


def test_nothing_seen():
    """A histogram that saw nothing has no percentile."""
    with pytest.raises(CalibrationError, match="no values"):
        Histogram().percentile(50)


def test_other_float_types():
    """Halves and doubles are counted as the float32 numbers that they round to."""
    x = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        one, other = Histogram(), Histogram()
        one.observe(x.to(dtype), None)
        other.observe(x.to(dtype).float(), None)
        assert torch.equal(one.counts, other.counts)
