"""Quantising and dequantising in one pass, bit for bit as their definitions in torch.

On a CPU the native engine does it, elsewhere the first backend that can, as
:class:`approxhub.backends.RealNumbers`. These two functions give None where there is none, or it
cannot (numbers that might not fit 32 bits, a traced program, a forced backend): the caller then
does it in torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from approxhub.backends.native import NativeLibrary, chosen_isa, load_library
from approxhub.backends.protocol import GradientTables, RealNumbers
from approxhub.backends.routing import forced_backend, real_numbers
from approxhub.errors import BackendUnavailableError
from approxhub.reading import observed

__all__ = ["TERMS", "dequantize", "laid", "quantize", "recoder", "summed"]

TERMS = 4  # that :class:`approxhub.backends.GradientTables` takes at a time

_SERIAL = 1 << 15  # numbers below which a second thread costs more than it brings
_INT32_MAX = 2**31 - 1
# Types of codes, elsewhere and in the native engine.
_CODES = ((torch.int8, torch.uint8, torch.int16, torch.int32), (torch.int8, torch.uint8))


class _Native:
    """The native engine, for what fits 32 bits."""

    __slots__ = ("_isa", "_library")

    def __init__(self, library: NativeLibrary, isa: int) -> None:
        self._library, self._isa = library, isa

    def quantize(
        self, x: Tensor, shape: tuple[int, int, int], scale: Tensor, zero: Tensor,
        limits: tuple[int, int], codes: Tensor, real: Tensor | None, inside: Tensor | None,
    ) -> bool:  # fmt: skip
        """As :meth:`RealNumbers.quantize`."""
        return self._library.quantize(
            self._isa, x, shape, scale, zero, limits, codes, real, inside, _threads(x.numel()),
        )  # fmt: skip

    def sum(self, codes: Tensor, shape: tuple[int, int, int], sums: Tensor) -> None:
        """Codes of 8 bits, summed over the middle of a shape."""
        self._library.sum(self._isa, codes, shape, sums, _threads(codes.numel()))

    def dequantize(
        self, acc: Tensor, shape: tuple[int, int, int], term: Tensor | None, zero: Tensor | None,
        sums: Tensor | None, groups: int, scale: Tensor, bias: Tensor | None, out: Tensor,
    ) -> None:  # fmt: skip
        """As :meth:`RealNumbers.dequantize`, of 32 bits; `term` may be left out."""
        self._library.dequantize(
            self._isa, acc, shape, term, zero, sums, groups, scale, bias, out,
            _threads(acc.numel()),
        )  # fmt: skip


def _engine(t: Tensor) -> RealNumbers | None:
    # First of all: what the rest of it asks, a compiler need not be able to follow.
    if torch.compiler.is_compiling() or t.is_meta or observed(t):
        return None
    if t.device.type != "cpu" or forced_backend() not in (None, "cpu"):
        return real_numbers(t.device.type)
    try:
        library = load_library()
        return _Native(library, library.isas[chosen_isa(library)])
    except BackendUnavailableError:
        return None


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
) -> tuple[Tensor, Tensor | None, Tensor | None, bool | Tensor] | None:
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
        Of the codes; on a CPU int8 and uint8 only.
    with_real : bool
        Whether the real values of the codes, and which were not clamped, are wanted too.

    Returns
    -------
    codes : Tensor of `dtype`
    real : Tensor of float32 or None
    inside : Tensor of bool or None
    finite : bool or Tensor of one bool
        Whether all of `x` was finite; the rest is worth nothing if not. From a device it comes as a
        tensor, which nobody has waited for.
    """
    engine = _engine(x)
    if engine is None or x.dtype != torch.float32 or dtype not in _CODES[type(engine) is _Native]:
        return None
    x = x.resolve_neg()
    if axis is None and _dense(x):
        shape = (1, 1, x.numel())
    else:
        x = x.contiguous()
        shape = laid(x, axis)
    codes = torch.empty_like(x, dtype=dtype)
    real = torch.empty_like(x) if with_real else None
    inside = torch.empty_like(x, dtype=torch.bool) if with_real else None
    finite = engine.quantize(
        x, shape, scale.contiguous(), zero_point.contiguous(), limits, codes, real, inside
    )
    return codes, real, inside, finite


def laid(x: Tensor, axis: int | None) -> tuple[int, int, int]:
    """Numbers before, along and behind an axis of a contiguous tensor; one channel without."""
    if axis is None:
        return 1, 1, x.numel()
    axis %= x.dim()
    return x.shape[:axis].numel(), x.shape[axis], x.shape[axis + 1 :].numel()


def summed(codes: Tensor, dim: int) -> Tensor:
    """Sums of integers over a dimension, in int64.

    Torch makes integers of 64 bits of all codes first, which takes longer than most products.
    """
    engine = _engine(codes) if codes.dtype in _CODES[True] else None
    if not isinstance(engine, _Native):
        return codes.sum(dim, dtype=torch.int64)
    codes = codes.resolve_neg().contiguous()
    shape = laid(codes, dim)
    rest = list(codes.shape)
    del rest[dim]
    sums = torch.empty(rest, dtype=torch.int64, device="cpu")
    engine.sum(codes, shape, sums)
    return sums


def recoder(x: Tensor) -> GradientTables | None:
    """What sums up gradient tables for real numbers in few passes, where something does."""
    # What is differentiated again has to stay in torch.
    engine = None if torch.is_grad_enabled() or x.dtype != torch.float32 else _engine(x)
    return engine if isinstance(engine, GradientTables) else None


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
    term: Tensor | None,
    zero: Tensor | None,
    sums: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    channel_dim: int,
) -> Tensor | None:
    """``float(acc + term - zero * sums) * scale + bias``, in one pass.

    Parameters
    ----------
    acc : Tensor of int32; on a device also of int64
    bound : int
        No integer on the way is larger than this.
    term : Tensor of int64 or None, (channels,)
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
    engine = _engine(acc)
    if engine is None or (
        type(engine) is _Native and (acc.dtype != torch.int32 or bound > _INT32_MAX)
    ):
        return None
    acc = acc.contiguous()
    channels, groups = acc.shape[channel_dim], 1
    shape = laid(acc, channel_dim)
    if sums is None or zero is None:
        sums = zero = None
    else:
        groups = sums.shape[channel_dim]
        sums = sums.contiguous()
        zero = zero.expand(channels).contiguous()
    scale = scale.to(torch.float32).contiguous()
    if bias is not None:
        bias = bias.to(torch.float32).contiguous()
    if term is not None:
        term = term.contiguous()
    out = torch.empty(acc.shape, dtype=torch.float32, device=acc.device)
    if isinstance(engine, _Native):
        engine.dequantize(acc, shape, term, zero, sums, groups, scale, bias, out)
    else:
        if term is None:
            term = torch.zeros(channels, dtype=torch.int64, device=acc.device)
        engine.dequantize(acc, shape, term, zero, sums, groups, scale, bias, out)
    return out
