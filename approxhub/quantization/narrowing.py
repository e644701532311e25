"""Calibrators that may leave outliers out: percentile, squared error, entropy.

All three count what they see in a histogram, so their ranges do not depend on the order of the
tensors. Every tensor ever seen counts; where a range has to follow a network in training, a
moving average suits better.
"""

from __future__ import annotations

import torch
from torch import Tensor

from approxhub.errors import CalibrationError
from approxhub.operands import OperandFormat
from approxhub.quantization.histogram import Histogram
from approxhub.quantization.mapping import CodeRange
from approxhub.quantization.scales import scale_and_zero_point

__all__ = ["Entropy", "Percentile", "SquaredError"]

_STEPS = 8  # of the search: ends for each halving of the range
_HALVINGS = 8
_ROUNDS = 4
_WIDE = 4 * 128 + 1  # bins from a 16th of the largest magnitude up, of one sign
_TINY = torch.finfo(torch.float64).tiny
_AT_ONCE = 1 << 21  # numbers that a loss is computed for in one piece


class _FromHistogram:
    """What the calibrators here share: counting, and going on from an earlier range.

    A saved range does not tell what it was found from. So one that is resumed is kept, and only
    widened by what is found afterwards.
    """

    def __init__(self) -> None:
        self._histogram: Histogram | None = None
        self._earlier: tuple[Tensor, Tensor] | None = None

    def resume(self, low: Tensor, high: Tensor) -> None:
        """Go on from a range that was found earlier: from now on it only grows."""
        self._earlier = low.clone(), high.clone()
        self._histogram = None

    def observe(self, x: Tensor, axis: int | None) -> None:
        """Count the values of `x`."""
        if self._histogram is None:
            self._histogram = Histogram()
        self._histogram.observe(x, axis)

    def merge(self, like: Tensor) -> None:
        """Add what the other processes have counted."""
        if self._histogram is None:
            self._histogram = Histogram()
        if not self._histogram.merge(like):
            self._histogram = None

    def range(self) -> tuple[Tensor, Tensor]:
        """The range for all tensors so far.

        Raises
        ------
        CalibrationError
            If nothing was observed.
        """
        if self._histogram is None:
            if self._earlier is None:
                raise CalibrationError("the calibrator has seen no values")
            return self._earlier
        low, high = self._found(self._histogram)
        if self._earlier is None:
            return low, high
        before = [t.to(low) for t in self._earlier]  # the model may have moved since
        return torch.minimum(low, before[0]), torch.maximum(high, before[1])

    def _found(self, seen: Histogram) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class Percentile(_FromHistogram):
    """The range between two percentiles of all values seen.

    The ends are off by at most a 256th of themselves, or by 2^-15 of the largest magnitude seen;
    see :meth:`approxhub.quantization.histogram.Histogram.percentile`.

    Parameters
    ----------
    percent : float
        In (50, 100]: the share of values below the upper end, and that above the lower one. So
        99.9 leaves out a thousandth at each side, and 100 is the smallest and largest value.

    Examples
    --------
    >>> import torch
    >>> c = Percentile(99)
    >>> c.observe(torch.cat([torch.linspace(-1, 1, 1000), torch.tensor([500.0])]), None)
    >>> [round(t.item(), 1) for t in c.range()]
    [-1.0, 1.0]
    """

    def __init__(self, percent: float = 99.99) -> None:
        super().__init__()
        if not 50 < percent <= 100:
            raise CalibrationError(f"percent must be in (50, 100], got {percent}")
        self.percent = percent

    def _found(self, seen: Histogram) -> tuple[Tensor, Tensor]:
        return seen.percentile(100 - self.percent), seen.percentile(self.percent)


