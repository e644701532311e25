"""Every layer x circuit x quantiser x gradient x mode against slow loops: a campaign.

    python tests/campaigns/layers.py --strength 3
    python tests/campaigns/layers.py --strength 5 --start 0 --count 15000   # a piece of all of it

Each case makes a layer, finds its ranges, and compares results with ``==``, and gradients within
rounding, with the same layer written out one product after the other. What the contract does not
allow has to be refused, with its own error. ``--strength n`` takes as many cases as hold every
combination of ``n`` of the five choices; 5 is the whole product. The first two run as tests
(``tests/nn/test_every_combination.py``). Exit code 1: some are wrong; each is printed.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import approxhub as ah
from approxhub.errors import ApproxHubError, InputError, MappingError
from approxhub.nn import ApproxLayer, Noise
from approxhub.nn.gradients import GivenTables
from approxhub.quantization import LearnedQuantizer, Quantizer

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

# --- the five choices -----------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A layer, its arguments, and the shapes of its inputs."""

    name: str
    arguments: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Circuit:
    """A mapping, the operands of the circuit behind it, and the codes that follow from both."""

    mapping: str
    a: str
    b: str
    x: tuple[int, int, bool]  # smallest and largest code, and whether there is a zero point
    w: tuple[int, int, bool]

    def __str__(self) -> str:
        return f"{self.mapping}:{self.a}x{self.b}"


@dataclass(frozen=True)
class Quantiser:
    """A calibrator, or learned scales; for each channel of a weight or not; powers of two."""

    calibrator: str
    per_channel: bool
    power_of_two: bool = False
    learned: bool = False

    def __str__(self) -> str:
        words = ["lsq" if self.learned else self.calibrator]
        words += ["power-of-two"] * self.power_of_two
        return " ".join([*words, "per channel" if self.per_channel else "per tensor"])


KINDS = (
    Kind("Linear", (4, 3), ((2, 2, 4),)),
    Kind("Conv1d", (2, 3, 3), ((2, 2, 5),), (("padding", 2), ("dilation", 2))),
    Kind("Conv2d", (4, 4, (3, 2)), ((2, 4, 4, 3),),
         (("padding", 1), ("stride", (2, 1)), ("groups", 2))),
    Kind("Conv3d", (1, 2, (2, 2, 3)), ((1, 1, 2, 3, 3),), (("padding", (1, 0, 1)),)),
    Kind("ConvTranspose1d", (2, 3, 3), ((2, 2, 3),), (("stride", 2), ("output_padding", 1))),
    Kind("ConvTranspose2d", (4, 2, (3, 2)), ((1, 4, 2, 3),),
         (("stride", 2), ("padding", 1), ("groups", 2), ("dilation", (1, 2)))),
    Kind("ConvTranspose3d", (1, 2, (1, 2, 2)), ((1, 1, 2, 2, 2),), (("bias", False),)),
    Kind("NormalizedLinear", (4, 3), ((3, 4),)),
    Kind("NormalizedConv1d", (2, 3, 2), ((2, 2, 4),), (("padding", "same"),)),
    Kind("NormalizedConv2d", (2, 3, 2), ((2, 2, 3, 3),), (("padding", 1), ("bias", False))),
    Kind("NormalizedConv3d", (1, 2, 2), ((1, 1, 2, 3, 2),)),
    Kind("NormalizedConvTranspose1d", (2, 4, 2), ((2, 2, 3),), (("stride", 2), ("groups", 2))),
    Kind("NormalizedConvTranspose2d", (2, 3, (2, 1)), ((1, 2, 2, 2),), (("bias", False),)),
    Kind("NormalizedConvTranspose3d", (1, 2, (1, 2, 2)), ((1, 1, 2, 2, 2),)),
    Kind("RNN", (3, 2), ((2, 2, 3),), (("nonlinearity", "relu"),)),
    Kind("LSTM", (3, 3), ((2, 2, 3),), (("bidirectional", True), ("proj_size", 2))),
    Kind("GRU", (3, 2), ((2, 2, 3),), (("num_layers", 2), ("batch_first", True))),
    Kind("RNNCell", (3, 2), ((2, 3), (2, 2))),
    Kind("LSTMCell", (3, 2), ((2, 3), (2, 2), (2, 2))),
    Kind("GRUCell", (3, 2), ((2, 3), (2, 2))),
    Kind("Matmul", (), ((2, 2, 4), (2, 4, 3))),
    Kind("ScaledDotProductAttention", (), ((1, 2, 2, 4), (1, 2, 3, 4), (1, 2, 3, 2))),
    Kind("MultiheadAttention", (4, 2), ((1, 2, 4), (1, 3, 4), (1, 3, 4)),
         (("batch_first", True), ("approximate_products", True))),
)  # fmt: skip
CIRCUITS = (
    Circuit("symmetric", "8s", "8s", (-127, 127, False), (-127, 127, False)),
    Circuit("symmetric", "2s", "3s", (-1, 1, False), (-3, 3, False)),
    Circuit("symmetric", "10s", "4s", (-511, 511, False), (-7, 7, False)),
    Circuit("affine", "8u", "8u", (0, 255, True), (0, 255, True)),
    Circuit("affine", "4u", "5u", (0, 15, True), (0, 31, True)),
    Circuit("affine-signed", "6s", "7s", (-32, 31, True), (-63, 63, False)),
    Circuit("signmag-weights", "8u", "6u", (0, 255, True), (-31, 31, False)),
    Circuit("signmag-weights(6)", "4u", "5u", (0, 15, True), (-31, 31, False)),
    Circuit("signmag-both", "5u", "6u", (-15, 15, False), (-15, 15, False)),
    Circuit("signmag-both(6)", "5u", "5u", (-31, 31, False), (-31, 31, False)),
    Circuit("mixed", "7u", "5s", (0, 127, True), (-15, 15, False)),
    Circuit("mixed", "6s", "4u", (-31, 31, False), (0, 15, True)),
)
QUANTISERS = (
    Quantiser("minmax", True),
    Quantiser("minmax", False),
    Quantiser("moving-average", True),
    Quantiser("percentile(99)", False),
    Quantiser("mse", True),
    Quantiser("entropy", False),
    Quantiser("minmax", True, power_of_two=True),
    Quantiser("mse", False, power_of_two=True),
    Quantiser("minmax", True, learned=True),
    Quantiser("minmax", False, learned=True),
    Quantiser("minmax", True, power_of_two=True, learned=True),
)
GRADIENTS = {  # by name, and the largest difference from the loop, as a part of the largest entry
    "straight-through": 1e-4,
    "lre": 1e-4,
    "table-1d(half_window=1)": 1e-4,
    "table-2d(half_window=1,tolerance=1e-5)": 1e-3,
    "given": 1e-3,
    "approximate-backward(rounding=nearest)": 1e-4,
}
MODES = ("float", "exact", "approximate", "noise")
AXES: tuple[Sequence[Any], ...] = (KINDS, CIRCUITS, QUANTISERS, tuple(GRADIENTS), MODES)
WITHOUT_CHANNELS = ("Matmul", "ScaledDotProductAttention")  # two activations: one scale for each
NOISE = 0.75  # of each product: mode noise adds that, and no deviation, so that it can be compared


