"""Integer convolutions of one to three dimensions, transposed ones too, against slow loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import library

import approxhub as ah
from approxhub.errors import InputError, OperandRangeError
from approxhub.functional import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    conv_transpose_codes,
    padding_sums,
    window_sums,
)
from approxhub.ops import lut_conv, register

U8, S8 = ah.exact(8, signed=False), ah.exact(8)
CONV = {1: conv1d, 2: conv2d, 3: conv3d}
TRANSPOSED = {1: conv_transpose1d, 2: conv_transpose2d, 3: conv_transpose3d}
TORCH = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TORCH_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
SIGNS = [(False, False), (True, True), (False, True)]


def places(size):
    """Every position of a grid."""
    return itertools.product(*map(range, size))


def each(value, dims):
    """One for each dimension."""
    return [value] * dims if isinstance(value, int) else list(value)


def pairs(padding, dims):
    """Before and behind each dimension."""
    return [(p, p) if isinstance(p, int) else p for p in each(padding, dims)]


def products(m):
    """The table by values, as numbers of Python."""
    table = m.table.tolist()
    return lambda x, w: table[x & (m.a.size - 1)][w & (m.b.size - 1)]


def slow_conv(x, w, m, *, stride=1, padding=0, dilation=1, groups=1, pad_value=0, pad_mode="code"):
    """A convolution, product by product."""
    (n, _, *size), (o, c, *kernel) = x.shape, w.shape
    dims, product = len(size), products(m)
    stride, dilation, pads = each(stride, dims), each(dilation, dims), pairs(padding, dims)
    out_size = [
        (size[d] + sum(pads[d]) - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1
        for d in range(dims)
    ]
    out = torch.zeros((n, o, *out_size), dtype=torch.int64)
    x, w = x.numpy(), w.numpy()
    for i, f, *p in places((n, o, *out_size)):
        total = 0
        for ch, *t in places((c, *kernel)):
            at = [p[d] * stride[d] + t[d] * dilation[d] - pads[d][0] for d in range(dims)]
            if all(0 <= at[d] < size[d] for d in range(dims)):
                value = int(x[(i, f // (o // groups) * c + ch, *at)])
            elif pad_mode == "skip":
                continue
            else:
                value = pad_value
            total += product(value, int(w[(f, ch, *t)]))
        out[(i, f, *p)] = total
    return out


def slow_transposed(x, w, m, *, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """A transposed convolution: every input meets every tap, and goes where they lead."""
    (n, c, *size), (_, per_group, *kernel) = x.shape, w.shape
    dims, product = len(size), products(m)
    stride, padding, extra, dilation = (
        each(v, dims) for v in (stride, padding, output_padding, dilation)
    )
    out_size = [
        (size[d] - 1) * stride[d] - 2 * padding[d] + dilation[d] * (kernel[d] - 1) + extra[d] + 1
        for d in range(dims)
    ]
    out = torch.zeros((n, per_group * groups, *out_size), dtype=torch.int64)
    x, w = x.numpy(), w.numpy()
    for i, ch, *p in places((n, c, *size)):
        for f, *t in places((per_group, *kernel)):
            at = [p[d] * stride[d] + t[d] * dilation[d] - padding[d] for d in range(dims)]
            if all(0 <= at[d] < out_size[d] for d in range(dims)):
                to = ch // (c // groups) * per_group + f
                out[(i, to, *at)] += product(int(x[(i, ch, *p)]), int(w[(ch, f, *t)]))
    return out


def assert_same(got, want):
    """The same integers in the same shape."""
    assert got.dtype in (torch.int32, torch.int64)
    assert got.shape == want.shape
    assert torch.equal(got.to(torch.int64), want.to(torch.int64))


# --- convolutions -----------------------------------------------------------------------

CONFIGURATIONS = {
    "1d": ((2, 3, 9), (4, 3, 3), {}),
    "1d, padding": ((2, 3, 5), (4, 3, 3), {"padding": 2, "pad_value": 7}),
    "1d, one side": ((2, 3, 5), (4, 3, 4), {"padding": ((0, 3),), "pad_value": 7}),
    "1d, all at once": (
        (2, 4, 13), (6, 2, 3),
        {"stride": 2, "padding": ((3, 1),), "dilation": 3, "groups": 2, "pad_value": 99},
    ),
    "plain": ((2, 3, 5, 7), (4, 3, 3, 3), {}),
    "1x1": ((2, 3, 4, 5), (5, 3, 1, 1), {}),
    "kernel as large as the input": ((1, 2, 3, 5), (3, 2, 3, 5), {}),
    "oblong kernel": ((1, 2, 5, 7), (3, 2, 2, 3), {}),
    "stride": ((1, 2, 9, 8), (3, 2, 3, 2), {"stride": (2, 3)}),
    "one stride": ((1, 2, 9, 8), (3, 2, 3, 2), {"stride": 2}),
    "stride beyond the kernel": ((2, 2, 9, 8), (3, 2, 1, 2), {"stride": (4, 3)}),
    "padding": ((1, 2, 4, 5), (3, 2, 3, 3), {"padding": 1, "pad_value": 37}),
    "two paddings": ((1, 2, 4, 5), (3, 2, 3, 3), {"padding": (1, 2), "pad_value": 37}),
    "four sides": ((2, 2, 4, 5), (3, 2, 3, 3), {"padding": ((2, 3), (0, 1)), "pad_value": 5}),
    "lists": ((2, 2, 4, 5), (3, 2, 3, 3), {"padding": [[2, 3], [0, 1]], "stride": [1, 2]}),
    "one side": ((1, 1, 3, 3), (2, 1, 2, 2), {"padding": ((0, 0), (1, 0)), "pad_value": 9}),
    "padding wider than the input": (
        (1, 1, 2, 1), (2, 1, 3, 3), {"padding": ((5, 2), (4, 3)), "pad_value": 11},
    ),
    "dilation": ((1, 2, 9, 8), (3, 2, 3, 2), {"dilation": (2, 3)}),
    "groups": ((2, 6, 4, 5), (4, 3, 3, 2), {"groups": 2}),
    "depthwise": ((2, 5, 4, 5), (5, 1, 3, 3), {"groups": 5, "padding": 1}),
    "depthwise, two outputs each": ((1, 3, 4, 4), (6, 1, 2, 2), {"groups": 3}),
    "all at once": (
        (3, 4, 11, 13), (6, 2, 3, 2),
        {"stride": (3, 2), "padding": ((3, 0), (1, 2)), "dilation": (2, 3), "groups": 2,
         "pad_value": 101},
    ),
    "3d": ((1, 2, 3, 4, 5), (3, 2, 2, 3, 2), {"padding": 1, "pad_value": 3}),
    "3d, all at once": (
        (2, 2, 5, 6, 7), (4, 1, 2, 3, 2),
        {"stride": (1, 2, 3), "padding": ((1, 0), (0, 2), (2, 1)), "dilation": (3, 2, 1),
         "groups": 2, "pad_value": 101},
    ),
}  # fmt: skip


@pytest.mark.cover(2)
@pytest.mark.parametrize("pad_mode", ["code", "skip"])
@pytest.mark.parametrize("signs", SIGNS, ids=str)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_convolutions_are_those_of_a_loop(name, signs, pad_mode, random_multiplier, values):
    """Stride, padding in all its forms, dilation, groups and odd shapes, on T[0][0] = 64."""
    m = random_multiplier(8, 8, *signs, 2**14)
    x_shape, w_shape, options = CONFIGURATIONS[name]
    x, w = values(m.a, *x_shape), values(m.b, *w_shape, seed=1)
    options = {**options, "pad_mode": pad_mode}
    got = CONV[len(x_shape) - 2](x, w, m, **options)
    assert_same(got, slow_conv(x, w, m, **options))


@given(st.data())
@settings(max_examples=80, derandomize=True, deadline=None)
def test_convolutions_of_any_configuration(data):
    """Whatever the sizes and options, sums are those of the loop, or the kernel is too large."""
    few = st.integers(1, 3)
    m = any_table(data)
    dims = data.draw(st.integers(1, 3))
    groups, per_group = data.draw(few), data.draw(few)
    options = {
        "stride": data.draw(st.tuples(*[few] * dims)),
        "padding": data.draw(st.tuples(*[st.tuples(*[st.integers(0, 2)] * 2)] * dims)),
        "dilation": data.draw(st.tuples(*[few] * dims)),
        "groups": groups,
        "pad_value": data.draw(st.integers(m.a.min, m.a.max)),
        "pad_mode": data.draw(st.sampled_from(["code", "skip"])),
    }
    size = data.draw(st.tuples(*[st.integers(1, 5 if dims < 3 else 3)] * dims))
    kernel = data.draw(st.tuples(*[st.integers(1, 3 if dims < 3 else 2)] * dims))
    x = drawn(data, m.a, data.draw(st.integers(0, 2)), groups * per_group, *size)
    w = drawn(data, m.b, groups * data.draw(few), per_group, *kernel)
    spans = [d * (k - 1) + 1 for d, k in zip(options["dilation"], kernel, strict=True)]
    fits = all(s <= n + sum(p) for s, n, p in zip(spans, size, options["padding"], strict=True))
    if fits:
        assert_same(CONV[dims](x, w, m, **options), slow_conv(x, w, m, **options))
    else:
        with pytest.raises(InputError, match="more than the padded input"):
            CONV[dims](x, w, m, **options)


def any_table(data):
    """A small table that does not commute, with T[0][0] = 64."""
    a_bits, b_bits = (data.draw(st.integers(1, 4)) for _ in "ab")
    signed = [data.draw(st.booleans()) for _ in "ab"]
    table = [[64 + 7 * x * (y + 3) - 11 * y for y in range(2**b_bits)] for x in range(2**a_bits)]
    return ah.Multiplier.from_table(table, name="any", a_signed=signed[0], b_signed=signed[1])


def drawn(data, f, *shape):
    """Random values of an operand format."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    return torch.randint(f.min, f.max + 1, shape, generator=generator)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_padding_in_all_its_forms(dims, random_multiplier, values):
    """An integer, one for each dimension, and pairs of equal ones mean the same."""
    m = random_multiplier(8, 8, False, True, 2**14)
    x, w = values(m.a, 2, 3, *[4] * dims), values(m.b, 2, 3, *[3] * dims, seed=1)
    conv = CONV[dims]
    want = conv(x, w, m, padding=2, pad_value=9)
    for padding in ([2] * dims, (2,) * dims, [(2, 2)] * dims, ((2, 2),) * dims, np.int64(2)):
        assert torch.equal(conv(x, w, m, padding=padding, pad_value=9), want)


