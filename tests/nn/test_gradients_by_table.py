"""Gradients that look at the table equal a loop over all products, for every shape of product."""

from __future__ import annotations

import copy
import functools
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import approxhub as ah
from approxhub.errors import InputError, NotFoundError
from approxhub.multiplier import Multiplier
from approxhub.nn.gradients import (
    ApproximateBackward,
    Arithmetic,
    BatchedProduct,
    ConvProduct,
    ConvTransposeProduct,
    GivenTables,
    Grid,
    LinearProduct,
    LinearRegression,
    OneDimensionalTables,
    Product,
    StraightThrough,
    TableFile,
    TwoDimensionalTables,
    make_gradient,
)
from approxhub.nn.gradients.approximate_backward import with_signed_operand
from approxhub.nn.gradients.products import exchanged
from approxhub.nn.gradients.tables import Excess
from approxhub.operands import OperandFormat
from approxhub.testing import GradientConformance


def _conv(dims: int, stride, dilation, groups):
    function = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    return lambda x, w: function(x, w, None, stride, 0, dilation, groups)


def _transposed(stride, padding, extra, groups, dilation):
    return lambda x, w: F.conv_transpose2d(
        x, exchanged(w, groups), None, stride, padding, extra, groups, dilation
    )


@dataclass(frozen=True)
class Shape:
    """A product, the same by torch's functions, and shapes of its operands."""

    product: Product
    forward: object
    x: tuple[int, ...]
    w: tuple[int, ...]
    padding: tuple[int, ...] = ()
    channels: bool = True


SHAPES = {
    "linear": Shape(LinearProduct(), F.linear, (4, 5), (3, 5)),
    "batched": Shape(BatchedProduct(), torch.matmul, (2, 3, 4), (2, 4, 2), channels=False),
    "conv1d": Shape(
        ConvProduct((2,), (2, 1), (2,), 1), _conv(1, 2, 2, 1), (2, 2, 7), (3, 2, 3), (2, 1)
    ),
    "conv2d, uneven": Shape(
        ConvProduct((2, 1), (1, 2, 0, 1), (1, 2), 2), _conv(2, (2, 1), (1, 2), 2),
        (2, 4, 5, 4), (4, 2, 2, 3), (1, 2, 0, 1),
    ),
    "conv2d, even, stride leaves a rest": Shape(
        ConvProduct((3, 3), (1, 1, 2, 2), (1, 1), 1), _conv(2, 3, 1, 1),
        (2, 2, 4, 6), (2, 2, 3, 3), (1, 1, 2, 2),
    ),
    "conv2d, depthwise": Shape(
        ConvProduct((1, 1), (1, 1, 1, 1), (1, 1), 3), _conv(2, 1, 1, 3),
        (1, 3, 3, 4), (3, 1, 3, 3), (1, 1, 1, 1),
    ),
    "conv3d": Shape(
        ConvProduct((1, 2, 1), (0, 0, 1, 1, 1, 0), (1, 1, 1), 1), _conv(3, (1, 2, 1), 1, 1),
        (1, 2, 2, 3, 3), (2, 2, 2, 3, 2), (0, 0, 1, 1, 1, 0),
    ),
    "transposed": Shape(
        ConvTransposeProduct((2, 3), (1, 0), (1, 0), (1, 2), 2),
        _transposed((2, 3), (1, 0), (1, 0), 2, (1, 2)), (2, 4, 3, 2), (2, 2, 3, 2),
    ),
}  # fmt: skip

FORMATS = {
    "symmetric": ("6s", "5s", False, False),
    "affine": ("5u", "6u", True, True),
    "affine-signed": ("6s", "5s", True, False),
    "mixed": ("4u", "6s", True, False),
}
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_format = pytest.mark.parametrize("mapping", FORMATS)


@functools.cache
def _multiplier(a: str, b: str, spread: int = 40) -> Multiplier:
    """A table that is not commutative, errs everywhere, and has T[0][0] = 64."""
    fa, fb = OperandFormat.parse(a), OperandFormat.parse(b)
    rng = np.random.default_rng([fa.bits, fb.bits, fa.signed, spread])
    va, vb = fa.values()[:, None], fb.values()
    table = va * vb + rng.integers(-spread, spread, (fa.size, fb.size)) + va // 3 - (vb & 5)
    table[0, 0] = 64
    return Multiplier.from_table(table, name="odd", a_signed=fa.signed, b_signed=fb.signed)


