"""What a backend is: the one interface between the operators and whatever runs them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from approxhub.multiplier import Multiplier

__all__ = [
    "Backend",
    "ConvRequest",
    "Convolution",
    "GemmRequest",
    "GradientTables",
    "RealNumbers",
]


@dataclass(frozen=True, slots=True)
class GemmRequest:
    """One product that the core wants done: ``(m, k) x (k, n)`` through a multiplier.

    Parameters
    ----------
    multiplier : Multiplier
        Gives operand formats, table or circuit, and ``max_abs``.
    m, k, n : int
        Sizes; leading dimensions of the left operand are folded into `m`.
    device : torch.device
        Where both operands are.
    dtype : torch.dtype
        Type of the result: ``torch.int32`` (then ``k * max_abs`` is proven to fit) or
        ``torch.int64``.
    """

    multiplier: Multiplier
    m: int
    k: int
    n: int
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Convolution:
    """How a kernel moves over an image of one to three dimensions.

    Parameters
    ----------
    stride, dilation : tuple of int
        One for each dimension of the image.
    padding : tuple of (int, int)
        Before and behind the image, for each of its dimensions.
    groups : int
        Groups of channels.
    pad_value : int
        Value of the activation operand that the padding has; its products count.
    pad : Tensor of one integer, optional
        That value where only the device knows it; then `pad_value` says nothing. Only a backend
        with ``reads_pad = True`` is given one.
    """

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1
    pad_value: int = 0
    pad: Tensor | None = field(default=None, compare=False, repr=False)

    def output_size(self, size: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
        """Size of the result; below 1 where the kernel spans more than the padded image."""
        return tuple(
            (n + sum(p) - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                size, kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )


@dataclass(frozen=True, slots=True)
class ConvRequest:
    """One convolution that the core wants done.

    Parameters
    ----------
    multiplier, device, dtype
        As in :class:`GemmRequest`.
    x_shape : tuple of int
        ``(N, C, ...)``, one to three dimensions of the image at the end.
    w_shape : tuple of int
        ``(O, C / groups, ...)``.
    convolution : Convolution
        Stride, padding, dilation and groups.
    """

    multiplier: Multiplier
    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    convolution: Convolution
    device: torch.device
    dtype: torch.dtype

    @property
    def output_shape(self) -> tuple[int, ...]:
        """``(N, O, ...)``."""
        size = self.convolution.output_size(self.x_shape[2:], self.w_shape[2:])
        return (self.x_shape[0], self.w_shape[0], *size)

    @property
    def gemm(self) -> GemmRequest:
        """The matrix product of one group: a row for each output position, a column a channel."""
        n, o, *size = self.output_shape
        return GemmRequest(
            self.multiplier,
            n * math.prod(size),
            math.prod(self.w_shape[1:]),
            o // self.convolution.groups,
            self.device,
            self.dtype,
        )


@runtime_checkable
class Backend(Protocol):
    """Runs integer matrix products through a multiplier, bit for bit.

    The core guarantees: operands are tensors of int8, uint8, int16, int32 or int64 with any
    strides, of values inside the operand formats, on one device; the right one has two
    dimensions; no size is zero; `dtype` holds every possible sum; `gemm` gets only what this
    backend's `prepare` returned for that multiplier and device; requests come from any thread.
    The core asks: ``out[..., m, n] = sum_k T[a[..., m, k], b[k, n]]`` exactly, the operands
    unchanged, nothing kept that a later change of an operand could make wrong, errors raised and
    never swallowed. `supports` and `cost` are asked once for equal requests on as many threads, and
    again when plug-ins change. Every backend passes :class:`approxhub.testing.BackendConformance`.

    A backend may also have ``conv(x, w, prepared, dtype, convolution) -> Tensor``. Then
    `supports` and `cost` are asked about :class:`ConvRequest` too. Without it, or where it does
    not support one, the core cuts patches and calls `gemm` for each group. With
    ``reads_pad = True`` it says that `conv` takes the padding's value from the device, as
    :attr:`Convolution.pad`; otherwise the image is padded before, where only the device knows it.

    It may have ``explain(request, prepared) -> str``, which says how it would do a request, and
    why. With ``ways() -> dict[str, Backend]`` it gives itself bound to one of its ways, for
    benchmarks. And it may be :class:`RealNumbers`, and quantise and dequantise in one pass.
    """

    def unavailable_reason(self) -> str | None:
        """Why this backend cannot run here, or None if it can."""

    def supports(self, request: GemmRequest) -> bool:
        """Whether `gemm` can do this request."""

    def cost(self, request: GemmRequest) -> float:
        """Estimated seconds; the cheapest backend that supports a request is taken."""

    def prepare(
        self, multiplier: Multiplier, device: torch.device, weight_codes: Tensor | None = None
    ) -> Any:
        """Whatever `gemm` needs of a multiplier; kept once per process and device.

        `weight_codes` is a hint: a right operand known to stay constant. It may be ignored.
        """

    def gemm(self, a: Tensor, b: Tensor, prepared: Any, dtype: torch.dtype) -> Tensor:
        """Sum of products: ``(..., M, K) x (K, N) -> (..., M, N)`` of `dtype`."""


@runtime_checkable
class RealNumbers(Protocol):
    """What a backend may do besides: the way into the integers and out of them.

    All tensors are dense and in the same order, seen as ``(outer, channels, inner)`` by `shape`;
    what there is one of for each channel has `channels` elements. Results are written into tensors
    that the core has made. The core asks: the bits that the definitions in torch have, one rounding
    an operation; and nothing waits for the device.
    """

    def quantize(
        self,
        x: Tensor,
        shape: tuple[int, int, int],
        scale: Tensor,
        zero: Tensor,
        limits: tuple[int, int],
        codes: Tensor,
        real: Tensor | None,
        inside: Tensor | None,
    ) -> bool | Tensor:
        """``codes = clamp(round_half_even(x / scale) + zero)``; whether all of `x` was finite.

        `x`, `scale` and `real` are float32, `zero` int32, `codes` int8, uint8, int16 or int32,
        `inside` bool. Where wanted, ``real = (codes - zero) * scale``, and `inside` is whether a
        number was not clamped. On a device the answer stays there, as a tensor of one bool; where
        it is false, codes are any that are within the limits.
        """

    def dequantize(
        self,
        acc: Tensor,
        shape: tuple[int, int, int],
        term: Tensor,
        zero: Tensor | None,
        sums: Tensor | None,
        groups: int,
        scale: Tensor,
        bias: Tensor | None,
        out: Tensor,
    ) -> None:
        """``out = float(acc + term - zero * sums) * scale + bias``.

        `acc` is int32 or int64; `term`, `zero` and `sums` are int64; `sums` has `groups` in place
        of `channels`, and needs `zero`. The others are float32.
        """


@runtime_checkable
class GradientTables(Protocol):
    """What a backend may do besides: the parts of a gradient table's sums that are not products.

    Tensors are dense as those of :class:`RealNumbers`. `x` has numbers on the grid of a quantiser;
    ``p = (round(x / scale) + zero) & mask`` are the bits of their codes. `table` has up to four
    rows of ``mask + 1`` entries. The core asks: the bits of torch, one rounding an operation; and
    nothing waits for the device.
    """

    def recode(
        self,
        x: Tensor,
        shape: tuple[int, int, int],
        scale: Tensor,
        zero: Tensor,
        mask: int,
        table: Tensor,
        whole: bool,
        out: Tensor,
    ) -> None:
        """``out[t] = scale * table[t, p]``; with `whole`, `x` is added to ``out[0]``."""

    def combine(
        self,
        total: Tensor,
        x: Tensor,
        shape: tuple[int, int, int],
        scale: Tensor,
        zero: Tensor,
        mask: int,
        table: Tensor,
        products: Sequence[Tensor],
    ) -> None:
        """``total += table[t, p] * products[t]`` for each `t`, in order."""
