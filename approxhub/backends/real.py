"""Quantising and dequantising in the native engine, bit for bit as their definitions in torch.

Both give None where the engine cannot do it (no engine, another device, numbers that might not fit
32 bits, a traced program, a forced backend): the caller then does it in torch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from approxhub.backends.native import NativeLibrary, chosen_isa, load_library
from approxhub.backends.routing import forced_backend
from approxhub.errors import BackendUnavailableError

__all__ = ["dequantize", "quantize"]

_SERIAL = 1 << 15  # numbers below which a second thread costs more than it brings
_INT32_MAX = 2**31 - 1


def _engine(t: Tensor) -> tuple[NativeLibrary, int] | None:
    # First of all: what the rest of it asks, a compiler need not be able to follow.
    if torch.compiler.is_compiling() or t.device.type != "cpu":
        return None
    if forced_backend() not in (None, "cpu") or _observed(t):
        return None
    try:
        library = load_library()
        return library, library.isas[chosen_isa(library)]
    except BackendUnavailableError:
        return None


def _observed(t: Tensor) -> bool:
    """Whether a tensor's memory is not all there is to it: a subclass, a wrapper, a tracer."""
    return (
        torch._C._is_tracing()
        or _get_current_dispatch_mode() is not None
        or type(t) not in (Tensor, torch.nn.Parameter)
        or torch._C._functorch.is_functorch_wrapped_tensor(t)
    )


def _threads(numbers: int) -> int:
    return torch.get_num_threads() if numbers >= _SERIAL else 1


def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    limits: tuple[int, int],
    axis: int | None,
    dtype: torch.dtype,
    with_real: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, bool] | None:
    """Codes of real numbers, in one pass.

    Parameters
    ----------
    x : Tensor of float32
    scale : Tensor of float32
        Of shape (), or (channels,) along `axis`.
    zero_point : Tensor of int32
        As `scale`.
    limits : (int, int)
        Smallest and largest code.
    axis : int or None
        Axis of the channels.
    dtype : torch.dtype
        Of the codes; int8 and uint8 only.
    with_real : bool
        Whether the real values of the codes, and which were not clamped, are wanted too.

    Returns
    -------
    codes : Tensor of `dtype`
    real : Tensor of float32 or None
    inside : Tensor of bool or None
    finite : bool
        Whether all of `x` was finite; the rest is worth nothing if not.
    """
    found = _engine(x)
    if found is None or x.dtype != torch.float32 or dtype not in (torch.int8, torch.uint8):
        return None
    x = x.resolve_neg()
    if axis is None:
        if not _dense(x):
            x = x.contiguous()
        shape = (1, 1, x.numel())
    else:
        x = x.contiguous()
        axis %= x.dim()
        shape = (
            x.shape[:axis].numel(),
            x.shape[axis],
            x.shape[axis + 1 :].numel(),
        )
    codes = torch.empty_like(x, dtype=dtype)
    real = torch.empty_like(x) if with_real else None
    inside = torch.empty_like(x, dtype=torch.bool) if with_real else None
    library, isa = found
    finite = library.quantize(
        isa, x, shape, scale.contiguous(), zero_point.to(torch.float32).contiguous(), limits,
        codes, real, inside, _threads(x.numel()),
    )  # fmt: skip
    return codes, real, inside, finite


def _dense(x: Tensor) -> bool:
    """Whether a tensor fills its memory, so that one laid out alike has the same order."""
    return (
        x.is_contiguous()
        or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
        or (x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d))
    )


def dequantize(
    acc: Tensor,
    bound: int,
    term: Tensor,
    zero: Tensor | None,
    sums: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    channel_dim: int,
) -> Tensor | None:
    """``float(acc + term - zero * sums) * scale + bias``, in one pass.

    Parameters
    ----------
    acc : Tensor of int32
    bound : int
        No integer on the way is larger than this.
    term : Tensor of int64, (channels,)
    zero : Tensor of int64 or None, () or (channels,)
        What `sums` is multiplied by.
    sums : Tensor of int64 or None
        Of the shape of `acc`, with groups in place of channels.
    scale : Tensor of float32, (channels,)
    bias : Tensor of float32 or None, (channels,)
    channel_dim : int
        Dimension of the channels in `acc`.

    Returns
    -------
    Tensor of float32
        Of the shape of `acc`.
    """
    found = _engine(acc)
    if found is None or acc.dtype != torch.int32 or bound > _INT32_MAX:
        return None
    acc = acc.contiguous()
    channels, groups = acc.shape[channel_dim], 1
    channel_dim %= acc.dim()
    shape = (
        acc.shape[:channel_dim].numel(),
        channels,
        acc.shape[channel_dim + 1 :].numel(),
    )
    if sums is not None:
        groups = sums.shape[channel_dim]
        sums = sums.to(torch.int32).contiguous()
    zeros = torch.zeros(channels, dtype=torch.int32, device="cpu")
    if zero is not None:
        zeros += zero
    # Adding -0.0 changes nothing, not even the sign of a zero.
    shift = torch.full((channels,), -0.0, dtype=torch.float32, device="cpu")
    if bias is not None:
        shift = bias.to(torch.float32).contiguous()
    out = torch.empty(acc.shape, dtype=torch.float32, device="cpu")
    library, isa = found
    library.dequantize(
        isa, acc, shape, term.to(torch.int32).contiguous(), zeros, sums, groups,
        scale.to(torch.float32).contiguous(), shift, out, _threads(acc.numel()),
    )  # fmt: skip
    return out
