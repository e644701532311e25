"""Integer products through a multiplier: values in, exact sums out.

Nothing here quantises; that is :mod:`approxhub.nn`'s business.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from approxhub.backends import real
from approxhub.backends.explanation import Explanation, explain_request
from approxhub.backends.protocol import Convolution, ConvRequest, GemmRequest
from approxhub.errors import InputError
from approxhub.multiplier import Multiplier, resolved
from approxhub.ops import (
    accumulator_dtype,
    check_range,
    check_values,
    code_dtype,
    conv_shape,
    lut_conv,
    lut_gemm,
    multiplier_of,
    register,
)
from approxhub.reading import on_host

__all__ = [
    "bmm",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "explain",
    "linear",
    "matmul",
]

Ints = int | Sequence[int]
Padding = int | Sequence[int] | Sequence[tuple[int, int]]


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
    m = resolved(multiplier)
    a, b = _narrow(a, m, "a"), _narrow(b, m, "b")
    left, right = a.dim() == 1, b.dim() == 1
    a2 = a.unsqueeze(0) if left else a
    b2 = b.unsqueeze(1) if right else b
    if a2.dim() < 2 or b2.dim() != 2 or a2.shape[-1] != b2.shape[0]:
        raise InputError(
            f"matmul takes (..., M, K) x (K, N), got {tuple(a.shape)} x {tuple(b.shape)}"
        )
    out: Tensor = lut_gemm(a2, b2, register(m), accumulator_dtype(m, b2.shape[0]), trusted=True)
    if right:
        out = out.squeeze(-1)
    return out.squeeze(-1 if right else -2) if left else out


def linear(x: Tensor, w: Tensor, multiplier: Multiplier | str) -> Tensor:
    """Integer :func:`torch.nn.functional.linear` without a bias, through a multiplier.

    Parameters
    ----------
    x : Tensor of integers, (..., K)
        Values of the activation operand.
    w : Tensor of integers, (N, K)
        Values of the weight operand.
    multiplier : Multiplier or str
        A multiplier or its id.

    Returns
    -------
    Tensor of integers, (..., N)
        Exact sums, int32 or int64 as :func:`matmul`.

    Raises
    ------
    InputError
        If an operand is not of integers, or the shapes do not fit.
    OperandRangeError
        If a value is outside its operand's range.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> linear(torch.tensor([1, -2]), torch.tensor([[3, 4], [5, 6]]), ah.exact(8)).tolist()
    [-5, -7]
    """
    if not isinstance(w, Tensor) or w.dim() != 2:
        raise InputError(f"linear takes a weight of (N, K), got {_shape(w)}")
    return matmul(x, w.t(), multiplier)


def bmm(a: Tensor, b: Tensor, multiplier: Multiplier | str) -> Tensor:
    """Integer products of matrices in pairs, as :func:`torch.bmm`, through a multiplier.

    Parameters
    ----------
    a : Tensor of integers, (B, M, K)
        Values of the left operand: ``a`` of the circuit.
    b : Tensor of integers, (B, K, N)
        Values of the right operand: ``b`` of the circuit.
    multiplier : Multiplier or str
        A multiplier or its id.

    Returns
    -------
    Tensor of integers, (B, M, N)
        Exact sums, int32 or int64 as :func:`matmul`.

    Raises
    ------
    InputError
        If an operand is not of integers, or the shapes do not fit.
    OperandRangeError
        If a value is outside its operand's range.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> a = torch.tensor([[[1, 2]], [[3, 4]]]); b = torch.tensor([[[5], [6]], [[7], [8]]])
    >>> bmm(a, b, ah.exact(8, signed=True)).tolist()
    [[[17]], [[53]]]
    """
    m = resolved(multiplier)
    a, b = _narrow(a, m, "a"), _narrow(b, m, "b")
    if a.dim() != 3 or b.dim() != 3 or a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1]:
        raise InputError(f"bmm takes (B, M, K) x (B, K, N), got {_shape(a)} x {_shape(b)}")
    return batched_codes(a, b, register(m), accumulator_dtype(m, a.shape[2]))


def batched_codes(a: Tensor, b: Tensor, handle: str, dtype: torch.dtype) -> Tensor:
    """As :func:`bmm`, on operands already checked: one convolution with a group for each pair."""
    pairs, rows, k = a.shape
    columns = b.shape[2]
    if 0 in (pairs, rows, columns):
        return a.new_zeros((pairs, rows, columns), dtype=dtype)
    image = a.transpose(1, 2).reshape(1, pairs * k, rows)
    kernels = b.transpose(1, 2).reshape(pairs * columns, k, 1)
    nothing = torch.zeros((), dtype=torch.int64, device=a.device)
    sums: Tensor = lut_conv(
        image, kernels, nothing, handle, [1], [0, 0], [1], pairs, dtype, trusted=True
    )
    return sums.reshape(pairs, columns, rows).transpose(1, 2)


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def explain(
    multiplier: Multiplier | str,
    a_shape: Sequence[int],
    b_shape: Sequence[int],
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    device: torch.device | str = "cpu",
) -> Explanation:
    """Say what would run a matrix product or a convolution, and why.

    Parameters
    ----------
    multiplier : Multiplier or str
        A multiplier or its id.
    a_shape, b_shape : sequence of int
        Shapes of the operands: ``(..., M, K)`` and ``(K, N)`` for :func:`matmul`; ``(N, C, ...)``
        and ``(O, C / groups, ...)`` of three dimensions or more for a convolution.
    stride, padding, dilation, groups
        Of a convolution, as in :func:`conv2d`.
    device : torch.device or str
        Where the operands would be.

    Returns
    -------
    Explanation
        Its text has a line for each thing.

    Raises
    ------
    InputError
        If the shapes do not fit.
    BackendUnavailableError
        If nothing can do it.

    Examples
    --------
    >>> import approxhub as ah
    >>> with ah.use_backend("reference"):
    ...     print(explain("exact:8s", (64, 1152), (1152, 256)).accumulator)
    int32, for 1152 products of up to 16384 make 18874368 <= 2147483647
    """
    m, where = resolved(multiplier), torch.device(device)
    a, b = tuple(a_shape), tuple(b_shape)
    if len(b) == 2:
        if len(a) < 2 or a[-1] != b[0]:
            raise InputError(f"matmul takes (..., M, K) x (K, N), got {a} x {b}")
        _refuse_empty(*a, *b)
        dtype = accumulator_dtype(m, b[0])
        return explain_request(GemmRequest(m, math.prod(a[:-1]), b[0], b[1], where, dtype))
    dims = len(b) - 2
    if not 1 <= dims <= 3:
        raise InputError(f"a convolution has one to three dimensions, got a weight of {b}")
    name = f"conv{dims}d"
    x, w = (torch.empty(shape, dtype=torch.int8, device="meta") for shape in (a, b))
    _check_conv(name, dims, x, w, groups)
    pads = _pairs(name, padding, dims)
    c = Convolution(
        tuple(_per_dimension(name, "stride", stride, dims)),
        tuple(zip(pads[::2], pads[1::2], strict=True)),
        tuple(_per_dimension(name, "dilation", dilation, dims)),
        groups,
    )
    dtype = accumulator_dtype(m, math.prod(b[1:]))
    _refuse_empty(*conv_shape(x.shape, w.shape, c), b[1])
    return explain_request(ConvRequest(m, a, b, c, where, dtype))


def _refuse_empty(*sizes: int) -> None:
    if 0 in sizes:
        raise InputError("nothing is multiplied here: a size is 0, and every sum is empty")


# --- convolutions -------------------------------------------------------------


def conv1d(
    x: Tensor,
    w: Tensor,
    multiplier: Multiplier | str,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    pad_value: int = 0,
    pad_mode: Literal["code", "skip"] = "code",
) -> Tensor:
    """Integer 1-d convolution; see :func:`conv2d`.

    Parameters
    ----------
    x : Tensor of integers, (N, C, L)
    w : Tensor of integers, (O, C / groups, k)
    multiplier, stride, padding, dilation, groups, pad_value, pad_mode
        As in :func:`conv2d`.

    Returns
    -------
    Tensor of integers, (N, O, L')

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> x = torch.tensor([[[1, 2, 3]]]); w = torch.tensor([[[1, -1]]])
    >>> conv1d(x, w, ah.exact(8, signed=True)).tolist()
    [[[-1, -1]]]
    """
    return _conv("conv1d", 1, x, w, multiplier, stride, padding, dilation, groups, pad_value,
                 pad_mode)  # fmt: skip


def conv2d(
    x: Tensor,
    w: Tensor,
    multiplier: Multiplier | str,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    pad_value: int = 0,
    pad_mode: Literal["code", "skip"] = "code",
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
    stride, dilation : int or sequence of int
        As in :func:`torch.nn.functional.conv2d`.
    padding : int, sequence of int, or sequence of (int, int)
        For all dimensions, for each of them, or before and behind each of them.
    groups : int
        Groups of channels.
    pad_value : int
        The value that padding has; it goes through the multiplier like any other.
    pad_mode : {'code', 'skip'}
        Whether products with padding are looked up, or left out of the sums.

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

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> x = torch.ones(1, 2, 3, 3, dtype=torch.int8); w = torch.ones(4, 2, 3, 3, dtype=torch.int8)
    >>> conv2d(x, w, ah.exact(8, signed=True), padding=1)[0, 0].tolist()
    [[8, 12, 8], [12, 18, 12], [8, 12, 8]]
    """
    return _conv("conv2d", 2, x, w, multiplier, stride, padding, dilation, groups, pad_value,
                 pad_mode)  # fmt: skip


def conv3d(
    x: Tensor,
    w: Tensor,
    multiplier: Multiplier | str,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    pad_value: int = 0,
    pad_mode: Literal["code", "skip"] = "code",
) -> Tensor:
    """Integer 3-d convolution; see :func:`conv2d`.

    Parameters
    ----------
    x : Tensor of integers, (N, C, D, H, W)
    w : Tensor of integers, (O, C / groups, kd, kh, kw)
    multiplier, stride, padding, dilation, groups, pad_value, pad_mode
        As in :func:`conv2d`.

    Returns
    -------
    Tensor of integers, (N, O, D', H', W')

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> x = torch.ones(1, 1, 2, 2, 2, dtype=torch.int8)
    >>> conv3d(x, x, ah.exact(8, signed=True)).tolist()
    [[[[[8]]]]]
    """
    return _conv("conv3d", 3, x, w, multiplier, stride, padding, dilation, groups, pad_value,
                 pad_mode)  # fmt: skip


def conv_transpose1d(
    x: Tensor,
    w: Tensor,
    multiplier: Multiplier | str,
    *,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """Integer 1-d transposed convolution; see :func:`conv_transpose2d`.

    Parameters
    ----------
    x : Tensor of integers, (N, C, L)
    w : Tensor of integers, (C, O / groups, k)
    multiplier, stride, padding, output_padding, groups, dilation
        As in :func:`conv_transpose2d`.

    Returns
    -------
    Tensor of integers, (N, O, L')

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> x = torch.tensor([[[1, 2]]]); w = torch.tensor([[[3, 5]]])
    >>> conv_transpose1d(x, w, ah.exact(8, signed=True), stride=2).tolist()
    [[[3, 5, 6, 10]]]
    """
    return _conv_transpose("conv_transpose1d", 1, x, w, multiplier, stride, padding,
                           output_padding, groups, dilation)  # fmt: skip


def conv_transpose2d(
    x: Tensor,
    w: Tensor,
    multiplier: Multiplier | str,
    *,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """Integer 2-d transposed convolution in which every product comes from a multiplier.

    The zeros that a transposed convolution puts between and around its inputs are no operands:
    no product is made of them. The activation comes first here too, ``T[x, w]``.

    Parameters
    ----------
    x : Tensor of integers, (N, C, H, W)
        Values of the activation operand.
    w : Tensor of integers, (C, O / groups, kh, kw)
        Values of the weight operand.
    multiplier : Multiplier or str
        A multiplier or its id.
    stride, padding, output_padding, groups, dilation : int or sequence of int
        As in :func:`torch.nn.functional.conv_transpose2d`.

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

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> x = torch.ones(1, 1, 2, 2, dtype=torch.int8); w = torch.ones(1, 1, 2, 2, dtype=torch.int8)
    >>> conv_transpose2d(x, w, ah.exact(8, signed=True))[0, 0].tolist()
    [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    """
    return _conv_transpose("conv_transpose2d", 2, x, w, multiplier, stride, padding,
                           output_padding, groups, dilation)  # fmt: skip


def conv_transpose3d(
    x: Tensor,
    w: Tensor,
    multiplier: Multiplier | str,
    *,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """Integer 3-d transposed convolution; see :func:`conv_transpose2d`.

    Parameters
    ----------
    x : Tensor of integers, (N, C, D, H, W)
    w : Tensor of integers, (C, O / groups, kd, kh, kw)
    multiplier, stride, padding, output_padding, groups, dilation
        As in :func:`conv_transpose2d`.

    Returns
    -------
    Tensor of integers, (N, O, D', H', W')

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> x = torch.ones(1, 1, 1, 1, 1, dtype=torch.int8)
    >>> conv_transpose3d(3 * x, 2 * x, ah.exact(8, signed=True)).tolist()
    [[[[[6]]]]]
    """
    return _conv_transpose("conv_transpose3d", 3, x, w, multiplier, stride, padding,
                           output_padding, groups, dilation)  # fmt: skip


def _conv(
    name: str,
    dims: int,
    x: Tensor,
    w: Tensor,
    multiplier: Multiplier | str,
    stride: Ints,
    padding: Padding,
    dilation: Ints,
    groups: int,
    pad_value: int,
    pad_mode: str,
) -> Tensor:
    m = resolved(multiplier)
    x, w = _narrow(x, m, "a"), _narrow(w, m, "b")
    if not _is_integer(pad_value):
        raise InputError(f"operand a (padding) must hold an integer, got {pad_value!r}")
    if pad_mode not in ("code", "skip"):
        raise InputError(f"{name}: pad_mode must be 'code' or 'skip', got {pad_mode!r}")
    if not _is_integer(groups):
        raise InputError(f"{name}: groups must be an integer, got {groups!r}")
    strides = _per_dimension(name, "stride", stride, dims)
    dilations = _per_dimension(name, "dilation", dilation, dims)
    pads = _pairs(name, padding, dims)
    _check_conv(name, dims, x, w, groups)
    check_range(int(pad_value), int(pad_value), m.a, "a (padding)")
    pad = torch.full((), pad_value, device=x.device)  # filled there: nothing is copied
    handle, dtype = register(m), accumulator_dtype(m, w.shape[1:].numel())
    sums: Tensor = lut_conv(
        x, w, pad, handle, strides, pads, dilations, groups, dtype, trusted=True
    )
    if pad_mode == "skip" and any(pads):
        sums = sums - padding_sums(
            tuple(x.shape[2:]), w, pad, handle, dtype, strides, pads, dilations
        )
    return sums


def padding_sums(
    size: tuple[int, ...],
    w: Tensor,
    pad: Tensor,
    handle: str,
    dtype: torch.dtype,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """What the products with padding add to each sum of a convolution.

    Parameters
    ----------
    size : tuple of int
        Of the image, without its padding.
    w, pad, handle, dtype, stride, padding, dilation
        As :func:`approxhub.ops.lut_conv`.

    Returns
    -------
    Tensor of `dtype`, (1, O, ...)
    """
    kernel = tuple(w.shape[2:])
    outside = torch.zeros(1, 1, dtype=torch.bool, device=w.device)  # (positions, taps) so far
    out = []
    for n, k, s, d, before, behind in zip(
        size, kernel, stride, dilation, padding[::2], padding[1::2], strict=True
    ):
        out.append((n + before + behind - d * (k - 1) - 1) // s + 1)
        at = torch.arange(out[-1], device=w.device)[:, None] * s - before
        at = at + torch.arange(k, device=w.device) * d
        beyond = (at < 0) | (at >= n)
        outside = (outside[:, None, :, None] | beyond[None, :, None, :]).flatten(2).flatten(0, 1)
    # A product of padding and weight for each weight, then their sums over channels.
    products = lut_gemm(pad.reshape(1, 1), w.reshape(1, -1), handle, torch.int64, trusted=True)
    taps = products.reshape(*w.shape[:2], math.prod(kernel)).sum(1)
    sums = _integer_product(outside, taps.t())
    return sums.t().to(dtype).reshape(1, w.shape[0], *out)


def _integer_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in int64, for bools and int64: off the CPU torch has no such product."""
    if on_host(a):
        return a.to(torch.int64) @ b
    # Sums of fewer than 2^27 halves of at most 26 and 38 bits, of which float64 has all bits.
    left, low = a.to(torch.float64), b & ((1 << 26) - 1)
    high = left @ (b >> 26).to(torch.float64)
    return (high.to(torch.int64) << 26) + (left @ low.to(torch.float64)).to(torch.int64)


def _conv_transpose(
    name: str,
    dims: int,
    x: Tensor,
    w: Tensor,
    multiplier: Multiplier | str,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    groups: int,
    dilation: Ints,
) -> Tensor:
    m = resolved(multiplier)
    x, w = _narrow(x, m, "a"), _narrow(w, m, "b")
    if not _is_integer(groups):
        raise InputError(f"{name}: groups must be an integer, got {groups!r}")
    strides = _per_dimension(name, "stride", stride, dims)
    dilations = _per_dimension(name, "dilation", dilation, dims)
    pads = _per_dimension(name, "padding", padding, dims, least=0)
    extra = _per_dimension(name, "output_padding", output_padding, dims, least=0)
    if x.dim() != dims + 2 or w.dim() != dims + 2:
        raise InputError(
            f"{name} takes (N, C, ...) and (C, O/groups, ...) with {dims} dimensions at the end, "
            f"got {tuple(x.shape)} and {tuple(w.shape)}"
        )
    if groups < 1 or x.shape[1] != w.shape[0] or w.shape[0] % groups:
        raise InputError(
            f"{name}: {x.shape[1]} input channels do not fit a weight of {tuple(w.shape)} in "
            f"{groups} groups"
        )
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise InputError(
            f"{name}: output_padding {extra} must be smaller than stride {strides} or dilation "
            f"{dilations}"
        )
    k = w.shape[0] // groups * math.prod(w.shape[2:])
    return conv_transpose_codes(
        x, w, register(m), accumulator_dtype(m, k), stride=strides, padding=pads,
        output_padding=extra, groups=groups, dilation=dilations,
    )  # fmt: skip


def conv_transpose_codes(
    x: Tensor,
    w: Tensor,
    handle: str,
    dtype: torch.dtype,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Tensor:
    """As :func:`conv_transpose2d`, on operands already checked, of any number of dimensions.

    Outputs that lie a stride apart meet the same taps: for them it is an ordinary convolution
    with those taps, turned round. What it would read outside of the image is left out.
    """
    size, kernel = tuple(x.shape[2:]), tuple(w.shape[2:])
    if 0 in kernel:
        raise InputError(f"transposed convolution: the kernel has the size {kernel}")
    out_size = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, k, s, p, e, d in zip(
            size, kernel, stride, padding, output_padding, dilation, strict=True
        )
    )
    if min(out_size) < 1:
        raise InputError(
            f"transposed convolution: the result would have the size {out_size}; use less padding"
        )
    outputs = w.shape[1] * groups
    # (O, C / groups, ...), as the weight of an ordinary convolution
    inputs = w.shape[0] // groups
    split = w.reshape(groups, inputs, *w.shape[1:]).transpose(1, 2)
    weights = split.reshape(outputs, inputs, *kernel)
    out = x.new_zeros((x.shape[0], outputs, *out_size), dtype=dtype)
    phases = [
        _phases(*one) for one in zip(size, out_size, kernel, stride, padding, dilation, strict=True)
    ]
    pad = torch.zeros((), dtype=torch.int64, device=x.device)
    # Traced code cannot look at tables. Without one, only a circuit could tell.
    blind = torch.compiler.is_compiling() or x.is_meta
    known = None if blind else multiplier_of(handle)
    adds = known is None or not known.has_table or bool(known.table[0].any())
    for combination in itertools.product(*phases):
        part, taps = x, weights
        pads, steps = [], []
        for d, phase in enumerate(combination, 2):
            part = part.narrow(d, phase.skipped, part.shape[d] - phase.skipped)
            taps = _turned(taps, d, phase.taps)
            pads += [phase.before, phase.behind]
            steps.append(phase.step)
        ones = [1] * len(steps)
        sums = lut_conv(part, taps, pad, handle, ones, pads, steps, groups, dtype, trusted=True)
        if any(pads) and adds:
            sums = sums - padding_sums(
                tuple(part.shape[2:]), taps, pad, handle, dtype, ones, pads, steps
            )
        where = (slice(None), slice(None), *(slice(p.first, None, p.stride) for p in combination))
        out[where] = sums[tuple(slice(0, n) for n in out[where].shape)]
    return out


def _turned(w: Tensor, d: int, taps: list[int]) -> Tensor:
    """Those taps of dimension `d`, which fall by equal steps, without a copy of their numbers."""
    step = taps[0] - taps[1] if len(taps) > 1 else 1
    rising = w[(slice(None),) * d + (slice(taps[-1], taps[0] + 1, step),)]
    return rising.flip(d)


@dataclass(frozen=True, slots=True)
class _Phase:
    """Outputs ``first, first + stride, ...`` of one dimension, as an ordinary convolution."""

    first: int
    stride: int
    taps: list[int]
    step: int
    before: int
    behind: int
    skipped: int


def _phases(
    size: int, out: int, kernel: int, stride: int, padding: int, dilation: int
) -> list[_Phase]:
    """Phases of one dimension that have taps; the others are sums of nothing."""
    found = []
    for first in range(min(stride, out)):
        # Output first + stride * t meets input t + (first + padding - dilation * k) / stride.
        taps = [
            k for k in reversed(range(kernel)) if (first + padding - dilation * k) % stride == 0
        ]
        if not taps:
            continue
        start = (first + padding - dilation * taps[0]) // stride
        step = dilation // math.gcd(dilation, stride)
        skipped = min(max(0, start), size)
        last = -(-(out - first) // stride) - 1 + start + step * (len(taps) - 1)
        found.append(
            _Phase(
                first,
                stride,
                taps,
                step,
                before=max(0, -start),
                behind=max(0, last - size + 1),
                skipped=skipped,
            )
        )
    return found


# --- what the layers need besides -------------------------------------------------


def window_sums(
    x: Tensor,
    pad: Tensor,
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Sum of the codes that each output of a convolution meets; padding counts as `pad`.

    Parameters
    ----------
    x : Tensor of integers, (N, C, ...)
    pad : Tensor of one integer
    kernel, stride, padding, dilation, groups
        As :func:`approxhub.ops.lut_conv`.

    Returns
    -------
    Tensor of int64, (N, groups, ...)
    """
    channels = x.shape[1] // groups
    sums = real.summed(x.reshape(x.shape[0], groups, channels, *x.shape[2:]), 2)
    if any(padding):
        # F.pad takes a number, and `pad` may be known on the device alone.
        shift = pad.to(torch.int64) * channels
        sides = [side for d in reversed(range(len(kernel))) for side in padding[2 * d : 2 * d + 2]]
        sums = F.pad(sums - shift, sides) + shift
    for d, (k, s, step) in enumerate(zip(kernel, stride, dilation, strict=True), 2):
        count = (sums.shape[d] - step * (k - 1) - 1) // s + 1
        total = None
        for tap in range(k):
            index = [slice(None)] * sums.dim()
            index[d] = slice(tap * step, tap * step + (count - 1) * s + 1, s)
            part = sums[tuple(index)]
            total = part if total is None else total + part
        assert total is not None
        sums = total
    return sums


# --- arguments ----------------------------------------------------------------------


def _is_integer(value: Any) -> bool:
    # Nearly all are plain ones, and an abstract class is slow to tell.
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def _integers(value: Any, count: int) -> bool:
    """Whether `value` is a sequence of `count` integers."""
    return isinstance(value, (tuple, list)) and len(value) == count and all(map(_is_integer, value))


def _per_dimension(name: str, option: str, value: Any, dims: int, least: int = 1) -> list[int]:
    if _is_integer(value):
        value = [value] * dims
    if not _integers(value, dims):
        raise InputError(
            f"{name}: {option} must be an integer or {dims} of them, one for each dimension, "
            f"got {value!r}"
        )
    if min(value) < least:
        raise InputError(f"{name}: {option} must be at least {least}, got {value!r}")
    return [int(v) for v in value]


def _pairs(name: str, padding: Any, dims: int) -> list[int]:
    """Padding before and behind each dimension, one after the other."""
    if isinstance(padding, (tuple, list)) and any(isinstance(p, (tuple, list)) for p in padding):
        if len(padding) != dims or not all(_integers(p, 2) for p in padding):
            raise InputError(
                f"{name}: padding in pairs must be {dims} times (before, behind), got {padding!r}"
            )
        flat = [int(v) for p in padding for v in p]
        if min(flat) < 0:
            raise InputError(f"{name}: padding must be at least 0, got {padding!r}")
        return flat
    return [v for v in _per_dimension(name, "padding", padding, dims, least=0) for _ in range(2)]


def _check_conv(name: str, dims: int, x: Tensor, w: Tensor, groups: int) -> None:
    if x.dim() != dims + 2 or w.dim() != dims + 2:
        raise InputError(
            f"{name} takes (N, C, ...) and (O, C/groups, ...) with {dims} dimensions at the end, "
            f"got {tuple(x.shape)} and {tuple(w.shape)}"
        )
    if groups < 1 or x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
        raise InputError(
            f"{name}: {x.shape[1]} input and {w.shape[0]} output channels do not fit "
            f"{groups} groups of {w.shape[1]} input channels"
        )
