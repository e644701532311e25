"""Products of activations, and attention, against products written in numpy."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import approxhub as ah
from approxhub.errors import CalibrationError, InputError
from approxhub.multiplier import Multiplier


def _layer(make, *data, **options):
    """A layer in evaluation, its ranges those of some data."""
    layer = make(**options)
    layer(*data)
    return layer.eval()


# --- Matmul -----------------------------------------------------------------------------

SHAPES = [
    ((3, 4), (4, 2)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (3, 4, 2)),
    ((4, 1), (5, 1, 3)),
    ((0, 3, 4), (0, 4, 2)),
    ((2, 0, 4), (2, 4, 2)),
]


@pytest.mark.parametrize("circuit", ["exact", "odd"])
def test_every_mapping(case, circuit, oracle, activations):
    """A product of matrices in pairs equals a loop under every mapping, bit for bit."""
    test_matmul_equals_the_loop(case, circuit, SHAPES[1], oracle, activations)


@pytest.mark.cover(2)
@pytest.mark.parametrize("circuit", ["exact", "odd"])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_matmul_equals_the_loop(some_case, circuit, shapes, oracle, activations):
    """Every leading dimension equals a loop over products, bit for bit."""
    case = some_case
    m = getattr(case, circuit)()
    layer = _layer(
        ah.nn.Matmul, activations(3, 4), activations(4, 3), multiplier=m, mapping=case.mapping
    )
    left, right = (activations(*s) for s in shapes)
    y = layer(left, right)
    assert y.shape == torch.matmul(left, right).shape
    assert torch.equal(y, oracle.matmul(left, right, layer, case, case.products(m)))
    if circuit == "exact":
        layer.mode = "exact"
        assert torch.equal(layer(left, right), y)
    layer.mode = "float"
    assert torch.equal(layer(left, right), left @ right)


def test_the_left_matrix_is_operand_a():
    """T = 2 a + 5 b tells the operands apart."""
    m = Multiplier.from_function(lambda a, b: 2 * a + 5 * b, name="order", a="8s", b="8s")
    layer = ah.nn.Matmul(multiplier=m).eval()
    for quantizer in layer.data_quantizers():
        quantizer.set_range(torch.tensor(-127.0), torch.tensor(127.0))
    assert layer(torch.tensor([[3.0]]), torch.tensor([[7.0]])).item() == 2 * 3 + 5 * 7


def test_matmul_has_the_gradients_of_the_exact_product(some_case, activations):
    """Both gradients are those of the product of the real values of the codes."""
    left, right = (activations(2, 3, 4).requires_grad_(), activations(2, 4, 5).requires_grad_())
    layer = _layer(ah.nn.Matmul, left, right, multiplier=some_case.odd(), mapping=some_case.mapping)
    y = layer(left, right)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    real_a, real_b = (
        q(t.detach())[0] for q, t in zip(layer.data_quantizers(), (left, right), strict=True)
    )
    torch.testing.assert_close(left.grad, upstream @ real_b.mT)
    torch.testing.assert_close(right.grad, real_a.mT @ upstream)


def test_calibration_finds_both_ranges(activations):
    """calibrate sets both ranges, training moves both, and evaluation none."""
    net = nn.Module()
    net.product = ah.nn.Matmul(multiplier=ah.exact(8), calibrator="minmax")
    left, right = activations(3, 4), activations(4, 2) * 3
    ah.calibrate(net, [(left, right)], forward=lambda model, batch: model.product(*batch))
    a, b = net.product.data_quantizers()
    assert (a.range_max, b.range_max) == (left.max(), right.max())
    net.eval().product(left * 2, right * 2)
    assert (a.range_max, b.range_max) == (left.max(), right.max())
    net.train().product(left * 2, right * 2)
    assert (a.range_max, b.range_max) == (2 * left.max(), 2 * right.max())


@pytest.mark.parametrize(
    ("left", "right", "says"),
    [
        (torch.zeros(4), torch.zeros(4, 2), r"\(\.\.\., M, K\)"),
        (torch.zeros(3, 4), torch.zeros(3, 2), r"\(3, 4\) x \(3, 2\)"),
        (torch.zeros(2, 3, 4), torch.zeros(3, 4, 2), "broadcast"),
        (torch.zeros(3, 4), torch.zeros(4, 2, dtype=torch.int8), "real activations"),
    ],
    ids=["vector", "inner", "leading", "integers"],
)
def test_matmul_refuses_what_does_not_fit(left, right, says):
    """What does not fit is refused with what would."""
    with pytest.raises(InputError, match=says):
        ah.nn.Matmul(multiplier=ah.exact(8))(left, right)


# --- scaled dot-product attention -----------------------------------------------------------

OPTIONS = {
    "plain": {},
    "causal": {"is_causal": True},
    "bool mask": {"attn_mask": torch.tensor([[True] * 5, [True, False] * 2 + [True]] * 2)},
    "float mask": {"attn_mask": torch.linspace(-2, 1, 20).reshape(4, 5)},
    "scale": {"scale": 0.3},
}


@pytest.mark.cover(2)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("circuit", ["exact", "odd"])
def test_attention_equals_the_loop(some_case, circuit, options, oracle, activations):
    """Both inner products equal the loop, bit for bit, queries and weights being operand a."""
    m = getattr(some_case, circuit)()
    q, k, v = activations(2, 3, 4, 6), activations(2, 3, 5, 6), activations(2, 3, 5, 2)
    layer = _layer(
        ah.nn.ScaledDotProductAttention, q, k, v, multiplier=m, mapping=some_case.mapping
    )
    y = layer(q, k, v, **options)
    products = some_case.products(m)
    scores = oracle.matmul(q, k.mT, layer.scores, some_case, products)
    scores = scores * options.get("scale", 1 / math.sqrt(6))
    mask = options.get("attn_mask")
    if options.get("is_causal"):
        mask = torch.ones(4, 5, dtype=torch.bool).tril()
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(4, 5).masked_fill(~mask, -math.inf)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    assert torch.equal(y, oracle.matmul(weights, v, layer.context, some_case, products))
    layer.mode = "float"
    torch.testing.assert_close(
        layer(q, k, v, **options), F.scaled_dot_product_attention(q, k, v, **options)
    )


def test_grouped_queries(activations):
    """With enable_gqa groups of query heads share keys and values, as in torch."""
    q, k, v = activations(2, 6, 4, 3), activations(2, 2, 5, 3), activations(2, 2, 5, 3)
    layer = ah.nn.ScaledDotProductAttention(multiplier=ah.exact(8), mode="float")
    torch.testing.assert_close(
        layer(q, k, v, enable_gqa=True), F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    )


def test_mask_and_causal_together_are_refused():
    """A mask and is_causal exclude each other, as in torch."""
    layer = ah.nn.ScaledDotProductAttention(multiplier=ah.exact(8))
    with pytest.raises(InputError, match="not both"):
        layer(*torch.zeros(3, 2, 4), attn_mask=torch.ones(2, 2), is_causal=True)


# --- MultiheadAttention -----------------------------------------------------------------------

LAYERS = {
    "plain": {},
    "batch first, no bias": {"batch_first": True, "bias": False},
    "other keys and values": {"kdim": 5, "vdim": 7},
    "bias and zero keys": {"add_bias_kv": True, "add_zero_attn": True},
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layers(request):
    """A float layer of each kind, and inputs for it: query (4), key and value (5), batch 3."""
    options = request.param
    plain = nn.MultiheadAttention(6, 2, **options).eval()
    q, k, v = (
        torch.randn(n, 3, options.get(name, 6)) + 0.3
        for n, name in ((4, "embed_dim"), (5, "kdim"), (5, "vdim"))
    )
    if plain.batch_first:
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    return plain, (q, k, v)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
def test_float_mode_is_torch_s(layers):
    """In mode float outputs and weights are torch's within rounding, with every mask."""
    plain, inputs = layers
    layer = ah.nn.MultiheadAttention.from_float(
        plain, ah.exact(8), mode="float", approximate_products=True
    )
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    added = torch.randn(4, 5)
    added[:, 0] = 0.5  # what is left in every row
    for options in (
        {},
        {"need_weights": False},
        {"average_attn_weights": False},
        {"key_padding_mask": padding},
        {"attn_mask": added, "key_padding_mask": torch.randn(3, 5)},
        {"attn_mask": added > 1, "key_padding_mask": padding},
        {"attn_mask": torch.randn(6, 4, 5)},
        {"attn_mask": torch.ones(4, 5, dtype=torch.bool).triu(1), "is_causal": True},
    ):
        want, got = plain(*inputs, **options), layer(*inputs, **options)
        torch.testing.assert_close(got, want)
    single = [t[0] if plain.batch_first else t[:, 0] for t in inputs]
    torch.testing.assert_close(layer(*single), plain(*single))
    torch.testing.assert_close(
        layer(*single, key_padding_mask=padding[0]), plain(*single, key_padding_mask=padding[0])
    )


