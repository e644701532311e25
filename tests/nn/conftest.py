"""Integer layers written a second time, in numpy, and the mappings that every layer must serve."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

Products = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Codes:
    """Smallest and largest code, and whether there is a zero point."""

    qmin: int
    qmax: int
    affine: bool


@dataclass(frozen=True)
class Case:
    """A mapping, the circuit's operands, and what is expected of both."""

    mapping: str
    a: str
    b: str
    x: Codes
    w: Codes

    def __str__(self) -> str:
        return f"{self.mapping}-{self.a}x{self.b}"

    def exact(self) -> Multiplier:
        """The exact circuit of these operands."""
        return _exact(self.a, self.b)

    def odd(self) -> Multiplier:
        """A circuit that is not commutative, not exact anywhere, with T[0][0] = 64."""
        return _odd(self.a, self.b)

    def products(self, circuit: Multiplier) -> Products:
        """Products of codes through a circuit and this mapping, straight from its table."""
        table = circuit.table.astype(np.int64)

        def by_pattern(x: np.ndarray, w: np.ndarray) -> np.ndarray:
            return table[x & (table.shape[0] - 1), w & (table.shape[1] - 1)]

        def sign(v: np.ndarray) -> np.ndarray:
            return np.where(v < 0, -1, 1)

        if self.mapping.startswith("signmag-weights"):
            return lambda x, w: sign(w) * by_pattern(x, np.abs(w))
        if self.mapping.startswith("signmag-both"):
            return lambda x, w: sign(x) * sign(w) * by_pattern(np.abs(x), np.abs(w))
        return by_pattern


CASES = [
    Case("symmetric", "8s", "8s", Codes(-127, 127, False), Codes(-127, 127, False)),
    Case("affine", "8u", "8u", Codes(0, 255, True), Codes(0, 255, True)),
    Case("affine-signed", "8s", "8s", Codes(-128, 127, True), Codes(-127, 127, False)),
    Case("signmag-weights", "8u", "8u", Codes(0, 255, True), Codes(-127, 127, False)),
    Case("signmag-weights(9)", "8u", "8u", Codes(0, 255, True), Codes(-255, 255, False)),
    Case("signmag-both", "8u", "8u", Codes(-127, 127, False), Codes(-127, 127, False)),
    Case("signmag-both(9)", "8u", "8u", Codes(-255, 255, False), Codes(-255, 255, False)),
    Case("mixed", "8u", "8s", Codes(0, 255, True), Codes(-127, 127, False)),
    Case("mixed", "6s", "4u", Codes(-31, 31, False), Codes(0, 15, True)),
]


@functools.cache
def _exact(a: str, b: str) -> Multiplier:
    fa, fb = OperandFormat.parse(a), OperandFormat.parse(b)
    return ah.exact(fa.bits, fa.signed, b_bits=fb.bits, b_signed=fb.signed)


@functools.cache
def _odd(a: str, b: str) -> Multiplier:
    fa, fb = OperandFormat.parse(a), OperandFormat.parse(b)
    table = np.random.default_rng(5).integers(-(1 << 15), 1 << 15, (fa.size, fb.size))
    table[0, 0] = 64
    made = Multiplier.from_table(table, name="odd", a_signed=fa.signed, b_signed=fb.signed)
    assert not made.is_commutative
    return made


@dataclass(frozen=True)
class Fitted:
    """Codes of a tensor with their scale and zero point."""

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray


def parameters(low: np.ndarray, high: np.ndarray, codes: Codes) -> tuple[np.ndarray, np.ndarray]:
    """Scale (float32) and zero point of a range."""
    low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    if not codes.affine:
        scale = np.maximum(-low, high) / np.float32(codes.qmax)
        return scale, np.zeros(scale.shape, np.int64)
    scale = (high - low) / np.float32(codes.qmax - codes.qmin)
    zero = np.clip(np.rint(codes.qmin - low / scale), codes.qmin, codes.qmax).astype(np.int64)
    return scale, zero


def quantise(x: np.ndarray, seen: np.ndarray, codes: Codes, axis: int | None) -> Fitted:
    """Codes of `x` with the range of `seen`; one range for each index of `axis`."""
    others = None if axis is None else tuple(i for i in range(seen.ndim) if i != axis)
    scale, zero = parameters(seen.min(axis=others), seen.max(axis=others), codes)
    shape = [1] * x.ndim if axis is None else [-1 if i == axis else 1 for i in range(x.ndim)]
    free = np.rint(x / scale.reshape(shape)) + zero.reshape(shape)
    return Fitted(np.clip(free, codes.qmin, codes.qmax).astype(np.int64), scale, zero)


