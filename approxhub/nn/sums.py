"""Integer sums of products of codes, and what zero points leave in them.

Layers and integer networks make their sums here, so that both are the same integers. Imports
torch, the operators, the engine and the shapes of products.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from approxhub.backends import real
from approxhub.errors import InputError
from approxhub.functional import conv_transpose_codes, padding_sums, window_sums
from approxhub.multiplier import Multiplier
from approxhub.nn.gradients.products import (
    ConvProduct,
    ConvTransposeProduct,
    LinearProduct,
    Product,
    exchanged,
)
from approxhub.ops import accumulator_dtype, lut_conv, lut_gemm

__all__ = ["Multiplication", "Sums", "channel_terms", "corrected", "sum_products"]


@dataclass(frozen=True, slots=True, eq=False)
class Multiplication:
    """How operands are multiplied, and the zero points that they carry.

    Parameters
    ----------
    multiplier : Multiplier
        The circuit.
    handle, exact_handle : str
        What :func:`approxhub.ops.register` gave for it, and for the exact one of its operands.
    x_zero, w_zero : Tensor of one integer, or None
        Zero point of the operands, to be corrected in the sums; None where they carry none. That
        of the weights may be per channel, and counts only as one or none here.
    """

    multiplier: Multiplier
    handle: str
    exact_handle: str
    x_zero: Tensor | None
    w_zero: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Sums of products, and the sums of operands that :func:`corrected` needs with them.

    Parameters
    ----------
    acc : Tensor of int32 or int64, (M, O) or (N, O, ...)
        Sums of products.
    terms : int
        Products in each.
    x_sums : Tensor of int64 or None
        Sums of the activations, with groups (or 1) in place of channels; None where weights
        carry no zero point.
    w_sums : Tensor of int64, (O,), or None
        Sums of the weights; None where activations carry no zero point.
    """

    acc: Tensor
    terms: int
    x_sums: Tensor | None
    w_sums: Tensor | None


@functools.singledispatch
def sum_products(product: Product, x: Tensor, w: Tensor, by: Multiplication) -> Sums:
    """Multiply codes, and sum the products up.

    Parameters
    ----------
    product : Product
        Which of them meet.
    x, w : Tensor of integers
        Operands.
    by : Multiplication

    Returns
    -------
    Sums

    Raises
    ------
    InputError
        If the product is of a kind that a plug-in brought.
    """
    raise InputError(f"the sums of a {type(product).__name__} are not known")


@sum_products.register
def _(product: LinearProduct, x: Tensor, w: Tensor, by: Multiplication) -> Sums:
    k = w.shape[1]
    acc = lut_gemm(x, w.t(), by.handle, accumulator_dtype(by.multiplier, k), trusted=True)
    x_sums = None if by.w_zero is None else real.summed(x, -1).unsqueeze(-1)
    w_sums = None if by.x_zero is None else real.summed(w, -1)
    return Sums(acc, k, x_sums, w_sums)


@sum_products.register
def _(product: ConvProduct, x: Tensor, w: Tensor, by: Multiplication) -> Sums:
    """Where padding is skipped, its products come back exactly, with the code of real zero.

    For the correction takes every sum to have as many terms. Of them it leaves nothing, for
    ``(z_x - z_x) * (w - z_w) = 0``.
    """
    k, kernel, dims = w.shape[1:].numel(), w.shape[2:], x.dim() - 2
    pad = by.x_zero
    if pad is None:
        pad = torch.zeros((), dtype=torch.int32, device=x.device)
    # `lut_conv` wants the first dimension first.
    last_first = product.padding
    sides = [s for d in reversed(range(dims)) for s in last_first[2 * d : 2 * d + 2]]
    dtype = accumulator_dtype(by.multiplier, k)
    acc = lut_conv(
        x, w, pad, by.handle, product.stride, sides, product.dilation, product.groups, dtype,
        trusted=True,
    )  # fmt: skip
    if product.skip and any(sides):
        where = (product.stride, sides, product.dilation)
        size = tuple(x.shape[2:])
        acc = acc - padding_sums(size, w, pad, by.handle, dtype, *where)
        if by.x_zero is not None:
            acc = acc + padding_sums(size, w, pad, by.exact_handle, torch.int64, *where)
    x_sums = w_sums = None
    if by.w_zero is not None:
        x_sums = window_sums(
            x, pad, kernel, stride=product.stride, padding=sides, dilation=product.dilation,
            groups=product.groups,
        )  # fmt: skip
    if by.x_zero is not None:
        w_sums = real.summed(w.flatten(1), 1)
    return Sums(acc, k, x_sums, w_sums)