@pytest.mark.cover(2)
@pytest.mark.parametrize("circuit", ["exact", "odd"])
@pytest.mark.parametrize("products", [False, True])
def test_multihead_attention_equals_the_loop(layers, some_case, circuit, products, oracle):
    """Projections, and if asked for inner products, equal the loop, bit for bit."""
    plain, inputs = layers
    m = getattr(some_case, circuit)()
    layer = ah.nn.MultiheadAttention.from_float(
        plain, m, mapping=some_case.mapping, approximate_products=products
    )
    with torch.no_grad():
        layer.train()(*inputs)
        y, weights = layer.eval()(*inputs, average_attn_weights=False)
        table, parts = some_case.products(m), layer.parts()
        q, k, v = (
            oracle.projection(
                parts[f"{n}_proj"], t if plain.batch_first else t.transpose(0, 1), some_case, table
            )
            for n, t in zip("qkv", inputs, strict=True)
        )
        if plain.bias_k is not None:
            k, v = (
                torch.cat([t, bias.expand(3, 1, 6), torch.zeros(3, 1, 6)], 1)
                for t, bias in ((k, plain.bias_k), (v, plain.bias_v))
            )
        q, k, v = (t.unflatten(-1, (2, 3)).transpose(1, 2) for t in (q, k, v))
        if products:
            scores = oracle.matmul(q, k.mT, layer.attention.scores, some_case, table)
            want = (scores * (1 / math.sqrt(3))).softmax(-1)
            context = oracle.matmul(want, v, layer.attention.context, some_case, table)
        else:
            want = (q @ k.mT / math.sqrt(3)).softmax(-1)
            context = want @ v
        context = context.transpose(1, 2).flatten(2)
        out = oracle.projection(layer.out_proj, context, some_case, table)
        assert torch.equal(weights, want)
        assert torch.equal(y, out if plain.batch_first else out.transpose(0, 1))
        if circuit == "exact":
            layer.mode = "exact"
            assert torch.equal(layer(*inputs)[0], y)


