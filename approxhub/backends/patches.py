"""Convolutions as matrix products of patches, a block of images at a time.

For backends without a convolution of their own, and where an image is so small that patches cost
next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from approxhub.backends.protocol import Convolution

__all__ = ["convolve_patches"]

_PATCH_BYTES = 1 << 25


def convolve_patches(
    x: Tensor,
    w: Tensor,
    c: Convolution,
    dtype: torch.dtype,
    gemm: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Convolve with a matrix product.

    Parameters
    ----------
    x : Tensor of integers, (N, C, ...)
        Values of the activation operand; one to three dimensions of the image.
    w : Tensor of integers, (O, C / groups, ...)
        Values of the weight operand.
    c : Convolution
        Stride, padding, dilation and groups.
    dtype : torch.dtype
        Of the result.
    gemm : callable
        ``(P, K), (K, O / groups) -> (P, O / groups)`` of `dtype`.

    Returns
    -------
    Tensor of `dtype`, (N, O, ...)
    """
    size, kernel = tuple(x.shape[2:]), tuple(w.shape[2:])
    out_size = c.output_size(size, kernel)
    channels, columns, k = x.shape[1] // c.groups, w.shape[0] // c.groups, w[0].numel()
    out = torch.empty((x.shape[0], w.shape[0], *out_size), dtype=dtype, device=x.device)
    # (groups, K, O / groups), with K in the order (channel, tap) of the patches below
    weights = w.reshape(c.groups, columns, k).transpose(1, 2).contiguous()
    pixels = math.prod(out_size)
    step = max(1, _PATCH_BYTES // max(1, c.groups * k * pixels * x.element_size()))
    for i in range(0, x.shape[0], step):
        block = padded(x[i : i + step], c)
        s = block.stride()
        patches = block.as_strided(
            (c.groups, block.shape[0], *out_size, channels, *kernel),
            (
                channels * s[1],
                s[0],
                *(a * b for a, b in zip(c.stride, s[2:], strict=True)),
                s[1],
                *(a * b for a, b in zip(c.dilation, s[2:], strict=True)),
            ),
        ).reshape(c.groups, block.shape[0] * pixels, k)
        for g in range(c.groups):
            product = gemm(patches[g], weights[g]).reshape(block.shape[0], *out_size, columns)
            out[i : i + step, g * columns : (g + 1) * columns] = product.movedim(-1, 1)
    return out


def padded(x: Tensor, c: Convolution) -> Tensor:
    """The images with their padding around them, contiguous."""
    if not any(any(p) for p in c.padding):
        return x.contiguous()
    size = [n + sum(p) for n, p in zip(x.shape[2:], c.padding, strict=True)]
    shape = (*x.shape[:2], *size)
    if c.pad is None:
        out = x.new_full(shape, c.pad_value)
    else:
        out = c.pad.to(x.dtype).reshape([1] * len(shape)).expand(shape).contiguous()
    inside = out
    for d, (p, n) in enumerate(zip(c.padding, x.shape[2:], strict=True), 2):
        inside = inside.narrow(d, p[0], n)
    inside.copy_(x)
    return out
