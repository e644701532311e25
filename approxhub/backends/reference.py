"""The reference: plain torch, any width and sign, any device, memory bounded by blocking.

This is the slow, obvious version that every other backend is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from approxhub.backends.protocol import GemmRequest
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["ReferenceBackend"]

# Products in memory at once. On a CPU a block that stays in its cache is the fastest.
_BLOCK = {"cpu": 1 << 18}
_BLOCK_ELSEWHERE = 1 << 24
_FLOAT64_EXACT = 1 << 53


@dataclass(frozen=True, slots=True)
class _Prepared:
    a: OperandFormat
    b: OperandFormat
    max_abs: int
    multiplier: Multiplier
    table: Tensor | None  # flat; None for an exact multiplier and for one without a table


class ReferenceBackend:
    """Sums of products looked up in the table, a block at a time.

    An exact multiplier is a matrix product in float64 where ``k * max_abs < 2**53`` proves that
    exact, whatever the order of the sums. A multiplier without a table is evaluated by its
    circuit, on the CPU.
    """

    def unavailable_reason(self) -> str | None:
        """Return None: it runs wherever torch does."""
        return None

    def supports(self, request: GemmRequest) -> bool:
        """Everything."""
        return True

    def cost(self, request: GemmRequest) -> float:
        """Estimated seconds, pessimistic so that a real backend wins."""
        return 1e-4 + request.m * request.k * request.n * 1e-8

    def prepare(
        self, multiplier: Multiplier, device: torch.device, weight_codes: Tensor | None = None
    ) -> _Prepared:
        """Put the table on the device; the weights do not matter here."""
        table = None
        if multiplier.has_table and not multiplier.is_exact:
            table = torch.tensor(multiplier.table, device=device).reshape(-1)
        return _Prepared(multiplier.a, multiplier.b, multiplier.max_abs, multiplier, table)

    def gemm(self, a: Tensor, b: Tensor, prepared: _Prepared, dtype: torch.dtype) -> Tensor:
        """Sum of products: ``(..., M, K) x (K, N) -> (..., M, N)``."""
        k, n = b.shape
        out_shape = (*a.shape[:-1], n)
        a = a.reshape(-1, k)
        if prepared.multiplier.is_exact and k * prepared.max_abs < _FLOAT64_EXACT:
            exact = a.to(torch.float64) @ b.to(torch.float64)
            return exact.to(dtype).reshape(out_shape)
        out = torch.empty((a.shape[0], n), dtype=dtype, device=a.device)
        if prepared.table is not None:
            # Two's-complement patterns index the table: T[a, b], activation first.
            # At most 24 bits together, so int32 holds an index, and is read twice as fast.
            a = (a.to(torch.int32) & (prepared.a.size - 1)) << prepared.b.bits
            b = b.to(torch.int32) & (prepared.b.size - 1)
        block = _BLOCK.get(a.device.type, _BLOCK_ELSEWHERE)
        columns = max(1, min(n, block // max(1, k)))
        rows = max(1, block // max(1, k * columns))
        for j in range(0, n, columns):
            right = b[:, j : j + columns].t().unsqueeze(0)
            for i in range(0, a.shape[0], rows):
                left = a[i : i + rows].unsqueeze(1)
                if prepared.table is not None:
                    index = left | right
                    products = prepared.table.index_select(0, index.reshape(-1)).view_as(index)
                else:
                    products = _evaluate(prepared.multiplier, left, right)
                out[i : i + rows, j : j + columns] = products.sum(-1, dtype=dtype)
        return out.reshape(out_shape)


def _evaluate(multiplier: Multiplier, left: Tensor, right: Tensor) -> Tensor:
    x, w = (t.cpu().numpy().astype(np.int64) for t in (left, right))
    return torch.from_numpy(np.ascontiguousarray(multiplier.evaluate(x, w))).to(left.device)
