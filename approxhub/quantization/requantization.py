"""Requantisation: integer sums to the codes of the next layer, with integers alone.

A real factor becomes an integer mantissa and a shift to the right, as in B. Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, DOI 10.1109/CVPR.2018.00286, section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from approxhub.errors import InputError

__all__ = ["FixedPoint", "integer_bias"]

_INT32 = torch.iinfo(torch.int32)
_BITS = 31  # of a mantissa
_SHIFTS = (1, 62)  # so that the sum before the shift fits 64 bits, and half of a unit is an integer


@dataclass(frozen=True, slots=True, eq=False)
class FixedPoint:
    """Positive real factors as ``mantissa * 2^-shift``.

    Parameters
    ----------
    mantissa : Tensor of int64, () or (channels,)
        From 2^30 to 2^31 - 1; less only where the shift is 62.
    shift : Tensor of int64, as `mantissa`
        From 1 to 62.

    Examples
    --------
    >>> factor = FixedPoint.of(torch.tensor(0.375))
    >>> factor.mantissa.item() == 3 * 2**29, factor.shift.item()
    (True, 32)
    >>> factor.multiply(torch.tensor([8, 4, -4, 100])).tolist()  # 3, 1.5, -1.5, 37.5
    [3, 2, -1, 38]
    """

    mantissa: Tensor
    shift: Tensor

    @classmethod
    def of(cls, factor: Tensor) -> FixedPoint:
        """Take the nearest mantissa: the relative error is 2^-31 at most, or the error 2^-63.

        The latter is that of factors below 2^-32, with which every sum of 32 bits gives 0: those
        of channels whose weights are next to nothing.

        Parameters
        ----------
        factor : Tensor of float
            Of shape () or (channels,).

        Raises
        ------
        InputError
            If a factor is not positive and finite, or is not less than 2^30.
        """
        fraction, exponent = torch.frexp(factor.detach().to(torch.float64))
        mantissa = torch.round(torch.ldexp(fraction, torch.tensor(_BITS)))
        overflows = mantissa == 1 << _BITS  # rounded up to the next power of two
        mantissa = torch.where(overflows, mantissa / 2, mantissa)
        shift = _BITS - (exponent.to(torch.int64) + overflows)
        small = shift > _SHIFTS[1]
        least = torch.round(
            torch.ldexp(factor.detach().to(torch.float64), torch.tensor(_SHIFTS[1]))
        )
        mantissa = torch.where(small, least, mantissa)
        shift = shift.clamp(max=_SHIFTS[1])
        valid = (factor > 0) & torch.isfinite(factor) & (shift >= _SHIFTS[0])
        if not valid.all():
            wrong = float(factor[~valid].reshape(-1)[0])
            raise InputError(
                f"{wrong} is no factor that requantises: a mantissa of 31 bits and a shift by "
                f"{_SHIFTS[0]} to {_SHIFTS[1]} stand for numbers from 0 to 2^30; check the scales "
                "of the two quantisers on its sides"
            )
        return cls(mantissa.to(torch.int64), shift)

    def multiply(self, x: Tensor, channel_dim: int = -1) -> Tensor:
        """Products, rounded to integers: ``(x * mantissa + 2^(shift - 1)) >> shift``.

        One rounding, halves up (towards plus infinity), so that hardware adds a constant and
        shifts.

        Parameters
        ----------
        x : Tensor of integers
            Within int32.
        channel_dim : int
            Dimension of `x` that holds the channels, where each has a factor of its own.

        Returns
        -------
        Tensor of int64
            Of the shape of `x`.

        Raises
        ------
        InputError
            If a number is not within int32.
        """
        if x.numel():
            low, high = (int(v) for v in torch.aminmax(x))
            if low < _INT32.min or high > _INT32.max:
                raise InputError(
                    f"{low if low < _INT32.min else high} is more than the 32 bits of an "
                    "accumulator that is requantised; use shorter sums or a multiplier of fewer "
                    "bits"
                )
        mantissa, shift = (_along(t, x.dim(), channel_dim) for t in (self.mantissa, self.shift))
        half = torch.ones_like(shift) << (shift - 1)
        return (x.to(torch.int64) * mantissa + half) >> shift


def integer_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """A bias as integers that are added to sums: ``clamp(round_half_even(bias / scale))``.

    Parameters
    ----------
    bias : Tensor of float, (channels,)
    scale : Tensor of float32, () or (channels,)
        Of one unit of the sums, ``s_x * s_w``.

    Returns
    -------
    Tensor of int32, (channels,)
        What does not fit is the largest, or the smallest, that does.

    Examples
    --------
    >>> integer_bias(torch.tensor([1.0, -0.7, 1e30]), torch.tensor(0.25)).tolist()
    [4, -3, 2147483647]
    """
    steps = torch.round(bias.detach().to(torch.float64) / scale.to(torch.float64))
    return steps.clamp(_INT32.min, _INT32.max).to(torch.int32)


def _along(t: Tensor, dims: int, channel_dim: int) -> Tensor:
    """One number for each channel, shaped to broadcast; one for all as it is."""
    if t.dim() == 0:
        return t
    shape = [1] * dims
    shape[channel_dim] = -1
    return t.reshape(shape)