@functools.cache
def _structure(name: str) -> tuple[tuple[int, ...], list[tuple[int, int, int]]]:
    """Shape of the output; output, activation (-1 for padding) and weight of every product.

    Each weight meets each output at most once: with a single weight of 1 and activations that
    hold their own numbers, the output says which.
    """
    shape = SHAPES[name]
    numbers = torch.arange(1.0, np.prod(shape.x) + 1).reshape(shape.x)
    if shape.padding:
        numbers = F.pad(numbers, shape.padding, value=-1)
    triples = []
    for j in range(int(np.prod(shape.w))):
        one = torch.zeros(shape.w)
        one.view(-1)[j] = 1
        y = shape.forward(numbers, one)
        for o in y.reshape(-1).nonzero().reshape(-1).tolist():
            met = int(y.reshape(-1)[o])
            triples.append((o, met - 1 if met > 0 else -1, j))
    return tuple(y.shape), triples


class Meeting:
    """Codes of operands, and a list of which of them meet in which output."""

    def __init__(self, shape: str, mapping: str, seed: int = 0) -> None:
        self.shape = SHAPES[shape]
        a, b, x_affine, w_affine = FORMATS[mapping]
        self.m = _multiplier(a, b)
        rng = np.random.default_rng(seed)
        fa, fb = self.m.a, self.m.b
        self.a = rng.integers(fa.min, fa.max, self.shape.x, endpoint=True)
        self.b = rng.integers(fb.min, fb.max, self.shape.w, endpoint=True)
        channels = self.shape.w[:1] if self.shape.channels else ()
        self.s_x = np.float32(0.5 + rng.random())
        self.s_w = (0.1 + rng.random(channels)).astype(np.float32)
        self.z_x = int(rng.integers(fa.min + 1, fa.max)) if x_affine else 0
        self.z_w = (
            rng.integers(fb.min + 1, fb.max, channels) if w_affine else np.zeros(channels, int)
        )
        axis = 0 if self.shape.channels else None
        self.arithmetic = Arithmetic(
            self.m,
            Grid(torch.tensor(self.s_x), torch.tensor(self.z_x), None, fa),
            Grid(torch.as_tensor(self.s_w), torch.as_tensor(self.z_w), axis, fb),
        )
        self.x = torch.from_numpy(((self.a - self.z_x) * self.s_x).astype(np.float32))
        steps = self.b - self._by_channel(self.z_w)
        self.w = torch.from_numpy((steps * self._by_channel(self.s_w)).astype(np.float32))
        self.outputs, self.triples = _structure(shape)
        self.grad = torch.from_numpy(rng.normal(size=self.outputs).astype(np.float32))

    def _by_channel(self, v) -> np.ndarray:
        v = np.asarray(v)
        return v.reshape(-1, *[1] * (len(self.shape.w) - 1)) if v.ndim else v

    def codes(self, i: int, j: int) -> tuple[int, int]:
        """Codes of one product."""
        return (self.z_x if i < 0 else int(self.a.flat[i])), int(self.b.flat[j])

    def of_weight(self, values: np.ndarray, j: int) -> float:
        """Scale or zero point of a weight."""
        return values[np.unravel_index(j, self.shape.w)[0]] if np.ndim(values) else values[()]

    def loop(self, by_a: np.ndarray, by_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both gradients, one product after the other: dp/dx = s_w (dT/da - z_w), and so on."""
        of_x, of_w = np.zeros(self.a.size), np.zeros(self.b.size)
        grad = self.grad.reshape(-1).double().numpy()
        for o, i, j in self.triples:
            code_a, code_b = self.codes(i, j)
            entry = code_a & (self.m.a.size - 1), code_b & (self.m.b.size - 1)
            s_w, z_w = self.of_weight(self.s_w, j), self.of_weight(self.z_w, j)
            if i >= 0:
                of_x[i] += grad[o] * s_w * (by_a[entry] - z_w)
            of_w[j] += grad[o] * self.s_x * (by_b[entry] - self.z_x)
        return of_x.reshape(self.shape.x), of_w.reshape(self.shape.w)

    def run(self, gradient, needs=(True, True)) -> tuple[Tensor, Tensor]:
        """What the gradient itself gives."""
        return gradient.backward(
            self.grad, self.x, self.w, self.shape.product, self.arithmetic, needs
        )


def _close(found: tuple[Tensor, Tensor], wanted: tuple[np.ndarray, np.ndarray]) -> None:
    for got, want in zip(found, wanted, strict=True):
        assert tuple(got.shape) == want.shape
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


# --- tables, their factors, and sums over them ------------------------------------------


@every_shape
@every_format
def test_sums_over_tables(shape, mapping):
    """Any two tables: both gradients are the sums over all products, padding included."""
    case = Meeting(shape, mapping)
    rng = np.random.default_rng(3)
    tables = rng.normal(size=(2, case.m.a.size, case.m.b.size)) * 20
    _close(case.run(GivenTables(*tables, tolerance=1e-6)), case.loop(*tables))


def test_two_given_tables_are_told_apart():
    """Tables of other numbers are another gradient, for the same multiplier too."""
    case, rng = Meeting("linear", "mixed"), np.random.default_rng(4)
    for _ in range(2):
        tables = rng.normal(size=(2, case.m.a.size, case.m.b.size))
        _close(case.run(GivenTables(*tables, tolerance=1e-6)), case.loop(*tables))
    assert GivenTables(*tables) == GivenTables(*tables)


@every_shape
def test_the_exact_derivatives_give_straight_through(shape):
    """Derivatives of the exact product are the straight-through gradient, and cost no more."""
    case = Meeting(shape, "affine")
    a, b = np.meshgrid(case.m.a.values(), case.m.b.values(), indexing="ij")
    given = GivenTables(b, a)
    assert [len(e.own) for e in given.excesses(case.m)] == [0, 0]
    for got, want in zip(case.run(given), case.run(StraightThrough()), strict=True):
        assert torch.equal(got, want)


@every_shape
@pytest.mark.parametrize(
    "gradient", [LinearRegression(), OneDimensionalTables(4), TwoDimensionalTables(3)], ids=repr
)
def test_estimates_are_summed(shape, gradient):
    """Each estimate is summed as its own tables say."""
    case = Meeting(shape, "mixed" if gradient != OneDimensionalTables(4) else "affine")
    exactly = type(gradient)(**{**vars(gradient), "tolerance": 1e-6})
    _close(case.run(exactly), case.loop(*gradient.tables(case.m)))


@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize(
    "gradient", [TwoDimensionalTables(3), ApproximateBackward("nearest")], ids=repr
)
def test_only_what_is_needed(gradient, needs):
    """None stands for what is not wanted, and the rest is the same without it."""
    case = Meeting("conv2d, uneven", "affine")
    both, found = case.run(gradient), case.run(gradient, needs)
    for wanted, got, want in zip(needs, found, both, strict=True):
        assert (got is not None) == wanted
        assert got is None or torch.equal(got, want)


@every_format
def test_linear_regression(mapping):
    """LRE is numpy's own straight line through each column and each row, in order of values."""
    m = Meeting("linear", mapping).m
    by_a, by_b = LinearRegression().tables(m)
    va, vb = m.a.values(), m.b.values()
    for j in range(m.b.size):
        np.testing.assert_allclose(by_a[:, j], np.polyfit(va, m.table[:, j], 1)[0], atol=1e-9)
    for i in range(m.a.size):
        np.testing.assert_allclose(by_b[i], np.polyfit(vb, m.table[i], 1)[0], atol=1e-9)
    for excess in LinearRegression().excesses(m):
        assert len(excess.own) == 0, "a slope depends on the other operand alone"


def _slow_difference(m: Multiplier, a: int, b: int, half: int, along: str) -> float:
    """One entry of a table of smoothed differences, from its definition, by values."""
    f = m.a if along == "a" else m.b

    curve = m.evaluate(m.a.values(), np.array(b)) if along == "a" else None
    curve = m.evaluate(np.array(a), m.b.values()) if curve is None else curve

    def t(v: int) -> int:
        return int(curve[v])  # by pattern, and a negative index counts from the end

    def smooth(v: int) -> float:
        return sum(t(u) for u in range(v - half, v + half + 1)) / (2 * half + 1)

    v = a if along == "a" else b
    if f.min + half + 1 <= v <= f.max - half - 1:
        return (smooth(v + 1) - smooth(v - 1)) / 2
    every = [t(u) for u in range(f.min, f.max + 1)]
    return float(np.sign(every[-1] - every[0])) * (max(every) - min(every)) / len(every)


@every_format
@pytest.mark.parametrize("half", [1, 4])
def test_smoothed_differences(mapping, half):
    """Every entry of the two-dimensional tables is what the paper's definition says."""
    m = Meeting("linear", mapping).m
    by_a, by_b = TwoDimensionalTables(half).tables(m)
    for i, a in enumerate(m.a.values()):
        for j, b in enumerate(m.b.values()):
            assert by_a[i, j] == pytest.approx(_slow_difference(m, int(a), int(b), half, "a"))
            assert by_b[i, j] == pytest.approx(_slow_difference(m, int(a), int(b), half, "b"))


def test_the_widest_window_leaves_two_values():
    """The widest window that fits leaves differences inside; one more is refused, by name."""
    m = _multiplier("5u", "6u")
    by_a, _ = TwoDimensionalTables(14).tables(m)
    assert by_a[15, 3] == pytest.approx(_slow_difference(m, 15, 3, 14, "a"))
    with pytest.raises(InputError, match="at most 14 does"):
        TwoDimensionalTables(15).tables(m)


def test_one_dimensional_tables_are_averages():
    """They are the two-dimensional ones, averaged along their own operand."""
    m = _multiplier("5u", "6u")
    by_a, by_b = OneDimensionalTables(2).tables(m)
    full_a, full_b = TwoDimensionalTables(2).tables(m)
    np.testing.assert_allclose(by_a, np.ones((32, 1)) * full_a.mean(0))
    np.testing.assert_allclose(by_b, full_b.mean(1)[:, None] * np.ones((1, 64)))
    assert [len(e.own) for e in OneDimensionalTables(2).excesses(m)] == [0, 0]


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(0, 6), st.sampled_from([1e-5, 0.01, 0.5]))
def test_factors_keep_to_their_tolerance(seed, rank, tolerance):
    """The factors differ nowhere by more than asked, say by how much, and are as few as can be."""
    rng = np.random.default_rng(seed)
    shift = rng.normal(size=12) * 50
    table = shift + rng.normal(size=(20, rank)) @ rng.normal(size=(rank, 12))
    found = Excess.of(table, tolerance)
    error = np.abs(found.table().double().numpy() - table).max()
    assert error <= tolerance + 2e-5
    assert found.error == pytest.approx(error, abs=2e-5)
    assert len(found.own) <= rank
    if tolerance == 1e-5:
        assert len(found.own) == rank


