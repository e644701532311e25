"""Integer matrix products and convolutions through a multiplier, against slow loops."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import approxhub as ah
from approxhub import functional
from approxhub.errors import InputError, OperandRangeError, UnknownMultiplierError
from approxhub.functional import conv2d

U8, S8 = ah.exact(8, signed=False), ah.exact(8)


# --- matmul -----------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=60, derandomize=True, deadline=None)
def test_matmul_of_any_widths_and_signs(data):
    """For all operand formats up to 8 bits, sums are those of a loop over m(a, b)."""
    bits = st.integers(1, 8)
    signs = data.draw(st.tuples(st.booleans(), st.booleans()))
    m = _any_table(data.draw(bits), data.draw(bits), *signs)
    rows, k, n = (data.draw(st.integers(0, 4)) for _ in "mkn")

    def matrix(f, height, width):
        row = st.lists(st.integers(f.min, f.max), min_size=width, max_size=width)
        values = data.draw(st.lists(row, min_size=height, max_size=height))
        return torch.tensor(values, dtype=torch.int64).reshape(height, width)

    a, b = matrix(m.a, rows, k), matrix(m.b, k, n)
    want = [
        [sum(m(x, w) for x, w in zip(row, col, strict=True)) for col in b.t().tolist()]
        for row in a.tolist()
    ]
    assert ah.matmul(a, b, m).tolist() == want


def _any_table(a_bits, b_bits, a_signed, b_signed):
    table = [[64 + 7 * x * (y + 3) - 11 * y for y in range(2**b_bits)] for x in range(2**a_bits)]
    return ah.Multiplier.from_table(table, name="any", a_signed=a_signed, b_signed=b_signed)


def test_matmul_takes_values_not_patterns():
    """-1 is the value minus one, whose pattern indexes the table."""
    m = ah.Multiplier.from_table([[64, 1], [2, 3]], name="bit", a_signed=True, b_signed=False)
    assert ah.matmul(torch.tensor([[-1]]), torch.tensor([[0]]), m).tolist() == [[2]]
    with pytest.raises(OperandRangeError, match=r"operand a: value 1 is outside -1..0"):
        ah.matmul(torch.tensor([[1]]), torch.tensor([[0]]), m)
    with pytest.raises(OperandRangeError, match=r"operand b: value -1 is outside 0..1"):
        ah.matmul(torch.tensor([[-1]]), torch.tensor([[-1]]), m)


def test_matmul_operand_order_peers_defect_1(random_multiplier):
    """The left operand is the activation; with the operands exchanged, use +swap."""
    m = random_multiplier(8, 8, False, False)
    a, b = torch.tensor([[5, 250]]), torch.tensor([[9], [17]])
    want = int(m.table[5, 9]) + int(m.table[250, 17])
    assert ah.matmul(a, b, m).item() == want
    assert ah.matmul(b.t(), a.t(), m.swap()).item() == want
    assert ah.matmul(b.t(), a.t(), m).item() != want


@pytest.mark.parametrize("a_shape", [(5,), (3, 5), (2, 3, 5), (2, 1, 3, 5), (0, 5), (2, 0, 5)])
@pytest.mark.parametrize("b_shape", [(5,), (5, 4), (5, 0)])
def test_matmul_shapes_are_those_of_torch(a_shape, b_shape, values):
    """Leading dimensions and one-dimensional operands give the shapes of torch.matmul."""
    a, b = values(S8.a, *a_shape), values(S8.b, *b_shape, seed=1)
    out = ah.matmul(a, b, S8)
    assert torch.equal(out.to(torch.int64), torch.matmul(a, b))


def test_matmul_without_products_is_zero():
    """A sum over nothing is zero, also with T[0][0] = 64."""
    m = ah.Multiplier.from_table([[64, 0], [0, 1]], name="corner")
    out = ah.matmul(torch.zeros(2, 0, dtype=torch.int8), torch.zeros(0, 3, dtype=torch.int8), m)
    assert out.tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    "shapes",
    [((2, 3), (4, 2)), ((3,), (4,)), ((2, 3), (2, 3, 4)), ((), (3, 4)), ((3,), ()), ((4,), (3, 4))],
)
def test_matmul_shapes_that_do_not_fit(shapes):
    """Other shapes are refused with both, as they were passed."""
    a, b = (torch.zeros(s, dtype=torch.int8) for s in shapes)
    with pytest.raises(InputError) as caught:
        ah.matmul(a, b, S8)
    assert f"{shapes[0]} x {shapes[1]}" in str(caught.value)


def test_matmul_of_what_is_no_integer_tensor():
    """Floats, bools, lists and arrays are refused, with the operand's name."""
    ok = torch.zeros(2, 2, dtype=torch.int8)
    for bad in (ok.float(), ok.bool(), [[0, 0], [0, 0]], ok.numpy(), 0):
        with pytest.raises(InputError, match="operand a must"):
            ah.matmul(bad, ok, S8)
        with pytest.raises(InputError, match="operand b must"):
            ah.matmul(ok, bad, S8)