class _Search(_FromHistogram):
    """The range of least loss over a grid.

    The extremes seen are narrowed by factors 2^(-k/8), k = 0..64. Symmetric codes have one
    factor for both ends. Affine ones have one for each, found by descent: each round tries every
    factor for both ends together, for the lower, and for the upper, and takes the best; it ends
    when nothing gets better, or after four rounds. Of equals the widest is taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.use_codes(CodeRange.symmetric(OperandFormat(8, signed=True)), power_of_two=False)

    def use_codes(self, codes: CodeRange, power_of_two: bool) -> None:
        """Take the codes of the quantiser; until then they are the symmetric ones of 8 bits."""
        self._codes, self._power_of_two = codes, power_of_two

    def _loss(self, counts: Tensor, edges: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Loss of each candidate.

        Parameters
        ----------
        counts : Tensor of float64, (channels, bins)
            Values in each bin; none in the bin around zero, since zero has a code of its own.
        edges : Tensor of float64, (channels, bins + 1)
        scale, zero_point : Tensor of float64, (candidates, channels, 1)

        Returns
        -------
        Tensor of float64, (candidates, channels)
        """
        raise NotImplementedError

    def _joined(self, counts: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Fewer bins, where the loss needs no more."""
        raise NotImplementedError

    def _steps(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Codes of values, counted from the zero point."""
        limits = (t - zero_point for t in (self._codes.qmin, self._codes.qmax))
        return torch.round(x / scale).clamp(*limits)

    def _found(self, seen: Histogram) -> tuple[Tensor, Tensor]:
        counts, edges = seen.counts.to(torch.float64), seen.edges()
        counts[:, seen.around_zero] = 0
        counts, edges = self._joined(counts, edges)
        ends = (
            seen.low.reshape(-1).clamp(max=0).to(torch.float64),
            seen.high.reshape(-1).clamp(min=0).to(torch.float64),
        )
        ladder = torch.arange(_STEPS * _HALVINGS + 1, device=counts.device)
        both = torch.stack([ladder, ladder], dim=1)[:, :, None].expand(-1, -1, len(counts))
        place = torch.zeros_like(both[0])  # where each end is on the ladder: (2, channels)
        two_sided = self._codes.affine and bool(((ends[0] < 0) & (ends[1] > 0)).any())
        for _ in range(_ROUNDS if two_sided else 1):
            tried = [place[None], both]
            if two_sided:
                for end in (0, 1):
                    alone = place.repeat(len(ladder), 1, 1)
                    alone[:, end] = ladder[:, None]
                    tried.append(alone)
            candidates = torch.cat(tried)
            best = _first_least(self._losses(counts, edges, ends, candidates))
            moved = candidates.gather(0, best.expand(1, 2, -1))[0]
            if torch.equal(moved, place):
                break
            place = moved
        whole = (place == 0).all(0).reshape(seen.low.shape)
        low, high = (
            (end * _factor(k)).to(torch.float32).reshape(seen.low.shape)
            for end, k in zip(ends, place, strict=True)
        )
        return torch.where(whole, seen.low, low), torch.where(whole, seen.high, high)

    def _losses(
        self, counts: Tensor, edges: Tensor, ends: tuple[Tensor, Tensor], candidates: Tensor
    ) -> Tensor:
        """Losses of places on the ladder, (candidates, 2, channels) to (candidates, channels)."""
        found = []
        for some in torch.split(candidates, max(1, _AT_ONCE // counts.numel())):
            low, high = ((ends[i] * _factor(some[:, i])).to(torch.float32) for i in (0, 1))
            grid = scale_and_zero_point(low, high, self._codes, self._power_of_two)
            found.append(self._loss(counts, edges, *(t[..., None].to(torch.float64) for t in grid)))
        return torch.cat(found)


class SquaredError(_Search):
    """The range with the least mean squared error between values and those of their codes.

    The extremes seen are narrowed by factors 2^(-k/8), k = 0..64; affine codes have a factor for
    each end, found by descent. Inside a bin of the histogram, at most a 32nd of its values wide,
    values count as evenly spread: the mean of a bin is ``(G(b) - G(a)) / (b - a)`` with
    ``G(x) = n s^3 / 12 + (x - n s)^3 / 3`` and ``n = clamp(round(x / s), qmin - z, qmax - z)``,
    the integral of the squared error.

    Examples
    --------
    >>> import torch
    >>> from approxhub import OperandFormat
    >>> c = SquaredError()
    >>> c.use_codes(CodeRange.symmetric(OperandFormat(3, signed=True)), power_of_two=False)
    >>> c.observe(torch.cat([torch.linspace(-1, 1, 4001), torch.tensor([30.0])]), None)
    >>> c.range()[1].item() < 2
    True
    """

    def _joined(self, counts: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        middle = counts.shape[1] // 2
        one, zero, other = torch.split(counts, [middle, 1, middle], dim=1)
        one, other = (t.reshape(len(t), -1, 4).sum(-1) for t in (one, other))
        ends = [t[:, ::4] for t in edges.chunk(2, dim=1)]
        return torch.cat([one, zero, other], dim=1), torch.cat(ends, dim=1)

    def _loss(self, counts: Tensor, edges: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        n = self._steps(edges, scale, zero_point)
        rest = edges - n * scale
        integral = n * scale**3 / 12 + rest**3 / 3
        width = edges[:, 1:] - edges[:, :-1]
        # Without a width all values of the bin are equal.
        mean = torch.where(width > 0, integral.diff(dim=-1) / width, rest[..., 1:] ** 2)
        return (counts * mean).sum(-1) / counts.sum(-1).clamp(min=1)


class Entropy(_Search):
    """The range whose codes keep most of the distribution: the least Kullback-Leibler divergence.

    After S. Migacz, "8-bit inference with TensorRT", GPU Technology Conference 2017. P is the
    histogram cut to the range, with what lies outside added to its outermost bins that have
    values. Q is the cut histogram without that; the values of each code are spread over the bins
    of the code that have values. The loss is ``sum(P log(P / Q))``, both with sum 1.

    What differs: the bins are a 2048th of the largest magnitude wide up to a 16th of it, and a
    128th of their values above, so values are spread in proportion to the width; the histogram
    has both signs; the codes are those of the quantiser, of any width, and with a zero point if it
    has one; and the candidates are not every bin, but the factors 2^(-k/8), k = 0..64, of the
    extremes (for affine codes a factor for each end, found by descent). Zeros are left out here
    too. Where codes are finer than bins nothing is lost, and the range is that of the extremes.

    Examples
    --------
    >>> import torch
    >>> c = Entropy()
    >>> x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    >>> c.observe(torch.cat([x, torch.tensor([50.0])]), None)
    >>> c.range()[1].item() < 10
    True
    """

    def _joined(self, counts: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        # Bins much finer than a code would only show the noise of a sample.
        limit = torch.maximum(-edges[:, :1], edges[:, -1:]) / 16
        centres = (edges[:, 1:] + edges[:, :-1]) / 2
        last = counts.shape[1] - 1
        here = torch.arange(last + 1, device=counts.device).expand_as(counts)
        fine = ((centres / limit.clamp(min=_TINY) + 1) * 128).floor().clamp(0, 255).long() + _WIDE
        place = torch.where(centres < 0, here, here - last + 2 * _WIDE + 255)
        place = torch.where(centres.abs() < limit, fine, place).clamp(0, 2 * _WIDE + 255)
        joined = counts.new_zeros(len(counts), 2 * _WIDE + 256).scatter_add_(1, place, counts)
        inner = torch.linspace(-1, 1, 257, dtype=edges.dtype, device=edges.device) * limit
        outer = torch.minimum(edges[:, :_WIDE], -limit), torch.maximum(edges[:, -_WIDE:], limit)
        return joined, torch.cat([outer[0], inner, outer[1]], dim=1)

    def _loss(self, counts: Tensor, edges: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        centres, width = (edges[:, 1:] + edges[:, :-1]) / 2, edges.diff(dim=-1)
        code = self._steps(centres, scale, zero_point)
        inside = code == torch.round(centres / scale)
        kept = counts * inside
        p = kept.clone()
        outside = counts - kept
        for flip in (False, True):
            _add_to_first(p, outside * ((centres < 0) != flip), flip)
        # Bins of one code are neighbours: they are numbered by how often the code has changed.
        group = (code.diff(dim=-1) != 0).cumsum(-1)
        group = torch.nn.functional.pad(group, (1, 0))
        # The outermost bins were cut to the extremes, but have room as the others of their size.
        spread = torch.where(kept > 0, torch.maximum(width, centres.abs() / 256), 0)
        sums = [torch.zeros_like(kept).scatter_add_(-1, group, t) for t in (kept, spread)]
        mass, room = (t.gather(-1, group) for t in sums)
        q = mass * spread / room.clamp(min=_TINY)
        p, q = (t / t.sum(-1, keepdim=True).clamp(min=1) for t in (p, q))
        terms = torch.where(p > 0, p * (p.log() - q.log()), 0)
        lost = (kept.sum(-1) == 0) & (counts.sum(-1) > 0)
        return torch.where(lost, torch.inf, terms.sum(-1))


def _add_to_first(p: Tensor, extra: Tensor, from_the_end: bool) -> None:
    """Add the sum of `extra` to the outermost bin of `p` that has values."""
    has = (p > 0).flip(-1) if from_the_end else p > 0
    place = (has.cumsum(-1) == 0).sum(-1, keepdim=True).clamp(max=p.shape[-1] - 1)
    if from_the_end:
        place = p.shape[-1] - 1 - place
    p.scatter_add_(-1, place, extra.sum(-1, keepdim=True))


def _factor(k: Tensor) -> Tensor:
    return torch.exp2(-k.to(torch.float64) / _STEPS)


def _first_least(losses: Tensor) -> Tensor:
    """Index of the first of the least losses of each channel, (1, channels)."""
    order = torch.arange(len(losses), device=losses.device)[:, None]
    least = losses == losses.amin(0)
    return torch.where(least, order, len(losses)).amin(0, keepdim=True)
