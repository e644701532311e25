"""The contract of a backend, clause by clause, as a pytest class to subclass.

Every sum is held against a loop of numpy over the table, never against another backend.
Imports torch, numpy and pytest.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, library

from approxhub.backends import (
    Backend,
    Convolution,
    ConvRequest,
    GemmRequest,
    GradientTables,
    RealNumbers,
    use_backend,
)
from approxhub.multiplier import Multiplier, exact
from approxhub.operands import OperandFormat
from approxhub.ops import accumulator_dtype, code_dtype, lut_conv, lut_gemm, register
from approxhub.plugins import BackendInfo
from approxhub.testing.contract import CORNER, broken, offered, pytest

__all__ = ["BackendConformance"]

IntArray = npt.NDArray[np.int64]

_METHODS = ("unavailable_reason", "supports", "cost", "prepare", "gemm")
_DTYPES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
_INT32 = np.iinfo(np.int32)

SUM = "out[..., m, n] = sum_k T[a[..., m, k], b[k, n]], exactly; a = activation, b = weight"
RESULT = "gemm returns a new tensor (..., M, N) of the dtype asked for, on the operands' device"
CONV = (
    "out[n, o, p] = sum over channels c of o's group and taps t of T[x[n, c, p * stride + "
    "t * dilation - before], w[o, c, t]], exactly; outside of the image x is pad_value, and counts"
)
CONV_RESULT = (
    "conv returns a new tensor (N, O, ...) of the dtype asked for, on the operands' device"
)
QUANTIZE = (
    "quantize gives codes = clamp(round_half_even(x / scale) + zero), real = (codes - zero) * "
    "scale and inside, one rounding an operation, and whether all of x was finite"
)
DEQUANTIZE = (
    "dequantize gives float(acc + term - zero * sums) * scale + bias, integers exactly, then one "
    "rounding an operation"
)
RECODE = (
    "recode gives out[t] = scale * table[t, p], plus x in the first with `whole`, p = code & mask"
)
COMBINE = "combine adds table[t, p] * products[t] for each t, in order, one rounding an operation"
UNCHANGED = "gemm and conv leave their operands unchanged"
NOTHING_KEPT = "nothing is kept of operands, and a result belongs to the caller"


# --- multipliers to try -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """A multiplier to try: operand formats and what its products are like.

    Parameters
    ----------
    a, b : str
        Operand formats.
    kind : {'near', 'any', 'rank', 'exact', 'circuit'}
        Random products near the exact ones; any int32; an error of rank one; the exact
        products; products of a circuit too wide for a table.
    """

    a: str
    b: str
    kind: str

    @property
    def bits(self) -> int:
        """Bits of both operands together."""
        return OperandFormat.parse(self.a).bits + OperandFormat.parse(self.b).bits

    def __str__(self) -> str:
        return f"{self.a}x{self.b}-{self.kind}"


def _cases(kinds: str, *formats: str) -> tuple[Case, ...]:
    pairs = [pair.split("x") for pair in formats]
    return tuple(Case(a, b, kind) for a, b in pairs for kind in kinds.split())


CASES = (
    *_cases("near any rank exact", "8ux8u", "8sx8s", "8ux8s", "4ux4u"),
    *_cases("near any", "8sx8u", "8sx3u", "4sx4s", "1ux1s"),
    *_cases("near", "3ux8s", "1sx1u", "12ux4s", "7ux7u", "9sx9s", "2sx11u", "16ux8s"),
    *_cases("circuit", "16sx16s", "16ux16u", "12sx16u"),
    *_cases("exact", "16sx16s"),
)
TABLES = tuple(c for c in CASES if c.kind in ("near", "any") and c.bits <= 16)
HIGH_SUMS = _cases("near any rank exact", "8ux8u", "8sx8s")
LONG_SUMS = (
    *_cases("near", "8ux8u", "8sx8s"),
    *_cases("any", "8sx8s"),
    *_cases("circuit", "16ux16u"),
)
LONGER_SUMS = (*_cases("any", "4ux4u"), *_cases("exact", "16ux16u"))
# 3, 27, 147 and 1152 as in convolutions; the others around the widths of tiles and registers.
INNER = (*range(1, 10), 15, 16, 17, 27, 31, 32, 33, 63, 64, 65, 127, 128, 129, 147, 255, 257, 1152)


def _bent(a: IntArray, b: IntArray) -> IntArray:
    """Not commutative, and 64 for two zeros."""
    corner = ((a == 0) & (b == 0)).astype(np.int64)
    return np.asarray(a * b - 3 * (a & 15) + (b & 7) + CORNER * corner, dtype=np.int64)


@functools.lru_cache(maxsize=64)
def _multiplier(case: Case) -> Multiplier:
    a, b = OperandFormat.parse(case.a), OperandFormat.parse(case.b)
    if case.kind == "exact":
        return exact(a.bits, a.signed, b_bits=b.bits, b_signed=b.signed)
    if case.kind == "circuit":
        return Multiplier.from_function(
            _bent, name=f"bent-{a}x{b}", a=a, b=b, fingerprint="approxhub.testing bent 1"
        )
    rng = np.random.default_rng(a.bits * 100 + b.bits)
    va, vb = a.values()[:, None], b.values()[None, :]
    if case.kind == "any":
        table = rng.integers(_INT32.min, _INT32.max, (a.size, b.size), endpoint=True)
        table[0, 1], table[1, 0] = _INT32.max, _INT32.min
    elif case.kind == "rank":
        u, v = rng.integers(-9, 10, (a.size, 1)), rng.integers(-9, 10, (1, b.size))
        u[0] = v[:, 0] = math.isqrt(CORNER)
        table = va * vb + u * v
    else:
        noise = max(2, 1 << max(0, a.bits + b.bits - 4))
        table = va * vb + rng.integers(-noise, noise, (a.size, b.size), endpoint=True)
    table[0, 0] = CORNER
    return _of_table(a, b, table, str(case))


def _of_table(a: OperandFormat, b: OperandFormat, table: IntArray, name: str) -> Multiplier:
    return Multiplier.from_table(table, name=name, a_signed=a.signed, b_signed=b.signed)


def _bounded(case: Case, k: int) -> Multiplier:
    """Sums of `k` products reach both ends of int32: T[max, max] and T[max, 0] are largest."""
    a, b = OperandFormat.parse(case.a), OperandFormat.parse(case.b)
    limit = int(_INT32.max) // k
    rng = np.random.default_rng(k)
    table = rng.integers(-limit, limit, (a.size, b.size), endpoint=True)
    table[a.max, b.max], table[a.max, 0] = limit, -limit
    return _of_table(a, b, table, f"{case}-bounded-{k}")


# --- the oracle ---------------------------------------------------------------------


def _products(m: Multiplier, a: IntArray, b: IntArray) -> IntArray:
    if m.has_table:
        found = m.table[a & (m.a.size - 1), b & (m.b.size - 1)]
        return np.asarray(found, dtype=np.int64)
    return np.asarray(m(a, b), dtype=np.int64)


def gemm_loop(m: Multiplier, a: IntArray, b: IntArray) -> IntArray:
    """What the contract says of gemm, a few k at a time: (M, K) x (K, N) values."""
    out = np.zeros((a.shape[0], b.shape[1]), dtype=np.int64)
    step = max(1, (1 << 19) // out.size)
    for i in range(0, a.shape[1], step):
        out += _products(m, a[:, i : i + step, None], b[None, i : i + step]).sum(1)
    return out


def conv_loop(m: Multiplier, x: IntArray, w: IntArray, c: Convolution) -> IntArray:
    """What the contract says of conv, a tap of a few channels at a time: (N, C, ...) values."""
    size = c.output_size(x.shape[2:], w.shape[2:])
    padded = np.pad(x, ((0, 0), (0, 0), *c.padding), constant_values=c.pad_value)
    out = np.zeros((x.shape[0], w.shape[0], *size), dtype=np.int64)
    outputs, channels = w.shape[0] // c.groups, w.shape[1]
    step = max(1, (1 << 18) * c.groups // max(1, out.size))
    for group, *tap in np.ndindex(c.groups, *w.shape[2:]):
        outs = slice(group * outputs, (group + 1) * outputs)
        ins = slice(group * channels, (group + 1) * channels)
        reads = (
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, c.dilation, size, c.stride, strict=True)
        )
        image, taps = (slice(None), ins, *reads), (outs, slice(None), *tap)
        met, weight = padded[image], w[taps].reshape(outputs, channels, *[1] * len(size))
        for i in range(0, channels, step):
            products = _products(m, met[:, None, i : i + step], weight[None, :, i : i + step])
            out[:, outs] += products.sum(2)
    return out


_UNKNOWN = "compare with approxhub.backends.ReferenceBackend on {}"


def _guess_sums(m: Multiplier, got: IntArray, want: IntArray) -> str | None:
    """What may have gone wrong with the adding up, whatever the operands."""
    off = got - want
    biggest = int(np.abs(want).max())
    if biggest > _INT32.max and (got == want.astype(np.int32)).all():
        return "the sums wrap at int32 although the result is int64"
    if biggest > _INT32.max and (got == want.clip(_INT32.min, _INT32.max)).all():
        return "the sums saturate at int32 although the result is int64"
    corner = int(m.table[0, 0]) if m.has_table else CORNER
    if corner and off.flat[0] % corner == 0 and (off == off.flat[0]).all():
        return (
            f"every sum is off by {int(off.flat[0]) // corner} x T[0][0]: elements that pad K to "
            "a tile reach the table"
        )
    if biggest > 1 << 24 and int(np.abs(off).max()) <= biggest >> 20:
        return "sums are off by little: they were rounded, as floating point does; sum integers"
    return None


def _guess(m: Multiplier, a: IntArray, b: IntArray, got: IntArray, want: IntArray) -> str:
    """What may have gone wrong with a matrix product, from the wrong sums."""
    if m.has_table and m.a.bits == m.b.bits:
        swapped = _of_table(m.a, m.b, m.table.T.astype(np.int64), "swapped")
        if (got == gemm_loop(swapped, a, b)).all():
            return "the table was read as T[b, a]; the activation comes first"
    found = _guess_sums(m, got, want)
    if found is not None:
        return found
    if (m.a.signed or m.b.signed) and a.shape[1] == 1:
        negative = (a < 0) | (b < 0)
        if negative.any() and not (got != want)[~negative].any():
            return (
                "only products with a negative operand are wrong: operands are values, and the "
                "table is indexed by their two's-complement bit patterns"
            )
    return _UNKNOWN.format("these operands")


def _guess_conv(
    m: Multiplier, x: IntArray, w: IntArray, c: Convolution, got: IntArray, want: IntArray
) -> str:
    """What may have gone wrong, from the wrong sums: the fault that gives just these."""
    faults: list[tuple[str, Multiplier, IntArray, Convolution]] = [
        (
            "padding was code 0; it is pad_value",
            m, w, replace(c, pad_value=0),
        ),
        (
            "the kernel was turned round, as in signal processing; tap 0 meets the first position",
            m, np.flip(w, tuple(range(2, w.ndim))), c,
        ),
        (
            "paddings before and behind the image were exchanged",
            m, w, replace(c, padding=tuple((b, a) for a, b in c.padding)),
        ),
    ]  # fmt: skip
    for name in ("stride", "dilation", "padding"):
        turned = replace(c, **{name: getattr(c, name)[::-1]})
        faults.append((f"{name} was read from the last dimension to the first", m, w, turned))
    if m.has_table and m.a.bits == m.b.bits:
        swapped = _of_table(m.a, m.b, m.table.T.astype(np.int64), "swapped")
        faults.append(("the table was read as T[w, x]; the activation comes first", swapped, w, c))
    for cause, multiplier, weight, convolution in faults:
        found = convolution.output_size(x.shape[2:], w.shape[2:])
        if found == want.shape[2:] and (got == conv_loop(multiplier, x, weight, convolution)).all():
            return cause
    # Padding is a product like any other: without it, sums at the edges alone are wrong.
    ones = np.ones((1, 1, *x.shape[2:]), dtype=np.int64)
    counted = conv_loop(
        exact(8), ones, np.ones((1, 1, *w.shape[2:]), dtype=np.int64),
        replace(c, groups=1, pad_value=0),
    )  # fmt: skip
    inside = counted == math.prod(w.shape[2:])
    if inside.any() and not inside.all() and not (got != want)[:, :, inside[0, 0]].any():
        return "only sums that meet padding are wrong: its products count, with code pad_value"
    wrong = (got != want).any(axis=(0, *range(2, want.ndim)))
    if c.groups > 1 and not wrong[: w.shape[0] // c.groups].any():
        return "only the first group is right: each group has its own channels and weights"
    if not (got[0] != want[0]).any():
        return "only the first image is right"
    return _guess_sums(m, got, want) or _UNKNOWN.format("these operands, cut into patches")


# --- operands -----------------------------------------------------------------------


def _codes(f: OperandFormat, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Random values of an operand, the smallest and the largest among them."""
    rng = np.random.default_rng(seed)
    values = rng.integers(f.min, f.max, shape, endpoint=True)
    values.flat[0], values.flat[-1] = f.min, f.max
    return torch.from_numpy(values).to(code_dtype(f))