@dataclass(frozen=True)
class Case:
    """One of each."""

    kind: Kind
    circuit: Circuit
    quantiser: Quantiser
    gradient: str
    mode: str

    def __str__(self) -> str:
        return ", ".join(
            map(str, (self.kind, self.circuit, self.quantiser, self.gradient, self.mode))
        )


def covering(sizes: Sequence[int], strength: int) -> list[tuple[int, ...]]:
    """Rows of indices that hold every combination of `strength` axes' values, in a fixed order.

    One axis after the other, as Y. Lei and K.-C. Tai do it (IPO, HASE 1998): rows are extended
    by the value that brings most new combinations, and what is left gets rows of its own.

    Examples
    --------
    >>> len(covering([3, 3, 2], 2)), len(covering([3, 3, 2], 3))
    (9, 18)
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    width = [sizes[i] for i in order]
    strength = min(strength, len(width))
    rows: list[list[int | None]] = [
        list(row) for row in itertools.product(*map(range, width[:strength]))
    ]
    for axis in range(strength, len(width)):
        groups = list(itertools.combinations(range(axis), strength - 1))
        left = {
            (group, values, v)
            for group in groups
            for values in itertools.product(*(range(width[g]) for g in group))
            for v in range(width[axis])
        }
        for number, row in enumerate(rows):
            held = [
                (group, tuple(row[g] for g in group))
                for group in groups
                if all(row[g] is not None for g in group)
            ]
            # Of equals another one in each row, so that no value is always the first.
            turned = [(v + number) % width[axis] for v in range(width[axis])]
            best = max(turned, key=lambda v: sum((*h, v) in left for h in held))
            row.append(best)
            left -= {(*h, best) for h in held}  # type: ignore[misc]
        for group, values, v in sorted(left):
            wanted = dict(zip(group, values, strict=True)) | {axis: v}
            for row in rows:
                if all(row[i] in (None, n) for i, n in wanted.items()):
                    break
            else:
                row = [None] * (axis + 1)
                rows.append(row)
            for i, n in wanted.items():
                row[i] = n
    made = set()
    for number, row in enumerate(rows):
        full = [number % width[i] if n is None else n for i, n in enumerate(row)]
        made.add(tuple(full[order.index(i)] for i in range(len(sizes))))
    return sorted(made)


def cases(strength: int) -> Iterator[Case]:
    """Cases that hold every combination of `strength` choices, those of one circuit together."""
    sizes = [len(axis) for axis in AXES]
    # The circuit first: tables of gradients are kept for those used last.
    rows = (
        itertools.product(*map(range, sizes))
        if strength >= len(sizes)
        else iter(covering(sizes, strength))
    )
    for row in sorted(rows, key=lambda r: (r[1], r[3], r)):
        yield Case(*(axis[i] for axis, i in zip(AXES, row, strict=True)))


# --- circuits, written out ------------------------------------------------------------


@functools.cache
def multiplier(circuit: Circuit) -> ah.Multiplier:
    """One that does not commute, with 64 at T[0][0] and errors of rank 3."""
    a, b = (ah.OperandFormat.parse(f) for f in (circuit.a, circuit.b))
    rng = np.random.default_rng([a.bits, b.bits, a.signed, b.signed])
    most = int((a.size * b.size) ** 0.25)  # of a factor, so that errors stay below the products
    error = rng.integers(-most, most + 1, (a.size, 3)) @ rng.integers(-1, 2, (3, b.size)) * most
    table = a.values()[:, None] * b.values()[None, :] + error
    table[0, 0] = 64
    return ah.Multiplier.from_table(table, name="odd", a_signed=a.signed, b_signed=b.signed)


@dataclass(frozen=True, eq=False)
class Products:
    """What two codes give, behind the wrapper of a mapping, and its slopes along each operand."""

    a: ah.OperandFormat
    b: ah.OperandFormat
    table: Floats  # [a, b], by values in ascending order
    by_a: Floats
    by_b: Floats

    def at(self, table: Floats, a: Ints, b: Ints) -> Floats:
        """Entries for values."""
        found: Floats = table[a - self.a.min, b - self.b.min]
        return found

    def signed(self, operand: str, a: Ints, b: Ints) -> Floats:
        """Products of a gradient, which has a sign even where its operand has none."""
        f, g = (self.a, a) if operand == "a" else (self.b, b)
        if f.signed:
            return self.at(self.table, a, b)
        size = np.minimum(np.abs(g), f.max)
        given = (size, b) if operand == "a" else (a, size)
        return np.where(g < 0, -1, 1) * self.at(self.table, *given)


@functools.lru_cache(maxsize=32)
def products(circuit: Circuit, mode: str, gradient: str) -> Products:
    """Those of a circuit in a mode, one pair of values after the other."""
    raw, signmag = multiplier(circuit).table.astype(np.int64), circuit.mapping.partition("(")
    a, b = (ah.OperandFormat.parse(f) for f in (circuit.a, circuit.b))
    if signmag[0].startswith("signmag"):
        both = signmag[0] == "signmag-both"
        bits = int(signmag[2][:-1]) if signmag[2] else min(a.bits, b.bits) if both else b.bits
        wide = ah.OperandFormat(bits, signed=True)
        limits = a.max, b.max
        a, b = (wide if both else a), wide
    av, bv = (np.arange(f.min, f.max + 1)[:, None] for f in (a, b))
    bv = bv.T
    if mode != "approximate":
        table = av * bv
    elif signmag[0].startswith("signmag"):
        sign = np.where(av < 0, -1, 1) * np.where(bv < 0, -1, 1)
        table = sign * raw[np.minimum(abs(av), limits[0]), np.minimum(abs(bv), limits[1])]
    else:
        table = raw[av % len(raw), bv % len(raw[0])]
    real = table.astype(np.float64)
    return Products(a, b, real, *_slopes(gradient, real, av.reshape(-1), bv.reshape(-1)))


def _slopes(gradient: str, table: Floats, av: Ints, bv: Ints) -> tuple[Floats, Floats]:
    """Estimates of dT/da and dT/db, each along its own operand."""
    exact = np.broadcast_to(bv, table.shape), np.broadcast_to(av[:, None], table.shape)
    if gradient == "given":
        by_a, by_b = given_tables(len(av), len(bv))
        return by_a, by_b
    if gradient == "lre":
        along = np.polyfit(av, table, 1)[0], np.polyfit(bv, table.T, 1)[0]
        return np.broadcast_to(along[0], table.shape), np.broadcast_to(along[1], table.T.shape).T
    if gradient.startswith("table"):
        by_a, by_b = _differences(table), _differences(table.T).T
        if gradient.startswith("table-1d"):
            by_a = np.broadcast_to(by_a.mean(0, keepdims=True), table.shape)
            by_b = np.broadcast_to(by_b.mean(1, keepdims=True), table.shape)
        return by_a, by_b
    return exact[0].astype(np.float64), exact[1].astype(np.float64)


def _differences(table: Floats) -> Floats:
    """Differences of means of three, along the first axis; nan where there is none."""
    n = len(table)
    found = np.full(table.shape, np.nan)
    span = (table.max(0) - table.min(0)) / n
    found[:] = np.sign(table[-1] - table[0]) * span
    for i in range(2, n - 2):
        found[i] = (table[i : i + 3].mean(0) - table[i - 2 : i + 1].mean(0)) / 2
    return found


def given_tables(rows: int, columns: int) -> tuple[Floats, Floats]:
    """A user's tables, by values in ascending order; of rank 2."""
    rng = np.random.default_rng(rows * 1000 + columns)
    by_a, by_b = (
        rng.integers(-9, 10, (rows, 2)) @ rng.integers(-9, 10, (2, columns)) for _ in range(2)
    )
    return by_a.astype(np.float64), by_b.astype(np.float64)


