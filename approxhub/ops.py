"""The operators ``approxhub::lut_gemm`` and ``lut_conv``, and the handles that name their tables.

Integer values in, integers out, not differentiable. A handle is a multiplier's content hash:
it means the same in every process, so exported programs and checkpoints can hold it.
"""

from __future__ import annotations

import functools
import operator
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, library

from approxhub.backends.protocol import Convolution, ConvRequest, GemmRequest
from approxhub.backends.routing import run_conv, run_gemm
from approxhub.errors import InputError, MissingTableError, OperandRangeError
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat
from approxhub.reading import capturing, observed, on_host

__all__ = [
    "accumulator_dtype",
    "code_dtype",
    "conv_shape",
    "lut_conv",
    "lut_gemm",
    "multiplier_of",
    "register",
]

_INT32_MAX = 2**31 - 1
_FROM_STORE_LIMIT = 8
_SHAPES = 1024  # of convolutions that are remembered
_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)

# All that are equal, for each may be the one that somebody still holds.
_live: dict[str, list[weakref.ref[Multiplier]]] = {}
_from_store: OrderedDict[str, Multiplier] = OrderedDict()
_lock = threading.Lock()

P = ParamSpec("P")
R = TypeVar("R")
_library = library.Library("approxhub", "FRAGMENT")  # type: ignore[no-untyped-call]


