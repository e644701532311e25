"""Calibrators: they watch tensors and say which range a quantiser should cover."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from approxhub.errors import CalibrationError
from approxhub.quantization.mapping import CodeRange
from approxhub.quantization.ranks import all_reduce

__all__ = ["Calibrator", "CodesAware", "MinMax", "MovingAverage"]


class Calibrator(Protocol):
    """Watches tensors, one at a time, and gives a range.

    A calibrator is made fresh for each quantiser; see
    :func:`approxhub.plugins.hookspecs.approxhub_calibrators`.
    """

    def resume(self, low: Tensor, high: Tensor) -> None:
        """Go on from a range that was found earlier."""

    def observe(self, x: Tensor, axis: int | None) -> None:
        """See one finite, non-empty tensor; per index of `axis` if it is given."""

    def range(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value to cover, of shape () or (size of axis,)."""


@runtime_checkable
class CodesAware(Protocol):
    """A calibrator whose range depends on the codes that are to cover it."""

    def use_codes(self, codes: CodeRange, power_of_two: bool) -> None:
        """Take the codes of the quantiser, and whether its scales are powers of two.

        Called before it observes anything, and whenever the quantiser gets other codes.
        """


def extremes(x: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of a tensor, or of each of its slices along `axis`."""
    if axis is None:
        low, high = torch.aminmax(x)
    else:
        low, high = torch.aminmax(x.movedim(axis, 0).reshape(x.shape[axis], -1), dim=1)
    return low, high


class MinMax:
    """The smallest and largest value ever seen.

    Examples
    --------
    >>> import torch
    >>> c = MinMax()
    >>> c.observe(torch.tensor([-1.0, 2.0]), None)
    >>> c.observe(torch.tensor([0.0, 3.0]), None)
    >>> [t.item() for t in c.range()]
    [-1.0, 3.0]
    """

    def __init__(self) -> None:
        self._range: tuple[Tensor, Tensor] | None = None

    def resume(self, low: Tensor, high: Tensor) -> None:
        """Go on from a range that was found earlier."""
        self._range = low.clone(), high.clone()

    def observe(self, x: Tensor, axis: int | None) -> None:
        """Widen the range to hold `x`."""
        low, high = extremes(x, axis)
        if self._range is not None:
            before = [t.to(low) for t in self._range]  # the model may have moved since
            low, high = torch.minimum(low, before[0]), torch.maximum(high, before[1])
        self._range = low, high

    def merge(self, like: Tensor) -> None:
        """Take in the extremes that the other processes have seen."""
        low, high = self._range or (
            torch.full_like(like, torch.inf),
            torch.full_like(like, -torch.inf),
        )
        low, high = all_reduce(low, "min"), all_reduce(high, "max")
        self._range = (low, high) if bool((low <= high).all()) else None

    def range(self) -> tuple[Tensor, Tensor]:
        """The range so far.

        Raises
        ------
        CalibrationError
            If nothing was observed.
        """
        if self._range is None:
            raise CalibrationError("the calibrator has seen no values")
        return self._range


class MovingAverage(MinMax):
    """An exponential moving average of each tensor's smallest and largest value.

    Parameters
    ----------
    momentum : float
        Weight of the newest tensor, in (0, 1]; the first one counts whole. B. Jacob et al.,
        "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", CVPR 2018, DOI 10.1109/CVPR.2018.00286, section 3.1.

    Examples
    --------
    >>> import torch
    >>> c = MovingAverage(momentum=0.5)
    >>> c.observe(torch.tensor([0.0, 2.0]), None)
    >>> c.observe(torch.tensor([0.0, 4.0]), None)
    >>> c.range()[1].item()
    3.0
    """

    def __init__(self, momentum: float = 0.1) -> None:
        super().__init__()
        if not 0 < momentum <= 1:
            raise CalibrationError(f"momentum must be in (0, 1], got {momentum}")
        self.momentum = momentum

    def observe(self, x: Tensor, axis: int | None) -> None:
        """Move the range towards that of `x`."""
        low, high = extremes(x, axis)
        if self._range is not None:
            before = [t.to(low) for t in self._range]
            low = torch.lerp(before[0], low, self.momentum)
            high = torch.lerp(before[1], high, self.momentum)
        self._range = low, high

    def merge(self, like: Tensor) -> None:
        """Take the mean of the averages of all processes that have one."""
        seen = self._range is not None
        ends = torch.stack(self._range or (like, like)).to(torch.float32) * seen
        count = all_reduce(torch.tensor(float(seen), device=like.device), "sum")
        low, high = all_reduce(ends, "sum") / count.clamp(min=1)
        self._range = (low, high) if bool(count) else None