def _pair(m: Multiplier, rows: int, k: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return _codes(m.a, (rows, k), seed), _codes(m.b, (k, n), seed + 1)


def _transposed(t: Tensor) -> Tensor:
    return t.mT.contiguous().mT


def _every_second(t: Tensor) -> Tensor:
    wide = torch.empty((*t.shape[:-1], 2 * t.shape[-1] + 1), dtype=t.dtype, device=t.device)
    wide[...] = 1 if t.dtype == torch.uint8 else -1
    wide[..., 1::2] = t
    return wide[..., 1::2]


def _offset(t: Tensor) -> Tensor:
    room = torch.ones(t.numel() + 3, dtype=t.dtype, device=t.device)
    room[3:] = t.reshape(-1)
    return room[3:].view(t.shape)


def _expanded(t: Tensor) -> Tensor:
    """One row for all: stride 0."""
    return t[:1].expand(t.shape)


def _narrowed(t: Tensor) -> Tensor:
    """Columns out of a wider matrix."""
    return torch.cat([t + 0, t + 0, t], dim=-1)[..., t.shape[-1] : 2 * t.shape[-1]]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": _transposed,
    "every-second": _every_second,
    "offset": _offset,
    "expanded": _expanded,
    "narrowed": _narrowed,
}


def _channels_last(t: Tensor) -> Tensor:
    return t.movedim(1, -1).contiguous().movedim(-1, 1)


IMAGE_LAYOUTS = {**LAYOUTS, "channels-last": _channels_last}