def as_operator(
    fake: Callable[..., R], tags: tuple[torch.Tag, ...] = (), integers: int = 0
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function an operator for every device, which compiled code calls and does not trace.

    Torch's own decorator for this does more, in a third of a small product's time: our operators
    have no gradient, and never give back what they took.

    Parameters
    ----------
    fake : callable
        Gives results of the right shapes and types, for the same arguments.
    tags : tuple of torch.Tag
        What a compiler has to know of it.
    integers : int
        The first arguments, if they are all of its tensors, and these are of integers. Where nobody
        watches them, nothing is dispatched, which would take as long as a small product.
    """

    def made(kernel: Callable[P, R]) -> Callable[P, R]:
        name = kernel.__name__
        schema = name + library.infer_schema(kernel, mutates_args=())
        _library.define(schema, tags=tags)  # type: ignore[no-untyped-call]
        opaque = _untraced(kernel)
        _library.impl(name, opaque, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
        library.register_fake(f"approxhub::{name}", fake, lib=_library)
        operator = getattr(torch.ops.approxhub, name).default

        @functools.wraps(kernel)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            seen = integers == 0 or _watched(args[:integers], integers)
            out: R = operator(*args, **kwargs) if seen else opaque(*args, **kwargs)
            return out

        return call

    return made


def _watched(operands: Sequence[Any], count: int) -> bool:
    """Whether an operator's call must be seen: by a compiler, a mode, a profiler, a wrapper."""
    return (
        torch.compiler.is_compiling()
        or len(operands) < count
        or torch._C._len_torch_function_stack() > 0
        or torch._C._autograd._profiler_enabled()
        or any(observed(t) or t.is_meta for t in operands)
    )


def _untraced(function: Callable[..., R]) -> Callable[..., R]:
    """``torch.compiler.disable``, but without the second that importing a compiler takes.

    While nobody has imported it, there is nothing that could trace.
    """
    untraced: list[Callable[..., R]] = []

    def call(*args: Any, **kwargs: Any) -> R:
        if untraced:
            return untraced[0](*args, **kwargs)
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        untraced.append(torch.compiler.disable(function))  # type: ignore[no-untyped-call]
        return untraced[0](*args, **kwargs)

    return call


def register(multiplier: Multiplier) -> str:
    """Make a multiplier known to the operator for as long as someone holds it.

    Returns
    -------
    str
        Its handle.
    """
    handle = multiplier.identity
    _ = multiplier.max_abs  # now: its first use takes a lock, which no compiler can trace
    with _lock:
        _note(handle, multiplier)
    return handle


def _note(handle: str, multiplier: Multiplier) -> None:
    if any(known() is multiplier for known in _live.get(handle, ())):
        return
    for other, known in list(_live.items()):
        known[:] = [r for r in known if r() is not None]
        if not known:
            del _live[other]
    _live.setdefault(handle, []).append(weakref.ref(multiplier))


def multiplier_of(handle: str) -> Multiplier:
    """The multiplier that a handle names.

    Raises
    ------
    MissingTableError
        If it is neither registered in this process nor in the cache.
    """
    with _lock:
        for known in _live.get(handle, ()):
            found = known()
            if found is not None:
                return found
    from approxhub.registry import find_by_identity

    stored = find_by_identity(handle)
    if stored is None:
        raise MissingTableError(
            f"no multiplier with the content hash {handle!r} is loaded or cached; load the one "
            "this program was made with first, and hold it: m = approxhub.load(id)"
        )
    with _lock:
        _note(handle, stored)
        _from_store[handle] = stored
        while len(_from_store) > _FROM_STORE_LIMIT:
            _from_store.popitem(last=False)
    return stored


def code_dtype(f: OperandFormat) -> torch.dtype:
    """The smallest torch dtype that holds every value of an operand format."""
    if f.signed:
        return torch.int8 if f.bits <= 8 else torch.int16
    return torch.uint8 if f.bits <= 8 else torch.int16 if f.bits < 16 else torch.int32


def accumulator_dtype(multiplier: Multiplier, k: int) -> torch.dtype:
    """``int32`` where ``k * max|T|`` proves that it holds every sum of `k` products, else int64."""
    return torch.int32 if k * multiplier.max_abs <= _INT32_MAX else torch.int64


def check_values(t: Tensor, f: OperandFormat, name: str) -> None:
    """Refuse a tensor that is not of integers inside an operand's range.

    While a CUDA graph is captured nothing can be read, and the range is taken on trust.

    Raises
    ------
    InputError, OperandRangeError
    """
    if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
        raise InputError(f"operand {name} must hold integers, got {t.dtype}; quantise it first")
    if t.dtype not in _INTEGERS:
        raise InputError(
            f"operand {name}: {t.dtype} is not one of int8, uint8, int16, int32 and int64; "
            "convert it with .to(torch.int64)"
        )
    info = torch.iinfo(t.dtype)
    if (info.min >= f.min and info.max <= f.max) or t.numel() == 0 or t.is_meta or capturing(t):
        return
    low, high = (int(v) for v in torch.aminmax(t))
    check_range(low, high, f, name)


def check_range(low: int, high: int, f: OperandFormat, name: str) -> None:
    """Refuse values of which the smallest or the largest is outside an operand's range.

    Raises
    ------
    OperandRangeError
    """
    if low < f.min or high > f.max:
        raise OperandRangeError(
            f"operand {name}: value {low if low < f.min else high} is outside {f.min}..{f.max} "
            f"({f}); operands are values, not bit patterns"
        )


def _check_shapes(a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    if b.dim() != 2 or a.dim() < 2 or a.shape[-1] != b.shape[0]:
        raise InputError(
            f"lut_gemm takes (..., M, K) x (K, N), got {tuple(a.shape)} x {tuple(b.shape)}"
        )
    _check_operands("lut_gemm", a, b, dtype)


def _check_operands(name: str, a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    if a.device != b.device:
        raise InputError(f"{name}: operands are on {a.device} and {b.device}; move one")
    if dtype not in (torch.int32, torch.int64):
        raise InputError(f"{name}: the result is int32 or int64, not {dtype}")


def _fake_gemm(
    a: Tensor, b: Tensor, handle: str, dtype: torch.dtype, trusted: bool = False
) -> Tensor:
    _check_shapes(a, b, dtype)
    return a.new_empty((*a.shape[:-1], b.shape[1]), dtype=dtype)


@as_operator(_fake_gemm, integers=2)
def lut_gemm(
    a: Tensor, b: Tensor, handle: str, dtype: torch.dtype, trusted: bool = False
) -> Tensor:
    """Integer matrix product through a multiplier.

    Parameters
    ----------
    a : Tensor of integers, (..., M, K)
        Values of the activation operand.
    b : Tensor of integers, (K, N)
        Values of the weight operand, on the same device.
    handle : str
        What :func:`register` returned.
    dtype : torch.dtype
        ``torch.int32`` or ``torch.int64``; see :func:`accumulator_dtype`.
    trusted : bool
        Whether the values are known to be inside their operands' ranges. Otherwise they are looked
        at, where their type does not tell, which waits for a device.

    Returns
    -------
    Tensor of `dtype`, (..., M, N)
        ``out[..., m, n] = sum_k T[a[..., m, k], b[k, n]]``, exactly.

    Raises
    ------
    InputError
        If shapes, devices or dtypes do not fit, or int32 could overflow.
    OperandRangeError
        If a value is outside its operand's range.
    MissingTableError
        If the handle names no multiplier that this process can find.
    """
    _check_shapes(a, b, dtype)
    k, n = b.shape
    multiplier = _checked("lut_gemm", a, b, handle, k, dtype, trusted)
    m = a.shape[:-1].numel()
    if m == 0 or n == 0 or k == 0:
        return a.new_zeros((*a.shape[:-1], n), dtype=dtype)
    return run_gemm(GemmRequest(multiplier, m, k, n, a.device, dtype), a, b)


def _checked(
    name: str, a: Tensor, b: Tensor, handle: str, k: int, dtype: torch.dtype, trusted: bool
) -> Multiplier:
    """The multiplier of a handle, if it can do this."""
    multiplier = multiplier_of(handle)
    if not trusted:
        check_values(a, multiplier.a, "a")
        check_values(b, multiplier.b, "b")
    if dtype == torch.int32 and accumulator_dtype(multiplier, k) != torch.int32:
        raise InputError(
            f"{name}: {k} products of up to {multiplier.max_abs} do not fit int32; "
            "ask for torch.int64"
        )
    return multiplier


def conv_shape(x: Sequence[int], w: Sequence[int], c: Convolution) -> tuple[int, ...]:
    """Shape of a convolution's result, if the shapes of its operands fit."""
    dims = len(x) - 2
    if not 1 <= dims <= 3 or len(w) != len(x):
        raise InputError(
            "lut_conv takes (N, C, ...) and (O, C/groups, ...) with one to three dimensions at "
            f"the end, got {tuple(x)} and {tuple(w)}"
        )
    if any(len(v) != dims for v in (c.stride, c.padding, c.dilation)):
        raise InputError(
            f"lut_conv: an image of {dims} dimensions takes as many strides and dilations, and "
            f"twice as many paddings; got {c.stride}, {c.dilation} and {c.padding}"
        )
    if min(*c.stride, *c.dilation) < 1 or min(min(p) for p in c.padding) < 0:
        raise InputError(
            f"lut_conv: stride {c.stride} and dilation {c.dilation} must be at least 1, padding "
            f"{c.padding} at least 0"
        )
    if c.groups < 1 or x[1] != w[1] * c.groups or w[0] % c.groups:
        raise InputError(
            f"lut_conv: {x[1]} input and {w[0]} output channels do not fit "
            f"{c.groups} groups of {w[1]} input channels"
        )
    size = c.output_size(tuple(x[2:]), tuple(w[2:]))
    if 0 in w[2:]:
        raise InputError(f"lut_conv: the kernel has no taps: {tuple(w)}")
    if min(size) < 1:
        spans = tuple(d * (k - 1) + 1 for d, k in zip(c.dilation, w[2:], strict=True))
        padded = tuple(n + sum(p) for n, p in zip(x[2:], c.padding, strict=True))
        raise InputError(f"lut_conv: the kernel spans {spans}, more than the padded input {padded}")
    return (x[0], w[0], *size)


def _convolution(
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int = 0,
) -> Convolution:
    if len(padding) % 2:
        raise InputError(f"lut_conv: padding is pairs of before and behind, got {list(padding)}")
    pairs = tuple(zip(padding[::2], padding[1::2], strict=True))
    return Convolution(tuple(stride), pairs, tuple(dilation), groups, pad_value)


@functools.lru_cache(_SHAPES)
def _planned(
    x: tuple[int, ...],
    w: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    pad_value: int,
) -> tuple[Convolution, tuple[int, ...]]:
    """A convolution and the shape of its result: a layer asks for the same ones every time."""
    c = _convolution(stride, padding, dilation, groups, pad_value)
    return c, conv_shape(x, w, c)


def _fake_conv(
    x: Tensor, w: Tensor, pad: Tensor, handle: str, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int, dtype: torch.dtype, trusted: bool = False,
) -> Tensor:  # fmt: skip
    _check_operands("lut_conv", x, w, dtype)
    c = _convolution(stride, padding, dilation, groups)
    return x.new_empty(conv_shape(x.shape, w.shape, c), dtype=dtype)


@as_operator(_fake_conv, integers=3)
def lut_conv(
    x: Tensor,
    w: Tensor,
    pad: Tensor,
    handle: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    dtype: torch.dtype,
    trusted: bool = False,
) -> Tensor:
    """Integer convolution through a multiplier, over one to three dimensions.

    Parameters
    ----------
    x : Tensor of integers, (N, C, ...)
        Values of the activation operand.
    w : Tensor of integers, (O, C / groups, ...)
        Values of the weight operand, on the same device.
    pad : Tensor of one integer
        The value that padding has; its products count like any others. A tensor, for it is
        often the zero point of a quantiser. Where it is `trusted` it is not read from a device.
    handle : str
        What :func:`register` returned.
    stride, dilation : sequence of int
        One for each dimension of the image.
    padding : sequence of int
        Before and behind the image, for each of its dimensions.
    groups : int
        Groups of channels.
    dtype : torch.dtype
        ``torch.int32`` or ``torch.int64``; see :func:`accumulator_dtype`.
    trusted : bool
        As in :func:`lut_gemm`; of the padding, too.

    Returns
    -------
    Tensor of `dtype`, (N, O, ...)

    Raises
    ------
    InputError, OperandRangeError, MissingTableError
        As :func:`lut_gemm`.
    """
    _check_operands("lut_conv", x, w, dtype)
    if pad.numel() != 1:
        raise InputError(f"lut_conv: the padding has one value, got {tuple(pad.shape)}")
    unread = pad if any(padding) and not on_host(pad) else None
    value = int(pad) if any(padding) and unread is None else 0
    # As the schema of the operator has them: what is remembered does not tell 2 from 2.0.
    stride, padding, dilation = (
        tuple(map(operator.index, numbers)) for numbers in (stride, padding, dilation)
    )
    c, shape = _planned(
        tuple(x.shape), tuple(w.shape), stride, padding, dilation, operator.index(groups), value
    )
    multiplier = _checked("lut_conv", x, w, handle, w.shape[1:].numel(), dtype, trusted)
    if not trusted:
        check_values(pad, multiplier.a, "a (padding)")
    if 0 in shape or w.shape[1] == 0:
        return x.new_zeros(shape, dtype=dtype)
    request = ConvRequest(multiplier, tuple(x.shape), tuple(w.shape), c, x.device, dtype)
    return run_conv(request, x, w, unread)