def _by_pattern(table: Floats, a: ah.OperandFormat, b: ah.OperandFormat) -> Floats:
    """The same table indexed by bit patterns."""
    rows, columns = (np.asarray(f.values()) - f.min for f in (a, b))
    found: Floats = table[rows][:, columns]
    return found


# --- quantisers, written out ----------------------------------------------------------


class _Rounded(torch.autograd.Function):
    """Real values of codes, and what is known of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, learned: Tensor | None, part: Quantizer, axis: Any) -> Any:
        shape = [1] * x.dim()
        if part.axis is not None:
            shape[axis] = -1
        scale, zero = part.scale.reshape(shape), part.zero_point.reshape(shape)
        steps = x / scale
        free = torch.round(steps) + zero
        codes = free.clamp(part.code_range.qmin, part.code_range.qmax)
        ctx.save_for_backward(steps, codes - zero, free == codes, scale)
        ctx.learned = None if learned is None else (learned.shape, part.code_range.largest)
        ctx.mark_non_differentiable(codes)
        return (codes - zero) * scale, codes

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Any:
        steps, rounded, inside, scale = ctx.saved_tensors
        of_scale = None
        if ctx.learned is not None:
            shape, largest = ctx.learned
            each = torch.where(inside, rounded - steps, rounded) * grad
            share = steps.numel() // scale.numel()
            total = each.double().sum_to_size(scale.shape) * scale.double()
            of_scale = (total * math.log(2) / math.sqrt(share * largest)).reshape(shape).float()
        return grad * inside, of_scale, None, None


def rounded(x: Tensor, quantizer: Quantizer, axis: int | None = None) -> tuple[Tensor, Tensor]:
    """Real values of codes, with a gradient, and the codes."""
    learned = quantizer.log2_scale if isinstance(quantizer, LearnedQuantizer) else None
    found: tuple[Tensor, Tensor] = _Rounded.apply(  # type: ignore[no-untyped-call]
        x, learned, quantizer, axis
    )
    return found


def covers(quantizer: Quantizer, of: Tensor) -> bool:
    """Whether scale and zero point are those of the extremes of a tensor."""
    low, high = (
        (of.min(), of.max())
        if quantizer.axis is None
        else (of.flatten(1).amin(1), of.flatten(1).amax(1))
    )
    low, high = low.clamp(max=0), high.clamp(min=0)
    codes = quantizer.code_range
    scale = (
        (high - low) / (codes.qmax - codes.qmin)
        if codes.affine
        else torch.maximum(-low, high) / codes.qmax
    )
    if quantizer.power_of_two:
        scale = 2 ** torch.log2(scale.double()).ceil().float()
    zero = torch.zeros_like(scale)
    if codes.affine:
        zero = torch.round(codes.qmin - low / scale).clamp(codes.qmin, codes.qmax)
    near = bool((quantizer.scale - scale).abs().max() <= 1e-6 * scale.max())  # exp2(log2(s))
    same = near if isinstance(quantizer, LearnedQuantizer) else torch.equal(quantizer.scale, scale)
    return same and torch.equal(quantizer.zero_point.float(), zero)


# --- sums of products, written out ----------------------------------------------------


@dataclass(frozen=True, eq=False)
class Meetings:
    """Which input meets which weight in which output; an input of -1 is padding."""

    x: Ints
    w: Ints
    out: Ints
    shape: tuple[int, ...]
    channel: Ints  # of each output
    terms: int


def _met(numbers: Ints, first: Ints, terms: int) -> Meetings:
    """From images of numbered inputs, ``numbers[w, *out]``, 0 where nothing is met."""
    numbers = np.rint(numbers).astype(np.int64)
    w, *out = np.nonzero(numbers)
    shape = numbers.shape[1:]
    place = np.ravel_multi_index(tuple(out), shape)
    x = numbers[(w, *out)] - 1
    channel = np.broadcast_to(np.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2)), shape)
    return Meetings(
        np.where(x < 1 << 20, x, -1), first[w], place, shape, channel.reshape(-1), terms
    )


@functools.cache
def meetings(kind: Kind) -> Meetings:
    """Those of a convolution: torch is shown numbered inputs, one weight at a time."""
    layer = _plain(kind)
    layer = layer[0] if isinstance(layer, nn.Sequential) else layer
    weight = layer.weight.detach()
    shape = kind.shapes[0]
    x = torch.arange(1.0, math.prod(shape) + 1, dtype=torch.float64).reshape(shape)
    each = torch.eye(weight.numel(), dtype=torch.float64).reshape(-1, *weight.shape)
    dims, transposed = weight.dim() - 2, isinstance(layer, nn.modules.conv._ConvTransposeNd)
    first = torch.arange(weight.numel()).reshape(weight.shape)
    if transposed:
        call: Any = getattr(F, f"conv_transpose{dims}d")
        images = [
            call(x, w, None, layer.stride, layer.padding, layer.output_padding, layer.groups,
                 layer.dilation)
            for w in each
        ]  # fmt: skip
        first = outputs_first(first, layer.groups)
        places = torch.empty(weight.numel(), dtype=torch.int64)
        places[first.reshape(-1)] = torch.arange(weight.numel())
        return _met(torch.stack(images).numpy(), places.numpy(), first[0].numel())
    call = getattr(F, f"conv{dims}d")
    padding = [(p, p) for p in layer.padding]
    if layer.padding == "same":  # the odd one goes behind
        spans = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        padding = [(n // 2, n - n // 2) for n in spans]
    sides = [p for pair in reversed(padding) for p in pair]
    padded = F.pad(x, sides, value=float((1 << 20) + 1))
    images = [call(padded, w, None, layer.stride, 0, layer.dilation, layer.groups) for w in each]
    return _met(torch.stack(images).numpy(), first.reshape(-1).numpy(), weight[0].numel())


def outputs_first(weight: Tensor, groups: int) -> Tensor:
    """The weight of a transposed convolution with its output channels first."""
    return torch.cat([part.transpose(0, 1) for part in weight.chunk(groups)])


@functools.cache
def linear_meetings(rows: int, inputs: int, outputs: int) -> Meetings:
    """Those of ``x @ w.T``."""
    m, n, k = (g.reshape(-1) for g in np.indices((rows, outputs, inputs)))
    channel = np.tile(np.arange(outputs), rows)
    return Meetings(
        m * inputs + k, n * inputs + k, m * outputs + n, (rows, outputs), channel, inputs
    )


@functools.cache
def batched_meetings(batch: int, rows: int, inputs: int, columns: int) -> Meetings:
    """Those of ``x @ w`` for each of a batch."""
    b, m, n, k = (g.reshape(-1) for g in np.indices((batch, rows, columns, inputs)))
    return Meetings(
        (b * rows + m) * inputs + k, (b * inputs + k) * columns + n, (b * rows + m) * columns + n,
        (batch, rows, columns), np.tile(np.arange(columns), batch * rows), inputs,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Way:
    """How products are made, and how their gradient is taken."""

    circuit: Circuit
    gradient: str
    mode: str

    def products(self) -> Products:
        """Of this mode: noise is added to exact ones."""
        return products(self.circuit, self.mode, self.gradient)


def _summed(places: Ints, values: Floats, size: int) -> Floats:
    return np.bincount(places, values, size)


class _Sums(torch.autograd.Function):
    """Sums of products, one after the other; integers stay exact in float64."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, codes: tuple[Tensor, Tensor], met: Meetings, way: Way,
        part: ApproxLayer,
    ) -> Tensor:  # fmt: skip
        xq, wq = part.input_quantizer, part.weight_quantizer
        z_x, s_x = int(xq.zero_point), xq.scale.reshape(1).numpy()
        z_w, s_w = (t.reshape(-1).numpy() for t in (wq.zero_point, wq.scale))
        each = met.channel if wq.axis is not None else np.zeros_like(met.channel)
        padded = np.append(codes[0].numpy().reshape(-1).astype(np.int64), z_x)
        a, b = padded[met.x], codes[1].numpy().reshape(-1).astype(np.int64)[met.w]
        zero = z_w[each][met.out].astype(np.int64)
        by = way.products()
        total = by.at(by.table, a, b) - z_x * b - zero * a + z_x * zero
        sums = _summed(met.out, total, len(met.channel))
        assert np.abs(sums).max() < 2**53
        y = sums.astype(np.float32) * (s_x * s_w)[each]
        ctx.found = a, b, z_x, zero, s_x, s_w[each], s_w, met, way, wq.axis is not None
        ctx.shapes = x.shape, w.shape
        return torch.from_numpy(y.reshape(met.shape))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        a, b, z_x, zero, s_x, s_w, scales, met, way, per_channel = ctx.found
        by, g = way.products(), grad.numpy().reshape(-1)
        sizes = [math.prod(shape) for shape in ctx.shapes]
        if way.gradient.startswith("approximate-backward"):
            scaled = g * s_w if per_channel else g
            q, step = _gradient_codes(scaled, by.a)
            q = q[met.out]
            of_x = _summed(met.x + 1, by.signed("a", q, b) - q * zero, sizes[0] + 1)[1:]
            of_x = of_x.astype(np.float32) * step
            if not per_channel:
                of_x = of_x * scales
            q, step = _gradient_codes(g, by.b)
            q = q[met.out]
            of_w = _summed(met.w, by.signed("b", a, q) - q * z_x, sizes[1])
            of_w = of_w.astype(np.float32) * (step * s_x)
        else:
            g = g.astype(np.float64)
            by_a, by_b = by.at(by.by_a, a, b) - zero, by.at(by.by_b, a, b) - z_x
            of_x = _summed(met.x + 1, (g * s_w)[met.out] * by_a, sizes[0] + 1)[1:]
            of_w = _summed(met.w, g[met.out] * s_x * by_b, sizes[1])
        grads = (
            torch.from_numpy(np.asarray(t, np.float32).reshape(shape))
            for t, shape in zip((of_x, of_w), ctx.shapes, strict=True)
        )
        return (*grads, None, None, None, None)