# Sizes of images and of weights, and how they meet.
CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1d": ((2, 3, 9), (4, 3, 3), {}),
    "1d, all options": (
        (2, 4, 14), (6, 2, 3), {"stride": 3, "padding": ((3, 1),), "dilation": 2, "groups": 2},
    ),
    "2d": ((2, 3, 5, 7), (4, 3, 3, 2), {}),
    "1x1": ((3, 5, 4, 6), (7, 5, 1, 1), {}),
    "1x1, stride": ((2, 3, 5, 7), (4, 3, 1, 1), {"stride": (2, 3)}),
    "stride": ((2, 3, 9, 11), (5, 3, 3, 3), {"stride": (2, 3)}),
    "strides that give one size": ((2, 3, 6, 6), (4, 3, 3, 3), {"stride": (2, 3)}),
    "stride beyond the kernel": ((1, 2, 13, 9), (3, 2, 2, 1), {"stride": (5, 4)}),
    "padding": ((2, 3, 4, 5), (4, 3, 3, 3), {"padding": ((0, 1), (2, 3))}),
    "padding and stride": ((2, 3, 6, 7), (4, 3, 3, 3), {"padding": ((1, 1), (1, 1)), "stride": 2}),
    "padding wider than the image": ((2, 2, 2, 1), (3, 2, 3, 3), {"padding": ((4, 3), (2, 5))}),
    "dilation": ((1, 2, 9, 8), (3, 2, 3, 2), {"dilation": (2, 3)}),
    "dilation and stride": (
        (1, 2, 13, 12), (3, 2, 3, 3), {"dilation": (3, 2), "stride": (2, 4), "padding": 2},
    ),
    "kernel as large as the image": ((2, 3, 4, 5), (3, 3, 4, 5), {}),
    "groups": ((2, 6, 5, 4), (9, 2, 2, 3), {"groups": 3, "padding": 1}),
    "depthwise": ((2, 9, 7, 6), (9, 1, 3, 3), {"groups": 9, "padding": 1}),
    "depthwise, stride, two outputs each": (
        (2, 5, 7, 8), (10, 1, 3, 3), {"groups": 5, "padding": 1, "stride": 2},
    ),
    "tiny images": ((7, 5, 1, 1), (3, 5, 3, 3), {"padding": 1}),
    "batch of one": ((1, 8, 17, 15), (16, 8, 3, 3), {"padding": 1}),
    "long lines": ((1, 3, 3, 301), (3, 3, 3, 5), {"padding": ((1, 1), (2, 2))}),
    "many images": ((67, 2, 3, 4), (3, 2, 2, 2), {"padding": ((1, 0), (0, 1))}),
    "many channels": ((1, 130, 4, 3), (67, 130, 2, 2), {"padding": 1}),
    "3d": ((2, 3, 4, 5, 6), (4, 3, 2, 3, 2), {"padding": 1}),
    "3d, all options": (
        (1, 4, 7, 6, 8), (4, 2, 2, 3, 2),
        {"stride": (2, 1, 3), "padding": ((1, 0), (2, 1), (0, 2)), "dilation": (1, 2, 3),
         "groups": 2},
    ),
}  # fmt: skip