def epilogue(
    acc: np.ndarray,
    k: int,
    x: Fitted,
    w: Fitted,
    sum_x: np.ndarray,
    sum_w: np.ndarray,
    shape: tuple,
) -> np.ndarray:
    """Zero-point corrections in integers, then one float32 product."""
    zero_w = w.zero.reshape(shape)
    total = acc - x.zero * sum_w.reshape(shape) - zero_w * sum_x + k * x.zero * zero_w
    return total.astype(np.float32) * (x.scale * w.scale).reshape(shape)


def linear(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    seen: np.ndarray,
    case: Case,
    products: Products,
    per_channel: bool = True,
) -> np.ndarray:
    """A linear layer, one product after the other."""
    qx = quantise(x, seen, case.x, None)
    qw = quantise(weight, weight, case.w, 0 if per_channel else None)
    rows = qx.codes.reshape(-1, weight.shape[1])
    acc = np.zeros((len(rows), len(weight)), np.int64)
    for n, k in np.ndindex(*weight.shape):
        acc[:, n] += products(rows[:, k], qw.codes[n, k])
    sum_x, sum_w = rows.sum(1, keepdims=True), qw.codes.sum(1)
    scale_shape = (1, -1) if per_channel else (1, 1)
    zero_w, sum_w = qw.zero.reshape(scale_shape), sum_w.reshape(1, -1)
    total = acc - qx.zero * sum_w - zero_w * sum_x + weight.shape[1] * qx.zero * zero_w
    y = total.astype(np.float32) * (qx.scale * qw.scale).reshape(scale_shape)
    if bias is not None:
        y = y + bias
    return y.reshape(*x.shape[:-1], len(weight))


_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def convolution(
    x: np.ndarray, layer: nn.Module, seen: np.ndarray, case: Case, products: Products
) -> np.ndarray:
    """A convolution of any dimensions, one product after the other, padding written out."""
    weight = layer.weight.detach().numpy()
    dims = weight.ndim - 2
    batched = x if x.ndim == dims + 2 else x[None]
    out_channels, per_group, *kernel = weight.shape
    spans = [d * (k - 1) for d, k in zip(layer.dilation, kernel, strict=True)]
    if layer.padding == "same":
        sides = [(s // 2, s - s // 2) for s in spans]
    elif layer.padding == "valid":
        sides = [(0, 0)] * dims
    else:
        sides = [(p, p) for p in layer.padding]
    width = [(0, 0), (0, 0), *sides]
    if layer.padding_mode != "zeros":
        batched = np.pad(batched, width, _PAD_MODES[layer.padding_mode])
    qx = quantise(batched, seen, case.x, None)
    qw = quantise(weight, weight, case.w, 0)
    codes = qx.codes
    if layer.padding_mode == "zeros":
        codes = np.pad(codes, width, constant_values=int(qx.zero))
    size = [(n - s - 1) // step + 1
            for n, s, step in zip(codes.shape[2:], spans, layer.stride, strict=True)]  # fmt: skip
    acc = np.zeros((len(codes), out_channels, *size), np.int64)
    sum_x = np.zeros_like(acc)
    for o, c, *tap in np.ndindex(*weight.shape):
        channel = o // (out_channels // layer.groups) * per_group + c
        where = [
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, layer.dilation, size, layer.stride, strict=True)
        ]
        patch = codes[(slice(None), channel, *where)]
        acc[:, o] += products(patch, qw.codes[(o, c, *tap)])
        sum_x[:, o] += patch
    sum_w = qw.codes.reshape(out_channels, -1).sum(1)
    along = (1, -1, *[1] * dims)
    y = epilogue(acc, weight[0].size, qx, qw, sum_x, sum_w, along)
    if layer.bias is not None:
        y = y + layer.bias.detach().numpy().reshape(along)
    return y if x.ndim == dims + 2 else y[0]


def transposed_convolution(
    x: np.ndarray,
    layer: nn.Module,
    seen: np.ndarray,
    case: Case,
    products: Products,
    output_padding: tuple[int, ...] | None = None,
) -> np.ndarray:
    """A transposed convolution, one real product after the other: each input to each output.

    The correction of zero points is made product by product, so for real products alone.
    """
    weight = layer.weight.detach().numpy()
    dims, groups = weight.ndim - 2, layer.groups
    batched = x if x.ndim == dims + 2 else x[None]
    channels, per_group, *kernel = weight.shape
    outputs = per_group * groups
    first = np.concatenate(np.split(weight, groups), 1).swapaxes(0, 1)  # (outputs, C / groups, ...)
    qx = quantise(batched, seen, case.x, None)
    qw = quantise(first, first, case.w, 0)
    extra = layer.output_padding if output_padding is None else output_padding
    size = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(
            batched.shape[2:], layer.stride, layer.padding, layer.dilation, kernel, extra,
            strict=True,
        )
    ]  # fmt: skip
    total = np.zeros((len(batched), outputs, *size), np.int64)
    for o, c, *tap in np.ndindex(*first.shape):
        channel = o // per_group * (channels // groups) + c
        w, z_w = qw.codes[(o, c, *tap)], qw.zero[o]
        for place in np.ndindex(*batched.shape[2:]):
            at = [
                i * s + t * d - p
                for i, s, t, d, p in zip(
                    place, layer.stride, tap, layer.dilation, layer.padding, strict=True
                )
            ]
            if any(not 0 <= a < n for a, n in zip(at, size, strict=True)):
                continue
            v = qx.codes[(slice(None), channel, *place)]
            total[(slice(None), o, *at)] += products(v, w) - qx.zero * w - z_w * v + qx.zero * z_w
    along = (1, -1, *[1] * dims)
    y = total.astype(np.float32) * (qx.scale * qw.scale).reshape(along)
    if layer.bias is not None:
        y = y + layer.bias.detach().numpy().reshape(along)
    return y if x.ndim == dims + 2 else y[0]


