"""Scales and zero points: how codes cover a range of real numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from approxhub.quantization.mapping import CodeRange

__all__ = ["scale_and_zero_point"]


def scale_and_zero_point(
    low: Tensor, high: Tensor, codes: CodeRange, power_of_two: bool = False
) -> tuple[Tensor, Tensor]:
    """Scale and zero point with which `codes` cover a range.

    The range is widened to hold 0, so that real zero has a code of its own. Symmetric:
    ``s = max(|low|, |high|) / qmax``, ``z = 0``. Affine: ``s = (high - low) / (qmax - qmin)``,
    ``z = round_half_even(qmin - low / s)``. (B. Jacob et al., CVPR 2018,
    DOI 10.1109/CVPR.2018.00286.)

    Parameters
    ----------
    low, high : Tensor of float32
        The range, of any one shape.
    codes : CodeRange
        The codes to use.
    power_of_two : bool
        Whether scales are powers of two, so that hardware rescales by a shift. Each is rounded
        up, ``s -> 2^ceil(log2(s))``, so that the range stays covered, and the zero point follows
        from the rounded one. At most 2^127.

    Returns
    -------
    scale : Tensor of float32
        Positive; 1 where the range is empty.
    zero_point : Tensor of int32

    Examples
    --------
    >>> import torch
    >>> from approxhub import OperandFormat
    >>> codes = CodeRange.symmetric(OperandFormat(8, signed=True))
    >>> end = torch.tensor(100.0)
    >>> scale_and_zero_point(-end, end, codes, power_of_two=True)[0].item()
    1.0
    """
    low, high = low.clamp(max=0).to(torch.float32), high.clamp(min=0).to(torch.float32)
    if codes.affine:
        steps = codes.qmax - codes.qmin
        span = high - low
        # A range of more than the largest float32 is divided before it is subtracted.
        scale = torch.where(torch.isinf(span), high / steps - low / steps, span / steps)
    else:
        scale = torch.maximum(-low, high) / codes.qmax
    info = torch.finfo(torch.float32)
    scale = torch.where(scale >= info.tiny, scale, torch.ones_like(scale)).clamp(max=info.max)
    if power_of_two:
        scale = _next_power_of_two(scale)
    if not codes.affine:
        return scale, torch.zeros_like(scale, dtype=torch.int32)
    zero = torch.round(codes.qmin - low / scale).clamp(codes.qmin, codes.qmax)
    return scale, zero.to(torch.int32)


def _next_power_of_two(x: Tensor) -> Tensor:
    """The smallest power of two that is not below a positive normal number, at most 2^127."""
    fraction, exponent = torch.frexp(x)  # x = fraction * 2^exponent, fraction in [1/2, 1)
    exponent = torch.where(fraction == 0.5, exponent - 1, exponent).clamp(max=127)
    # The bits of 2^e are those of its biased exponent alone.
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)