def test_operand_order_peers_defect_1(random_multiplier):
    """The activation comes first in convolutions of every kind, just as in matrix products."""
    m = random_multiplier(8, 8, False, False)
    for dims in CONV:
        x, w = torch.full((1, 1, *[1] * dims), 9), torch.full((1, 1, *[1] * dims), 211)
        for conv in (CONV[dims], TRANSPOSED[dims]):
            assert conv(x, w, m).item() == m.table[9, 211] != m.table[211, 9]
    assert conv2d(x[0], w[0], m).item() == ah.matmul(x[0, 0, 0], w[0, 0, 0], m).item()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 3, 3), (3, 7, 7)], ids=str)
def test_inner_tails_peers_defect_2(shape):
    """K in {1, 3, 27, 147}: T[0][0] = 64 appears in no sum of other codes."""
    table = [[64 * (x == y == 0) for y in range(256)] for x in range(256)]
    m = ah.Multiplier.from_table(table, name="corner")
    x, w = torch.full((1, shape[0], 7, 7), 255), torch.full((2, *shape), 255)
    assert not conv2d(x, w, m).any()
    assert not conv_transpose2d(x, w.transpose(0, 1), m, stride=2).any()


def test_padding_is_a_code_peers_defect_3():
    """Padding has the value that it is given, and goes through the multiplier, unless skipped."""
    m = ah.Multiplier.from_function(lambda a, b: a * b + 64 * (a == 0), name="m", a="8u", b="8u")
    x, w = torch.full((1, 1, 1, 1), 3), torch.full((1, 1, 1, 2), 2)
    left = ((0, 0), (1, 0))
    assert conv2d(x, w, m, padding=left, pad_value=7).tolist() == [[[[14 + 6]]]]
    assert conv2d(x, w, m, padding=left).tolist() == [[[[64 + 6]]]]
    assert conv2d(x, w, m, padding=left, pad_value=7, pad_mode="skip").tolist() == [[[[6]]]]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_convolutions_equal_torch_on_exact_products(name, values):
    """With the exact multiplier and zeros around, it is torch's convolution of the integers."""
    x_shape, w_shape, options = CONFIGURATIONS[name]
    dims = len(x_shape) - 2
    options = {k: v for k, v in options.items() if k != "pad_value"}
    x, w = values(S8.a, *x_shape), values(S8.b, *w_shape, seed=1)
    sides = [side for pair in reversed(pairs(options.get("padding", 0), dims)) for side in pair]
    rest = {k: v for k, v in options.items() if k != "padding"}
    want = TORCH[dims](F.pad(x, sides).double(), w.double(), **rest).to(torch.int64)
    for pad_mode in ("code", "skip"):
        assert_same(CONV[dims](x, w, S8, pad_mode=pad_mode, **options), want)