def test_matmul_of_sparse_tensors():
    """Sparse tensors are refused, with the way out."""
    ok = torch.ones(2, 2, dtype=torch.int8)
    with pytest.raises(InputError, match=r"operand a is a sparse tensor .*to_dense"):
        ah.matmul(ok.to_sparse(), ok, S8)
    with pytest.raises(InputError, match="operand b is a sparse tensor"):
        ah.matmul(ok, ok.to_sparse(), S8)


def test_matmul_takes_an_id():
    """Whatever takes a multiplier takes an id; an unknown one is named."""
    a = torch.tensor([[-3]])
    assert ah.matmul(a, a, "exact:8s").item() == 9
    with pytest.raises(UnknownMultiplierError, match="exact:8t"):
        ah.matmul(a, a, "exact:8t")


def test_matmul_accumulates_in_the_smallest_proven_type():
    """The result is int32 as long as K x max|T| fits it, and int64 from the next K on."""
    m = ah.exact(8, signed=False)
    last = (2**31 - 1) // (255 * 255)
    for k, dtype in ((last, torch.int32), (last + 1, torch.int64)):
        a = torch.full((1, k), 255, dtype=torch.uint8)
        out = ah.matmul(a, a.t(), m)
        assert (out.dtype, out.item()) == (dtype, k * 255 * 255)


def test_matmul_without_a_table():
    """16 x 16 bits have a circuit only, and sums beyond 2**53 are exact."""
    bent = ah.Multiplier.from_function(
        lambda a, b: a * b - (a & 1), name="bent", a="16u", b="16s", fingerprint="bent 1"
    )
    a, b = torch.tensor([[65535, 3, 0]]), torch.tensor([[-32768], [32767], [5]])
    assert ah.matmul(a, b, bent).item() == 65535 * -32768 - 1 + 3 * 32767 - 1
    wide = ah.exact(16, signed=False)
    ones = torch.full((1, 2**22 + 1), 65535)
    assert ah.matmul(ones, ones.t(), wide).item() == (2**22 + 1) * 65535**2


def test_matmul_leaves_its_operands(values):
    """Operands are as before, and the result is new memory."""
    a, b = values(S8.a, 3, 4), values(S8.b, 4, 2, seed=1)
    kept = a.clone(), b.clone()
    ah.matmul(a, b, S8).fill_(7)
    assert torch.equal(a, kept[0])
    assert torch.equal(b, kept[1])


# --- conv2d -----------------------------------------------------------------------------