def test_a_family_s_gradient_is_cheap():
    """Structured tables have derivatives of low rank: a few products, not a lookup each."""
    ranks = {}
    for id in ("truncation:8s/a=3,b=3", "drum:8s/k=3", "roba:8s", "bam:8s/h=0,v=8"):
        ranks[id] = [len(e.own) for e in TwoDimensionalTables().excesses(ah.load(id))]
    assert max(max(r) for r in ranks.values()) <= 8, ranks


# --- the backward pass through the circuit -----------------------------------------------


def _slow_hardware(case: Meeting, bits: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Both gradient products, one lookup after the other: T[g, w] and T[x, g]."""

    def looked_up(a: int, b: int, gradient_is: str) -> int:
        f = case.m.a if gradient_is == "a" else case.m.b
        g = a if gradient_is == "a" else b
        sign = 1 if f.signed or g >= 0 else -1
        if not f.signed:
            g = abs(g)
        a, b = (g, b) if gradient_is == "a" else (a, g)
        return sign * int(case.m.table[a & (case.m.a.size - 1), b & (case.m.b.size - 1)])

    def quantised(grad: np.ndarray, f: OperandFormat) -> tuple[np.ndarray, np.float32]:
        limit = min(f.max, 2 ** (bits - 1) - 1)
        scale = np.float32(np.abs(grad).max() / np.float32(limit))
        return np.rint(grad / scale).astype(int), scale

    grad = case.grad.numpy()
    channels = case.s_w.reshape(-1, *[1] * (grad.ndim - 2)) if case.s_w.ndim else np.float32(1)
    for_x, s_gx = quantised(grad * channels, case.m.a)
    for_w, s_gw = quantised(grad, case.m.b)
    of_x, of_w = np.zeros(case.a.size, int), np.zeros(case.b.size, int)
    for o, i, j in case.triples:
        a, b = case.codes(i, j)
        z_w = int(case.of_weight(case.z_w, j))
        if i >= 0:
            of_x[i] += looked_up(for_x.flat[o], b, "a") - int(for_x.flat[o]) * z_w
        of_w[j] += looked_up(a, for_w.flat[o], "b") - int(for_w.flat[o]) * case.z_x
    scale_x = s_gx if case.s_w.ndim else s_gx * case.s_w
    real = of_x.astype(np.float32) * scale_x, of_w.astype(np.float32) * (s_gw * case.s_x)
    return real[0].reshape(case.shape.x), real[1].reshape(case.shape.w)


@every_shape
@every_format
def test_approximate_backward(shape, mapping):
    """Both products are sums of table entries, the gradient's operand the missing one's."""
    case = Meeting(shape, mapping)
    found, wanted = case.run(ApproximateBackward("nearest")), _slow_hardware(case)
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)


def test_narrow_gradient_codes():
    """`bits` narrows the gradient's codes below the operand's width."""
    case = Meeting("conv2d, uneven", "affine")
    found = case.run(ApproximateBackward("nearest", bits=3))
    for got, want, wide in zip(
        found, _slow_hardware(case, bits=3), _slow_hardware(case), strict=True
    ):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)
        assert not np.allclose(want, wide)


def test_with_the_exact_circuit_only_rounding_is_left():
    """With exact products the approximate backward pass is the straight-through one, but for
    the rounding of the gradient: half a step times the operands it meets.
    """
    case = Meeting("conv2d, uneven", "affine")
    exact = ah.exact(5, False, b_bits=6)
    case.arithmetic = Arithmetic(exact, case.arithmetic.x, case.arithmetic.w)
    found, wanted = case.run(ApproximateBackward("nearest")), case.run(StraightThrough())
    for got, want in zip(found, wanted, strict=True):
        assert (got - want).abs().max() < 0.1 * want.abs().max()
        assert not torch.equal(got, want)


def test_stochastic_rounding_is_seeded_and_without_bias():
    """One seed gives one gradient, and the mean over many tends to the unrounded one."""
    case = Meeting("linear", "symmetric")
    exact = ah.exact(6, True, b_bits=5)
    case.arithmetic = Arithmetic(exact, case.arithmetic.x, case.arithmetic.w)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(case.run(ApproximateBackward())[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    many = torch.stack([case.run(ApproximateBackward(bits=3))[0] for _ in range(400)])
    want = case.run(StraightThrough())[0]
    spread = many.std(0) / 400**0.5
    assert ((many.mean(0) - want).abs() < 5 * spread + 1e-5).all()


def test_signs_of_an_unsigned_operand():
    """Where an operand is unsigned, the magnitude enters and the sign joins the product."""
    m = _multiplier("5u", "6s")
    signed = with_signed_operand(m, "a")
    assert (str(signed.a), str(signed.b)) == ("6s", "6s")
    assert [signed(v, -7) for v in (3, -3, 31, -31)] == [m(3, -7), -m(3, -7), m(31, -7), -m(31, -7)]
    assert signed(-32, 5) == -m(31, 5), "the code without a magnitude saturates"
    assert with_signed_operand(m, "b") is m


def test_a_product_of_a_plug_in_is_refused():
    """A product that nobody taught to run on integers is refused, by its name."""

    class Mine(LinearProduct):
        pass

    class Other:
        pass

    case = Meeting("linear", "symmetric")
    assert case.run(ApproximateBackward()) is not None
    with pytest.raises(InputError, match="backward pass of a Other on integers"):
        ApproximateBackward().backward(
            case.grad, case.x, case.w, Other(), case.arithmetic, (True, False)
        )


def test_gradients_of_nothing():
    """A gradient of zeros, or of an empty batch, gives zeros."""
    case = Meeting("linear", "symmetric")
    exact = Arithmetic(ah.exact(6, True, b_bits=5), case.arithmetic.x, case.arithmetic.w)
    for rows in (4, 0):
        of_x, of_w = ApproximateBackward().backward(
            torch.zeros(rows, 3), case.x[:rows], case.w, LinearProduct(), exact, (True, True)
        )
        assert of_x.shape == (rows, 5)
        assert not of_w.any()


# --- names, layers, state ----------------------------------------------------------------

NAMES = ["lre", "table-1d", "table-2d(half_window=3, tolerance=0.1)", "approximate-backward"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_a_layer_trains_with_it(name, kind, activations):
    """By name, a layer gets gradients of an approximate table, other than straight-through."""
    m, found = _multiplier("6s", "6s"), []
    for gradient in (name, "straight-through"):
        torch.manual_seed(4)
        if kind == "linear":
            layer, shape = ah.nn.Linear(5, 3, multiplier=m, gradient=gradient), (4, 5)
        else:
            layer, shape = (
                ah.nn.Conv2d(2, 3, 3, padding=1, multiplier=m, gradient=gradient),
                (2, 2, 5, 4),
            )
        x = activations(*shape).requires_grad_()
        layer(x).square().sum().backward()
        assert torch.isfinite(x.grad).all()
        found.append((x.grad, layer.weight.grad))
    assert not any(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_layer_s_gradient_is_the_loop(activations):
    """In a layer, clamped codes aside, the gradients are the loop over the table."""
    m = _multiplier("6s", "5s")
    layer = ah.nn.Linear(5, 3, bias=False, multiplier=m, gradient="table-2d(tolerance=0.000001)")
    x = activations(4, 5)
    layer(x)
    layer.eval()
    y = layer(x.requires_grad_())
    upstream = torch.randn_like(y)
    y.backward(upstream)
    case = Meeting("linear", "symmetric")
    case.a = layer.input_quantizer.codes(x.detach()).numpy().astype(int)
    case.b = layer.weight_quantizer.codes(layer.weight.detach()).numpy().astype(int)
    case.s_x, case.s_w = layer.input_quantizer.scale.numpy(), layer.weight_quantizer.scale.numpy()
    case.grad = upstream
    _close((x.grad, layer.weight.grad), case.loop(*TwoDimensionalTables().tables(m)))


def test_the_scale_of_the_forward_pass_counts():
    """A range that moves between forward and backward does not change the gradient."""
    grads = []
    for moved in (False, True):
        torch.manual_seed(0)
        layer = ah.nn.Linear(5, 3, multiplier=_multiplier("6s", "6s"), gradient="table-2d")
        x = torch.randn(4, 5, requires_grad=True)
        y = layer(x)
        if moved:
            layer.input_quantizer.observe(torch.full((1,), 99.0))
        y.sum().backward()
        grads.append(layer.weight.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("name", NAMES)
def test_exact_mode_uses_the_exact_table(name):
    """In mode exact the gradient looks at exact products, as with the exact multiplier."""
    grads = []
    for m, mode in ((_multiplier("6s", "6s"), "exact"), (ah.exact(6), "approximate")):
        torch.manual_seed(0)
        layer = ah.nn.Linear(5, 3, multiplier=m, gradient=name, mode=mode)
        layer(torch.randn(4, 5)).square().sum().backward()
        grads.append(layer.weight.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("name", NAMES)
def test_copies_keep_their_gradient(name):
    """Deep copies and pickles of a layer train as it does, and the name is in the state."""
    layer = ah.nn.Linear(5, 3, multiplier=_multiplier("6s", "6s"), gradient=name)
    x, grads = torch.randn(4, 5), []
    for one in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.manual_seed(0)
        one.zero_grad()
        one(x).square().sum().backward()
        grads.append(one.weight.grad)
        assert one.gradient == name
        assert name in bytes(one.state_dict()["_extra_state"].tolist()).decode()
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


def test_options():
    """Options are read strictly into the gradient's own fields."""
    assert make_gradient("table-2d(half_window=7)") == TwoDimensionalTables(7)
    assert make_gradient("table-1d( half_window = 2 , tolerance=0.5 )") == OneDimensionalTables(
        2, tolerance=0.5
    )
    made = make_gradient("approximate-backward(rounding=nearest, bits=4)")
    assert made == ApproximateBackward("nearest", 4)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("tables", NotFoundError, "tables"),
        ("lre()", InputError, "not option=value"),
        ("lre(half_window=3)", InputError, "not an option of it; options: tolerance"),
        ("straight-through(x=1)", InputError, "options: none"),
        ("table-2d(half_window=2.5)", InputError, "must be of type int"),
        ("table-2d(half_window=0)", InputError, "at least 1"),
        ("table-2d(half_window=1, half_window=2)", InputError, "given twice"),
        ("table-2d(half_window=1", InputError, "not a gradient"),
        ("table-2d(tolerance=0)", InputError, "between 0 and 1"),
        ("approximate-backward(rounding=up)", InputError, "stochastic, nearest"),
        ("approximate-backward(bits=1)", InputError, "2 bits"),
        ("", InputError, "not a gradient"),
    ],
)
def test_bad_names(text, error, words):
    """What is no gradient, or not an option of it, is refused and said; the layer is unchanged."""
    layer = ah.nn.Linear(2, 2, multiplier=ah.exact(8))
    with pytest.raises(error, match=words.replace("(", r"\(")):
        layer.set_gradient(text)
    assert layer.gradient == "straight-through"