def flipped(t):
    """The same values, laid from the last to the first in every dimension but two."""
    return t.flip(-1, -2).contiguous().flip(-1, -2)


LAYOUTS = {
    "channels-last": lambda t: t.to(memory_format=torch.channels_last),
    "every second": lambda t: torch.stack([t, -1 - t], -1)[..., 0],
    "turned": lambda t: t.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2),
    "sliced": lambda t: F.pad(t, (1, 2, 3, 4, 1, 1), value=1)[:, 1:-1, 3:-4, 1:-2],
    "from the last to the first": flipped,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64], ids=str)
def test_other_layouts(layout, dtype, random_multiplier, values):
    """Channels-last, turned and sliced operands of either width give the same sums."""
    m = random_multiplier(8, 8, True, True, 2**14)
    x, w = values(m.a, 3, 4, 5, 6).to(dtype), values(m.b, 4, 6, 3, 3, seed=1).to(dtype)
    change = LAYOUTS[layout]
    for function, weight in ((conv2d, w.transpose(0, 1)[:2].contiguous()), (conv_transpose2d, w)):
        want = function(x, weight, m, padding=1)
        assert torch.equal(function(change(x), change(weight), m, padding=1), want)


def test_expanded_and_overlapping_operands(random_multiplier, values):
    """Images that share memory, as torch.expand and windows make them, give their own sums."""
    m = random_multiplier(8, 8, True, False, 2**14)
    w = values(m.b, 2, 4, 2, 3, seed=1)
    for dtype in (torch.int8, torch.int64):
        windows = values(m.a, 40).to(dtype).as_strided((3, 4, 5, 6), (0, 3, 2, 1))
        one = values(m.a, 1, 4, 5, 6).to(dtype).expand(3, -1, -1, -1)
        channels = values(m.a, 2, 1, 5, 6).to(dtype).expand(-1, 4, -1, -1)
        for x in (windows, one, channels):
            got = conv2d(x, w, m, padding=1, pad_value=-7)
            assert_same(got, slow_conv(x, w, m, padding=1, pad_value=-7))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("batch", [0, 1])
def test_an_empty_batch(batch, dims):
    """No images give no results, of the right shape and type."""
    x = torch.zeros(batch, 2, *[5] * dims).int()
    out = CONV[dims](x, torch.zeros(3, 2, *[3] * dims).int(), S8, padding=((1, 0),) * dims)
    assert (out.shape, out.dtype) == ((batch, 3, *[4] * dims), torch.int32)
    out = TRANSPOSED[dims](x, torch.zeros(2, 3, *[3] * dims).int(), S8, stride=2)
    assert (out.shape, out.dtype) == ((batch, 3, *[11] * dims), torch.int32)


