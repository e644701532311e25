"""A streaming histogram: bounded memory, any range, and nothing depends on the order of data."""

from __future__ import annotations

import torch
from torch import Tensor

from approxhub.errors import CalibrationError
from approxhub.quantization.calibrators import extremes
from approxhub.quantization.ranks import all_reduce

__all__ = ["Histogram"]

_DROPPED = 16  # low bits of a float32 that a bin does not see: 7 bits of the fraction stay
_BINS = 16 << (23 - _DROPPED)  # of one sign: 16 powers of two
_ZERO = _BINS  # index of the bin around zero


class Histogram:
    """Counts of values by sign, exponent and the first seven bits of their fraction.

    A bin is thus a 128th of a power of two wide at most, relative to its values, and a value is
    known from its bin to a 256th of itself. There are bins for the 16 powers of two below the
    largest magnitude seen; what is smaller is counted in one bin around zero. When a larger
    magnitude comes the lowest bins are added to that one, so no count is lost, and the counts
    depend only on which values were seen: not on their order, nor on how they came in batches.

    Per channel it takes 32 KiB for each channel.

    Examples
    --------
    >>> import torch
    >>> h = Histogram()
    >>> h.observe(torch.tensor([-1.0, 0.0, 2.0, 3.0]), None)
    >>> h.observe(torch.tensor([1e6]), None)
    >>> h.total.item(), [t.item() for t in (h.low, h.high)]
    (5, [-1.0, 1000000.0])
    """

    def __init__(self) -> None:
        self._counts: Tensor | None = None

    def observe(self, x: Tensor, axis: int | None) -> None:
        """Count the values of a finite, non-empty tensor; per index of `axis` if it is given."""
        x = x.detach().to(torch.float32)
        low, high = extremes(x, axis)
        rows = x.reshape(1, -1) if axis is None else x.movedim(axis, 0).flatten(1)
        bits = rows.contiguous().view(torch.int32)
        keys = (bits & 0x7FFFFFFF) >> _DROPPED
        top = keys.amax(1, keepdim=True)
        if self._counts is None:
            shape = (len(rows), 2 * _BINS + 1)
            self._counts = torch.zeros(shape, dtype=torch.int64, device=x.device)
            self._top, self._low, self._high = top, low, high
        else:
            self._to(x.device)  # the model may have moved since
            self._raise_top(torch.maximum(self._top, top))
            self._low, self._high = torch.minimum(self._low, low), torch.maximum(self._high, high)
        steps = (keys - (self._top - _BINS)).clamp_(min=0)
        bins = _ZERO + steps * torch.sign(rows).to(torch.int32)
        if axis is not None:
            bins = bins + torch.arange(len(rows), device=x.device)[:, None] * (2 * _BINS + 1)
        self._counts += torch.bincount(
            bins.flatten(), minlength=self._counts.numel()
        ).reshape_as(self._counts)  # fmt: skip

    def merge(self, like: Tensor) -> bool:
        """Add the counts of all processes, some of which may have none.

        Parameters
        ----------
        like : Tensor of float32
            Gives shape and device of a range.

        Returns
        -------
        bool
            Whether any has counted anything.
        """
        rows = like.reshape(-1, 1)
        if self._counts is None:
            shape = (len(rows), 2 * _BINS + 1)
            self._counts = torch.zeros(shape, dtype=torch.int64, device=like.device)
            self._top = torch.zeros_like(rows, dtype=torch.int32)
            self._low = torch.full_like(like, torch.inf)
            self._high = torch.full_like(like, -torch.inf)
        self._raise_top(all_reduce(self._top, "max"))
        self._counts = all_reduce(self._counts, "sum")
        self._low, self._high = all_reduce(self._low, "min"), all_reduce(self._high, "max")
        return bool((self._low <= self._high).all())

    def _to(self, device: torch.device) -> None:
        assert self._counts is not None
        self._counts, self._top = self._counts.to(device), self._top.to(device)
        self._low, self._high = self._low.to(device), self._high.to(device)

    def _raise_top(self, top: Tensor) -> None:
        """Make room for larger magnitudes: every bin moves towards the one around zero."""
        assert self._counts is not None
        steps = torch.arange(-_BINS, _BINS + 1, device=top.device)
        moved = (steps.abs() - (top - self._top)).clamp(min=0) * torch.sign(steps)
        self._counts = torch.zeros_like(self._counts).scatter_add_(
            1, _ZERO + moved, self._counts
        )  # fmt: skip
        self._top = top

    @property
    def counts(self) -> Tensor:
        """Values in each bin, in ascending order of the bins; int64, (channels or 1, bins).

        Raises
        ------
        CalibrationError
            If nothing was observed.
        """
        if self._counts is None:
            raise CalibrationError("the calibrator has seen no values")
        return self._counts

    @property
    def total(self) -> Tensor:
        """Values seen, (channels or 1,)."""
        return self.counts.sum(1)

    @property
    def low(self) -> Tensor:
        """Smallest value seen, exactly; float32, shape () or (channels,)."""
        return self._low

    @property
    def high(self) -> Tensor:
        """Largest value seen, exactly; float32, shape () or (channels,)."""
        return self._high

    @property
    def around_zero(self) -> int:
        """Index of the bin that holds zero, and what is too small for the others."""
        return _ZERO

    def edges(self) -> Tensor:
        """Where bins begin and end, cut to the values seen; float64, (channels or 1, bins + 1)."""
        keys = self._top - _BINS + 1 + torch.arange(_BINS + 1, device=self.counts.device)
        bits = keys.clamp(min=0).to(torch.int32) << _DROPPED
        sizes = bits.view(torch.float32).to(torch.float64)
        ends = torch.cat([-sizes.flip(1), sizes], dim=1)
        low, high = (t.reshape(-1, 1).to(torch.float64) for t in (self._low, self._high))
        return torch.minimum(torch.maximum(ends, low), high)

    def percentile(self, percent: float) -> Tensor:
        """The value below which a share of all values lies, as ``numpy.percentile`` has it.

        Interpolated between the two nearest values, each known to a 256th of itself, or to
        2^-15 of the largest magnitude where it is smaller than that. 0 and 100 are exact.

        Parameters
        ----------
        percent : float
            From 0 to 100.

        Returns
        -------
        Tensor of float32
            Shape () or (channels,).
        """
        cumulated = self.counts.cumsum(1)
        last = cumulated[:, -1:] - 1
        place = last.to(torch.float64) * (percent / 100)
        below = place.floor().to(torch.int64)
        first, second = (
            self._values_at(cumulated, last, k) for k in (below, (below + 1).clamp(max=last))
        )
        value = torch.lerp(first, second, place - below)
        return value.reshape(self._low.shape).to(torch.float32)

    def _values_at(self, cumulated: Tensor, last: Tensor, k: Tensor) -> Tensor:
        """The k-th smallest value of each channel, (channels or 1, 1)."""
        bins = torch.searchsorted(cumulated, k, right=True)
        edges = self.edges()
        value = (edges.gather(1, bins) + edges.gather(1, bins + 1)) / 2
        value = torch.where(k == 0, self._low.reshape(-1, 1).to(value), value)
        return torch.where(k == last, self._high.reshape(-1, 1).to(value), value)
