"""The CPU engine as a backend: operands of up to 8 bits, any table, bit for bit."""

from __future__ import annotations

import functools
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from approxhub.backends.native import (
    Geometry,
    NativeLibrary,
    Planes,
    Steps,
    chosen_isa,
    load_library,
    steps,
)
from approxhub.backends.patches import convolve_patches
from approxhub.backends.planner import WAYS, Plan, Rates, Work, plan
from approxhub.backends.protocol import Convolution, ConvRequest, GemmRequest
from approxhub.errors import BackendUnavailableError
from approxhub.factorization import Factorization, FactorizationError, factorize_cached
from approxhub.factorization.digits import nonzero_planes
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["CpuBackend", "CpuTables"]

# Measured on x86-64; those of NEON are a guess from the number of instructions.
RATES = {
    "scalar": Rates(lookup=0.9e9, product=4.2e9, lay=0.5e9, emit=0.5e9),
    "neon": Rates(lookup=2e9, product=12e9, lay=0.5e9, emit=0.5e9),
    "avx2": Rates(lookup=2.2e9, product=30e9, lay=0.5e9, emit=1e9, spread=14e9, many=25e9),
    "avx512": Rates(lookup=19e9, product=200e9, lay=3e9, emit=2e9, load=50),
}
_WIDE_LOOKUP = 30e9  # of AVX-512 where a permutation out of 128 entries is one instruction inside
_SERIAL = 1 << 17  # products below which a second thread costs more than it brings
_MAX_COST = 16  # int8 products for one product, beyond which the lookup is always quicker
_LANE_BYTES = 1 << 24  # lanes of a convolution in memory at a time
_PATCH_BYTES = 1 << 20  # patches that may be copied where lanes would be mostly padding
_PACKED_BYTES = 1 << 28  # weights that are kept packed
_FEW_ROWS = 6  # take as long in a product as one: they share what is loaded
_SEEN = 4096  # weights whose digests are remembered
_PIECES = 1024  # bytes of weights, about, by which the last ones are found again
_SHARED = 1 << 18  # bytes of weights from which on all threads compare them
_CALLS = 1024  # shapes of convolutions and products that are remembered

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CpuTables:
    """What the engine keeps of a multiplier.

    `by_weight` and `by_activation` are the table, less `bias`, as rows of low and of high bytes
    for one code of that operand. `activation_rows` and `weight_rows` are its factored form, with
    that operand along the rows of a product; None where that does not pay.
    """

    multiplier: Multiplier
    by_weight: npt.NDArray[np.uint8]
    by_activation: npt.NDArray[np.uint8]
    bias: int
    activation_rows: Planes | None
    weight_rows: Planes | None

    @property
    def planes(self) -> int | None:
        """Int8 products for one product of the factored form."""
        return None if self.weight_rows is None else len(self.weight_rows)


