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
        self._range = self._after(extremes(x, axis))

    def _after(self, now: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if self._range is None:
            return now
        low, high = (t.to(now[0]) for t in self._range)  # the model may have moved since
        return self._joined((low, high), now)

    def _joined(
        self, before: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The range after a tensor with the extremes `now`."""
        return torch.minimum(before[0], now[0]), torch.maximum(before[1], now[1])

    def observe_in_place(
        self, x: Tensor, axis: int | None, low: Tensor, high: Tensor, seen: Tensor
    ) -> None:
        """As :meth:`observe`, without a look at numbers, in tensors that stay where they are.

        So what a CUDA graph captured of it goes on from the last range at every replay.

        Parameters
        ----------
        x : Tensor
            What is not finite moves nothing.
        axis : int, optional
        low, high : Tensor of float32
            The range so far, and then the new one.
        seen : Tensor of one bool
            Whether `low` and `high` are a range.
        """
        now = extremes(x, axis)
        joined = self._joined((low, high), now)
        new = [torch.where(seen, j, n) for j, n in zip(joined, now, strict=True)]
        # NaN and infinity go through minima, maxima and averages.
        finite = (torch.isfinite(new[0]) & torch.isfinite(new[1])).all()
        low.copy_(torch.where(finite, new[0], low))
        high.copy_(torch.where(finite, new[1], high))
        seen.logical_or_(finite)
        self.follow(low, high)

    def follow(self, low: Tensor, high: Tensor) -> None:
        """Go on from what these tensors then hold."""
        self._range = low, high

    def forget(self) -> None:
        """Back to having seen nothing."""
        self._range = None

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
        super().observe(x, axis)

    def _joined(
        self, before: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        low, high = (torch.lerp(b, n, self.momentum) for b, n in zip(before, now, strict=True))
        return low, high

    def merge(self, like: Tensor) -> None:
        """Take the mean of the averages of all processes that have one."""
        seen = self._range is not None
        ends = torch.stack(self._range or (like, like)).to(torch.float32) * seen
        count = all_reduce(torch.tensor(float(seen), device=like.device), "sum")
        low, high = all_reduce(ends, "sum") / count.clamp(min=1)
        self._range = (low, high) if bool(count) else None
