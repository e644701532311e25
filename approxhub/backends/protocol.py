"""What a backend is: the one interface between the operator and whatever runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from approxhub.multiplier import Multiplier

__all__ = ["Backend", "GemmRequest"]


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


@runtime_checkable
class Backend(Protocol):
    """Runs integer matrix products through a multiplier, bit for bit.

    The core guarantees: operands are tensors of int8, uint8, int16, int32 or int64 with any
    strides, of values inside the operand formats, on one device; the right one has two
    dimensions; no size is zero; `dtype` holds every possible sum; `gemm` gets only what this
    backend's `prepare` returned for that multiplier and device; requests come from any thread.
    The core asks: ``out[..., m, n] = sum_k T[a[..., m, k], b[k, n]]`` exactly, the operands
    unchanged, nothing kept of them, errors raised and never swallowed. Every backend passes
    :class:`approxhub.testing.BackendConformance`.
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
