"""The backend: requests of the core become calls of kernels. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from approxhub.backends import Convolution, ConvRequest, GemmRequest
from approxhub.errors import BackendUnavailableError, EngineError
from approxhub.multiplier import Multiplier
from approxhub_cuda import native
from approxhub_cuda.native import Card, Library, Operand, Sums
from approxhub_cuda.planner import LOOKUPS, Shape, choose, lookup_ways
from approxhub_cuda.tables import CardTables, lay_table

__all__ = ["CudaBackend"]

_FAR = 1 << 30  # positions in an image are computed in 32 bits
_WAYS = ("factored", "lookup", *LOOKUPS)
_APART = ("staged", "shared", "cached", "plain")


class CudaBackend:
    """Matrix products and convolutions on NVIDIA cards.

    Everything is put on the caller's current stream, without waiting for it, and with memory from
    torch's allocator; so it can be captured into a CUDA graph, once tables are prepared.

    Parameters
    ----------
    library : Library, optional
        Of kernels; the installed one when not given.
    way : {'factored', 'lookup', 'staged', 'column', 'shared', 'cached', 'plain'}, optional
        Take this one whenever it can be done. The last is how other simulators look products up,
        to be compared with; it is never taken otherwise.

    Raises
    ------
    BackendUnavailableError
        If there is no such way.
    """

    reads_pad = True

    def __init__(self, library: Library | None = None, way: str | None = None) -> None:
        if way is not None and way not in _WAYS:
            raise BackendUnavailableError(f"no way is called {way!r}; known: {', '.join(_WAYS)}")
        self._way = way
        self._cards: dict[int, Card] = {}
        self._reason: str | None = None
        try:
            self._library = native.load_library() if library is None else library
        except BackendUnavailableError as error:
            self._reason = str(error)
        else:
            self.device_type = "cpu" if self._library.emulated else "cuda"
            self._reason = self._missing_card()

    def _missing_card(self) -> str | None:
        if not self._library.emulated:
            if torch.version.cuda is None:
                return "torch is built without CUDA; install a torch that is built with it"
            if not torch.cuda.is_available():
                return "torch finds no CUDA device; see nvidia-smi and torch.cuda.is_available()"
        try:
            if self._library.devices() == 0:
                return "the driver offers no CUDA device"
            self._card(torch.device(self.device_type))
        except EngineError as error:
            return f"{error}; the kernels were built for another card or a newer driver"
        return None

    def _index(self, device: torch.device) -> int:
        if self._library.emulated:
            return 0
        return torch.cuda.current_device() if device.index is None else device.index

    def _stream(self, device: torch.device) -> int:
        if self._library.emulated:
            return 0
        return int(torch.cuda.current_stream(device).cuda_stream)

    def _card(self, device: torch.device) -> Card:
        index = self._index(device)
        if index not in self._cards:
            self._cards[index] = self._library.card(index)
        return self._cards[index]

    def _where(self, device: torch.device) -> tuple[int, int]:
        """The device, whose kernels are loaded, and the stream."""
        self._card(device)
        return self._index(device), self._stream(device)

    def ways(self) -> dict[str, CudaBackend]:
        """The same backend, bound to one way: for benchmarks."""
        return {way: CudaBackend(self._library, way) for way in _APART}

    def unavailable_reason(self) -> str | None:
        """Why nothing can run here: no kernels, no card, or none that they were built for."""
        return self._reason

    def supports(self, request: GemmRequest | ConvRequest) -> bool:
        """All tables, on CUDA devices; images of less than 2**30 positions a side."""
        if self._reason is not None or request.device.type != self.device_type:
            return False
        if isinstance(request, ConvRequest):
            c = request.convolution
            sides = zip(request.x_shape[2:], c.padding, strict=True)
            if any(n + sum(p) >= _FAR for n, p in sides):
                return False
        return request.multiplier.has_table

    def cost(self, request: GemmRequest | ConvRequest) -> float:
        """Estimated seconds, by a model that was not measured.

        Factors are not looked for here, so other tables than exact ones cost their lookup, which
        no other choice exceeds.
        """
        m, shape, card = request.multiplier, _shape(request), self._card(request.device)
        low, high = m.extremes
        by_bytes = max(m.a.bits, m.b.bits) <= 8
        ways = lookup_ways(card, by_bytes=by_bytes, narrow=high - low < 1 << 16, n=shape.n)
        planes = 1 if m.is_exact and by_bytes else None
        return choose(card, shape, ways, planes=planes, exact=m.is_exact)[0].seconds

    def prepare(
        self, multiplier: Multiplier, device: torch.device, weight_codes: Tensor | None = None
    ) -> CardTables:
        """Bring the table onto the device, and factorise it if that can pay."""
        self._card(device)  # kernels are loaded now, not while a graph is captured
        return lay_table(multiplier, device)

    def explain(self, request: GemmRequest | ConvRequest, prepared: CardTables) -> str:
        """Card, kernel and tile for a request, with the estimates behind the choice."""
        card = self._card(request.device)
        chosen, lookup = self._plan(prepared, _shape(request), request.device)
        told = f" ({lookup})" if chosen.way == "lookup" else ""
        return f"{card.name.decode()}; {chosen}{told}; estimates are guesses, not measured"

    def _plan(self, tables: CardTables, shape: Shape, device: torch.device) -> tuple[Any, str]:
        card = self._card(device)
        ways = lookup_ways(card, by_bytes=tables.by_bytes, narrow=tables.narrow, n=shape.n)
        planes = None if tables.recodings is None else tables.recodings.planes
        exact = tables.multiplier.is_exact
        return choose(card, shape, ways, planes=planes, exact=exact, forced=self._way)

    def gemm(self, a: Tensor, b: Tensor, prepared: CardTables, dtype: torch.dtype) -> Tensor:
        """Sum of products: ``(..., M, K) x (K, N) -> (..., M, N)``."""
        k, n = b.shape
        x = _codes(a, prepared).reshape(-1, k)
        w = _codes(b, prepared)
        m = x.shape[0]
        out = torch.empty((m, n), dtype=dtype, device=a.device)
        left, right = _matrix(x, m, x.stride(0), x.stride(1)), _matrix(w, n, *reversed(w.stride()))
        sums = _sums(out, group_step=0, block=m, block_step=0, row_step=n, column_step=1)
        self._run(prepared, left, right, sums, Shape(m, k, n), a.device)
        return out.reshape(*a.shape[:-1], n)

    def conv(
        self, x: Tensor, w: Tensor, prepared: CardTables, dtype: torch.dtype, c: Convolution
    ) -> Tensor:
        """Convolution: ``(N, C, ...)`` and ``(O, C / groups, ...) -> (N, O, ...)`` of `dtype`."""
        size = c.output_size(tuple(x.shape[2:]), tuple(w.shape[2:]))
        if c.pad is not None:
            c = replace(c, pad=c.pad.to(torch.int32))
        outputs, channels = w.shape[0] // c.groups, w.shape[1]
        k, pixels = w[0].numel(), math.prod(size)
        image, weights = _codes(x, prepared), _codes(w, prepared)
        if channels % 4 == 0:  # four channels are one word
            image = image.movedim(1, -1).contiguous().movedim(-1, 1)
        weights = weights.movedim(1, -1).reshape(w.shape[0], k).contiguous()
        out = torch.empty((x.shape[0], w.shape[0], *size), dtype=dtype, device=x.device)
        left = _image(image, tuple(w.shape[2:]), size, c, prepared)
        right = _matrix(weights, outputs, k, 1, group_step=outputs * k)
        sums = _sums(
            out, group_step=outputs * pixels, block=pixels, block_step=w.shape[0] * pixels,
            row_step=1, column_step=pixels,
        )  # fmt: skip
        shape = Shape(x.shape[0] * pixels, k, outputs, c.groups)
        self._run(prepared, left, right, sums, shape, x.device)
        return out

    # --- real numbers -----------------------------------------------------------------

    def quantize(
        self, x: Tensor, shape: tuple[int, int, int], scale: Tensor, zero: Tensor,
        limits: tuple[int, int], codes: Tensor, real: Tensor | None, inside: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """As :meth:`approxhub.backends.RealNumbers.quantize`; the answer is not waited for."""
        finite = torch.empty((), dtype=torch.bool, device=x.device)
        work = native.Quantize(
            x.data_ptr(), *shape, scale.data_ptr(), zero.data_ptr(), codes.data_ptr(),
            _address(real), _address(inside), finite.data_ptr(), *limits, codes.element_size(),
        )  # fmt: skip
        self._library.quantize(*self._where(x.device), work)
        return finite

    def dequantize(
        self, acc: Tensor, shape: tuple[int, int, int], term: Tensor, zero: Tensor | None,
        sums: Tensor | None, groups: int, scale: Tensor, bias: Tensor | None, out: Tensor,
    ) -> None:  # fmt: skip
        """As :meth:`approxhub.backends.RealNumbers.dequantize`."""
        work = native.Dequantize(
            acc.data_ptr(), *shape, groups, term.data_ptr(), _address(zero), _address(sums),
            scale.data_ptr(), _address(bias), out.data_ptr(), acc.dtype == torch.int64,
        )  # fmt: skip
        self._library.dequantize(*self._where(acc.device), work)

    def recode(
        self, x: Tensor, shape: tuple[int, int, int], scale: Tensor, zero: Tensor, mask: int,
        table: Tensor, whole: bool, out: Tensor,
    ) -> None:  # fmt: skip
        """As :meth:`approxhub.backends.GradientTables.recode`."""
        work = native.Recode(
            x.data_ptr(), *shape, scale.data_ptr(), zero.data_ptr(), table.data_ptr(),
            out.data_ptr(), mask, len(table), whole,
        )  # fmt: skip
        self._library.recode(*self._where(x.device), work)

    def combine(
        self, total: Tensor, x: Tensor, shape: tuple[int, int, int], scale: Tensor, zero: Tensor,
        mask: int, table: Tensor, products: Sequence[Tensor],
    ) -> None:  # fmt: skip
        """As :meth:`approxhub.backends.GradientTables.combine`."""
        work = native.Combine(
            x.data_ptr(), *shape, scale.data_ptr(), zero.data_ptr(), table.data_ptr(),
            native.Pointers(*(p.data_ptr() for p in products)),
            total.data_ptr(), mask, len(products),
        )  # fmt: skip
        self._library.combine(*self._where(x.device), work)

    # --- launching --------------------------------------------------------------------

    def _run(
        self, tables: CardTables, a: Operand, b: Operand, sums: Sums, shape: Shape,
        device: torch.device,
    ) -> None:  # fmt: skip
        chosen, lookup = self._plan(tables, shape, device)
        where = self._where(device)
        if chosen.way != "lookup":
            assert tables.recodings is not None
            recodings = tables.recodings
            product = native.Product(
                a, b, sums, shape.k, shape.n, shape.groups, recodings.left.data_ptr(),
                recodings.right.data_ptr(), len(recodings.passes),
                (native.Pass * native.MOST_PASSES)(*recodings.passes),
            )  # fmt: skip
            self._library.product(*where, product)
            return
        work = native.Lookup(
            a, b, sums, shape.k, shape.n, shape.groups, tables.image.data_ptr(), tables.bias,
            tables.a_bits, tables.b_bits, tables.image.element_size(),
            1 if tables.by_bytes else 2, LOOKUPS[lookup].number,
        )  # fmt: skip
        self._library.lookup(*where, work)


def _shape(request: GemmRequest | ConvRequest) -> Shape:
    if isinstance(request, GemmRequest):
        return Shape(request.m, request.k, request.n)
    g = request.gemm
    return Shape(g.m, g.k, g.n, request.convolution.groups)


def _codes(t: Tensor, tables: CardTables) -> Tensor:
    """The low byte, or the low 16 bits, of every value, with any strides."""
    t = t.resolve_neg()
    if tables.by_bytes:
        if t.dtype == torch.int8:
            return t.view(torch.uint8)
        return t if t.dtype == torch.uint8 else t.to(torch.uint8)
    return t if t.dtype == torch.int16 else t.to(torch.int16)


def _matrix(t: Tensor, rows: int, row_step: int, k_step: int, group_step: int = 0) -> Operand:
    return Operand(
        data=t.data_ptr(), rows=rows, group_step=group_step, row_step=row_step, k_step=k_step
    )


def _address(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


def _filled(values: Sequence[int], filler: int) -> tuple[int, ...]:
    """Three dimensions out of up to three: those in front are added."""
    return (filler,) * (3 - len(values)) + tuple(values)


def _image(
    x: Tensor, kernel: Sequence[int], out: Sequence[int], c: Convolution, tables: CardTables
) -> Operand:
    channels = x.shape[1] // c.groups
    # Strides and dilations beyond the padded image are never walked, whatever they are.
    limits = [max(1, n + sum(p)) for n, p in zip(x.shape[2:], c.padding, strict=True)]
    o = Operand(
        data=x.data_ptr(), rows=x.shape[0] * math.prod(out), group_step=channels * x.stride(1),
        image=1, channels=channels, pad=c.pad_value & (255 if tables.by_bytes else 65535),
        pad_from=None if c.pad is None else c.pad.data_ptr(),
    )  # fmt: skip
    o.step[:] = (x.stride(0), x.stride(1), *_filled(x.stride()[2:], 0))
    o.size[:] = _filled(x.shape[2:], 1)
    o.out[:] = _filled(out, 1)
    o.kernel[:] = _filled(kernel, 1)
    o.stride[:] = _filled([min(s, n) for s, n in zip(c.stride, limits, strict=True)], 1)
    o.dilation[:] = _filled([min(d, n) for d, n in zip(c.dilation, limits, strict=True)], 1)
    o.before[:] = _filled([p[0] for p in c.padding], 0)
    return o


def _sums(out: Tensor, **steps: int) -> Sums:
    return Sums(data=out.data_ptr(), count=out.numel(), wide=out.dtype == torch.int64, **steps)