def _convolution(
    dims: int,
    pad_value: int = 0,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[tuple[int, int], ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Convolution:
    def each(value: int | tuple[int, ...]) -> tuple[int, ...]:
        return (value,) * dims if isinstance(value, int) else value

    pairs = ((padding, padding),) * dims if isinstance(padding, int) else padding
    return Convolution(each(stride), pairs, each(dilation), groups, pad_value)


# --- the kit ------------------------------------------------------------------------


class BackendConformance:
    """All that a backend must hold, as tests.

    Convolutions are checked on `conv` where the backend has one that supports them, and through
    the operator ``approxhub::lut_conv`` where it has not: the core makes products of patches then.

    Subclass it in a test module, and say how the backend is made and where it runs. What
    `supports` refuses is skipped, so read the skips: a backend that refuses everything fails.
    A backend that is unavailable here is skipped with its reason.

    Examples
    --------
    >>> from approxhub.backends import ReferenceBackend
    >>> class TestReference(BackendConformance):
    ...     device = "cpu"
    ...
    ...     def make_backend(self):
    ...         return ReferenceBackend()
    """

    device: ClassVar[str] = "cpu"
    """Where operands are put, e.g. ``'cuda'``."""

    _made: ClassVar[Backend]
    _prepared: ClassVar[dict[str, Any]]

    def make_backend(self) -> Backend:
        """Return the backend to test; called once for all tests, as the core does."""
        raise NotImplementedError(
            f"{type(self).__name__} must say how its backend is made: def make_backend(self)"
        )

    # --- tools of the tests ---------------------------------------------------------

    def _backend(self) -> Backend:
        """The backend, or a skip if it is unavailable here."""
        backend = self._any_backend()
        reason = backend.unavailable_reason()
        if reason:
            pytest.skip(f"unavailable here: {reason}")
        return backend

    def _any_backend(self) -> Backend:
        kit = type(self)
        if "_made" not in kit.__dict__:
            kit._made, kit._prepared = self.make_backend(), {}
        return kit._made

    def _prepare(self, m: Multiplier) -> Any:
        self._backend()
        if m.identity not in self._prepared:
            self._prepared[m.identity] = self._backend().prepare(m, torch.device(self.device))
        return self._prepared[m.identity]

    def _request(
        self, m: Multiplier, rows: int, k: int, n: int, dtype: torch.dtype | None = None
    ) -> GemmRequest:
        dtype = accumulator_dtype(m, k) if dtype is None else dtype
        return GemmRequest(m, rows, k, n, torch.device(self.device), dtype)

    def _supports(self, m: Multiplier, rows: int = 3, k: int = 5, n: int = 7) -> bool:
        return self._backend().supports(self._request(m, rows, k, n))

    def _need(self, m: Multiplier, rows: int, k: int, n: int) -> None:
        if not self._supports(m, rows, k, n):
            pytest.skip(f"supports() refuses {m.a} x {m.b} ({m.id}) at {rows} x {k} x {n}")

    def _some(
        self,
        rows: int = 3,
        k: int = 5,
        n: int = 7,
        count: int = 2,
        does: Callable[[Multiplier], bool] | None = None,
    ) -> list[Multiplier]:
        """A few multipliers that the backend supports at a size."""
        does = does or (lambda m: self._supports(m, rows, k, n))
        order = ("8ux8s-any", "8sx8s-near", "8ux8u-near", "8ux8s-near")
        cases = sorted(CASES, key=lambda c: (str(c) not in order, c.kind in ("exact", "circuit")))
        found: list[Multiplier] = []
        for case in cases:
            if len(found) < count and does(_multiplier(case)):
                found.append(_multiplier(case))
        if not found:
            pytest.skip(f"supports() refuses every multiplier at {rows} x {k} x {n}")
        return found

    def _run(
        self, m: Multiplier, a: Tensor, b: Tensor, dtype: torch.dtype, prepared: Any = None
    ) -> Tensor:
        """Run one product, and check all but its sums."""
        before = a.clone(), b.clone()
        prepared = self._prepare(m) if prepared is None else prepared
        out = self._backend().gemm(a, b, prepared, dtype)
        if not isinstance(out, Tensor):
            broken(RESULT, f"returned {type(out).__name__}")
        shape = (*a.shape[:-1], b.shape[1])
        if tuple(out.shape) != shape:
            broken(
                RESULT,
                f"returned the shape {tuple(out.shape)} for {tuple(a.shape)} x {tuple(b.shape)}",
            )
        if out.dtype != dtype or out.device != a.device:
            broken(RESULT, f"returned {out.dtype} on {out.device}, not {dtype} on {a.device}")
        for name, operand, old in (("a", a, before[0]), ("b", b, before[1])):
            if not torch.equal(operand, old):
                broken(UNCHANGED, f"changed operand {name}")
            if out.untyped_storage().data_ptr() == operand.untyped_storage().data_ptr():
                broken(RESULT, f"returned memory of operand {name}")
        return out

    def _check(
        self,
        m: Multiplier,
        a: Tensor,
        b: Tensor,
        dtype: torch.dtype | None = None,
        prepared: Any = None,
    ) -> Tensor:
        """Run one product on operands that may still be elsewhere, and check its sums."""
        device = torch.device(self.device)
        a, b = (t if t.device.type == device.type else t.to(device) for t in (a, b))
        dtype = accumulator_dtype(m, b.shape[0]) if dtype is None else dtype
        out = self._run(m, a, b, dtype, prepared)
        self._compare(m, a, b, out)
        return out

    def _compare(self, m: Multiplier, a: Tensor, b: Tensor, out: Tensor, clause: str = SUM) -> None:
        x = a.reshape(-1, a.shape[-1]).cpu().numpy().astype(np.int64)
        w = b.cpu().numpy().astype(np.int64)
        want = gemm_loop(m, x, w)
        got = out.reshape(want.shape).cpu().numpy().astype(np.int64)
        wrong = got != want
        if wrong.any():
            i, j = (int(v) for v in np.argwhere(wrong)[0])
            broken(
                clause,
                f"with {m.a} x {m.b} ({m.id}), {tuple(a.shape)} x {tuple(b.shape)} of {a.dtype} "
                f"and {b.dtype}, strides {a.stride()} and {b.stride()}, to {out.dtype}: "
                f"{int(wrong.sum())} of {wrong.size} sums are wrong; row {i}, column {j} is "
                f"{int(got[i, j])}, not {int(want[i, j])}.\nPerhaps: {_guess(m, x, w, got, want)}.",
            )

    # --- convolutions: the same tools ---------------------------------------------------

    def _conv_request(
        self, m: Multiplier, x: Tensor, w: Tensor, c: Convolution, dtype: torch.dtype | None = None
    ) -> ConvRequest:
        dtype = accumulator_dtype(m, w[0].numel()) if dtype is None else dtype
        shapes = tuple(x.shape), tuple(w.shape)
        return ConvRequest(m, *shapes, c, torch.device(self.device), dtype)

    def _convolves(self, request: ConvRequest) -> bool:
        """Whether the backend does this convolution itself."""
        if not callable(getattr(self._backend(), "conv", None)):
            return False
        return self._backend().supports(request)  # type: ignore[arg-type]

    def _operands(
        self, m: Multiplier, x_shape: tuple[int, ...], w_shape: tuple[int, ...], seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        x, w = _codes(m.a, x_shape, seed), _codes(m.b, w_shape, seed + 1)
        return x.to(self.device), w.to(self.device)

    def _some_conv(
        self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], c: Convolution, count: int = 2
    ) -> list[Multiplier]:
        """A few multipliers whose convolutions of a size it does, itself or as products."""
        x, w = (torch.empty(s, dtype=torch.int8) for s in (x_shape, w_shape))

        def does(m: Multiplier) -> bool:
            request = self._conv_request(m, x, w, c)
            return self._convolves(request) or self._backend().supports(request.gemm)

        g = self._conv_request(exact(8), x, w, c).gemm
        return self._some(g.m, g.k, g.n, count, does)

    def _run_conv(
        self, m: Multiplier, x: Tensor, w: Tensor, c: Convolution, dtype: torch.dtype
    ) -> Tensor:
        """Run one convolution, and check all but its sums."""
        request = self._conv_request(m, x, w, c, dtype)
        before = x.clone(), w.clone()
        if self._convolves(request):
            out = self._backend().conv(  # type: ignore[attr-defined]
                x, w, self._prepare(m), dtype, c
            )
        else:
            out = self._through_operator(m, x, w, c, dtype)
        if not isinstance(out, Tensor):
            broken(CONV_RESULT, f"returned {type(out).__name__}")
        if tuple(out.shape) != request.output_shape:
            broken(
                CONV_RESULT,
                f"returned the shape {tuple(out.shape)}, not {request.output_shape}, for "
                f"{tuple(x.shape)} and {tuple(w.shape)} with {c}",
            )
        if out.dtype != dtype or out.device != x.device:
            broken(CONV_RESULT, f"returned {out.dtype} on {out.device}, not {dtype} on {x.device}")
        for name, operand, old in (("x", x, before[0]), ("w", w, before[1])):
            if not torch.equal(operand, old):
                broken(UNCHANGED, f"changed operand {name}")
            if out.untyped_storage().data_ptr() == operand.untyped_storage().data_ptr():
                broken(CONV_RESULT, f"returned memory of operand {name}")
        return out

    def _through_operator(
        self, m: Multiplier, x: Tensor, w: Tensor, c: Convolution, dtype: torch.dtype
    ) -> Tensor:
        with self._offered():
            out: Tensor = lut_conv(*self._arguments(m, x, w, c, dtype))
        return out

    def _arguments(
        self, m: Multiplier, x: Tensor, w: Tensor, c: Convolution, dtype: torch.dtype
    ) -> tuple[Any, ...]:
        """What the operator takes for a convolution."""
        pad = torch.tensor(c.pad_value, device=x.device)
        padding = [side for pair in c.padding for side in pair]
        return (x, w, pad, register(m), c.stride, padding, c.dilation, c.groups, dtype)

    def _check_conv(
        self,
        m: Multiplier,
        x: Tensor,
        w: Tensor,
        c: Convolution,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Run one convolution, and check its sums."""
        dtype = accumulator_dtype(m, w[0].numel()) if dtype is None else dtype
        out = self._run_conv(m, x, w, c, dtype)
        self._compare_conv(m, x, w, c, out)
        return out

    def _compare_conv(
        self,
        m: Multiplier,
        x: Tensor,
        w: Tensor,
        c: Convolution,
        out: Tensor,
        clause: str = CONV,
    ) -> None:
        image, weight, got = (t.cpu().numpy().astype(np.int64) for t in (x, w, out))
        want = conv_loop(m, image, weight, c)
        wrong = got != want
        if wrong.any():
            at = tuple(int(v) for v in np.argwhere(wrong)[0])
            broken(
                clause,
                f"with {m.a} x {m.b} ({m.id}), {tuple(x.shape)} and {tuple(w.shape)} of {x.dtype} "
                f"and {w.dtype}, strides {x.stride()} and {w.stride()}, {c}, to {out.dtype}: "
                f"{int(wrong.sum())} of {wrong.size} sums are wrong; {list(at)} is "
                f"{int(got[at])}, not {int(want[at])}.\n"
                f"Perhaps: {_guess_conv(m, image, weight, c, got, want)}.",
            )

    @contextmanager
    def _offered(self) -> Iterator[str]:
        """The backend as a plug-in of this process; its name."""
        backend = self._backend()
        name = f"conformance-{id(backend):x}"
        info = BackendInfo(name, torch.device(self.device).type, lambda: backend)
        with offered("approxhub_backends", info), use_backend(name):
            yield name

    # --- what it says of itself -------------------------------------------------------

    def test_it_has_the_five_methods(self) -> None:
        """A backend has unavailable_reason, supports, cost, prepare and gemm."""
        backend = self._any_backend()
        missing = [name for name in _METHODS if not callable(getattr(backend, name, None))]
        if missing:
            broken("a backend has the methods " + ", ".join(_METHODS), f"lacks {missing}")

    def test_it_says_why_it_is_unavailable(self) -> None:
        """unavailable_reason() is None, or a text that is not empty."""
        reason = self._any_backend().unavailable_reason()
        if reason is not None and not (isinstance(reason, str) and reason.strip()):
            broken("unavailable_reason() returns None or the reason", f"returned {reason!r}")

    def test_it_supports_something(self) -> None:
        """supports() accepts at least one of the multipliers that are tried here."""
        if not any(self._supports(_multiplier(case)) for case in CASES):
            broken(
                "a backend that is available supports some requests",
                f"refused all of {', '.join(map(str, CASES))} at 3 x 5 x 7 on {self.device}",
            )

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_supports_and_cost_answer(self, case: Case) -> None:
        """supports() is a bool, and cost() of what it supports is finite seconds above 0."""
        m, backend = _multiplier(case), self._backend()
        for size in ((1, 1, 1), (3, 5, 7), (1, 147, 65), (4096, 4608, 4096)):
            request = self._request(m, *size)
            answer = backend.supports(request)
            if not isinstance(answer, bool):
                broken("supports() returns True or False", f"returned {answer!r} for {request}")
            if answer:
                self._checked_cost(request)

    def _checked_cost(self, request: GemmRequest | ConvRequest) -> float:
        cost = self._backend().cost(request)  # type: ignore[arg-type]
        if isinstance(cost, bool) or not isinstance(cost, (int, float)):
            broken("cost() returns seconds as a float", f"returned {cost!r} for {request}")
        if not (math.isfinite(cost) and cost > 0):
            broken("cost() is finite and above 0", f"returned {cost!r} for {request}")
        return float(cost)

    def test_more_work_does_not_cost_less(self) -> None:
        """A product of 256 x 128 x 256 is not cheaper than one of 8 x 8 x 8."""
        for m in self._some(256, 128, 256):
            if self._supports(m, 8, 8, 8):
                large = self._checked_cost(self._request(m, 256, 128, 256))
                small = self._checked_cost(self._request(m, 8, 8, 8))
                if large < small:
                    broken(
                        "cost() estimates seconds, and the cheapest backend is taken",
                        f"says {small} s for 8 x 8 x 8 and {large} s for 256 x 128 x 256",
                    )

    def test_it_does_not_promise_other_devices(self) -> None:
        """On a device that it was not made for, supports() refuses or the sums are right."""
        backend, here = self._backend(), torch.device(self.device).type
        there = {"cpu": True, "cuda": torch.cuda.is_available()}
        for kind in sorted(set(there) - {here}):
            m = self._some()[0]
            device = torch.device(kind)
            answer = backend.supports(GemmRequest(m, 3, 5, 7, device, accumulator_dtype(m, 5)))
            if not isinstance(answer, bool):
                broken("supports() returns True or False", f"returned {answer!r} for {kind}")
            if answer and there[kind]:
                a, b = (t.to(device) for t in _pair(m, 3, 5, 7))
                dtype = accumulator_dtype(m, 5)
                out = self._run(m, a, b, dtype, backend.prepare(m, device))
                self._compare(m, a, b, out)

    # --- sums -------------------------------------------------------------------------

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_sums_are_exact(self, case: Case) -> None:
        """Widths, signs and tables of every kind that supports() accepts give exact sums."""
        m = _multiplier(case)
        self._need(m, 5, 27, 7)
        a, b = _pair(m, 5, 27, 7)
        for dtype in {accumulator_dtype(m, 27), torch.int64}:
            if self._backend().supports(self._request(m, 5, 27, 7, dtype)):
                self._check(m, a, b, dtype)

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_extreme_codes(self, case: Case) -> None:
        """The smallest and the largest code of either operand, 147 times, give exact sums."""
        m = _multiplier(case)
        self._need(m, 4, 147, 3)
        corners_a = torch.tensor([m.a.min, m.a.max, 0, m.a.max]).to(code_dtype(m.a))
        corners_b = torch.tensor([m.b.min, m.b.max, 0]).to(code_dtype(m.b))
        a = corners_a[:, None].repeat(1, 147)
        a[3, ::2] = m.a.min
        self._check(m, a, corners_b[None, :].repeat(147, 1))

    @pytest.mark.parametrize("case", TABLES, ids=str)
    def test_every_entry_of_the_table(self, case: Case) -> None:
        """With K = 1, all pairs of values give their entry of the table."""
        m = _multiplier(case)
        self._need(m, m.a.size, 1, m.b.size)
        a, b = (torch.from_numpy(f.values()).to(code_dtype(f)) for f in (m.a, m.b))
        self._check(m, a[:, None], b[None, :])

    def test_the_activation_comes_first(self) -> None:
        """The left operand is the activation: T[a, b], which differs from T[b, a]."""
        for m in self._some(5, 9, 5):
            a, b = _pair(m, 5, 9, 5)
            self._check(m, a, b)

    @pytest.mark.parametrize("k", INNER)
    def test_inner_sizes(self, k: int) -> None:
        """No K, however odd, adds products: elements that pad a tile never reach the table."""
        for m in self._some(3, k, 5):
            self._check(m, *_pair(m, 3, k, 5))

    def test_padding_never_reaches_the_table(self) -> None:
        """K in {1, 3, 27, 147} on a table that is 64 at T[0][0] and 0 elsewhere: no 64 appears."""
        asked = 0
        for case in (Case("8u", "8u", ""), Case("8s", "8s", ""), Case("4u", "4u", "")):
            f, g = OperandFormat.parse(case.a), OperandFormat.parse(case.b)
            table = np.zeros((f.size, g.size), dtype=np.int64)
            table[0, 0] = CORNER
            m = _of_table(f, g, table, f"corner-{case.a}")
            for k in (1, 3, 27, 147):
                if self._supports(m, 3, k, 5):
                    asked += 1
                    a = torch.full((3, k), f.max, dtype=code_dtype(f))
                    b = torch.full((k, 5), g.max, dtype=code_dtype(g))
                    self._check(m, a, b)
        if not asked:
            pytest.skip("supports() refuses tables that are zero but for T[0][0]")

    @pytest.mark.parametrize("n", [1, 2, 3, 17, 65])
    @pytest.mark.parametrize("rows", [1, 2, 3, 17, 65])
    def test_outer_sizes(self, rows: int, n: int) -> None:
        """Any M and N, also one."""
        for m in self._some(rows, 27, n):
            self._check(m, *_pair(m, rows, 27, n))

    @pytest.mark.parametrize(
        "size", [(257, 513, 65), (1, 3001, 301), (4099, 37, 5), (33, 4099, 31)], ids=str
    )
    def test_large_sizes(self, size: tuple[int, int, int]) -> None:
        """Millions of products, over every boundary of blocks."""
        for m in self._some(*size, count=1):
            self._check(m, *_pair(m, *size))

    @pytest.mark.parametrize("lead", [(), (2,), (2, 3), (1, 1), (3, 1, 2)], ids=str)
    def test_leading_dimensions(self, lead: tuple[int, ...]) -> None:
        """The left operand may have dimensions before (M, K), and the result has them too."""
        rows = math.prod(lead) * 5
        for m in self._some(rows, 9, 4):
            self._check(m, _codes(m.a, (*lead, 5, 9)), _codes(m.b, (9, 4), 1))

    @pytest.mark.parametrize("right", ["plain", *LAYOUTS])
    @pytest.mark.parametrize("left", ["plain", *LAYOUTS])
    def test_layouts(self, left: str, right: str) -> None:
        """Operands may be transposed, sliced, expanded, or begin inside their memory."""
        for m in self._some(10, 9, 6):
            a = _codes(m.a, (2, 5, 9)).to(self.device)
            b = _codes(m.b, (9, 6), 1).to(self.device)
            self._check(m, LAYOUTS.get(left, _same)(a), LAYOUTS.get(right, _same)(b))

    @pytest.mark.parametrize("b_dtype", _DTYPES, ids=str)
    @pytest.mark.parametrize("a_dtype", _DTYPES, ids=str)
    def test_integer_dtypes(self, a_dtype: torch.dtype, b_dtype: torch.dtype) -> None:
        """Either operand may come as int8, uint8, int16, int32 or int64."""
        for m in self._some(4, 19, 6, count=4):
            operands: list[Tensor] = []
            for f, dtype, t in zip((m.a, m.b), (a_dtype, b_dtype), _pair(m, 4, 19, 6), strict=True):
                info = torch.iinfo(dtype)
                low, high = max(f.min, info.min), min(f.max, info.max)
                operands.append(t.to(torch.int64).clamp(low, high).to(dtype))
            self._check(m, operands[0], operands[1])

    # --- bounds of sums -----------------------------------------------------------------

    @pytest.mark.parametrize("k", [1, 3, 147, 33025])
    @pytest.mark.parametrize("fmt", ["8u", "8s", "4u"])
    def test_sums_at_the_bounds_of_int32(self, fmt: str, k: int) -> None:
        """Where K x max|T| just fits int32, sums of both signs reach its ends."""
        m = _bounded(Case(fmt, fmt, "any"), k)
        self._need(m, 2, k, 3)
        a = torch.full((2, k), m.a.max, dtype=code_dtype(m.a))
        b = torch.full((k, 3), m.b.max, dtype=code_dtype(m.b))
        a[1] = _codes(m.a, (k,))
        b[:, 1] = 0
        for dtype in (torch.int32, torch.int64):
            if self._backend().supports(self._request(m, 2, k, 3, dtype)):
                self._check(m, a, b, dtype)

    @pytest.mark.parametrize("case", HIGH_SUMS, ids=str)
    def test_sums_beyond_float32(self, case: Case) -> None:
        """1,152 products near the largest sum up exactly, beyond the 24 bits of a float32."""
        m = _multiplier(case)
        self._need(m, 5, 1152, 7)
        a, b = (t.to(torch.int64) % 10 + m.a.max - 9 for t in _pair(m, 5, 1152, 7))
        self._check(m, a, b)

    @pytest.mark.parametrize("case", LONG_SUMS, ids=str)
    def test_sums_beyond_int32(self, case: Case) -> None:
        """Where int32 cannot be proven enough, sums pass its bounds on both sides."""
        m, k = _multiplier(case), 300 if case.kind == "any" else 150_001
        self._need(m, 2, k, 3)
        a, b = _pair(m, 2, k, 3)
        if case.kind == "any":
            a[0], b[:, 0] = 0, 1  # T[0, 1] is the largest int32
            a[1], b[:, 1] = 1, 0  # T[1, 0] is the smallest
        else:
            a[0], b[:, 0], b[:, 1] = m.a.max, m.b.max, m.b.min
        self._check(m, a, b, torch.int64)

    @pytest.mark.parametrize("case", LONGER_SUMS, ids=str)
    def test_sums_beyond_float64(self, case: Case) -> None:
        """Sums past 2**53, where float64 has no odd numbers, are exact."""
        m, k = _multiplier(case), (1 << 22) + 3
        if case.kind == "exact":
            pair = m.a.max, m.b.max
        else:
            k, pair = k + (1 << 21), (0, 1)  # T[0, 1] is the largest int32
        self._need(m, 1, k, 1)
        a = torch.full((1, k), pair[0], dtype=code_dtype(m.a))
        b = torch.full((k, 1), pair[1], dtype=code_dtype(m.b))
        self._check(m, a, b, torch.int64)

    # --- convolutions -------------------------------------------------------------------

    @pytest.mark.parametrize("name", CONVOLUTIONS)
    def test_convolutions(self, name: str) -> None:
        """One to three dimensions, stride, dilation, padding, groups and depthwise are exact."""
        x_shape, w_shape, options = CONVOLUTIONS[name]
        c = _convolution(len(x_shape) - 2, **options)
        for m in self._some_conv(x_shape, w_shape, c, count=3):
            c = replace(c, pad_value=m.a.max - 2)
            self._check_conv(m, *self._operands(m, x_shape, w_shape), c)

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_convolutions_of_every_kind(self, case: Case) -> None:
        """Widths, signs and tables of every kind, with padding of the smallest and largest code."""
        m = _multiplier(case)
        x, w = self._operands(m, (2, 5, 4, 6), (3, 5, 3, 2))
        for pad_value in (m.a.min, 0, m.a.max):
            c = _convolution(2, pad_value, padding=((1, 0), (2, 1)), stride=(1, 2))
            request = self._conv_request(m, x, w, c)
            if not (self._convolves(request) or self._backend().supports(request.gemm)):
                pytest.skip(f"supports() refuses {m.a} x {m.b} ({m.id}) for a convolution")
            self._check_conv(m, x, w, c)

    def test_convolutions_answer(self) -> None:
        """Where it has a conv, supports() is a bool, and cost() finite seconds above 0."""
        backend = self._backend()
        if not callable(getattr(backend, "conv", None)):
            pytest.skip("it has no conv: the core makes products of patches")
        for case in CASES:
            m = _multiplier(case)
            for x_shape, w_shape, options in CONVOLUTIONS.values():
                c = _convolution(len(x_shape) - 2, **options)
                x, w = (torch.empty(s, dtype=torch.int8) for s in (x_shape, w_shape))
                request = self._conv_request(m, x, w, c)
                answer = backend.supports(request)  # type: ignore[arg-type]
                if not isinstance(answer, bool):
                    broken(
                        "supports() returns True or False, for a ConvRequest too",
                        f"returned {answer!r} for {request}",
                    )
                if answer:
                    self._checked_cost(request)

    def test_padding_that_the_device_knows(self) -> None:
        """Where it says so, conv takes the padding's value as a tensor, of int32 and of int64."""
        if not getattr(self._backend(), "reads_pad", False):
            pytest.skip("it has no reads_pad: the core pads images before")
        shapes = (2, 8, 5, 6), (4, 4, 3, 2)
        c = _convolution(2, padding=((1, 1), (0, 2)), groups=2)
        for m in self._some_conv(*shapes, c, count=len(CASES)):
            x, w = self._operands(m, *shapes)
            if not self._convolves(self._conv_request(m, x, w, c)):
                continue
            for value, dtype in ((m.a.min, torch.int64), (m.a.max, torch.int32)):
                pad = torch.tensor(value, dtype=dtype, device=self.device)
                out = self._run_conv(m, x, w, replace(c, pad=pad), torch.int64)
                self._compare_conv(m, x, w, replace(c, pad_value=value), out)

    @pytest.mark.parametrize("weight", ["plain", *IMAGE_LAYOUTS])
    @pytest.mark.parametrize("image", ["plain", *IMAGE_LAYOUTS])
    def test_layouts_of_images(self, image: str, weight: str) -> None:
        """Images and weights may be channels-last, transposed, sliced or expanded."""
        shapes = (3, 9, 5, 6), (4, 9, 3, 2)
        c = _convolution(2, 7, padding=((1, 1), (0, 1)))
        for m in self._some_conv(*shapes, c):
            x, w = self._operands(m, *shapes)
            x, w = IMAGE_LAYOUTS.get(image, _same)(x), IMAGE_LAYOUTS.get(weight, _same)(w)
            self._check_conv(m, x, w, c)

    @pytest.mark.parametrize("dtype", _DTYPES, ids=str)
    def test_integer_dtypes_of_images(self, dtype: torch.dtype) -> None:
        """Images and weights may come as int8, uint8, int16, int32 or int64."""
        shapes = (2, 5, 6, 4), (3, 5, 2, 3)
        c = _convolution(2, 5, padding=1)
        info = torch.iinfo(dtype)
        for m in self._some_conv(*shapes, c, count=4):
            x, w = (
                t.to(torch.int64).clamp(max(f.min, info.min), min(f.max, info.max)).to(dtype)
                for t, f in zip(self._operands(m, *shapes), (m.a, m.b), strict=True)
            )
            self._check_conv(m, x, w, c)

    @pytest.mark.parametrize("case", LONG_SUMS, ids=str)
    def test_convolutions_beyond_int32(self, case: Case) -> None:
        """Sums of a convolution pass the bounds of int32, with padding in them."""
        m, k = _multiplier(case), 300 if case.kind == "any" else 150_001
        x, w = self._operands(m, (1, k // 3, 2), (2, k // 3, 3))
        if case.kind == "any":
            x[:], w[0], w[1] = 0, 1, 2  # T[0, 1] is the largest int32
        else:
            x[:], w[0] = m.a.max, m.b.max
        c = _convolution(1, int(x[0, 0, 0]), padding=((1, 1),))
        request = self._conv_request(m, x, w, c, torch.int64)
        if not (self._convolves(request) or self._backend().supports(request.gemm)):
            pytest.skip(f"supports() refuses {m.a} x {m.b} ({m.id}) for a convolution")
        self._check_conv(m, x, w, c, torch.int64)

    def test_new_values_in_the_same_images(self) -> None:
        """Images and weights whose memory holds other values now give the sums of those."""
        shapes = (2, 3, 5, 6), (4, 3, 3, 3)
        c = _convolution(2, 9, padding=1)
        for m in self._some_conv(*shapes, c):
            x, w = self._operands(m, *shapes)
            first = self._check_conv(m, x, w, c)
            kept = first.clone()
            for operand, f in ((x, m.a), (w, m.b)):
                operand.copy_(_codes(f, tuple(operand.shape), seed=11))
                out = self._run_conv(m, x, w, c, first.dtype)
                self._compare_conv(m, x, w, c, out, NOTHING_KEPT)
            if not torch.equal(first, kept):
                broken(NOTHING_KEPT, "changed an earlier result while it computed a later one")
            out.fill_(-1)
            again = self._run_conv(m, x, w, c, first.dtype)
            self._compare_conv(m, x, w, c, again, NOTHING_KEPT)

    def test_convolutions_of_several_multipliers(self) -> None:
        """Equal weights and images under another table, or in another shape, give its sums."""
        c = _convolution(2, 9, padding=1)
        several: dict[tuple[OperandFormat, OperandFormat], list[Multiplier]] = {}
        for m in self._some_conv((2, 4, 7, 6), (4, 4, 3, 3), c, count=len(CASES)):
            several.setdefault((m.a, m.b), []).append(m)
        alike = max(several.values(), key=len)
        for m in alike + alike[::-1]:
            x, w = self._operands(m, (2, 4, 7, 6), (4, 4, 3, 3))
            self._check_conv(m, x, w, c)
            self._check_conv(m, x, w.reshape(16, 1, 3, 3)[:4], replace(c, groups=4))
            self._check_conv(m, x, w.reshape(4, 4, 9, 1), c)
            self._check_conv(m, x, w, replace(c, pad_value=8))

    def test_convolutions_from_several_threads(self) -> None:
        """Several threads convolve at a time, also with one prepared table."""
        shapes = (2, 5, 7, 6), (8, 5, 3, 3)
        c = _convolution(2, 9, padding=1)
        m = self._some_conv(*shapes, c, count=1)[0]
        pairs = [self._operands(m, *shapes, seed=seed) for seed in range(16)]
        dtype = accumulator_dtype(m, 45)
        workers = 4
        barrier = threading.Barrier(workers)
        prepared = self._prepare(m)
        itself = self._convolves(self._conv_request(m, *pairs[0], c))

        def work(mine: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
            barrier.wait(60)
            if itself:
                conv = self._backend().conv  # type: ignore[attr-defined]
                return [conv(x, w, prepared, dtype, c) for x, w in mine]
            with use_backend(name):
                return [lut_conv(*self._arguments(m, x, w, c, dtype)) for x, w in mine]

        with self._offered() as name, ThreadPoolExecutor(workers) as pool:
            mine = [pairs[i::workers] * 4 for i in range(workers)]
            found = list(pool.map(work, mine))
        clause = "conv may be called from any thread, several at a time"
        for theirs, outs in zip(mine, found, strict=True):
            for (x, w), out in zip(theirs, outs, strict=True):
                self._compare_conv(m, x, w, c, out, clause)

    # --- manners ----------------------------------------------------------------------

    def test_results_are_the_callers_own(self) -> None:
        """A result stays as it is while others are computed, and may be overwritten."""
        for m in self._some(6, 9, 4):
            a, b = (t.to(self.device) for t in _pair(m, 6, 9, 4))
            other = _pair(m, 6, 9, 4, seed=7)
            first = self._check(m, a, b)
            kept = first.clone()
            self._check(m, *other)
            if not torch.equal(first, kept):
                broken(NOTHING_KEPT, "changed an earlier result while it computed a later one")
            first.fill_(-1)
            again = self._run(m, a, b, first.dtype)
            self._compare(m, a, b, again, NOTHING_KEPT)

    def test_new_values_in_the_same_memory(self) -> None:
        """An operand whose memory holds other values now gives the sums of those."""
        for m in self._some(6, 9, 4):
            a, b = (t.to(self.device) for t in _pair(m, 6, 9, 4))
            self._check(m, a, b)
            for operand, f in ((a, m.a), (b, m.b)):
                operand.copy_(_codes(f, tuple(operand.shape), seed=11))
                out = self._run(m, a, b, accumulator_dtype(m, 9))
                self._compare(m, a, b, out, NOTHING_KEPT)

    def test_it_is_deterministic(self) -> None:
        """The same operands give the same integers, each time."""
        for m in self._some(33, 257, 17):
            a, b = (t.to(self.device) for t in _pair(m, 33, 257, 17))
            first = self._check(m, a, b)
            if any(not torch.equal(first, self._run(m, a, b, first.dtype)) for _ in range(3)):
                broken("the same operands give the same integers", "gave different ones")

    def test_several_prepared_multipliers(self) -> None:
        """Each product uses the table that it was given, whatever was prepared in between."""
        several = [(m, self._prepare(m)) for m in self._some(3, 7, 4, count=5)]
        for m, prepared in several + several[::-1]:
            self._check(m, *_pair(m, 3, 7, 4), prepared=prepared)

    def test_preparing_again(self) -> None:
        """A multiplier may be prepared again, and both results work: the cache is bounded."""
        backend, device = self._backend(), torch.device(self.device)
        for m in self._some(3, 7, 4):
            first, second = backend.prepare(m, device), backend.prepare(m, device)
            for prepared in (first, second, first):
                self._check(m, *_pair(m, 3, 7, 4), prepared=prepared)
            del first, prepared
            self._check(m, *_pair(m, 3, 7, 4), prepared=second)

    def test_constant_weights_are_a_hint(self) -> None:
        """Prepared with weight codes, gemm gives the same sums for those weights."""
        backend, device = self._backend(), torch.device(self.device)
        for m in self._some(3, 7, 4):
            a, b = (t.to(device) for t in _pair(m, 3, 7, 4))
            prepared = backend.prepare(m, device, weight_codes=b)
            self._check(m, a, b, prepared=prepared)
            self._check(m, a, b.clone(), prepared=prepared)

    def test_several_threads(self) -> None:
        """Several threads call gemm at a time, also with one prepared table."""
        several = self._some(9, 65, 8, count=2)
        jobs = [(m, *_pair(m, 9, 65, 8, seed=s)) for s in range(8) for m in several]
        device = torch.device(self.device)
        jobs = [(m, a.to(device), b.to(device)) for m, a, b in jobs]
        for m in several:
            self._check(m, *_pair(m, 9, 65, 8))
        workers = 4
        barrier = threading.Barrier(workers)
        backend, prepared = self._backend(), {m.identity: self._prepare(m) for m in several}

        def work(mine: list[tuple[Multiplier, Tensor, Tensor]]) -> list[Tensor]:
            barrier.wait(60)
            results = []
            for m, a, b in mine:
                dtype = accumulator_dtype(m, 65)
                backend.cost(self._request(m, 9, 65, 8))
                results.append(backend.gemm(a, b, prepared[m.identity], dtype))
            return results

        with ThreadPoolExecutor(workers) as pool:
            mine = [jobs[i::workers] * 4 for i in range(workers)]
            found = list(pool.map(work, mine))
        clause = "gemm may be called from any thread, several at a time"
        for js, outs in zip(mine, found, strict=True):
            for (m, a, b), out in zip(js, outs, strict=True):
                self._compare(m, a, b, out, clause)

    # --- real numbers -------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32], ids=str)
    def test_quantising(self, dtype: torch.dtype) -> None:
        """Where it quantises: codes, real values and what was inside have the bits of torch."""
        backend = self._real_numbers()
        limits = (-7, 100) if dtype.is_signed else (3, 250)
        for shape in ((1, 1, 1), (1, 1, 9001), (3, 5, 1), (2, 3, 41), (7, 2, 260)):
            generator = torch.Generator().manual_seed(shape[2])
            x = torch.randn(shape, generator=generator) * 40
            flat = x.view(-1)
            flat[::5], flat[1::7], flat[2::9] = torch.round(flat[::5]) / 2, -0.0, 1e-42
            scale = torch.rand(shape[1], generator=generator) + 0.25
            scale[0] = 1  # so that halves between codes are among the numbers
            zero = torch.randint(*limits, (shape[1],), generator=generator, dtype=torch.int32)
            free = torch.round(x / scale[:, None]) + zero[:, None]
            codes = free.clamp(*limits)
            want = codes.to(dtype), (codes - zero[:, None]) * scale[:, None], codes == free
            for bad in (None, torch.nan, torch.inf, -torch.inf):
                if bad is not None:
                    x[-1, -1, -1] = bad
                for with_real in (False, True):
                    got = [torch.full_like(t, 77, device=self.device) for t in want]
                    finite = backend.quantize(
                        *(x.to(self.device), shape, scale.to(self.device), zero.to(self.device)),
                        limits, got[0], *(got[1:] if with_real else (None, None)),
                    )  # fmt: skip
                    if bool(finite) != (bad is None):
                        broken(QUANTIZE, f"said finite={bool(finite)} of numbers with {bad}")
                    if bad is None:
                        self._same_bits(QUANTIZE, got[: 1 + 2 * with_real], want, str(shape))

    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
    def test_dequantising(self, dtype: torch.dtype) -> None:
        """Where it dequantises: real numbers have the bits of torch, with any correction."""
        backend = self._real_numbers()
        for shape, groups in (((9, 37, 1), 1), ((2, 6, 35), 2), ((1, 4, 300), 4), ((5, 3, 1), 1)):
            generator = torch.Generator().manual_seed(shape[2])

            def drawn(limit: int, *size: int, g: torch.Generator = generator) -> Tensor:
                return torch.randint(-limit, limit, size, generator=g)

            outer, channels, inner = shape
            acc = drawn(2**24 if dtype == torch.int32 else 2**40, *shape).to(dtype)
            acc.view(-1)[::5] = 0
            term, zero = drawn(2**20, channels), drawn(200, channels)
            sums = drawn(2**12, outer, groups, inner)
            term[0] = zero[0] = 0
            scale = torch.rand(channels, generator=generator)
            scale[0] = -0.25  # no scale of a layer, but it gives a zero a sign
            bias = torch.randn(channels, generator=generator)
            for with_sums, with_bias in ((False, False), (True, True), (False, True)):
                total = acc.to(torch.int64) + term[:, None]
                if with_sums:
                    each = sums.repeat_interleave(channels // groups, 1)
                    total = total - zero[:, None] * each
                want = total.to(torch.float32) * scale[:, None]
                want = want + bias[:, None] if with_bias else want
                out = torch.full(shape, 77.0, device=self.device)
                there = [t.to(self.device) for t in (acc, term, zero, sums, scale, bias)]
                backend.dequantize(
                    there[0], shape, there[1], there[2], there[3] if with_sums else None, groups,
                    there[4], there[5] if with_bias else None, out,
                )  # fmt: skip
                self._same_bits(DEQUANTIZE, [out], [want], f"{shape} with {groups} groups")

    @pytest.mark.parametrize("terms", [1, 4])
    def test_sums_of_gradient_tables(self, terms: int) -> None:
        """Where it recodes for gradient tables, and sums products up, it has the bits of torch."""
        backend: object = self._backend()
        if not isinstance(backend, GradientTables):
            pytest.skip("it has no recode and combine: the core does both in torch")
        for shape, bits in (((1, 1, 9001), 8), ((3, 5, 1), 4), ((2, 3, 41), 9)):
            generator = torch.Generator().manual_seed(bits)
            size = 1 << bits
            codes = torch.randint(-size // 2, size // 2, shape, generator=generator)
            zero = torch.randint(-9, 9, (shape[1],), generator=generator, dtype=torch.int32)
            scale = torch.rand(shape[1], generator=generator) + 0.25
            x = (codes - zero[:, None]).to(torch.float32) * scale[:, None]
            table = torch.randn((terms, size), generator=generator)
            products = torch.randn((terms, *shape), generator=generator)
            total = torch.randn(shape, generator=generator)
            at = codes & (size - 1)
            recoded = scale[:, None] * table[:, at]
            wanted = total
            for t in range(terms):
                wanted = wanted + table[t, at] * products[t]
            x_, scale_, zero_, table_, sums = (
                t.to(self.device) for t in (x, scale, zero, table, total)
            )
            for whole in (False, True):
                out = torch.full_like(recoded, 77.0, device=self.device)
                backend.recode(x_, shape, scale_, zero_, size - 1, table_, whole, out)
                right = torch.cat([x[None] + recoded[:1], recoded[1:]]) if whole else recoded
                self._same_bits(RECODE, [out], [right], f"{shape} and {bits} bits")
            mine = [p.to(self.device) for p in products]
            backend.combine(sums, x_, shape, scale_, zero_, size - 1, table_, mine)
            self._same_bits(COMBINE, [sums], [wanted], f"{shape} and {bits} bits")

    def _real_numbers(self) -> RealNumbers:
        backend: object = self._backend()
        if not isinstance(backend, RealNumbers):
            pytest.skip("it has no quantize and dequantize: the core does both in torch")
        return backend

    @staticmethod
    def _same_bits(clause: str, got: Sequence[Tensor], want: Sequence[Tensor], of: str) -> None:
        for mine, right in zip(got, want, strict=False):
            found = mine.cpu()
            wrong = (found != right) | (found.signbit() != right.signbit())
            if wrong.any():
                at = tuple(int(v) for v in wrong.nonzero()[0])
                broken(
                    clause,
                    f"for {of} {int(wrong.sum())} of {wrong.numel()} {found.dtype} are wrong; "
                    f"{list(at)} is {found[at].item()}, not {right[at].item()}",
                )

    # --- through the core ---------------------------------------------------------------

    def test_through_the_operator(self) -> None:
        """approxhub::lut_gemm routes to it by name and gives its sums."""
        for m in self._some(6, 9, 4):
            a, b = (t.to(self.device) for t in _pair(m, 6, 9, 4))
            dtype = accumulator_dtype(m, 9)
            with self._offered():
                self._compare(m, a, b, lut_gemm(a, b, register(m), dtype))
                self._compare(m, a[None], b, lut_gemm(a[None], b, register(m), dtype))

    @pytest.mark.parametrize("name", ["1d", "padding and stride", "depthwise", "3d"])
    def test_convolutions_through_the_operator(self, name: str) -> None:
        """approxhub::lut_conv routes to it by name and gives its sums, with or without a conv."""
        x_shape, w_shape, options = CONVOLUTIONS[name]
        c = _convolution(len(x_shape) - 2, 3, **options)
        for m in self._some_conv(x_shape, w_shape, c, count=1):
            x, w = self._operands(m, x_shape, w_shape)
            out = self._through_operator(m, x, w, c, accumulator_dtype(m, w[0].numel()))
            self._compare_conv(m, x, w, c, out)

    def test_under_the_compiler(self) -> None:
        """What the operator promises to torch.compile holds: torch's opcheck passes."""
        m = self._some(6, 9, 4, count=1)[0]
        a, b = (t.to(self.device) for t in _pair(m, 6, 9, 4))
        with self._offered():
            library.opcheck(
                torch.ops.approxhub.lut_gemm.default, (a, b, register(m), accumulator_dtype(m, 9))
            )
        shapes = (2, 4, 5, 6), (6, 2, 3, 2)
        c = _convolution(2, 3, padding=1, groups=2)
        m = self._some_conv(*shapes, c, count=1)[0]
        x, w = self._operands(m, *shapes)
        with self._offered():
            library.opcheck(
                torch.ops.approxhub.lut_conv.default,
                self._arguments(m, x, w, c, accumulator_dtype(m, w[0].numel())),
            )


def _same(t: Tensor) -> Tensor:
    return t