def projection(part: nn.Module, x: torch.Tensor, case: Case, products: Products) -> torch.Tensor:
    """A linear part of a larger layer, with the range that its quantiser has found."""
    found = part.input_quantizer
    seen = np.array([found.range_min.item(), found.range_max.item()], np.float32)
    bias = None if part.bias is None else part.bias.detach().numpy()
    weight = part.weight.detach().numpy()
    y = linear(x.detach().numpy(), weight, bias, seen, case, products)
    return torch.from_numpy(y.astype(np.float32))


def matmul(
    left: torch.Tensor, right: torch.Tensor, part: nn.Module, case: Case, products: Products
) -> torch.Tensor:
    """A product of two activations, (..., M, K) x (..., K, N), one product after the other."""
    fitted = []
    for t, q, codes in (
        (left, part.input_quantizer, case.x),
        (right, part.weight_quantizer, case.w),
    ):
        seen = np.array([q.range_min.item(), q.range_max.item()], np.float32)
        fitted.append(quantise(t.detach().numpy(), seen, codes, None))
    a, b = fitted
    leading = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    total = np.zeros((*leading, left.shape[-2], right.shape[-1]), np.int64)
    for k, n in np.ndindex(*right.shape[-2:]):
        u, v = a.codes[..., k], b.codes[..., k, n][..., None]
        u, v = np.broadcast_arrays(u, v)
        total[..., n] += products(u, v) - a.zero * v - b.zero * u + a.zero * b.zero
    return torch.from_numpy(total.astype(np.float32) * (a.scale * b.scale))


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    """Every operand mapping in turn."""
    return request.param


@pytest.fixture(params=["symmetric", "affine", "affine-signed", "mixed"])
def some_case(request: pytest.FixtureRequest) -> Case:
    """One case for each combination of zero points."""
    return next(c for c in CASES if c.mapping == request.param)


@pytest.fixture
def oracle() -> SimpleNamespace:
    """The second implementation of every product, and all cases by name."""
    return SimpleNamespace(
        Case=Case,
        Codes=Codes,
        quantise=quantise,
        parameters=parameters,
        linear=linear,
        convolution=convolution,
        transposed_convolution=transposed_convolution,
        projection=projection,
        matmul=matmul,
        cases={str(c): c for c in CASES},
    )


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Small tensors: waiting for a second thread takes longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    # Not torch.manual_seed: it notes a traceback for each accelerator that is not there.
    torch.default_generator.manual_seed(20)


@pytest.fixture
def activations() -> Callable[..., torch.Tensor]:
    """Random activations whose zero point is not at an end of the codes."""

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(shape) * 1.5 + 0.6

    return make


@pytest.fixture
def shaken() -> Callable[[nn.Module], nn.Module]:
    """Give a layer weights of another scale and centre in each channel, and a real bias."""

    def shake(layer: nn.Module) -> nn.Module:
        with torch.no_grad():
            weight = layer.weight
            size = torch.linspace(0.3, 3, len(weight)).reshape(-1, *[1] * (weight.dim() - 1))
            weight.copy_((torch.randn_like(weight) + 0.3) * size)
            if layer.bias is not None:
                layer.bias.normal_()
        return layer

    return shake