@sum_products.register
def _(product: ConvTransposeProduct, x: Tensor, w: Tensor, by: Multiplication) -> Sums:
    """Sums over the real products alone, made to look as if they all had `terms` products.

    A sum ``R`` of a transposed convolution has some only. For the others, the skipped ones ``S``,
    the code ``z_x`` of real zero is put in, with exact products: ``z_x * sum_S(w)`` is added to
    the accumulator and ``|S| * z_x`` to the sum of the activations. Of them the correction leaves
    ``sum_S((z_x - z_x) * (w - z_w)) = 0``.
    """
    k, dims = w.shape[1:].numel(), x.dim() - 2
    acc = conv_transpose_codes(
        x, exchanged(w, product.groups), by.handle, accumulator_dtype(by.multiplier, k),
        stride=product.stride, padding=product.padding, output_padding=product.output_padding,
        groups=product.groups, dilation=product.dilation,
    )  # fmt: skip
    x_sums = w_sums = None
    everywhere = torch.ones((1, 1, *x.shape[2:]), dtype=torch.int64, device=acc.device)
    if by.x_zero is not None:
        taps = w.sum(1, dtype=torch.int64)
        w_sums = taps.flatten(1).sum(1)
        met = _scattered(everywhere, taps, product)
        acc = acc + by.x_zero.to(torch.int64) * (w_sums.reshape(-1, *[1] * dims) - met)
    if by.w_zero is not None:
        groups, channels = product.groups, w.shape[1]
        taps = torch.ones((1, *w.shape[2:]), dtype=torch.int64, device=acc.device)
        split = x.reshape(x.shape[0], groups, channels, *x.shape[2:])
        x_sums = _scattered(split.sum(2, dtype=torch.int64), taps, product)
        if by.x_zero is not None:
            skipped = k - channels * _scattered(everywhere, taps, product)
            x_sums = x_sums + by.x_zero.to(torch.int64) * skipped
    return Sums(acc, k, x_sums, w_sums)


def _scattered(x: Tensor, taps: Tensor, product: ConvTransposeProduct) -> Tensor:
    """Transposed convolution of integers, each channel for itself: a loop over the taps.

    Parameters
    ----------
    x : Tensor of int64, (N, C or 1, ...)
    taps : Tensor of int64, (C or 1, ...)
        A kernel for each channel.
    product : ConvTransposeProduct
        Gives stride, padding, output padding and dilation.

    Returns
    -------
    Tensor of int64, (N, C, ...)
    """
    size, kernel = x.shape[2:], taps.shape[1:]
    steps = list(zip(size, product.stride, product.dilation, strict=True))
    whole = [
        (n - 1) * s + d * (k - 1) + 1 + extra
        for (n, s, d), k, extra in zip(steps, kernel, product.output_padding, strict=True)
    ]
    out = x.new_zeros((x.shape[0], max(x.shape[1], taps.shape[0]), *whole))
    images = (slice(None), slice(None))
    for tap in itertools.product(*map(range, kernel)):
        where = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, (n, s, d) in zip(tap, steps, strict=True)
        )
        share = taps[images[:1] + tap]
        out[images + where] += x * share.reshape(-1, *[1] * len(size))
    inner = tuple(slice(p, n - p) for p, n in zip(product.padding, whole, strict=True))
    return out[images + inner]


def channel_terms(sums: Sums, z_x: Tensor, z_w: Tensor, channels: int) -> Tensor:
    """What each channel's sums are corrected by: ``k * z_x * z_w - z_x * sum(w)``.

    Parameters
    ----------
    sums : Sums
    z_x, z_w : Tensor of int64
        Zero points of activations, (), and weights, () or (channels,).
    channels : int

    Returns
    -------
    Tensor of int64, (channels,)
    """
    terms = torch.zeros(channels, dtype=torch.int64, device=sums.acc.device)
    if sums.w_sums is not None:
        terms = terms - z_x * sums.w_sums
        if sums.x_sums is not None:
            terms = terms + sums.terms * z_x * z_w
    return terms


def corrected(sums: Sums, terms: Tensor | None, z_w: Tensor, channel_dim: int) -> Tensor:
    """``acc + terms - z_w * sum(x)``: the sums less what zero points have put into them.

    B. Jacob et al., CVPR 2018, DOI 10.1109/CVPR.2018.00286, equation 7.

    Parameters
    ----------
    sums : Sums
    terms : Tensor of integers, (channels,), or None
        What :func:`channel_terms` gave, and whatever else is added to each channel.
    z_w : Tensor of int64, () or (channels,)
    channel_dim : int
        Dimension of the sums that holds the channels.

    Returns
    -------
    Tensor of int64
    """
    channels = sums.acc.shape[channel_dim]
    shape = [1] * sums.acc.dim()
    shape[channel_dim] = -1
    total = sums.acc.to(torch.int64)
    if terms is not None:
        total = total + terms.reshape(shape)
    if sums.x_sums is not None:
        groups = sums.x_sums.shape[channel_dim]
        total = total - z_w.expand(channels).reshape(shape) * sums.x_sums.repeat_interleave(
            channels // groups, dim=channel_dim
        )
    return total
