"""The kit for calibrators: right ones pass, and each way to be wrong is caught."""

# ruff: noqa: D102 - the methods of the made-up calibrators are those of the protocol
from __future__ import annotations

import pytest
import torch

from approxhub.quantization import MinMax, MovingAverage
from approxhub.testing import CalibratorConformance


class SilentlyEmpty(MinMax):
    def range(self):
        return self._range or (torch.tensor(0.0), torch.tensor(1.0))


class WrongError(MinMax):
    def range(self):
        return self._range[0], self._range[1]


class UpsideDown(MinMax):
    def range(self):
        return super().range()[::-1]


class Floats(MinMax):
    def range(self):
        return tuple(t.item() for t in super().range())


class Elsewhere(MinMax):
    def range(self):
        low, high = super().range()
        return low + 1e3, high + 1e3


class ForgetsEarlier(MinMax):
    def observe(self, x, axis):
        self._range = None
        super().observe(x, axis)


class Widths(MinMax):
    """Half a range around nothing: a constant falls out of it."""

    def range(self):
        low, high = super().range()
        return low - low, high - low


class IgnoresAxis(MinMax):
    def observe(self, x, axis):
        super().observe(x, None)
        if axis is not None:
            self._range = tuple(t.expand(x.shape[axis]) for t in self._range)


class FirstAxis(MinMax):
    def observe(self, x, axis):
        n = 0 if axis is None else x.shape[axis]
        super().observe(x.reshape(n, -1) if n else x, 0 if n else None)


class Storage(MinMax):
    """Reads the memory, not the tensor."""

    def observe(self, x, axis):
        flat = torch.as_strided(x, (x.numel(),), (1,), 0) if axis is None else x
        super().observe(flat, axis)


class KeepsTensor(MinMax):
    def observe(self, x, axis):
        self._kept = x
        super().observe(x, axis)

    def range(self):
        found = super().range()
        return (self._kept.min(), self._kept.max()) if hasattr(self, "_kept") else found


class Mutates(MinMax):
    def observe(self, x, axis):
        super().observe(x, axis)
        x.clamp_(-1, 1)


class Samples(MinMax):
    def observe(self, x, axis):
        super().observe(x.view(-1)[torch.randint(x.numel(), (2,))] if axis is None else x, axis)


_shared = MinMax()


class Shared(MinMax):
    def observe(self, x, axis):
        _shared.observe(x, axis)
        self._range = True

    def range(self):
        return _shared.range() if self._range else super().range()


class ForgetsResumed(MinMax):
    def resume(self, low, high):
        self._resumed = low.clone(), high.clone()

    def range(self):
        return self._resumed if self._range is None else super().range()


class IgnoresResume(MinMax):
    def resume(self, low, high):
        self._range = low * 2, high * 2


class Aliases(MinMax):
    def resume(self, low, high):
        self._range = low, high


class Infinite(MinMax):
    def range(self):
        low, high = super().range()
        return low * torch.inf, high


class Raises(MinMax):
    def observe(self, x, axis):
        if x.shape == (32,):
            raise RuntimeError("boom")
        super().observe(x, axis)


def kit_of(calibrator: type, claims: bool = True) -> type[CalibratorConformance]:
    """The kit on a calibrator."""

    class Kit(CalibratorConformance):
        covers = claims

        def make_calibrator(self):
            return calibrator()

    return Kit


WRONG = [
    (SilentlyEmpty, "test_nothing_seen", "before anything was seen"),
    (WrongError, "test_nothing_seen", "raised TypeError"),
    (UpsideDown, "test_range", "low <= high"),
    (Floats, "test_range", "floating tensors"),
    (Infinite, "test_range", "finite"),
    (Elsewhere, "test_range", "something of what was seen"),
    (ForgetsEarlier, "test_the_range_contains_what_was_seen", "every value seen"),
    (Widths, "test_a_constant", "a constant"),
    (IgnoresAxis, "test_per_channel", "its slice alone"),
    (FirstAxis, "test_per_channel", "its slice alone"),
    (Storage, "test_any_strides", "layout in memory"),
    (KeepsTensor, "test_nothing_is_kept_of_a_tensor", "the range moved"),
    (Mutates, "test_nothing_is_kept_of_a_tensor", "unchanged"),
    (Samples, "test_it_is_deterministic", "gave different ones"),
    (Shared, "test_each_is_its_own", "changed by another"),
    (IgnoresResume, "test_it_resumes", "after resume"),
    (Aliases, "test_it_resumes", "not the tensors"),
    (ForgetsResumed, "test_it_resumes", "forgot the range"),
    (Raises, "test_in_a_quantiser", "boom"),
]


@pytest.mark.parametrize(
    ("calibrator", "clause", "words"), WRONG, ids=lambda v: getattr(v, "__name__", None)
)
def test_a_wrong_calibrator_is_caught(calibrator, clause, words, run_kit):
    """Each fault breaks its clause, and the message says what the contract is."""
    torch.manual_seed(0)
    assert words in run_kit(kit_of(calibrator), clause)[clause]


def test_right_calibrators_pass(run_kit):
    """The built-in calibrators hold the contract, each with what it claims."""
    assert run_kit(kit_of(MinMax)) == {}
    assert run_kit(kit_of(MovingAverage, claims=False)) == {}


def test_every_clause_is_broken_by_something():
    """No clause of the kit is there that nothing can fail."""
    clauses = {name for name in dir(CalibratorConformance) if name.startswith("test_")}
    assert clauses == {clause for _, clause, _ in WRONG}
