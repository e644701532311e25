"""The backend: products from the table, sums as the array makes them.

Imports torch and ApproxHub's records of requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from approxhub.backends import GemmRequest
from approxhub.multiplier import Multiplier
from approxhub_systolic.array import SystolicArray, setting

MOST_PRODUCTS = 1 << 24
BLOCK = 1 << 20  # products looked up at a time


@dataclass(frozen=True)
class Prepared:
    """What gemm needs of a multiplier."""

    table: Tensor
    a_mask: int
    b_mask: int
    max_abs: int
    power_mw: float | None


class SystolicBackend:
    """Runs products as the systolic array in use does."""

    def unavailable_reason(self) -> str | None:
        """Return None: it runs wherever torch does."""
        return None

    def supports(self, request: GemmRequest) -> bool:
        """Where there is a table, and where sums fit or overflow was asked for."""
        use, m = setting(), request.multiplier
        if not m.has_table or request.m * request.k * request.n > MOST_PRODUCTS:
            return False
        return use.overflow != "refuse" or use.array.holds(request.k, m.max_abs)

    def cost(self, request: GemmRequest) -> float:
        """Estimate the seconds; slower than a real backend, as a simulator is."""
        return 1e-2 + 1e-6 * request.m * request.k * request.n

    def prepare(
        self, multiplier: Multiplier, device: torch.device, weight_codes: Tensor | None = None
    ) -> Prepared:
        """Put the table on the device."""
        return Prepared(
            torch.tensor(multiplier.table, dtype=torch.int64, device=device).reshape(-1),
            multiplier.a.size - 1,
            multiplier.b.size - 1,
            multiplier.max_abs,
            multiplier.hardware.power_mw,
        )

    def gemm(self, a: Tensor, b: Tensor, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        """Sum of products ``(..., M, K) x (K, N) -> (..., M, N)``, as the array makes it."""
        use, (k, n) = setting(), b.shape
        rows = a.reshape(-1, k).long() & prepared.a_mask
        columns = b.long() & prepared.b_mask
        exact = use.array.holds(k, prepared.max_abs)
        out = torch.empty((rows.shape[0], n), dtype=torch.int64, device=a.device)
        step = max(1, BLOCK // (k * n))
        for i in range(0, rows.shape[0], step):
            index = rows[i : i + step].unsqueeze(-1) * (prepared.b_mask + 1) + columns
            products = prepared.table[index]  # (step, K, N)
            if exact:
                out[i : i + step] = products.sum(1)
            else:
                out[i : i + step] = accumulate(products, use.array, use.overflow)
        if use.count is not None:
            use.count.add(use.array, rows.shape[0], k, n, prepared.power_mw)
        return out.to(dtype).reshape(*a.shape[:-1], n)


def accumulate(products: Tensor, array: SystolicArray, overflow: str) -> Tensor:
    """Sum products (M, K, N) over K in the order and the width of the array, all int64.

    Down the rows of a tile, one product a cell; then the tile's sum into the accumulator.
    """
    low, high = -array.largest - 1, array.largest

    def limited(total: Tensor) -> Tensor:
        if overflow == "saturate":
            return total.clamp(low, high)
        return ((total - low) & ((1 << array.accumulator_bits) - 1)) + low

    accumulator = torch.zeros_like(products[:, 0])
    for start in range(0, products.shape[1], array.rows):
        partial = torch.zeros_like(accumulator)
        for product in products[:, start : start + array.rows].unbind(1):
            partial = limited(partial + product)
        accumulator = limited(accumulator + partial)
    return accumulator