def slow_conv(x, w, m, stride, padding, dilation, groups, pad_value):
    """A convolution, product by product."""
    (n, _, height, width), (o, c, kh, kw) = x.shape, w.shape
    left, right, top, bottom = padding
    rows = (height + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    cols = (width + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    out = torch.zeros((n, o, rows, cols), dtype=torch.int64)
    xs, ws = x.tolist(), w.tolist()
    for i, f, r, q in itertools.product(range(n), range(o), range(rows), range(cols)):
        first = f // (o // groups) * c
        for ch, dy, dx in itertools.product(range(c), range(kh), range(kw)):
            y = r * stride[0] + dy * dilation[0] - top
            z = q * stride[1] + dx * dilation[1] - left
            inside = 0 <= y < height and 0 <= z < width
            value = xs[i][first + ch][y][z] if inside else pad_value
            out[i, f, r, q] += m(value, ws[f][ch][dy][dx])
    return out


PLAIN = {
    "stride": (1, 1),
    "padding": (0, 0, 0, 0),
    "dilation": (1, 1),
    "groups": 1,
    "pad_value": 0,
}

CONFIGURATIONS = {
    "plain": ((2, 3, 5, 7), (4, 3, 3, 3), {}),
    "1x1": ((2, 3, 4, 5), (5, 3, 1, 1), {}),
    "kernel as large as the input": ((1, 2, 3, 5), (3, 2, 3, 5), {}),
    "oblong kernel": ((1, 2, 5, 7), (3, 2, 2, 3), {}),
    "stride": ((1, 2, 9, 8), (3, 2, 3, 2), {"stride": (2, 3)}),
    "padding": ((1, 2, 4, 5), (3, 2, 3, 3), {"padding": (1, 1, 1, 1), "pad_value": 37}),
    "four sides": ((2, 2, 4, 5), (3, 2, 3, 3), {"padding": (0, 1, 2, 3), "pad_value": 5}),
    "one side": ((1, 1, 3, 3), (2, 1, 2, 2), {"padding": (1, 0, 0, 0), "pad_value": 9}),
    "padding wider than the input": (
        (1, 1, 2, 1), (2, 1, 3, 3), {"padding": (4, 3, 5, 2), "pad_value": 11},
    ),
    "dilation": ((1, 2, 9, 8), (3, 2, 3, 2), {"dilation": (2, 3)}),
    "groups": ((2, 6, 4, 5), (4, 3, 3, 2), {"groups": 2}),
    "depthwise": ((2, 5, 4, 5), (5, 1, 3, 3), {"groups": 5, "padding": (1, 1, 1, 1)}),
    "depthwise, two outputs each": ((1, 3, 4, 4), (6, 1, 2, 2), {"groups": 3}),
    "all at once": (
        (3, 4, 11, 13), (6, 2, 3, 2),
        {"stride": (3, 2), "padding": (1, 2, 3, 0), "dilation": (2, 3), "groups": 2,
         "pad_value": 101},
    ),
}  # fmt: skip


@pytest.mark.parametrize("signs", [(False, False), (True, True), (False, True)])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_conv2d_is_that_of_a_loop(name, signs, random_multiplier, values):
    """Stride, padding of four sides, dilation, groups and odd shapes, on T[0][0] = 64."""
    m = random_multiplier(8, 8, *signs)
    x_shape, w_shape, changes = CONFIGURATIONS[name]
    options = {**PLAIN, **changes}
    x, w = values(m.a, *x_shape), values(m.b, *w_shape, seed=1)
    assert torch.equal(conv2d(x, w, m, **options).to(torch.int64), slow_conv(x, w, m, **options))


@given(st.data())
@settings(max_examples=60, derandomize=True, deadline=None)
def test_conv2d_of_any_configuration(data):
    """Whatever the sizes and options, sums are those of the loop, or the kernel is too large."""
    few = st.integers(1, 3)
    m = _any_table(*(data.draw(st.integers(1, 4)) for _ in "ab"), data.draw(st.booleans()), False)
    groups, per_group = data.draw(few), data.draw(few)
    options = {
        "stride": data.draw(st.tuples(few, few)),
        "padding": data.draw(st.tuples(*[st.integers(0, 2)] * 4)),
        "dilation": data.draw(st.tuples(few, few)),
        "groups": groups,
        "pad_value": data.draw(st.integers(m.a.min, m.a.max)),
    }
    sizes = [data.draw(st.integers(1, 5)) for _ in "hwyx"]
    x_shape = (data.draw(st.integers(0, 2)), groups * per_group, *sizes[:2])
    w_shape = (groups * data.draw(few), per_group, *(min(3, s) for s in sizes[2:]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randint(m.a.min, m.a.max + 1, x_shape, generator=generator)
    w = torch.randint(m.b.min, m.b.max + 1, w_shape, generator=generator)
    left, right, top, bottom = options["padding"]
    spans = [d * (s - 1) + 1 for d, s in zip(options["dilation"], w_shape[2:], strict=True)]
    if spans[0] > x_shape[2] + top + bottom or spans[1] > x_shape[3] + left + right:
        with pytest.raises(InputError, match="more than the padded input"):
            conv2d(x, w, m, **options)
    else:
        assert torch.equal(
            conv2d(x, w, m, **options).to(torch.int64), slow_conv(x, w, m, **options)
        )


@pytest.mark.parametrize("per_block", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["plain", "groups", "all at once"])
def test_conv2d_in_blocks(name, per_block, random_multiplier, values, monkeypatch):
    """However few images fit a block, the last block included, the sums are the same."""
    m = random_multiplier(8, 8, False, True)
    x_shape, w_shape, changes = CONFIGURATIONS[name]
    x, w = values(m.a, 7, *x_shape[1:]), values(m.b, *w_shape, seed=1)
    options = {**PLAIN, **changes}
    whole = conv2d(x, w, m, **options)
    per_image = options["groups"] * w[0].numel() * whole.shape[2] * whole.shape[3]
    calls = []
    operator = functional.lut_gemm
    monkeypatch.setattr(functional, "_PATCH_BYTES", per_block * per_image)
    monkeypatch.setattr(functional, "lut_gemm", lambda *a: calls.append(1) or operator(*a))
    assert torch.equal(conv2d(x, w, m, **options), whole)
    assert len(calls) == -(-7 // max(1, per_block)) * options["groups"]


def test_conv2d_operand_order_peers_defect_1(random_multiplier):
    """The activation comes first in convolutions just as in matrix products."""
    m = random_multiplier(8, 8, False, False)
    x, w = torch.full((1, 1, 1, 1), 9), torch.full((1, 1, 1, 1), 211)
    assert conv2d(x, w, m).item() == m.table[9, 211] != m.table[211, 9]
    assert conv2d(x, w, m).item() == ah.matmul(x[0, 0], w[0, 0], m).item()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 3, 3), (3, 7, 7)])
def test_conv2d_inner_tails_peers_defect_2(shape):
    """K in {1, 3, 27, 147}: T[0][0] = 64 appears in no sum of other codes."""
    table = [[64 * (x == y == 0) for y in range(256)] for x in range(256)]
    m = ah.Multiplier.from_table(table, name="corner")
    x, w = torch.full((1, shape[0], 7, 7), 255), torch.full((2, *shape), 255)
    assert not conv2d(x, w, m).any()


def test_conv2d_padding_is_a_code_peers_defect_3():
    """Padding has the value that it is given, and goes through the multiplier."""
    m = ah.Multiplier.from_function(lambda a, b: a * b + 64 * (a == 0), name="m", a="8u", b="8u")
    x, w = torch.full((1, 1, 1, 1), 3), torch.full((1, 1, 1, 2), 2)
    assert conv2d(x, w, m, padding=(1, 0, 0, 0), pad_value=7).tolist() == [[[[14 + 6]]]]
    assert conv2d(x, w, m, padding=(1, 0, 0, 0)).tolist() == [[[[64 + 6]]]]


def test_conv2d_equals_torch_on_exact_products(values):
    """With the exact multiplier it is torch's convolution of the same integers."""
    x, w = values(S8.a, 2, 6, 9, 11), values(S8.b, 4, 3, 3, 3, seed=1)
    options = {"stride": (2, 1), "dilation": (1, 2), "groups": 2}
    want = torch.nn.functional.conv2d(x.double(), w.double(), padding=(2, 1), **options).to(
        torch.int32
    )
    assert torch.equal(conv2d(x, w, S8, padding=(1, 1, 2, 2), **options), want)


def test_conv2d_of_other_layouts(random_multiplier, values):
    """Channels-last, expanded and sliced operands give the same sums."""
    m = random_multiplier(8, 8, True, True)
    x, w = values(m.a, 3, 4, 5, 6), values(m.b, 2, 4, 3, 3, seed=1)
    want = conv2d(x, w, m, padding=(1, 1, 1, 1))
    for change in (
        lambda t: t.to(memory_format=torch.channels_last),
        lambda t: torch.stack([t, -1 - t], -1)[..., 0],
        lambda t: t.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2),
    ):
        assert torch.equal(conv2d(change(x), change(w), m, padding=(1, 1, 1, 1)), want)
    one = x[:1].expand(3, -1, -1, -1)
    assert torch.equal(conv2d(one, w, m), conv2d(one.contiguous(), w, m))


@pytest.mark.parametrize("batch", [0, 1])
def test_conv2d_of_an_empty_batch(batch):
    """No images give no results, of the right shape and type."""
    out = conv2d(torch.zeros(batch, 2, 5, 6).int(), torch.zeros(3, 2, 3, 3).int(), S8)
    assert (out.shape, out.dtype) == ((batch, 3, 3, 4), torch.int32)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "shape"),
    [((2, 0, 3, 3), (4, 0, 2, 2), (2, 4, 2, 2)), ((2, 3, 3, 3), (0, 3, 2, 2), (2, 0, 2, 2))],
)
def test_conv2d_without_channels(x_shape, w_shape, shape):
    """Without input channels all sums are zero; without output channels there are none."""
    out = conv2d(torch.zeros(x_shape).int(), torch.zeros(w_shape).int(), S8)
    assert out.shape == shape
    assert not out.any()