@pytest.mark.parametrize("pad_mode", ["code", "skip"])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "shape"),
    [((2, 0, 3, 3), (4, 0, 2, 2), (2, 4, 4, 4)), ((2, 3, 3, 3), (0, 3, 2, 2), (2, 0, 4, 4))],
    ids=["in", "out"],
)
def test_without_channels(x_shape, w_shape, shape, pad_mode):
    """Without input channels all sums are zero; without output channels there are none."""
    m = ah.Multiplier.from_table([[64, 3], [2, 1]], name="corner")
    x, w = torch.zeros(x_shape).int(), torch.zeros(w_shape).int()
    out = conv2d(x, w, m, padding=1, pad_mode=pad_mode)
    assert out.shape == shape
    assert not out.any()
    out = conv_transpose2d(x, w.transpose(0, 1), m)
    assert out.shape == shape
    assert not out.any()


def test_the_smallest_proven_type():
    """int32 as long as K x max|T| fits it, else int64; sums beyond int32 are right."""
    m = ah.Multiplier.from_table([[0, 0], [0, 2**30]], name="big")
    x = torch.ones(1, 1, 2, 2, dtype=torch.int8)
    one, four = conv2d(x, x[..., :1, :1], m), conv2d(x, x, m)
    assert (one.dtype, one.max().item()) == (torch.int32, 2**30)
    assert (four.dtype, four.item()) == (torch.int64, 2**32)
    edges = conv2d(x, x, m, padding=1, pad_value=1, pad_mode="skip")
    assert edges.tolist() == (torch.tensor([[[[1, 2, 1], [2, 4, 2], [1, 2, 1]]]]) * 2**30).tolist()
    one, four = conv_transpose2d(x, x[..., :1, :1], m), conv_transpose2d(x, x, m)
    assert (one.dtype, one.max().item()) == (torch.int32, 2**30)
    assert (four.dtype, four.max().item()) == (torch.int64, 2**32)


# --- transposed convolutions --------------------------------------------------------------