class _Packed:
    """Weights that were packed before, found again by their content.

    A layer hands over new tensors with the same codes at every call, so the key is a digest, and
    the codes are compared before what was made of them is used. What was found last is found
    again by a digest of a few pieces. Kept is what comes a second time: in training weights
    change at every step, and none of them is worth its memory.
    """

    def __init__(self, library: NativeLibrary, limit: int) -> None:
        self._library = library
        self._limit = limit
        self._bytes = 0
        self._kept: OrderedDict[tuple[Any, ...], tuple[Tensor, Any, int]] = OrderedDict()
        self._seen: OrderedDict[tuple[Any, ...], None] = OrderedDict()
        self._last: OrderedDict[tuple[Any, ...], tuple[Any, ...]] = OrderedDict()  # keys by pieces
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...], codes: Tensor, make: Callable[[], T], threads: int) -> T:
        """What `make` made of dense `codes`; `key` says everything else it depends on."""
        size = codes.numel()
        key, library = (*key, size), self._library
        threads = threads if size >= _SHARED else 1
        pieces = (*key, library.digest(codes, 1 + size // _PIECES))
        with self._lock:
            last = self._last.get(pieces)
            found = None if last is None else self._found(last)
        if found is not None and library.same(found[0], codes, threads):
            kept: T = found[1]
            return kept
        key = (*key, library.digest(codes))
        with self._lock:
            found = self._found(key)
            again = key in self._seen
            _note(self._seen, key, None)
        if found is not None and library.same(found[0], codes, threads):
            with self._lock:
                _note(self._last, pieces, key)
            kept = found[1]
            return kept
        made = make()
        size += _size_of(made)
        if again and size <= self._limit:
            copy = codes.clone()  # the caller may change its tensor
            with self._lock:
                old = self._kept.pop(key, None)
                self._bytes += size - (old[2] if old else 0)
                self._kept[key] = (copy, made, size)
                _note(self._last, pieces, key)
                while self._bytes > self._limit:
                    self._bytes -= self._kept.popitem(last=False)[1][2]
        return made

    def _found(self, key: tuple[Any, ...]) -> tuple[Tensor, Any, int] | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found


def _note(noted: OrderedDict[tuple[Any, ...], T], key: tuple[Any, ...], value: T) -> None:
    """Remember something, and forget what was remembered long ago."""
    noted[key] = value
    noted.move_to_end(key)
    if len(noted) > _SEEN:
        noted.popitem(last=False)


def _size_of(made: Any) -> int:
    parts = made if isinstance(made, tuple) else (made,)
    return sum(t.numel() * t.element_size() for t in parts if isinstance(t, Tensor))


def _bytes_of(t: Tensor) -> Tensor:
    """The low byte of every value, with any strides."""
    t = t.resolve_neg()
    if t.dtype == torch.int8:
        return t.view(torch.uint8)
    return t if t.dtype == torch.uint8 else t.to(torch.uint8)


def _dense(b: Tensor) -> Tensor:
    """The bytes of a matrix that fills its memory, line by line or column by column."""
    b = _bytes_of(b)
    return b if b.is_contiguous() or b.t().is_contiguous() else b.contiguous()


def _by_byte(values: npt.NDArray[np.generic], f: OperandFormat) -> npt.NDArray[np.generic]:
    """A table over bit patterns as one over the low bytes of values: 256 entries."""
    out = np.zeros((256, *values.shape[1:]), dtype=values.dtype)
    out[f.values() & 255] = values
    return out


@functools.lru_cache(_CALLS)
def _line(channels: int, lanes: int, channel_step: int, lane_step: int) -> Geometry:
    """A matrix, as an image of one line with a tap of one."""
    g = Geometry(images=1, groups=1, channels=channels)
    g.size[:] = g.out[:] = (1, 1, lanes)
    g.kernel[:] = g.stride[:] = g.dilation[:] = (1, 1, 1)
    g.step[:] = (0, channel_step, 0, 0, lane_step)
    return g


def _filled(values: Sequence[int], filler: int) -> tuple[int, ...]:
    """Three dimensions out of up to three: those in front are added."""
    return (filler,) * (3 - len(values)) + tuple(values)


def _image(
    shape: tuple[int, ...], stride: tuple[int, ...], kernel: Sequence[int], out: Sequence[int],
    c: Convolution,
) -> Geometry:  # fmt: skip
    g = Geometry(images=shape[0], groups=c.groups, channels=shape[1] // c.groups)
    g.size[:] = _filled(shape[2:], 1)
    g.before[:] = _filled([p[0] for p in c.padding], 0)
    g.out[:] = _filled(out, 1)
    g.kernel[:] = _filled(kernel, 1)
    # A stride beyond the padded image leaves one position, whatever it is.
    limits = [max(1, n + sum(p)) for n, p in zip(shape[2:], c.padding, strict=True)]
    g.stride[:] = _filled([min(s, n) for s, n in zip(c.stride, limits, strict=True)], 1)
    g.dilation[:] = _filled(c.dilation, 1)
    g.step[:] = (*stride[:2], *_filled(stride[2:], 0))
    g.pad = c.pad_value & 255
    return g


@dataclass(frozen=True, slots=True)
class _ConvCall:
    """What a convolution takes besides its codes; no plan where it is a product of patches."""

    geometry: Geometry
    shape: tuple[int, ...]  # of the result
    step: Steps
    count: int  # of rows in each group
    k: int
    threads: int
    block: int  # images whose lanes are in memory at a time
    plan: Plan | None

    def geometry_of(self, images: int) -> Geometry:
        """That of so many of its images."""
        if images == self.geometry.images:
            return self.geometry
        part = Geometry.from_buffer_copy(self.geometry)
        part.images = images
        return part


def _is_depthwise(g: Geometry) -> bool:
    """Whether planes are looked up one by one: enough of them for all threads, as a rule."""
    return bool(g.channels == 1 and g.groups > 1)


def _round_up(n: int, to: int) -> int:
    return -(-n // to) * to


def _lookup_work(rates: Rates, m: int, k: int, n: int) -> tuple[bool, Work]:
    """Whether the weights lie along the lanes of a lookup, and what there is to do."""
    if rates.lookups(m, n, k) < rates.lookups(n, m, k):
        return False, Work(m, n, k, m * k, scattered=True)
    return True, Work(n, m, k, 0)


def _product_work(m: int, k: int, n: int) -> Work:
    return Work(_round_up(n, 16), max(m, _FEW_ROWS), _round_up(k, 4), m * k)


class CpuBackend:
    """Matrix products and convolutions in the native engine.

    Three ways, chosen for each table and shape: a plain integer product (exact multipliers); an
    integer product over recoded operands (tables whose error has a low rank; see
    :mod:`approxhub.factorization`); and table rows held in registers (all others).
    ``APPROXHUB_CPU_ISA`` and ``APPROXHUB_CPU_WAY`` force an instruction set and a way.

    Parameters
    ----------
    isa : str, optional
        ``'scalar'``, ``'neon'``, ``'avx2'`` or ``'avx512'``; the best that this machine has when
        not given.
    way : str, optional
        ``'exact'``, ``'factored'`` or ``'lookup'``: take this one whenever it can be done.
    """

    def __init__(self, isa: str | None = None, way: str | None = None) -> None:
        self._way = way or os.environ.get("APPROXHUB_CPU_WAY") or None
        self._reason: str | None = None
        try:
            library = load_library()
            self.isa: str = chosen_isa(library, isa)
            if self._way is not None and self._way not in WAYS:
                raise BackendUnavailableError(
                    f"no way is called {self._way!r}; known: {', '.join(WAYS)}"
                )
        except BackendUnavailableError as error:
            self._reason = str(error)
        else:
            self._library: NativeLibrary = library
            self._packed = _Packed(library, _PACKED_BYTES)
            self._number = library.isas[self.isa]
            self._rates = RATES[self.isa]
            if library.reach[self.isa] > 64:
                self._rates = replace(self._rates, lookup=_WIDE_LOOKUP)
            self._gemm_plan = functools.lru_cache(_CALLS)(self._new_gemm_plan)
            self._conv_call = functools.lru_cache(_CALLS)(self._new_conv_call)

    def unavailable_reason(self) -> str | None:
        """Why the engine is not there: not built, or an instruction set this machine lacks."""
        return self._reason

    def supports(self, request: GemmRequest | ConvRequest) -> bool:
        """Tables of up to 8 x 8 bits whose products span at most 16 bits, on the CPU."""
        m = request.multiplier
        if request.device.type != "cpu" or not m.has_table or max(m.a.bits, m.b.bits) > 8:
            return False
        low, high = m.extremes
        return high - low < 1 << 16

    def cost(self, request: GemmRequest | ConvRequest) -> float:
        """Estimated seconds of the lookup, which no other choice exceeds."""
        exact = request.multiplier.is_exact
        groups = request.convolution.groups if isinstance(request, ConvRequest) else 1
        r = request.gemm if isinstance(request, ConvRequest) else request
        chosen = plan(
            self._rates, self._threads(r.m * r.k * r.n),
            product=_product_work(r.m, r.k, r.n) if exact else None,
            lookup=_lookup_work(self._rates, r.m, r.k, r.n)[1],
            planes=1 if exact else None, exact=exact,
        )  # fmt: skip
        return chosen.seconds * groups

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
        products = _products(m)
        by_activation = by_weight = None
        if products is not None:
            by_activation = _planes(products, m.a, m.b)
            by_weight = _planes([(w, y, x) for w, x, y in products], m.b, m.a)
        return CpuTables(m, image[0], image[1], low, by_activation, by_weight)

    def plan(self, tables: CpuTables, m: int, k: int, n: int) -> Plan:
        """The way that :meth:`gemm` takes for a shape, with the estimates behind it."""
        return self._gemm_plan(
            m, k, n, tables.planes, tables.multiplier.is_exact, self._threads(m * k * n)
        )

    def _new_gemm_plan(
        self, m: int, k: int, n: int, planes: int | None, exact: bool, threads: int
    ) -> Plan:
        return plan(
            self._rates, threads, product=_product_work(m, k, n),
            lookup=_lookup_work(self._rates, m, k, n)[1], planes=planes, exact=exact,
            forced=self._way,
        )  # fmt: skip

    def explain(self, request: GemmRequest | ConvRequest, prepared: CpuTables) -> str:
        """Instruction set, way and threads for a request, with the estimates behind them."""
        if isinstance(request, GemmRequest):
            m, k, n = request.m, request.k, request.n
            products, chosen = m * k * n, self.plan(prepared, m, k, n)
        else:
            x, w, c = request.x_shape, request.w_shape, request.convolution
            dense = tuple(math.prod(x[i:]) for i in range(1, len(x) + 1))
            call = self._conv_call(
                x, dense, w, c, prepared.planes, prepared.multiplier.is_exact,
                torch.get_num_threads(),
            )  # fmt: skip
            g = request.gemm
            if call.plan is None:
                chosen = self.plan(prepared, g.m, g.k, g.n)
                return f"{self.isa}, as a product of patches; {chosen}"
            products, chosen = g.m * g.k * g.n * c.groups, call.plan
        return f"{self.isa}, {self._threads(products)} thread(s); {chosen}"

    def _as_patches(self, g: Geometry, positions: int, k: int) -> bool:
        """Whether lanes would be mostly padding, and patches cost next to nothing.

        Groups would each be a product of their own, and its call takes longer than all lanes.
        """
        if g.groups > 1:
            return False
        sizes = self._library.measure(g, 1)
        cheap = positions * k <= max(_PATCH_BYTES, sizes.code_bytes)
        return bool(sizes.product_lanes > 2 * positions) and cheap

    def gemm(self, a: Tensor, b: Tensor, prepared: CpuTables, dtype: torch.dtype) -> Tensor:
        """Sum of products: ``(..., M, K) x (K, N) -> (..., M, N)``."""
        k, n = b.shape
        x = _bytes_of(a).reshape(-1, k)
        m = x.shape[0]
        out = torch.empty((m, n), dtype=dtype, device="cpu")
        threads = self._threads(m * k * n)
        if self.plan(prepared, m, k, n).way == "lookup":
            self._lookup_matrix(x, b, prepared, out, threads)
        else:
            self._product_matrix(x, b, prepared, out, threads)
        return out.reshape(*a.shape[:-1], n)

    def _lookup_matrix(
        self, x: Tensor, b: Tensor, tables: CpuTables, out: Tensor, threads: int
    ) -> None:
        library, isa = self._library, self._number
        (m, k), n = x.shape, b.shape[1]
        w = _dense(b)
        if _lookup_work(self._rates, m, k, n)[0]:
            g = _line(k, n, *w.stride())
            lanes = self._packed.get(
                ("codes", k, n, w.stride()), w,
                lambda: library.lay_codes(isa, g, w, threads), threads,
            )  # fmt: skip
            library.lookup(
                isa, g, lanes, x.contiguous(), m, tables.by_activation, tables.bias, out,
                steps(0, n, 0, 0, 1), threads,
            )  # fmt: skip
            return
        g = _line(k, m, x.stride(1), x.stride(0))
        lanes = library.lay_codes(isa, g, x, threads)
        rows = w.t()
        if not rows.is_contiguous():
            rows = self._packed.get(("turned", k, n), w, rows.contiguous, threads)
        library.lookup(
            isa, g, lanes, rows, n, tables.by_weight, tables.bias, out,
            steps(0, 1, 0, 0, n), threads,
        )  # fmt: skip

    def _product_matrix(
        self, x: Tensor, b: Tensor, tables: CpuTables, out: Tensor, threads: int
    ) -> None:
        library, isa, planes = self._library, self._number, tables.activation_rows
        assert planes is not None
        (m, k), n = x.shape, b.shape[1]
        w = _dense(b)
        g = _line(k, n, *w.stride())
        lanes = self._packed.get(
            ("lanes", tables.multiplier.identity, isa, k, n, w.stride()), w,
            lambda: library.lay_planes(isa, g, planes, w, threads), threads,
        )  # fmt: skip
        rows = library.pack_rows(isa, g, planes, x, m, (x.stride(0), x.stride(1), 0), threads)
        library.product(isa, g, planes, lanes, rows, m, out, steps(0, n, 0, 0, 1), threads)

    def plan_conv(
        self, planes: int | None, exact: bool, geometry: Geometry, products: int, count: int
    ) -> Plan:
        """The way that :meth:`conv` takes, with the estimates behind it."""
        g = geometry
        sizes = self._library.measure(g, 1)
        groups, k = g.groups, g.channels * sizes.taps
        # A quad of channels takes four bytes, however few of them there are.
        return plan(
            self._rates, self._threads(products),
            product=Work(
                sizes.product_lanes * groups, max(count, _FEW_ROWS),
                _round_up(g.channels, 4) * sizes.taps, sizes.plane_bytes,
            ),
            lookup=Work(sizes.lookup_lanes * groups, count, k, sizes.code_bytes),
            planes=planes, exact=exact, forced=self._way,
        )  # fmt: skip

    def conv(
        self, x: Tensor, w: Tensor, prepared: CpuTables, dtype: torch.dtype, c: Convolution
    ) -> Tensor:
        """Convolution: ``(N, C, ...)`` and ``(O, C / groups, ...) -> (N, O, ...)`` of `dtype`."""
        library, isa = self._library, self._number
        x, codes = _bytes_of(x), _bytes_of(w).contiguous()
        call = self._conv_call(
            tuple(x.shape), x.stride(), tuple(w.shape), c, prepared.planes,
            prepared.multiplier.is_exact, torch.get_num_threads(),
        )  # fmt: skip
        if call.plan is None:
            return convolve_patches(
                x.view(torch.int8) if prepared.multiplier.a.signed else x, w, c, dtype,
                lambda a, b: self.gemm(a, b, prepared, dtype),
            )  # fmt: skip
        out = torch.empty(call.shape, dtype=dtype, device="cpu")
        threads, count, step = call.threads, call.count, call.step
        way = call.plan.way
        if way == "lookup" and _is_depthwise(call.geometry):
            library.lookup(
                isa, call.geometry, x, codes, count, prepared.by_weight, prepared.bias, out, step,
                threads, depthwise=True,
            )  # fmt: skip
            return out
        planes = None if way == "lookup" else prepared.weight_rows
        rows = None
        for first in range(0, x.shape[0], call.block):
            part, to = x[first : first + call.block], out[first : first + call.block]
            g = call.geometry_of(part.shape[0])
            if planes is None:
                lanes = library.lay_codes(isa, g, part, threads)
                library.lookup(
                    isa, g, lanes, codes, count, prepared.by_weight, prepared.bias, to, step,
                    threads,
                )  # fmt: skip
                continue
            if rows is None:
                rows = self._packed.get(
                    ("rows", prepared.multiplier.identity, isa, *w.shape),
                    codes,
                    lambda: library.pack_rows(
                        isa, call.geometry, planes, codes, w.shape[0],
                        (call.k, call.k // w.shape[1], 1), threads,
                    ),
                    threads,
                )  # fmt: skip
            laid = library.lay_planes(isa, g, planes, part, threads)
            library.product(isa, g, planes, laid, rows, count, to, step, threads)
        return out

    def _new_conv_call(
        self, x_shape: tuple[int, ...], x_stride: tuple[int, ...], w_shape: tuple[int, ...],
        c: Convolution, planes: int | None, exact: bool, threads: int,
    ) -> _ConvCall:  # fmt: skip
        """All of a convolution but its codes; remembered, for layers ask the same every time."""
        size = c.output_size(x_shape[2:], w_shape[2:])
        images, count, k = x_shape[0], w_shape[0] // c.groups, math.prod(w_shape[1:])
        positions = images * math.prod(size)
        products = positions * w_shape[0] * k
        g = _image(x_shape, x_stride, w_shape[2:], size, c)
        chosen, block = None, images
        if not self._as_patches(g, positions, k):
            chosen = self.plan_conv(planes, exact, g, products, count)
            sizes = self._library.measure(g, 1)
            per_image = sizes.code_bytes
            if chosen.way != "lookup" and planes is not None:
                per_image = sizes.plane_bytes * planes
            block = max(1, min(images, _LANE_BYTES * images // per_image))
        shape = (images, w_shape[0], *size)
        inner = [math.prod(shape[i:]) for i in range(1, len(shape) + 1)]  # of a dense tensor
        return _ConvCall(
            g, shape, steps(inner[0], inner[1], *_filled(inner[2:], 0)), count, k,
            threads if products >= _SERIAL else 1, block, chosen,
        )  # fmt: skip

    def _threads(self, products: int) -> int:
        return torch.get_num_threads() if products >= _SERIAL else 1


_Product = tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _products(m: Multiplier) -> list[_Product] | None:
    """The factored form as weighted products of two tables of bytes, or None if it is costly."""
    with_exact = m.is_exact
    factors: Factorization | None = None
    if not with_exact:
        try:
            factors = factorize_cached(m, max_cost=_MAX_COST)
        except FactorizationError:
            return None
        with_exact = factors.with_exact
    products: list[_Product] = []
    if with_exact:
        products.append((1, m.a.values(), m.b.values()))
    if factors is not None:
        for u, v in zip(factors.u.T, factors.v, strict=True):
            products += [(i * j, x, y) for i, x in _digits(u) for j, y in _digits(v)]
    if not products:  # a table of nothing but zeros
        products.append((1, np.zeros(m.a.size, np.int64), np.zeros(m.b.size, np.int64)))
    products.sort(key=lambda p: p[0])  # equal weights are one long sum
    return products


def _planes(products: Sequence[_Product], rows: OperandFormat, lanes: OperandFormat) -> Planes:
    """Byte tables for the engine; the first operand of each product goes to the rows."""
    low = [0 if x.min() >= 0 and x.max() <= 255 else int(x.min()) for _, x, _ in products]
    high = [0 if y.min() >= -128 and y.max() <= 127 else int(y.min()) + 128 for _, _, y in products]
    left = [_by_byte(x - lo, rows) for (_, x, _), lo in zip(products, low, strict=True)]
    right = [_by_byte(y - hi, lanes) for (_, _, y), hi in zip(products, high, strict=True)]
    return Planes(
        np.ascontiguousarray(left, dtype=np.uint8),
        np.ascontiguousarray(right, dtype=np.int8),
        np.asarray([-lo for lo in low], dtype=np.int32),
        np.asarray(high, dtype=np.int32),
        np.asarray([weight for weight, _, _ in products], dtype=np.int64),
    )


def _digits(factor: npt.NDArray[np.generic]) -> list[tuple[int, npt.NDArray[np.int64]]]:
    """A factor as weighted tables that each span a byte: itself if it does, else its digits."""
    values = factor.astype(np.int64)
    if values.max() - values.min() < 256:
        return [(1, values)]
    return [(256**k, digit.astype(np.int64)) for k, digit in nonzero_planes(values)]