def test_a_table_from_a_file(tmp_path):
    """The named gradient 'table' reads both tables from a file."""
    case = Meeting("linear", "mixed")
    tables = np.random.default_rng(1).normal(size=(2, case.m.a.size, case.m.b.size))
    path = tmp_path / "mine.npz"
    np.savez(path, by_a=tables[0], by_b=tables[1])
    made = make_gradient(f"table(file={path}, tolerance=0.000001)")
    assert made == TableFile(file=str(path), tolerance=1e-6)
    _close(case.run(made), case.loop(*tables))


def test_bad_tables(tmp_path):
    """Tables that are missing, of another shape, or not of numbers, are refused."""
    case = Meeting("linear", "mixed")
    with pytest.raises(InputError, match="needs a file"):
        case.run(make_gradient("table"))
    path = tmp_path / "bad.npz"
    for content in (b"", b"no zip file at all"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="by_a and by_b"):
            case.run(TableFile(file=str(path)))
    np.savez(path, by_a=np.ones((2, 2)))
    with pytest.raises(InputError, match="by_a and by_b"):
        case.run(TableFile(file=str(path)))
    with pytest.raises(InputError, match="do not fit local:odd"):
        case.run(GivenTables(np.ones((4, 4)), np.ones((4, 4))))
    with pytest.raises(InputError, match="their shapes agree"):
        GivenTables(np.ones((4, 4)), np.ones((4, 2)))
    with pytest.raises(InputError, match="finite"):
        GivenTables(np.full((4, 4), np.nan), np.ones((4, 4)))
    with pytest.raises(InputError, match="not a matrix of numbers"):
        GivenTables([["a"]], [[1]])


# --- the contract ---------------------------------------------------------------------------


class TestLinearRegression(GradientConformance):
    def make_gradient(self):
        """The gradient to hold to the contract."""
        return LinearRegression()


class TestOneDimensionalTables(GradientConformance):
    def make_gradient(self):
        """The gradient to hold to the contract."""
        return OneDimensionalTables()


class TestTwoDimensionalTables(GradientConformance):
    def make_gradient(self):
        """The gradient to hold to the contract."""
        return TwoDimensionalTables(tolerance=0.2)