TRANSPOSED_CONFIGURATIONS = {
    "1d": ((2, 3, 5), (3, 4, 3), {}),
    "1d, all at once": (
        (2, 4, 5), (4, 2, 3),
        {"stride": 3, "padding": 2, "output_padding": 2, "groups": 2, "dilation": 2},
    ),
    "plain": ((2, 3, 4, 5), (3, 2, 3, 2), {}),
    "1x1": ((2, 3, 4, 5), (3, 5, 1, 1), {}),
    "stride": ((1, 2, 3, 4), (2, 3, 3, 2), {"stride": (2, 3)}),
    "stride beyond the kernel": ((1, 2, 3, 4), (2, 3, 1, 2), {"stride": (4, 3)}),
    "stride and output padding": (
        (2, 2, 3, 4), (2, 3, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1},
    ),
    "padding": ((1, 2, 4, 5), (2, 3, 3, 3), {"padding": (1, 2)}),
    "padding beyond the kernel": ((1, 1, 7, 8), (1, 2, 2, 2), {"padding": (2, 3)}),
    "dilation": ((1, 2, 3, 4), (2, 3, 3, 2), {"dilation": (2, 3)}),
    "dilation and output padding": (
        (1, 2, 3, 4), (2, 3, 2, 2), {"dilation": (3, 2), "output_padding": (2, 1)},
    ),
    "dilation that divides the stride": (
        (1, 2, 4, 3), (2, 3, 3, 4), {"stride": (4, 6), "dilation": (2, 4), "padding": (1, 3)},
    ),
    "groups": ((2, 6, 3, 4), (6, 2, 2, 3), {"groups": 3, "stride": 2}),
    "depthwise": ((2, 5, 3, 4), (5, 1, 3, 3), {"groups": 5, "padding": 1, "stride": 2}),
    "one input": ((2, 2, 1, 1), (2, 3, 3, 3), {"stride": 3, "output_padding": 2}),
    "3d": ((1, 2, 3, 2, 2), (2, 3, 2, 3, 2), {}),
    "3d, all at once": (
        (1, 4, 2, 3, 2), (4, 1, 2, 3, 2),
        {"stride": (2, 1, 3), "padding": (1, 2, 0), "output_padding": (1, 0, 2), "groups": 2,
         "dilation": (1, 3, 2)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("signs", SIGNS, ids=str)
@pytest.mark.parametrize("name", TRANSPOSED_CONFIGURATIONS)
def test_transposed_convolutions_are_those_of_a_loop(name, signs, random_multiplier, values):
    """Every input meets every tap once; structural zeros are no operands, on T[0][0] = 64."""
    m = random_multiplier(8, 8, *signs, 2**14)
    x_shape, w_shape, options = TRANSPOSED_CONFIGURATIONS[name]
    x, w = values(m.a, *x_shape), values(m.b, *w_shape, seed=1)
    got = TRANSPOSED[len(x_shape) - 2](x, w, m, **options)
    assert_same(got, slow_transposed(x, w, m, **options))


@pytest.mark.parametrize("name", TRANSPOSED_CONFIGURATIONS)
def test_transposed_convolutions_equal_torch_on_exact_products(name, values):
    """With the exact multiplier it is torch's transposed convolution of the same integers."""
    x_shape, w_shape, options = TRANSPOSED_CONFIGURATIONS[name]
    dims = len(x_shape) - 2
    x, w = values(S8.a, *x_shape), values(S8.b, *w_shape, seed=1)
    want = TORCH_TRANSPOSED[dims](x.double(), w.double(), **options).to(torch.int64)
    assert_same(TRANSPOSED[dims](x, w, S8, **options), want)


@given(st.data())
@settings(max_examples=80, derandomize=True, deadline=None)
def test_transposed_convolutions_of_any_configuration(data):
    """Whatever the sizes and options, sums are those of the loop, or nothing would be left."""
    few = st.integers(1, 3)
    m = any_table(data)
    dims = data.draw(st.integers(1, 3))
    groups = data.draw(few)
    stride, dilation = (data.draw(st.tuples(*[few] * dims)) for _ in "sd")
    options = {
        "stride": stride,
        "dilation": dilation,
        "padding": data.draw(st.tuples(*[st.integers(0, 3)] * dims)),
        "output_padding": tuple(
            data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        ),
        "groups": groups,
    }
    size = data.draw(st.tuples(*[st.integers(1, 4 if dims < 3 else 2)] * dims))
    kernel = data.draw(st.tuples(*[st.integers(1, 3 if dims < 3 else 2)] * dims))
    channels = groups * data.draw(few)
    x = drawn(data, m.a, data.draw(st.integers(0, 2)), channels, *size)
    w = drawn(data, m.b, channels, data.draw(few), *kernel)
    left = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, k, s, p, d, e in zip(
            size, kernel, stride, options["padding"], dilation, options["output_padding"],
            strict=True,
        )
    ]  # fmt: skip
    if min(left) < 1:
        with pytest.raises(InputError, match="use less padding"):
            TRANSPOSED[dims](x, w, m, **options)
    else:
        assert_same(TRANSPOSED[dims](x, w, m, **options), slow_transposed(x, w, m, **options))


# --- what the layers need besides -----------------------------------------------------------


def flat(padding, dims):
    """Padding as the operator takes it."""
    return [side for pair in pairs(padding, dims) for side in pair]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_window_sums_are_convolutions_with_ones(name, values):
    """Each is the sum of the codes that an output meets, padding included."""
    x_shape, w_shape, options = CONFIGURATIONS[name]
    dims = len(x_shape) - 2
    x, pad = values(U8.a, *x_shape), torch.tensor(options.get("pad_value", 0))
    groups = options.get("groups", 1)
    got = window_sums(
        x.to(torch.uint8), pad, w_shape[2:], stride=each(options.get("stride", 1), dims),
        padding=flat(options.get("padding", 0), dims),
        dilation=each(options.get("dilation", 1), dims), groups=groups,
    )  # fmt: skip
    ones = torch.ones(groups, *w_shape[1:], dtype=torch.int64)
    assert got.dtype == torch.int64
    assert_same(got, slow_conv(x, ones, U8, **options))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_padding_sums_are_what_padding_adds(name, dtype, random_multiplier, values):
    """Each is the difference between the sums with and without products with padding."""
    m = random_multiplier(8, 8, False, True, 2**14)
    x_shape, w_shape, options = CONFIGURATIONS[name]
    dims = len(x_shape) - 2
    x, w = values(m.a, *x_shape), values(m.b, *w_shape, seed=1)
    got = padding_sums(
        x_shape[2:], w, torch.tensor(options.get("pad_value", 0)), register(m), dtype,
        each(options.get("stride", 1), dims), flat(options.get("padding", 0), dims),
        each(options.get("dilation", 1), dims),
    )  # fmt: skip
    code, skip = (slow_conv(x, w, m, pad_mode=mode, **options) for mode in ("code", "skip"))
    assert got.dtype == dtype
    assert_same(got.expand_as(code), code - skip)


def test_padding_sums_beyond_int32():
    """Products of padding that no float64 holds together add up exactly in int64."""
    m = ah.Multiplier.from_table([[0, 2**31 - 1], [0, 1]], name="big")
    k = (1 << 22) + 1
    w = torch.ones(1, k, 2, dtype=torch.int8)
    sums = padding_sums((1,), w, torch.tensor(0), register(m), torch.int64, [1], [1, 0], [1])
    assert sums.tolist() == [[[k * (2**31 - 1)]]]


# --- what is refused --------------------------------------------------------------------------

BAD = {
    "3-d input": ((1, 5, 5), (1, 1, 3, 3), {}, r"takes \(N, C, ...\) .* 2 dimensions at the end"),
    "3-d weight": ((1, 1, 5, 5), (1, 3, 3), {}, r"got \(1, 1, 5, 5\) and \(1, 3, 3\)"),
    "channels": ((1, 4, 5, 5), (2, 3, 3, 3), {}, "4 input and 2 output channels do not fit"),
    "groups": ((1, 4, 5, 5), (3, 2, 3, 3), {"groups": 2}, "do not fit 2 groups"),
    "no groups": ((1, 4, 5, 5), (3, 2, 3, 3), {"groups": 0}, "do not fit 0 groups"),
    "negative groups": ((1, 4, 5, 5), (3, 2, 3, 3), {"groups": -2}, "do not fit -2 groups"),
    "kernel": ((1, 1, 2, 2), (1, 1, 3, 3), {}, r"spans \(3, 3\), more than .* \(2, 2\)"),
    "no kernel": ((1, 1, 2, 2), (1, 1, 0, 1), {}, r"kernel"),
    "no image": ((1, 1, 0, 2), (1, 1, 1, 1), {}, r"spans \(1, 1\), more than .* \(0, 2\)"),
    "dilated": ((1, 1, 4, 4), (1, 1, 3, 1), {"dilation": (2, 1)}, r"spans \(5, 1\), more than"),
    "stride 0": ((1, 1, 4, 4), (1, 1, 3, 3), {"stride": (1, 0)}, "stride must be at least 1"),
    "dilation 0": ((1, 1, 4, 4), (1, 1, 3, 3), {"dilation": 0}, "dilation must be at least 1"),
    "negative": ((1, 1, 4, 4), (1, 1, 3, 3), {"padding": -1}, "at least 0"),
    "negative pair": ((1, 1, 4, 4), (1, 1, 3, 3), {"padding": ((0, 0), (-1, 0))}, "at least 0"),
    "pad value": ((1, 1, 4, 4), (1, 1, 3, 3), {"pad_value": 128}, r"a \(padding\): value 128"),
    "padding of four": ((1, 1, 4, 4), (1, 1, 3, 3), {"padding": (1, 1, 1, 1)}, "2 of them"),
    "one pair": ((1, 1, 4, 4), (1, 1, 3, 3), {"padding": ((1, 1),)}, r"2 times \(before, behind\)"),
    "triples": ((1, 1, 4, 4), (1, 1, 3, 3), {"padding": ((1, 1, 1),) * 2}, "2 times"),
    "pair and one": ((1, 1, 4, 4), (1, 1, 3, 3), {"padding": ((1, 1), 1)}, "2 times"),
    "text padding": ((1, 1, 4, 4), (1, 1, 3, 3), {"padding": "same"}, "padding must be an integer"),
    "three strides": ((1, 1, 4, 4), (1, 1, 3, 3), {"stride": (2, 2, 2)}, "stride must be an int"),
    "float dilation": ((1, 1, 4, 4), (1, 1, 3, 3), {"dilation": (1.0, 1)}, "dilation must be an"),
    "true stride": ((1, 1, 4, 4), (1, 1, 3, 3), {"stride": True}, "stride must be an integer"),
    "text groups": ((1, 1, 4, 4), (1, 1, 3, 3), {"groups": "1"}, "groups must be an integer"),
    "no pad": ((1, 1, 4, 4), (1, 1, 3, 3), {"pad_value": None}, r"a \(padding\) must hold"),
    "float pad": ((1, 1, 4, 4), (1, 1, 3, 3), {"pad_value": 1.0}, r"a \(padding\) must hold"),
    "pad mode": ((1, 1, 4, 4), (1, 1, 3, 3), {"pad_mode": "zero"}, "pad_mode must be 'code' or"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit(name):
    """Shapes, options and padding that do not fit are refused, and the error says why."""
    x_shape, w_shape, options, message = BAD[name]
    x, w = torch.zeros(x_shape, dtype=torch.int8), torch.zeros(w_shape, dtype=torch.int8)
    with pytest.raises(InputError, match=message):
        conv2d(x, w, S8, **options)


BAD_TRANSPOSED = {
    "3-d input": ((1, 5, 5), (1, 1, 3, 3), {}, r"takes \(N, C, ...\) and \(C, O/groups, ...\)"),
    "channels": ((1, 4, 5, 5), (3, 4, 3, 3), {}, "4 input channels do not fit a weight of"),
    "groups": ((1, 4, 5, 5), (4, 2, 3, 3), {"groups": 3}, "in 3 groups"),
    "no groups": ((1, 4, 5, 5), (4, 2, 3, 3), {"groups": 0}, "in 0 groups"),
    "output padding": (
        (1, 1, 4, 4), (1, 1, 3, 3), {"stride": 2, "output_padding": (1, 2)},
        r"output_padding \[1, 2\] must be smaller than stride \[2, 2\] or dilation \[1, 1\]",
    ),
    "negative output padding": (
        (1, 1, 4, 4), (1, 1, 3, 3), {"output_padding": -1}, "output_padding must be at least 0",
    ),
    "padding": ((1, 1, 2, 4), (1, 1, 3, 3), {"padding": (2, 0)}, r"\(0, 6\); use less padding"),
    "pairs": ((1, 1, 4, 4), (1, 1, 3, 3), {"padding": ((1, 1), (1, 1))}, "padding must be an int"),
    "no kernel": ((1, 1, 4, 4), (1, 1, 0, 1), {}, "kernel"),
    "stride 0": ((1, 1, 4, 4), (1, 1, 3, 3), {"stride": 0}, "stride must be at least 1"),
    "text groups": ((1, 1, 4, 4), (1, 1, 3, 3), {"groups": "1"}, "groups must be an integer"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TRANSPOSED)
def test_what_does_not_fit_transposed(name):
    """Shapes and options of transposed convolutions that do not fit are refused, and why."""
    x_shape, w_shape, options, message = BAD_TRANSPOSED[name]
    x, w = torch.zeros(x_shape, dtype=torch.int8), torch.zeros(w_shape, dtype=torch.int8)
    with pytest.raises(InputError, match=message):
        conv_transpose2d(x, w, S8, **options)


@pytest.mark.parametrize("function", [conv2d, conv_transpose2d])
def test_values_are_checked(function):
    """Values outside the operands' ranges are refused before anything runs."""
    x, w = torch.zeros(1, 1, 4, 4).int(), torch.zeros(1, 1, 3, 3).int()
    with pytest.raises(OperandRangeError, match=r"operand a: value -1 is outside 0..255"):
        function(x - 1, w, U8)
    with pytest.raises(OperandRangeError, match=r"operand b: value 256 is outside 0..255"):
        function(x, w + 256, U8)
    with pytest.raises(InputError, match=r"torch.float32; quantise"):
        function(x.float(), w, U8)


@pytest.mark.parametrize("bad", [-1, 256, np.int64(256), 2**70])
def test_the_padding_has_to_be_an_operand(bad):
    """So is a value of the padding that the operand does not have, however large."""
    x, w = torch.zeros((1, 1, 3, 3)).to(torch.uint8), torch.zeros((1, 1, 2, 2)).to(torch.uint8)
    with pytest.raises(OperandRangeError, match=rf"\(padding\): value {bad} is outside 0..255"):
        conv2d(x, w, U8, padding=1, pad_value=bad)
    good = conv2d(x, w + 1, U8, padding=1, pad_value=np.int64(255))
    assert torch.equal(good, conv2d(x, w + 1, U8, padding=1, pad_value=255))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_errors_name_the_function(dims):
    """An error begins with the name of the function that was called."""
    x = torch.zeros(1, 1, *[4] * dims, dtype=torch.int8)
    for function in (CONV[dims], TRANSPOSED[dims]):
        with pytest.raises(InputError, match=f"^{function.__name__}: stride"):
            function(x, x, S8, stride=0)
        with pytest.raises(InputError, match=f"^{function.__name__} takes .* {dims} dim"):
            function(x[0], x, S8)


def test_operands_are_left_as_they_are(values):
    """Operands are as before, and the result is new memory."""
    x, w = values(S8.a, 2, 3, 4, 5), values(S8.b, 3, 3, 2, 2, seed=1)
    kept = x.clone(), w.clone()
    conv2d(x, w, S8, padding=1, pad_mode="skip").fill_(7)
    conv_transpose2d(x, w, S8, padding=1, stride=2).fill_(7)
    assert torch.equal(x, kept[0])
    assert torch.equal(w, kept[1])


# --- the operator ---------------------------------------------------------------------------


def arguments(m, x, w, dtype=torch.int32, **changes):
    """Arguments of lut_conv for a convolution of two dimensions."""
    options = {"stride": (1, 2), "padding": (1, 0, 2, 1), "dilation": (1, 1), "groups": 1}
    options |= changes
    return (x, w, torch.tensor(5), register(m), *options.values(), dtype)


def test_operator_with_and_without_its_kernel(random_multiplier, values):
    """On meta tensors the result has its shape and type, without table or backend."""
    m = random_multiplier(8, 8, True, True, 2**14)
    x, w = values(m.a, 2, 3, 5, 6), values(m.b, 4, 3, 2, 3, seed=1)
    out = lut_conv(*arguments(m, x, w))
    fake = lut_conv(
        x.to("meta"), w.to("meta"), torch.tensor(5, device="meta"), "no such handle",
        *arguments(m, x, w)[4:],
    )  # fmt: skip
    assert (fake.shape, fake.dtype, fake.device.type) == (out.shape, out.dtype, "meta")
    assert fake.is_contiguous()
    assert out.is_contiguous()
    want = slow_conv(x, w, m, stride=(1, 2), padding=((1, 0), (2, 1)), pad_value=5)
    assert_same(out, want)


BAD_ARGUMENTS = {
    "strides": ({"stride": (1,)}, "as many strides"),
    "odd padding": ({"padding": (1, 1, 1)}, "pairs of before and behind"),
    "padding": ({"padding": (1, 1)}, "twice as many paddings"),
    "negative": ({"padding": (1, 1, 0, -1)}, "at least 0"),
    "stride 0": ({"stride": (0, 1)}, "must be at least 1"),
    "groups": ({"groups": 2}, "do not fit 2 groups"),
    "kernel": ({"dilation": (9, 9)}, "spans"),
    "dtype": ({"dtype": torch.int16}, "int32 or int64, not"),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_operator_refuses_what_does_not_fit(name, device):
    """What does not fit is refused by the kernel and by its fake, in the same words."""
    changes, message = BAD_ARGUMENTS[name]
    dtype = changes.get("dtype", torch.int32)
    changes = {k: v for k, v in changes.items() if k != "dtype"}
    x, w = (torch.zeros(s, dtype=torch.int8, device=device) for s in ((1, 2, 5, 5), (2, 2, 3, 3)))
    with pytest.raises(InputError, match=message):
        lut_conv(*arguments(S8, x, w, dtype, **changes))


def test_operator_refuses_other_operands():
    """Two devices, more dimensions than three, several paddings and wrong values are refused."""
    x, w = (torch.zeros(s, dtype=torch.int8) for s in ((1, 2, 5, 5), (2, 2, 3, 3)))
    with pytest.raises(InputError, match="on cpu and meta; move one"):
        lut_conv(*arguments(S8, x, w.to("meta")))
    for bad in (x[0, 0], x[None, None]):
        with pytest.raises(InputError, match="one to three dimensions"):
            lut_conv(*arguments(S8, bad, bad))
    with pytest.raises(InputError, match="padding has one value"):
        lut_conv(x, w, torch.zeros(2).int(), *arguments(S8, x, w)[3:])
    with pytest.raises(OperandRangeError, match=r"a \(padding\): value 128"):
        lut_conv(x, w, torch.tensor(128), *arguments(S8, x, w)[3:])
    with pytest.raises(OperandRangeError, match="operand b: value 200"):
        lut_conv(*arguments(S8, x, w.to(torch.uint8) + 200))
    big = ah.Multiplier.from_table([[64, 0], [0, 2**30]], name="big")
    with pytest.raises(InputError, match="18 products of up to 1073741824 do not fit int32"):
        lut_conv(x, w, torch.tensor(0), *arguments(big, x, w)[3:])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_opcheck(dtype, random_multiplier, values):
    """torch's opcheck finds schema, fake kernel and dispatch in order."""
    m = random_multiplier(8, 8, True, True, 2**14)
    x, w = values(m.a, 2, 4, 5, 6).to(torch.int8), values(m.b, 4, 2, 2, 3, seed=1).to(torch.int8)
    library.opcheck(torch.ops.approxhub.lut_conv.default, arguments(m, x, w, dtype, groups=2))
    turned = x.to(memory_format=torch.channels_last), w.transpose(2, 3).contiguous().mT
    library.opcheck(torch.ops.approxhub.lut_conv.default, arguments(m, *turned, dtype, groups=2))


def forward(m, w):
    """What a convolution does with codes, which torch.compile must take whole."""
    handle, pad = register(m), torch.tensor(3)
    where = {"stride": [1, 2], "padding": [1, 1, 0, 1], "dilation": [2, 1]}

    def run(x):
        sums = lut_conv(x * 2, w, pad, handle, *where.values(), 1, torch.int32)
        inside = sums - padding_sums((4, 5), w, pad, handle, torch.int32, *where.values())
        return torch.relu(inside) + window_sums(x, pad, w.shape[2:], groups=1, **where)

    return run


def transposed(m, w):
    """The same for a transposed one."""
    handle = register(m)

    def run(x):
        return x.sum() + conv_transpose_codes(
            x, w.transpose(0, 1), handle, torch.int32, stride=[1, 1], padding=[1, 0],
            output_padding=[0, 0], groups=1, dilation=[1, 1],
        )  # fmt: skip

    return run


@pytest.mark.parametrize("program", [forward, transposed], ids=lambda p: p.__name__)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own
def test_compiled_functions_hold_the_operator(program, random_multiplier, values):
    """torch.compile(fullgraph=True) takes convolutions whole, for a batch of any size."""
    m = random_multiplier(8, 8, True, True, 2**14)
    run = program(m, values(m.b, 2, 3, 2, 3, seed=1).to(torch.int8))
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (7, 9, 11):  # sizes that no other dimension has, or they become one symbol
        x = values(m.a, batch, 3, 4, 5, seed=batch) // 2
        assert torch.equal(compiled(x), run(x))


def test_padding_is_an_activation_whatever_the_weights_are():
    """A padding value that no weight could have, in both modes, between operands of two formats."""
    for a, b in (("10u", "4u"), ("8u", "8s")):
        m = ah.Multiplier.from_function(
            lambda x, w: x * w + 64 * ((x == 0) & (w == 0)), name="two-formats", a=a, b=b
        )
        x, w = torch.tensor([[[3, 0, 200]]]), torch.tensor([[[7, 1, 0]]])
        for pad_mode in ("code", "skip"):
            want = []
            for i in range(3):
                meets = [(i + k - 1, k) for k in range(3)]
                inside = [m(int(x[0, 0, j]), int(w[0, 0, k])) for j, k in meets if 0 <= j < 3]
                beyond = [m(233, int(w[0, 0, k])) for j, k in meets if not 0 <= j < 3]
                want.append(sum(inside) + (sum(beyond) if pad_mode == "code" else 0))
            got = conv1d(x, w, m, padding=1, pad_value=233, pad_mode=pad_mode)
            assert got.tolist() == [[want]]


@pytest.mark.parametrize("stride", [7, 100, 2**62])
def test_strides_beyond_the_image(stride):
    """One position is left, however large the stride."""
    x, w = torch.arange(-9, 9).reshape(1, 2, 9), torch.arange(-6, 6).reshape(2, 2, 3)
    want = conv1d(x[..., :3], w, S8)
    assert torch.equal(conv1d(x, w, S8, stride=stride), want)


def test_numbers_of_another_type_do_not_spoil_later_calls():
    """Options are integers before anything is remembered of them, numpy's too; 2.0 is refused."""
    m = ah.load("drum:8u/k=3")
    handle = register(m)
    x, w = torch.randint(0, 256, (1, 3, 9, 9)), torch.randint(0, 256, (2, 3, 3, 3))
    pad = torch.tensor(3)

    def run(two, one):
        return lut_conv(x, w, pad, handle, [two] * 2, [one] * 4, [one] * 2, one, torch.int64)

    with pytest.raises((TypeError, RuntimeError)):
        run(2.0, 1.0)
    right = run(2, 1)
    assert torch.equal(run(np.uint8(2), np.uint8(1)), right)
    assert torch.equal(right, ah.conv2d(x, w, m, stride=2, padding=1, pad_value=3))
