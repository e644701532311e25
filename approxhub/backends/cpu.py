"""The CPU engine as a backend: operands of up to 8 bits, any table, bit for bit."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from approxhub.backends.native import NativeLibrary, load_library
from approxhub.backends.planner import WAYS, Plan, Rates, lookup_shape, plan
from approxhub.backends.protocol import GemmRequest
from approxhub.errors import BackendUnavailableError
from approxhub.factorization import Factorization, FactorizationError, factorize_cached
from approxhub.factorization.digits import nonzero_planes
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["CpuBackend", "CpuTables"]

RATES = {
    "scalar": Rates(lookup=0.9e9, product=4.2e9, pack=0.5e9),
    "avx2": Rates(lookup=1.8e9, product=26e9, pack=0.5e9),
    "avx512": Rates(lookup=14e9, product=85e9, pack=2e9),
}
_SERIAL = 1 << 17  # products below which a second thread costs more than it brings
_MAX_COST = 16  # int8 products for one product, beyond which the lookup is always quicker


@dataclass(frozen=True, slots=True)
class CpuTables:
    """What the engine keeps of a multiplier.

    `by_weight` and `by_activation` are the table, less `bias`, as rows of low and of high bytes
    for one code of that operand; `factors` its factored form, None where that does not pay.
    """

    multiplier: Multiplier
    by_weight: npt.NDArray[np.uint8]
    by_activation: npt.NDArray[np.uint8]
    bias: int
    factors: tuple[npt.NDArray[np.generic], ...] | None


def _bytes_of(t: Tensor) -> Tensor:
    """The low byte of every value, contiguous."""
    if t.dtype == torch.int8:
        t = t.view(torch.uint8)
    return t.to(torch.uint8).contiguous()


def _by_byte(values: npt.NDArray[np.generic], f: OperandFormat) -> npt.NDArray[np.generic]:
    """A table over bit patterns as one over the low bytes of values: 256 entries."""
    out = np.zeros((256, *values.shape[1:]), dtype=values.dtype)
    out[f.values() & 255] = values
    return out


class CpuBackend:
    """Matrix products in the native engine.

    Three ways, chosen for each table and shape: a plain integer product (exact multipliers); an
    integer product over recoded operands (tables whose error has a low rank; see
    :mod:`approxhub.factorization`); and table rows held in registers (all others).
    ``APPROXHUB_CPU_ISA`` and ``APPROXHUB_CPU_WAY`` force an instruction set and a way.

    Parameters
    ----------
    isa : str, optional
        ``'scalar'``, ``'avx2'`` or ``'avx512'``; the best that this machine has when not given.
    way : str, optional
        ``'factored'`` or ``'lookup'``: take this one whenever it can be done.
    """

    def __init__(self, isa: str | None = None, way: str | None = None) -> None:
        self._isa = isa or os.environ.get("APPROXHUB_CPU_ISA") or None
        self._way = way or os.environ.get("APPROXHUB_CPU_WAY") or None
        self._reason: str | None = None
        try:
            library = load_library()
            if self._isa is not None and self._isa not in library.isas:
                raise BackendUnavailableError(
                    f"instruction set {self._isa!r} cannot be used here; "
                    f"these can: {', '.join(library.isas)}"
                )
            if self._way is not None and self._way not in WAYS:
                raise BackendUnavailableError(
                    f"no way is called {self._way!r}; known: {', '.join(WAYS)}"
                )
        except BackendUnavailableError as error:
            self._reason = str(error)
        else:
            self._library: NativeLibrary = library
            self.isa: str = self._isa or list(library.isas)[-1]
            self._number = library.isas[self.isa]
            self._rates = RATES[self.isa]

    def unavailable_reason(self) -> str | None:
        """Why the engine is not there: not built, or an instruction set this machine lacks."""
        return self._reason

    def supports(self, request: GemmRequest) -> bool:
        """Tables of up to 8 x 8 bits whose products span at most 16 bits, on the CPU."""
        m = request.multiplier
        if request.device.type != "cpu" or not m.has_table or max(m.a.bits, m.b.bits) > 8:
            return False
        low, high = m.extremes
        return high - low < 1 << 16

    def cost(self, request: GemmRequest) -> float:
        """Estimated seconds of the lookup, which no other choice exceeds."""
        threads = self._threads(request.m * request.k * request.n)
        chosen = plan(
            self._rates, request.m, request.k, request.n, threads,
            planes=1 if request.multiplier.is_exact else None,
            exact=request.multiplier.is_exact, lookup=True,
        )  # fmt: skip
        return chosen.seconds

    def prepare(
        self, multiplier: Multiplier, device: torch.device, weight_codes: Tensor | None = None
    ) -> CpuTables:
        """Lay out the table for lookups, and factorise it if that pays."""
        m = multiplier
        low, _ = m.extremes
        table = _by_byte(m.table, m.a)
        table = _by_byte(table.T, m.b).T
        biased = (table.astype(np.int64) - low).astype(np.uint16)
        image = [
            np.ascontiguousarray(
                np.concatenate([(t & 255).astype(np.uint8), (t >> 8).astype(np.uint8)], axis=1)
            )
            for t in (biased.T, biased)
        ]
        return CpuTables(m, image[0], image[1], low, _planes(m))

    def plan(self, tables: CpuTables, m: int, k: int, n: int) -> Plan:
        """The way that :meth:`gemm` takes for a shape, with the estimates behind it."""
        return plan(
            self._rates, m, k, n, self._threads(m * k * n),
            planes=None if tables.factors is None else len(tables.factors[0]),
            exact=tables.multiplier.is_exact, lookup=True, forced=self._way,
        )  # fmt: skip

    def gemm(self, a: Tensor, b: Tensor, prepared: CpuTables, dtype: torch.dtype) -> Tensor:
        """Sum of products: ``(..., M, K) x (K, N) -> (..., M, N)``."""
        k, n = b.shape
        x, w = _bytes_of(a.reshape(-1, k)), _bytes_of(b)
        m = x.shape[0]
        out = torch.empty((m, n), dtype=dtype)
        threads = self._threads(m * k * n)
        if self.plan(prepared, m, k, n).way == "lookup":
            rows = w.t().contiguous()
            if lookup_shape(m, n) == (m, n):
                operands, image, strides = (x, rows), prepared.by_weight, (n, 1)
            else:
                operands, image, strides = (rows, x), prepared.by_activation, (1, n)
            self._library.lookup(
                self._number, *operands, image, prepared.bias, out, strides, threads
            )
        else:
            assert prepared.factors is not None
            self._library.factored(self._number, x, w, prepared.factors, out, threads)
        return out.reshape(*a.shape[:-1], n)

    def _threads(self, products: int) -> int:
        return torch.get_num_threads() if products >= _SERIAL else 1


def _planes(m: Multiplier) -> tuple[npt.NDArray[np.generic], ...] | None:
    """Byte tables of the factored form, as ``ah_factored`` takes them, or None if it is costly."""
    with_exact = m.is_exact
    factors: Factorization | None = None
    if not with_exact:
        try:
            factors = factorize_cached(m, max_cost=_MAX_COST)
        except FactorizationError:
            return None
        with_exact = factors.with_exact
    products: list[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    if with_exact:
        products.append((1, m.a.values(), m.b.values()))
    if factors is not None:
        for u, v in zip(factors.u.T, factors.v, strict=True):
            products += [(i * j, x, y) for i, x in _digits(u) for j, y in _digits(v)]
    if not products:  # a table of nothing but zeros
        products.append((1, np.zeros(m.a.size, np.int64), np.zeros(m.b.size, np.int64)))
    products.sort(key=lambda p: p[0])  # equal weights are one long sum
    left = [_by_byte(x - x.min(), m.a) for _, x, _ in products]
    right = [_by_byte(y - y.min() - 128, m.b) for _, _, y in products]
    return (
        np.ascontiguousarray(left, dtype=np.uint8),
        np.asarray([-x.min() for _, x, _ in products], dtype=np.int32),
        np.ascontiguousarray(right, dtype=np.int8),
        np.asarray([y.min() + 128 for _, _, y in products], dtype=np.int32),
        np.asarray([weight for weight, _, _ in products], dtype=np.int64),
    )


def _digits(factor: npt.NDArray[np.generic]) -> list[tuple[int, npt.NDArray[np.int64]]]:
    """A factor as weighted tables that each span a byte: itself if it does, else its digits."""
    values = factor.astype(np.int64)
    if values.max() - values.min() < 256:
        return [(1, values)]
    return [(256**k, digit.astype(np.int64)) for k, digit in nonzero_planes(values)]