def _gradient_codes(grad: Floats, f: ah.OperandFormat) -> tuple[Ints, Any]:
    limit = (f if f.signed else ah.OperandFormat(f.bits + 1, signed=True)).max
    step = np.maximum(np.abs(grad).max() / np.float32(limit), np.finfo(np.float32).tiny)
    return np.rint(grad / step).clip(-limit, limit).astype(np.int64), step


def multiplied(
    part: ApproxLayer, x: Tensor, w: Tensor, bias: Tensor | None, met: Meetings, way: Way
) -> Tensor:
    """A product of a layer: quantised, multiplied, summed; the bias, and the noise of its mode."""
    real_x, x_codes = rounded(x, part.input_quantizer)
    real_w, w_codes = rounded(w, part.weight_quantizer, 0)
    y: Tensor = _Sums.apply(  # type: ignore[no-untyped-call]
        real_x, real_w, (x_codes, w_codes), met, way, part
    )
    along = [1, -1, *[1] * (y.dim() - 2)]
    if bias is not None:
        y = y + bias.reshape(along)
    if way.mode == "noise":
        scale = part.input_quantizer.scale * part.weight_quantizer.scale
        y = y + torch.full(y.shape, met.terms * NOISE) * (scale.reshape(along) if scale.dim()
                                                          else scale)  # fmt: skip
    return y