def test_conv2d_accumulates_in_the_smallest_proven_type():
    """int32 as long as K x max|T| fits it, else int64; sums beyond int32 are right."""
    m = ah.Multiplier.from_table([[0, 0], [0, 2**30]], name="big")
    x = torch.ones(1, 1, 2, 2, dtype=torch.int8)
    one, four = conv2d(x, x[..., :1, :1], m), conv2d(x, x, m)
    assert (one.dtype, one.max().item()) == (torch.int32, 2**30)
    assert (four.dtype, four.item()) == (torch.int64, 2**32)


BAD = {
    "3-d input": ((1, 5, 5), (1, 1, 3, 3), {}, r"takes \(N, C, H, W\)"),
    "3-d weight": ((1, 1, 5, 5), (1, 3, 3), {}, r"takes \(N, C, H, W\)"),
    "channels": ((1, 4, 5, 5), (2, 3, 3, 3), {}, "4 input and 2 output channels do not fit"),
    "groups": ((1, 4, 5, 5), (3, 2, 3, 3), {"groups": 2}, "do not fit 2 groups"),
    "no groups": ((1, 4, 5, 5), (3, 2, 3, 3), {"groups": 0}, "do not fit 0 groups"),
    "kernel": ((1, 1, 2, 2), (1, 1, 3, 3), {}, r"spans \(3, 3\), more than .* \(2, 2\)"),
    "dilated": ((1, 1, 4, 4), (1, 1, 3, 1), {"dilation": (2, 1)}, r"spans \(5, 1\), more than"),
    "stride 0": ((1, 1, 4, 4), (1, 1, 3, 3), {"stride": (1, 0)}, "must be at least 1"),
    "dilation 0": ((1, 1, 4, 4), (1, 1, 3, 3), {"dilation": (0, 1)}, "must be at least 1"),
    "negative": ((1, 1, 4, 4), (1, 1, 3, 3), {"padding": (0, 0, -1, 0)}, "at least 0"),
    "pad value": ((1, 1, 4, 4), (1, 1, 3, 3), {"pad_value": 128}, r"a \(padding\): value 128"),
    "padding of two": ((1, 1, 4, 4), (1, 1, 3, 3), {"padding": (1, 1)}, "four integers"),
    "one padding": ((1, 1, 4, 4), (1, 1, 3, 3), {"padding": 1}, "four integers"),
    "one stride": ((1, 1, 4, 4), (1, 1, 3, 3), {"stride": 2}, "stride must be two integers"),
    "float dilation": ((1, 1, 4, 4), (1, 1, 3, 3), {"dilation": (1.0, 1)}, "dilation must be two"),
    "text groups": ((1, 1, 4, 4), (1, 1, 3, 3), {"groups": "1"}, "groups must be an integer"),
    "no pad": ((1, 1, 4, 4), (1, 1, 3, 3), {"pad_value": None}, r"a \(padding\) must hold"),
    "float pad": ((1, 1, 4, 4), (1, 1, 3, 3), {"pad_value": 1.0}, r"a \(padding\) must hold"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_conv2d_of_what_does_not_fit(name):
    """Shapes, options and padding that do not fit are refused, and the error says why."""
    x_shape, w_shape, options, message = BAD[name]
    x, w = torch.zeros(x_shape, dtype=torch.int8), torch.zeros(w_shape, dtype=torch.int8)
    with pytest.raises(InputError, match=message):
        conv2d(x, w, S8, **options)


def test_conv2d_checks_its_values():
    """Values outside the operands' ranges are refused before anything runs."""
    x, w = torch.zeros(1, 1, 4, 4).int(), torch.zeros(1, 1, 3, 3).int()
    with pytest.raises(OperandRangeError, match=r"operand a: value -1 is outside 0..255"):
        conv2d(x - 1, w, U8)
    with pytest.raises(OperandRangeError, match=r"operand b: value 256 is outside 0..255"):
        conv2d(x, w + 256, U8)
    with pytest.raises(InputError, match=r"torch.float32; quantise"):
        conv2d(x.float(), w, U8)
