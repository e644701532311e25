"""The contract of a calibrator, clause by clause, as a pytest class to subclass.

Imports torch, the quantiser and pytest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from approxhub.errors import CalibrationError
from approxhub.operands import OperandFormat
from approxhub.plugins import CalibratorInfo
from approxhub.quantization import Calibrator, CodeRange, Quantizer
from approxhub.testing.contract import broken, offered, pytest

__all__ = ["CalibratorConformance"]

Range = tuple[Tensor, Tensor]
_RANGE = "range() gives the smallest and largest value to cover: finite, low <= high"
_RESUME = "after resume(low, high), range() is that range, and observe() goes on from it"


def _values(*shape: int, seed: int = 0) -> Tensor:
    """Values of both signs, with an outlier at each end."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x.view(-1)[0], x.view(-1)[-1] = -6.5, 9.25
    return x


class CalibratorConformance:
    """All that a calibrator must hold, as tests.

    Subclass it in a test module, and say how a fresh calibrator is made.

    Examples
    --------
    >>> from approxhub.quantization import MinMax
    >>> class TestMinMax(CalibratorConformance):
    ...     covers = True
    ...
    ...     def make_calibrator(self):
    ...         return MinMax()
    """

    covers: ClassVar[bool] = False
    """Whether it claims that the range holds every value seen; then that is tested."""

    def make_calibrator(self) -> Calibrator:
        """Return a fresh calibrator; each quantiser has one of its own."""
        raise NotImplementedError(
            f"{type(self).__name__} must say how one is made: def make_calibrator(self)"
        )

    # --- tools of the tests -----------------------------------------------------------

    def _seen(self, *tensors: Tensor, axis: int | None = None) -> Calibrator:
        calibrator = self.make_calibrator()
        for x in tensors:
            calibrator.observe(x, axis)
        return calibrator

    def _range(self, calibrator: Calibrator, shape: tuple[int, ...] = ()) -> Range:
        """Its range, checked for what every range must be."""
        found = calibrator.range()
        if not isinstance(found, tuple) or len(found) != 2:
            broken("range() returns a pair of tensors", f"returned {found!r}")
        for t in found:
            if not isinstance(t, Tensor) or not t.is_floating_point() or tuple(t.shape) != shape:
                broken(
                    "both ends are floating tensors of shape (), or (size of axis,)",
                    f"gave {t!r} where the shape is {shape}",
                )
        low, high = found
        if not (torch.isfinite(low) & torch.isfinite(high) & (low <= high)).all():
            broken(_RANGE, f"gave {low.tolist()} to {high.tolist()}")
        return low.clone(), high.clone()

    # --- clauses ----------------------------------------------------------------------

    def test_nothing_seen(self) -> None:
        """Before it has seen anything, range() raises a CalibrationError."""
        clause = "range() raises CalibrationError before anything was seen"
        try:
            found = self.make_calibrator().range()
        except CalibrationError:
            return
        except Exception as error:
            broken(clause, f"raised {type(error).__name__}: {error}")
        broken(clause, f"returned {found!r}")

    @pytest.mark.parametrize("shape", [(1,), (64,), (5, 7), (2, 3, 4, 5)], ids=str)
    def test_range(self, shape: tuple[int, ...]) -> None:
        """The range of tensors of any shape is finite, and not upside down."""
        low, high = self._range(self._seen(_values(*shape), _values(*shape, seed=1)))
        seen = torch.cat([_values(*shape).view(-1), _values(*shape, seed=1).view(-1)])
        if high < seen.min() or low > seen.max():
            broken("the range has something of what was seen", f"is {low} to {high}")

    def test_the_range_contains_what_was_seen(self) -> None:
        """Where it claims to, the range holds every value of every tensor."""
        if not self.covers:
            pytest.skip("covers is False: it may leave outliers out")
        xs = [_values(9, 4, seed=seed) * scale for seed, scale in enumerate((1.0, 3.0, 0.1))]
        low, high = self._range(self._seen(*xs))
        for x in xs:
            if x.min() < low or x.max() > high:
                broken("covers: the range holds every value seen", f"is {low} to {high}")

    @pytest.mark.parametrize("value", [0.0, 2.5, -3.0])
    def test_a_constant(self, value: float) -> None:
        """A tensor of one value, zeros too, gives a range with it."""
        low, high = self._range(self._seen(torch.full((8,), value)))
        if not low <= value <= high:
            broken("a constant lies in its range", f"gave {low} to {high} for {value}")

    @pytest.mark.parametrize("axis", [0, 1, 2, -1])
    def test_per_channel(self, axis: int) -> None:
        """With an axis each of its indices has a range: that of its own slice alone."""
        x = _values(4, 3, 5)
        y = _values(4, 3, 5, seed=1)
        n = x.shape[axis]
        low, high = self._range(self._seen(x, y, axis=axis), (n,))
        for i in range(n):
            alone = self._range(self._seen(x.select(axis, i), y.select(axis, i)))
            if not (torch.equal(low[i], alone[0]) and torch.equal(high[i], alone[1])):
                broken(
                    "per channel, each index of the axis has the range of its slice alone",
                    f"gave {low[i]} to {high[i]} for index {i} of axis {axis}, not {alone}",
                )

    def test_any_strides(self) -> None:
        """A tensor's layout in memory does not matter."""
        x = _values(6, 8)
        want = self._range(self._seen(x))
        views: dict[str, Callable[[Tensor], Tensor]] = {
            "transposed": lambda t: t.t(),
            "a slice": lambda t: torch.cat([t + 99, t], dim=1)[:, 8:],
        }
        for name, view in views.items():
            if [t.item() for t in self._range(self._seen(view(x)))] != [t.item() for t in want]:
                broken("a tensor's layout in memory does not matter", f"differs for {name}")

    def test_nothing_is_kept_of_a_tensor(self) -> None:
        """What is seen stays unchanged, and may change afterwards."""
        x = _values(16)
        before = x.clone()
        calibrator = self._seen(x)
        if not torch.equal(x, before):
            broken("observe() leaves the tensor unchanged", "changed it")
        want = self._range(calibrator)
        x.fill_(1e6)
        if [t.item() for t in self._range(calibrator)] != [t.item() for t in want]:
            broken("nothing is kept of a tensor that its memory can change", "the range moved")

    def test_it_is_deterministic(self) -> None:
        """Two fresh calibrators that see the same give the same range, and asking changes none."""
        xs = [_values(40, seed=seed) for seed in range(3)]
        first, second = self._seen(*xs), self._seen(*xs)
        ranges = [self._range(c) for c in (first, second, first)]
        if any(not torch.equal(r[i], ranges[0][i]) for r in ranges for i in (0, 1)):
            broken("the same tensors give the same range", "gave different ones")

    def test_each_is_its_own(self) -> None:
        """What one calibrator sees does not change another."""
        mine, other = self.make_calibrator(), self.make_calibrator()
        if mine is other:
            broken("each quantiser has a calibrator of its own", "gave one object twice")
        mine.observe(_values(16), None)
        want = self._range(mine)
        other.observe(_values(16) * 100, None)
        if any(not torch.equal(a, b) for a, b in zip(want, self._range(mine), strict=True)):
            broken("each quantiser has a calibrator of its own", "was changed by another")

    @pytest.mark.parametrize("shape", [(), (3,)], ids=["one range", "per channel"])
    def test_it_resumes(self, shape: tuple[int, ...]) -> None:
        """From a range that was found earlier it goes on, and keeps no hold of its tensors."""
        low, high = torch.full(shape, -2.0), torch.full(shape, 8.0)
        calibrator = self.make_calibrator()
        calibrator.resume(low, high)
        found = self._range(calibrator, shape)
        if not (torch.equal(found[0], low) and torch.equal(found[1], high)):
            broken(_RESUME, f"gave {found}, not {low} to {high}")
        low.fill_(-500.0)
        high.fill_(500.0)
        if self._range(calibrator, shape)[1].max() > 8:
            broken("resume() takes the values, not the tensors", "the range moved with them")
        calibrator.observe(torch.full((3, 4), 0.5), 0 if shape else None)
        after = self._range(calibrator, shape)
        if self.covers and not ((after[0] <= -2) & (after[1] >= 8)).all():
            broken(_RESUME, f"forgot the range: it is {after} now")

    def test_in_a_quantiser(self) -> None:
        """A quantiser uses it by name; NaN and infinity never reach it."""
        name = "conformance-calibrator"
        info = CalibratorInfo(name, lambda: self.make_calibrator)
        with offered("approxhub_calibrators", info):
            codes = CodeRange(OperandFormat(8, signed=False), 0, 255, affine=True)
            quantizer = Quantizer(codes, calibrator=name)
            quantizer.observe(_values(32))
            state = {k: v.clone() for k, v in quantizer.state_dict().items()}
            for bad in (float("nan"), float("inf"), -float("inf")):
                try:
                    quantizer.observe(torch.tensor([1.0, bad]))
                except CalibrationError:
                    continue
                broken("NaN and infinity are refused", f"took {bad}")
        scale = quantizer.scale
        if not (torch.isfinite(scale) & (scale > 0)).all():
            broken("a quantiser has a positive scale from its range", f"has the scale {scale}")
        if any(not torch.equal(v, state[k]) for k, v in quantizer.state_dict().items()):
            broken("a refused tensor changes nothing", "the quantiser's state changed")