def test_attention_state_and_copies(layers):
    """torch's names are kept, float checkpoints load, and copies give the same bits."""
    plain, inputs = layers
    layer = ah.nn.MultiheadAttention.from_float(
        plain, ah.exact(8, False), approximate_products=True
    )
    assert {id(p) for p in layer.parameters()} == {id(p) for p in plain.parameters()}
    assert not layer.training
    layer.train()(*inputs)
    y = layer.eval()(*inputs)[0]
    names = {n for n, _ in plain.named_parameters()}
    assert {n for n, _ in layer.named_parameters()} == names
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(clone(*inputs)[0], y)
        clone.load_state_dict(plain.state_dict(), strict=True)
        clone.load_state_dict(layer.state_dict())
        assert torch.equal(clone(*inputs)[0], y)
    y.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_dropout_on_attention_weights(layers):
    """Dropout is applied to the attention weights in training alone."""
    plain, inputs = layers
    plain.dropout = 1.0
    layer = ah.nn.MultiheadAttention.from_float(plain, ah.exact(8), mode="float")
    _, weights = layer.train()(*inputs)
    assert (weights == 0).all()
    _, weights = layer.eval()(*inputs)
    assert (weights != 0).any()


def test_a_row_that_is_masked_whole_is_refused():
    """Where nothing is left to attend to, the NaN is reported, not multiplied."""
    layer = ah.nn.MultiheadAttention(4, 2, multiplier=ah.exact(8), approximate_products=True)
    x = torch.randn(3, 2, 4)
    layer(x, x, x)
    mask = torch.zeros(3, 3, dtype=torch.bool)
    mask[1] = True
    with pytest.raises(CalibrationError, match="NaN"):
        layer.eval()(x, x, x, attn_mask=mask)


@pytest.mark.parametrize(
    ("shapes", "options", "says"),
    [
        (((3, 2, 4), (3, 2, 4), (3, 4)), {}, "of two or of three dimensions"),
        (((3, 2, 4), (5, 1, 4), (5, 1, 4)), {}, "do not fit keys"),
        (((3, 2, 4), (5, 2, 4), (6, 2, 4)), {}, "do not fit keys"),
        (((3, 2, 4),) * 3, {"is_causal": True}, "is_causal needs"),
        (((3, 2, 4),) * 3, {"attn_mask": torch.zeros(2, 3)}, r"attn_mask must be \(3, 3\)"),
        (((3, 2, 4),) * 3, {"key_padding_mask": torch.zeros(3, 2)}, r"must be \(2, 3\)"),
        (((3, 2, 5), (3, 2, 4), (3, 2, 4)), {}, r"\(\.\.\., 4\)"),
    ],
    ids=str,
)
def test_attention_refuses_what_does_not_fit(shapes, options, says):
    """What does not fit is refused with what would."""
    layer = ah.nn.MultiheadAttention(4, 2, multiplier=ah.exact(8))
    with pytest.raises(InputError, match=says):
        layer(*(torch.zeros(s) for s in shapes), **options)


@pytest.mark.filterwarnings("ignore")
def test_attention_compiled_and_autocast(activations):
    """Compiled whole, the same bits; under autocast, bfloat16."""
    layer = ah.nn.MultiheadAttention(6, 2, multiplier=ah.exact(8), approximate_products=True)
    inputs = (activations(4, 2, 6),) * 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.train()(*inputs)[0].dtype == torch.bfloat16
    layer.eval()
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        assert torch.equal(compiled(*inputs)[0], layer(*inputs)[0])
    torch._dynamo.reset()