# --- layers, written out --------------------------------------------------------------


def _projected(
    part: ApproxLayer, x: Tensor, weight: Tensor, bias: Tensor | None, way: Way
) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    y = multiplied(part, rows, weight, bias, linear_meetings(len(rows), *weight.T.shape), way)
    return y.reshape(*x.shape[:-1], len(weight))


def _matrices(part: ApproxLayer, x: Tensor, y: Tensor, way: Way) -> Tensor:
    left, right = (t.reshape(-1, *t.shape[-2:]) for t in (x, y))
    met = batched_meetings(len(left), *left.shape[1:], right.shape[-1])
    return multiplied(part, left, right, None, met, way).reshape(*x.shape[:-1], y.shape[-1])


def _one_product(layer: Any, kind: Kind, x: Tensor, way: Way) -> list[Tensor]:
    """Linear layers and convolutions, with batch normalisation folded or not."""
    weight, bias = layer.weight, layer.bias
    if "ConvTranspose" in kind.name:
        weight = outputs_first(weight, layer.groups)
    if kind.name.startswith("Normalized"):
        norm = layer.norm
        scale = torch.rsqrt(norm.running_var + norm.eps) * norm.weight
        shift = -norm.running_mean * scale + norm.bias
        bias = shift if bias is None else shift + bias * scale
        weight = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    if weight.dim() == 2:
        return [_projected(layer, x, weight, bias, way)]
    return [multiplied(layer, x, weight, bias, meetings(kind), way)]


