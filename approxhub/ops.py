"""The one operator, ``approxhub::lut_gemm``, and the handles that name its tables.

Integer values in, integers out, not differentiable. A handle is a multiplier's content hash:
it means the same in every process, so exported programs and checkpoints can hold it.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict

import torch
from torch import Tensor

from approxhub.backends.protocol import GemmRequest
from approxhub.backends.routing import choose, prepared_for
from approxhub.errors import InputError, MissingTableError, OperandRangeError, PluginError
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat
from approxhub.plugins.guard import guarded

__all__ = ["accumulator_dtype", "code_dtype", "lut_gemm", "multiplier_of", "register"]

_INT32_MAX = 2**31 - 1
_FROM_STORE_LIMIT = 8
_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)

# All that are equal, for each may be the one that somebody still holds.
_live: dict[str, list[weakref.ref[Multiplier]]] = {}
_from_store: OrderedDict[str, Multiplier] = OrderedDict()
_lock = threading.Lock()


def register(multiplier: Multiplier) -> str:
    """Make a multiplier known to the operator for as long as someone holds it.

    Returns
    -------
    str
        Its handle.
    """
    handle = multiplier.identity
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
            "this program was made with first: approxhub.load(id)"
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
    if (info.min >= f.min and info.max <= f.max) or t.numel() == 0 or t.device.type == "meta":
        return
    low, high = (int(v) for v in torch.aminmax(t))
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
    if a.device != b.device:
        raise InputError(f"lut_gemm: operands are on {a.device} and {b.device}; move one")
    if dtype not in (torch.int32, torch.int64):
        raise InputError(f"lut_gemm: the result is int32 or int64, not {dtype}")


@torch.library.custom_op("approxhub::lut_gemm", mutates_args=())
def lut_gemm(a: Tensor, b: Tensor, handle: str, dtype: torch.dtype) -> Tensor:
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
    multiplier = multiplier_of(handle)
    check_values(a, multiplier.a, "a")
    check_values(b, multiplier.b, "b")
    k, n = b.shape
    if dtype == torch.int32 and accumulator_dtype(multiplier, k) != torch.int32:
        raise InputError(
            f"lut_gemm: {k} products of up to {multiplier.max_abs} do not fit int32; "
            "ask for torch.int64"
        )
    m = a.shape[:-1].numel()
    if m == 0 or n == 0 or k == 0:
        return a.new_zeros((*a.shape[:-1], n), dtype=dtype)
    request = GemmRequest(multiplier, m, k, n, a.device, dtype)
    name, backend = choose(request)
    with guarded(f"backend {name!r}", "leave it out with APPROXHUB_BACKEND=reference"):
        out = backend.gemm(a, b, prepared_for(name, backend, multiplier, a.device), dtype)
    shape = (*a.shape[:-1], n)
    if not isinstance(out, Tensor):
        raise PluginError(f"backend {name!r} returned {type(out).__name__}, not a tensor")
    if tuple(out.shape) != shape or out.dtype != dtype or out.device != a.device:
        raise PluginError(
            f"backend {name!r} returned {out.dtype} of shape {tuple(out.shape)} on {out.device}, "
            f"not {dtype} of shape {shape} on {a.device}"
        )
    return out.contiguous()  # as the fake kernel promises to compiled code


@lut_gemm.register_fake
def _(a: Tensor, b: Tensor, handle: str, dtype: torch.dtype) -> Tensor:
    _check_shapes(a, b, dtype)
    return a.new_empty((*a.shape[:-1], b.shape[1]), dtype=dtype)
