"""Integer products through a multiplier: values in, exact sums out.

Nothing here quantises; that is :mod:`approxhub.nn`'s business.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from approxhub.errors import InputError
from approxhub.multiplier import Multiplier
from approxhub.ops import accumulator_dtype, check_values, code_dtype, lut_gemm, register

__all__ = ["conv2d", "matmul"]

_PATCH_BYTES = 1 << 25


def _resolved(multiplier: Multiplier | str) -> Multiplier:
    if isinstance(multiplier, Multiplier):
        return multiplier
    from approxhub.registry import load

    return load(multiplier)


def _narrow(t: Tensor, multiplier: Multiplier, name: str) -> Tensor:
    """Check values once and hold them in the smallest dtype."""
    if not isinstance(t, Tensor):
        raise InputError(f"operand {name} must be a torch.Tensor, got {type(t).__name__}")
    if t.layout != torch.strided:
        raise InputError(f"operand {name} is a sparse tensor ({t.layout}); use t.to_dense()")
    f = multiplier.a if name == "a" else multiplier.b
    check_values(t, f, name)
    return t.to(code_dtype(f))


def matmul(a: Tensor, b: Tensor, multiplier: Multiplier | str) -> Tensor:
    """Integer matrix product in which every product comes from a multiplier.

    Parameters
    ----------
    a : Tensor of integers, (..., M, K) or (K,)
        Values (not bit patterns) of the activation operand.
    b : Tensor of integers, (K, N) or (K,)
        Values of the weight operand.
    multiplier : Multiplier or str
        A multiplier or its id.

    Returns
    -------
    Tensor of integers, (..., M, N)
        Exact sums: int32 where ``K * max|T|`` proves that enough, else int64. One-dimensional
        operands lose their dimension, as in :func:`torch.matmul`.

    Raises
    ------
    InputError
        If an operand is not of integers, or the shapes do not fit.
    OperandRangeError
        If a value is outside its operand's range.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> a = torch.tensor([[1, -2, 3]]); b = torch.tensor([[4], [5], [-6]])
    >>> ah.matmul(a, b, ah.exact(8, signed=True))
    tensor([[-24]], dtype=torch.int32)
    """
    m = _resolved(multiplier)
    a, b = _narrow(a, m, "a"), _narrow(b, m, "b")
    left, right = a.dim() == 1, b.dim() == 1
    a2 = a.unsqueeze(0) if left else a
    b2 = b.unsqueeze(1) if right else b
    if a2.dim() < 2 or b2.dim() != 2 or a2.shape[-1] != b2.shape[0]:
        raise InputError(
            f"matmul takes (..., M, K) x (K, N), got {tuple(a.shape)} x {tuple(b.shape)}"
        )
    out: Tensor = lut_gemm(a2, b2, register(m), accumulator_dtype(m, b2.shape[0]))
    if right:
        out = out.squeeze(-1)
    return out.squeeze(-1 if right else -2) if left else out


def conv2d(
    x: Tensor,
    w: Tensor,
    multiplier: Multiplier | str,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
) -> Tensor:
    """Integer 2-d convolution in which every product comes from a multiplier.

    Parameters
    ----------
    x : Tensor of integers, (N, C, H, W)
        Values of the activation operand.
    w : Tensor of integers, (O, C / groups, kh, kw)
        Values of the weight operand.
    multiplier : Multiplier or str
        A multiplier or its id.
    stride, dilation : (int, int)
        As in :func:`torch.nn.functional.conv2d`.
    padding : (int, int, int, int)
        Left, right, top, bottom.
    groups : int
        Groups of channels.
    pad_value : int
        The value that padding has; it goes through the multiplier like any other.

    Returns
    -------
    Tensor of integers, (N, O, H', W')
        Exact sums, int32 or int64 as :func:`matmul`.

    Raises
    ------
    InputError
        If an operand is not of integers, an option not of that form, or the shapes do not fit.
    OperandRangeError
        If a value is outside its operand's range.
    """
    m = _resolved(multiplier)
    x, w = _narrow(x, m, "a"), _narrow(w, m, "b")
    if not _integers([pad_value], 1):
        raise InputError(f"operand a (padding) must hold an integer, got {pad_value!r}")
    check_values(torch.tensor(pad_value), m.a, "a (padding)")
    for name, value, count in (("stride", stride, 2), ("dilation", dilation, 2)):
        if not _integers(value, count):
            raise InputError(
                f"conv2d: {name} must be two integers (vertical, horizontal), got {value!r}"
            )
    if not _integers(padding, 4):
        raise InputError(
            f"conv2d: padding must be four integers (left, right, top, bottom), got {padding!r}"
        )
    if not _integers([groups], 1):
        raise InputError(f"conv2d: groups must be an integer, got {groups!r}")
    _check_conv(x, w, groups)
    if min(*stride, *dilation) < 1 or min(padding) < 0:
        raise InputError(
            f"conv2d: stride {stride} and dilation {dilation} must be at least 1, padding "
            f"{padding} at least 0"
        )
    out, _ = conv2d_codes(
        x, w, register(m), accumulator_dtype(m, w.shape[1:].numel()),
        stride=stride, padding=padding, dilation=dilation, groups=groups, pad_value=pad_value,
    )  # fmt: skip
    return out


def _integers(value: Any, count: int) -> bool:
    """Whether `value` is a sequence of `count` integers."""
    return (
        isinstance(value, (tuple, list))
        and len(value) == count
        and all(isinstance(v, Integral) and not isinstance(v, bool) for v in value)
    )


def _check_conv(x: Tensor, w: Tensor, groups: int) -> None:
    if x.dim() != 4 or w.dim() != 4:
        raise InputError(
            f"conv2d takes (N, C, H, W) and (O, C/groups, kh, kw), got {tuple(x.shape)} and "
            f"{tuple(w.shape)}"
        )
    if groups < 1 or x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
        raise InputError(
            f"conv2d: {x.shape[1]} input and {w.shape[0]} output channels do not fit "
            f"{groups} groups of {w.shape[1]} input channels"
        )


def conv2d_codes(
    x: Tensor,
    w: Tensor,
    handle: str,
    dtype: torch.dtype,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
    pad_value: int | Tensor,
    patch_sums: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """As :func:`conv2d`, on operands already checked; also the sum of each patch, by group.

    Returns
    -------
    acc : Tensor of `dtype`, (N, O, H', W')
    sums : Tensor of int64, (N, groups, H', W'), or None
        Only with `patch_sums`; padding counts as `pad_value`.
    """
    (sh, sw), (dh, dw) = stride, dilation
    n, c, o = x.shape[0], x.shape[1], w.shape[0]
    kh, kw = w.shape[-2:]
    left, right, top, bottom = padding
    height, width = x.shape[2] + top + bottom, x.shape[3] + left + right
    oh, ow = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
    if oh < 1 or ow < 1:
        raise InputError(
            f"conv2d: the kernel spans {(dh * (kh - 1) + 1, dw * (kw - 1) + 1)}, more than the "
            f"padded input {(height, width)}"
        )
    out = torch.empty((n, o, oh, ow), dtype=dtype, device=x.device)
    sums = torch.empty((n, groups, oh, ow), dtype=torch.int64, device=x.device)
    # (groups, K, O / groups), with K in the order (channel, row, column) of the patches below
    k = w.shape[1:].numel()
    weights = w.reshape(groups, o // groups, k).transpose(1, 2).contiguous()
    step = max(1, _PATCH_BYTES // max(1, groups * k * oh * ow * x.element_size()))
    for i in range(0, n, step):
        block = x[i : i + step]
        if any(padding):
            padded = block.new_empty((block.shape[0], c, height, width))
            padded[...] = pad_value
            padded[:, :, top : top + x.shape[2], left : left + x.shape[3]] = block
            block = padded
        block = block.contiguous()
        s = block.stride()
        patches = block.as_strided(
            (block.shape[0], oh, ow, groups, c // groups, kh, kw),
            (s[0], sh * s[2], sw * s[3], c // groups * s[1], s[1], dh * s[2], dw * s[3]),
        ).permute(3, 0, 1, 2, 4, 5, 6).reshape(groups, block.shape[0] * oh * ow, k)  # fmt: skip
        for g in range(groups):
            product = lut_gemm(patches[g], weights[g], handle, dtype)
            out[i : i + step, g * (o // groups) : (g + 1) * (o // groups)] = product.reshape(
                block.shape[0], oh, ow, o // groups
            ).permute(0, 3, 1, 2)
        if patch_sums:
            total = patches.sum(-1, dtype=torch.int64)
            sums[i : i + step] = total.reshape(groups, block.shape[0], oh, ow).transpose(0, 1)
    return out, sums if patch_sums else None
