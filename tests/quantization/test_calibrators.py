"""Calibrators against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from approxhub.errors import CalibrationError, NotFoundError
from approxhub.operands import OperandFormat
from approxhub.quantization import CodeRange, MinMax, MovingAverage, Quantizer


def _tensors(shape: tuple[int, ...], count: int = 4) -> list[torch.Tensor]:
    rng = np.random.default_rng(7)
    return [torch.from_numpy(rng.normal(i, 1 + i, shape).astype(np.float32)) for i in range(count)]


def _extremes(x: torch.Tensor, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    array = x.numpy()
    others = None if axis is None else tuple(i for i in range(array.ndim) if i != axis)
    return array.min(axis=others), array.max(axis=others)


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_minmax_is_the_extremes_of_all_it_saw(axis):
    """Min/max gives the smallest and largest value over all tensors, of each channel."""
    calibrator, seen = MinMax(), _tensors((3, 4, 5))
    for x in seen:
        calibrator.observe(x, axis)
    lows, highs = zip(*(_extremes(x, axis) for x in seen), strict=True)
    low, high = calibrator.range()
    np.testing.assert_array_equal(low.numpy(), np.min(lows, axis=0))
    np.testing.assert_array_equal(high.numpy(), np.max(highs, axis=0))


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("momentum", [0.1, 0.5, 0.9, 1.0])
def test_moving_average_recurrence(axis, momentum):
    """The first tensor counts whole, each later one moves the range by the momentum."""
    calibrator, seen = MovingAverage(momentum), _tensors((3, 4, 5))
    low, high = (v.astype(np.float64) for v in _extremes(seen[0], axis))
    calibrator.observe(seen[0], axis)
    np.testing.assert_array_equal(calibrator.range()[0].numpy(), low)
    for x in seen[1:]:
        calibrator.observe(x, axis)
        new_low, new_high = _extremes(x, axis)
        low, high = (
            (1 - momentum) * low + momentum * new_low,
            (1 - momentum) * high + momentum * new_high,
        )
    np.testing.assert_allclose(calibrator.range()[0].numpy(), low, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(calibrator.range()[1].numpy(), high, rtol=1e-6, atol=1e-6)


def test_default_momentum():
    """A new tensor counts for a tenth unless another momentum is given."""
    assert MovingAverage().momentum == 0.1


@pytest.mark.parametrize("momentum", [0.0, -0.1, 1.1, float("nan")])
def test_momentum_out_of_range(momentum):
    """A momentum outside (0, 1] is refused."""
    with pytest.raises(CalibrationError, match="momentum"):
        MovingAverage(momentum)


@pytest.mark.parametrize("kind", [MinMax, MovingAverage])
def test_nothing_seen(kind):
    """A calibrator that saw nothing has no range to give."""
    with pytest.raises(CalibrationError, match="no values"):
        kind().range()


@pytest.mark.parametrize(("kind", "high"), [(MinMax, 9.0), (MovingAverage, 2.0 + 0.1 * 7.0)])
def test_resume(kind, high):
    """A resumed calibrator goes on from the range as if it had found it, and keeps its own copy."""
    calibrator, given = kind(), torch.tensor(2.0)
    calibrator.resume(torch.tensor(-1.0), given)
    given.fill_(100.0)
    calibrator.observe(torch.tensor([-1.0, 9.0]), None)
    assert calibrator.range()[1].item() == pytest.approx(high)
    assert calibrator.range()[0].item() == -1.0


def test_range_is_not_the_tensor_that_was_seen():
    """Changing a tensor after it was observed does not change the range."""
    calibrator, x = MinMax(), torch.tensor([1.0])
    calibrator.observe(x, None)
    x.fill_(5.0)
    assert calibrator.range()[1].item() == 1.0


def test_unknown_calibrator():
    """An unknown name is refused with the names that are known."""
    with pytest.raises(NotFoundError, match="minmax"):
        Quantizer(CodeRange.full(OperandFormat(8, False)), calibrator="percentil")