Gates = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def _lstm(x: Tensor, h: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    i, f, g, o = (x + h).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(x: Tensor, h: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, -1), h.chunk(3, -1)
    z = torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
    return ((1 - z) * n + z * state[0],)


def _gates(layer: Any) -> Gates:
    if isinstance(layer, (nn.LSTM, nn.LSTMCell)):
        return _lstm
    if isinstance(layer, (nn.GRU, nn.GRUCell)):
        return _gru
    act = {"relu": torch.relu, "tanh": torch.tanh}[layer.nonlinearity]
    return lambda x, h, state: (act(x + h),)


def _cell(layer: Any, inputs: list[Tensor], way: Way) -> list[Tensor]:
    x, state = inputs[0], tuple(inputs[1:])
    gates_x = _projected(layer.ih, x, layer.weight_ih, layer.bias_ih, way)
    gates_h = _projected(layer.hh, state[0], layer.weight_hh, layer.bias_hh, way)
    return list(_gates(layer)(gates_x, gates_h, state))


def _recurrent(layer: Any, x: Tensor, way: Way) -> list[Tensor]:
    steps = x.transpose(0, 1) if layer.batch_first else x
    lstm, last = isinstance(layer, nn.LSTM), []
    for number in range(layer.num_layers):
        outputs = []
        for way_back in ("", "_reverse")[: 1 + layer.bidirectional]:
            end = f"l{number}{way_back}"
            get = functools.partial(getattr, layer)
            gates_x = _projected(
                get(f"ih_{end}"), steps, get(f"weight_ih_{end}"), get(f"bias_ih_{end}"), way
            )
            first = x.new_zeros(steps.shape[1], layer.proj_size or layer.hidden_size)
            state: tuple[Tensor, ...] = (first,)
            if lstm:
                state = (first, x.new_zeros(steps.shape[1], layer.hidden_size))
            found: list[Any] = [None] * len(steps)
            for t in range(len(steps))[:: -1 if way_back else 1]:
                gates_h = _projected(
                    get(f"hh_{end}"), state[0], get(f"weight_hh_{end}"), get(f"bias_hh_{end}"),
                    way,
                )  # fmt: skip
                state = _gates(layer)(gates_x[t], gates_h, state)
                if layer.proj_size:
                    h = _projected(get(f"hr_{end}"), state[0], get(f"weight_hr_{end}"), None, way)
                    state = (h, state[1])
                found[t] = state[0]
            outputs.append(torch.stack(found))
            last.append(state)
        steps = torch.cat(outputs, -1)
    final = [torch.stack(s) for s in zip(*last, strict=True)]
    return [steps.transpose(0, 1) if layer.batch_first else steps, *final]


def _attended(layer: Any, q: Tensor, k: Tensor, v: Tensor, way: Way) -> tuple[Tensor, Tensor]:
    scores = _matrices(layer.scores, q, k.mT, way) * (1 / math.sqrt(q.shape[-1]))
    weights = torch.softmax(scores, -1)
    return _matrices(layer.context, weights, v, way), weights


def _heads(layer: Any, inputs: list[Tensor], way: Way) -> list[Tensor]:
    rows = zip(
        ("q_proj", "k_proj", "v_proj"), inputs, layer.in_proj_weight.chunk(3),
        layer.in_proj_bias.chunk(3), strict=True,
    )  # fmt: skip
    q, k, v = (
        _projected(getattr(layer, n), x, w, b, way)
        .unflatten(-1, (layer.num_heads, -1))
        .transpose(1, 2)
        for n, x, w, b in rows
    )
    context, weights = _attended(layer.attention, q, k, v, way)
    out = layer.out_proj
    merged = context.transpose(1, 2).flatten(2)
    return [_projected(out, merged, out.weight, out.bias, way), weights.mean(1)]


def slow(layer: Any, kind: Kind, inputs: list[Tensor], way: Way) -> list[Tensor]:
    """All tensors that a layer gives, one product after the other."""
    if kind.name == "Matmul":
        return [_matrices(layer, *inputs, way)]
    if kind.name == "ScaledDotProductAttention":
        return [_attended(layer, *inputs, way)[0]]
    if kind.name == "MultiheadAttention":
        return _heads(layer, inputs, way)
    if kind.name.endswith("Cell"):
        return _cell(layer, inputs, way)
    if kind.name in ("RNN", "LSTM", "GRU"):
        return _recurrent(layer, *inputs, way)
    return _one_product(layer, kind, *inputs, way)


# --- one case -------------------------------------------------------------------------


class Wrong(AssertionError):
    """What a case found."""


def _plain(kind: Kind) -> Any:
    """Torch's own layer."""
    options = {k: v for k, v in kind.options if k != "approximate_products"}
    name = kind.name.removeprefix("Normalized")
    if not hasattr(nn, name):
        return torch.matmul if name == "Matmul" else F.scaled_dot_product_attention
    layer = getattr(nn, name)(*kind.arguments, **options)
    if name == kind.name:
        return layer
    dims = max(1, len(kind.shapes[0]) - 2)
    return nn.Sequential(layer, getattr(nn, f"BatchNorm{dims}d")(kind.arguments[1]))


def randomise(layer: Any) -> None:
    """Draw the parameters of a layer, and the statistics of a norm that it folds."""
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_(0.1, 0.8)
        if hasattr(layer, "norm"):
            layer.norm.weight.uniform_(0.5, 2)
            layer.norm.running_mean.normal_()
            layer.norm.running_var.uniform_(0.3, 2)


def make(case: Case) -> Any:
    """The layer of a case, of random weights; its ranges are not found yet."""
    kind, quantiser = case.kind, case.quantiser
    options: dict[str, Any] = dict(kind.options)
    if kind.name not in WITHOUT_CHANNELS or quantiser.per_channel:
        options["per_channel"] = quantiser.per_channel
    if quantiser.power_of_two:
        options["datapath"] = "scales=power-of-two"
    layer = getattr(ah.nn, kind.name)(
        *kind.arguments, multiplier=multiplier(case.circuit), mapping=case.circuit.mapping,
        gradient="straight-through" if case.gradient == "given" else case.gradient,
        calibrator=quantiser.calibrator, mode=case.mode, **options,
    )  # fmt: skip
    randomise(layer)
    if hasattr(layer, "norm"):
        layer.norm.eval()
    layer.eval().train()  # fits the weights' ranges
    if hasattr(layer, "norm"):
        layer.norm.eval()
    for part in (m for m in layer.modules() if isinstance(m, ApproxLayer)):
        if quantiser.learned:
            for name in ("input_quantizer", "weight_quantizer"):
                found = LearnedQuantizer.from_quantizer(getattr(part, name))
                setattr(part, name, found)
        if case.mode == "noise":
            part.noise = Noise(mean=NOISE)
        if case.gradient == "given":
            a, b = part.effective_multiplier.a, part.effective_multiplier.b
            tables = [_by_pattern(t, a, b) for t in given_tables(a.size, b.size)]
            part.set_gradient(GivenTables(*tables, tolerance=1e-5))
    return layer


def _called(layer: Any, kind: Kind, inputs: list[Tensor]) -> list[Tensor]:
    # An LSTM's cell takes its states as a pair.
    given = [inputs[0], tuple(inputs[1:])] if kind.name == "LSTMCell" else inputs
    found = layer(*given)
    return [t for t in torch.utils._pytree.tree_leaves(found) if isinstance(t, Tensor)]


def _gradients(found: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    total = sum((t * torch.randn(t.shape, generator=generator)).sum() for t in found)
    grads = torch.autograd.grad(total, leaves, allow_unused=True)  # type: ignore[arg-type]
    return [torch.zeros_like(t) if g is None else g for g, t in zip(grads, leaves, strict=True)]


def refused(case: Case) -> tuple[type[Exception], str] | None:
    """The error that the contract has for a case, if it does not allow it."""
    if case.kind.name in WITHOUT_CHANNELS and case.quantiser.per_channel:
        return TypeError, "per_channel"
    narrow = min(int(f[:-1]) for f in (case.circuit.a, case.circuit.b)) < 3
    if case.gradient.startswith("table") and narrow and case.mode != "float":
        return InputError, "leaves no difference inside an operand of 4 values"
    return None


def check(case: Case) -> str:
    """Run a case, and say what it was: 'refused', 'float', or 'integers'.

    Raises
    ------
    Wrong
        If a result, a gradient or a refusal is not what the loop, or the contract, says.
    """
    torch.default_generator.manual_seed(5)
    error = refused(case)
    try:
        kind = _checked(case)
    except (ApproxHubError, TypeError) as found:
        if error is None or not isinstance(found, error[0]) or error[1] not in str(found):
            raise Wrong(f"{case}: raised {type(found).__name__}: {found}") from found
        return "refused"
    if error is not None:
        raise Wrong(f"{case}: should raise {error[0].__name__} with {error[1]!r}")
    return kind


def _checked(case: Case) -> str:
    layer, kind = make(case), case.kind
    seen = [torch.randn(shape) * 1.2 + 0.4 for shape in kind.shapes]
    # Wider than what the ranges are found from: some numbers are clamped.
    inputs = [(torch.randn(shape) * 1.5 + 0.4).requires_grad_() for shape in kind.shapes]
    if case.mode != "float":
        with torch.no_grad():
            _called(layer, kind, seen)
    layer.eval()
    _check_ranges(case, layer, seen)
    leaves = [*inputs, *layer.parameters()]
    found = _called(layer, kind, inputs)
    grads = _gradients(found, leaves)
    if case.mode == "float":
        want = _called(_twin(layer, kind), kind, inputs)
    else:
        want = slow(layer, kind, inputs, Way(case.circuit, case.gradient, case.mode))
    # In mode float composite layers make torch's products in another order.
    exact = case.mode != "float" or isinstance(layer, ApproxLayer)
    for a, b in zip(found, want, strict=True):
        if a.shape != b.shape or not (torch.equal(a, b) if exact else torch.allclose(a, b)):
            raise Wrong(f"{case}: gave {a.tolist()}, not {b.tolist()}")
    limit = 1e-4 if case.mode == "float" else GRADIENTS[case.gradient]
    wanted = _gradients(want, leaves)
    # What is a small sum of large terms, some attention's, has their rounding.
    rest = 5e-6 * max(float(b.abs().max()) for b in wanted)
    for number, (a, b) in enumerate(zip(grads, wanted, strict=True)):
        off, size = float((a - b).abs().max()), float(b.abs().max())
        if not off <= limit * max(1e-3, size) + rest:
            raise Wrong(f"{case}: gradient {number} is off by {off:.3g}, its largest {size:.3g}")
    return "float" if case.mode == "float" else "integers"


def _twin(layer: Any, kind: Kind) -> Any:
    """Torch's own layer with the parameters of another."""
    plain = _plain(kind)
    if not isinstance(plain, nn.Module):
        return plain
    inner = plain[0] if isinstance(plain, nn.Sequential) else plain
    for name, parameter in layer.named_parameters():
        path, _, last = name.rpartition(".")
        if last != "log2_scale" and path != "norm":
            setattr(inner.get_submodule(path), last, parameter)
    if inner is not plain:
        plain[1] = layer.norm
    return plain.eval()


def _check_ranges(case: Case, layer: Any, seen: list[Tensor]) -> None:
    """Codes are those of the mapping, and ranges those of the weights and of what was seen."""
    for part in (m for m in layer.modules() if isinstance(m, ApproxLayer)):
        for codes, quantizer in (
            (case.circuit.x, part.input_quantizer),
            (case.circuit.w, part.weight_quantizer),
        ):
            r = quantizer.code_range
            if (r.qmin, r.qmax, r.affine) != codes:
                raise Wrong(f"{case}: has the codes {r}")
    if not isinstance(layer, ApproxLayer) or case.mode == "float":
        return
    extremes = case.quantiser.calibrator in ("minmax", "moving-average")
    if case.kind.name == "Matmul":
        weight = seen[1] if extremes else None
    else:
        weight = layer.weight.detach()
        if "ConvTranspose" in case.kind.name:
            weight = outputs_first(weight, layer.groups)
        if case.kind.name.startswith("Normalized"):
            scale = torch.rsqrt(layer.norm.running_var + layer.norm.eps) * layer.norm.weight
            weight = (weight * scale.reshape(-1, *[1] * (weight.dim() - 1))).detach()
    if weight is not None and not covers(layer.weight_quantizer, weight):
        raise Wrong(f"{case}: the weights' scales are {layer.weight_quantizer.scale.tolist()}")
    if extremes and not covers(layer.input_quantizer, seen[0]):
        raise Wrong(f"{case}: the activations' scale is {layer.input_quantizer.scale.item()}")


# --- what a mapping does not fit ------------------------------------------------------

MAPPINGS = {  # signs of the operands that they are for
    "symmetric": [(True, True)],
    "affine-signed": [(True, True)],
    "affine": [(False, False)],
    "signmag-weights": [(False, False)],
    "signmag-both": [(False, False)],
    "mixed": [(True, False), (False, True)],
}


def check_refusals(kind: Kind) -> int:
    """Every mapping with operands of every sign: refused with a MappingError but where it fits."""
    count = 0
    for mapping, signs in itertools.product(MAPPINGS, itertools.product((True, False), repeat=2)):
        m = ah.exact(4, signs[0], b_signed=signs[1])
        try:
            getattr(ah.nn, kind.name)(
                *kind.arguments, multiplier=m, mapping=mapping, **dict(kind.options)
            )
            fits = True
        except MappingError as error:
            fits = False
            if mapping not in str(error) or "use the mapping" not in str(error):
                raise Wrong(f"{kind}, {mapping} of {m.id}: says {error}") from error
        if fits != (signs in MAPPINGS[mapping]):
            raise Wrong(f"{kind}, {mapping} of {m.id}: {'taken' if fits else 'refused'}")
        count += not fits
    return count


# --- the command ----------------------------------------------------------------------


def main() -> int:
    """Run what the command line asks for, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--strength", type=int, default=len(AXES))
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    stop = None if options.count is None else options.start + options.count
    began, total, wrong = time.monotonic(), Counter[str](), 0
    for case in itertools.islice(cases(options.strength), options.start, stop):
        try:
            total[check(case)] += 1
        except Wrong as error:
            wrong += 1
            print(error, file=sys.stderr)
    seconds = round(time.monotonic() - began)
    print(json.dumps({**total, "wrong": wrong, "start": options.start, "seconds": seconds}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
