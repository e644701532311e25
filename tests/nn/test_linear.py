"""Linear against integer arithmetic written in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import approxhub as ah
from approxhub.errors import InputError

SHAPES = [(5,), (1, 5), (7, 5), (2, 3, 5), (2, 1, 3, 5), (0, 5), (2, 0, 5)]


def _fitted(layer, seen):
    """A layer in evaluation, its range that of `seen`."""
    layer.train()(seen)
    return layer.eval()


def _assert_equal(got: torch.Tensor, want: np.ndarray) -> None:
    assert got.shape == want.shape
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.detach().numpy(), want)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("circuit", ["exact", "odd"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_loop(case, circuit, shape, bias, oracle, activations, shaken):
    """Every mapping, leading dimension and bias equals a loop over products, bit for bit."""
    m = getattr(case, circuit)()
    layer = shaken(ah.nn.Linear(5, 3, bias, multiplier=m, mapping=case.mapping))
    seen, x = activations(11, 5), activations(*shape) * 1.4
    layer = _fitted(layer, seen)
    for quantizer, codes in ((layer.input_quantizer, case.x), (layer.weight_quantizer, case.w)):
        inner = (quantizer.zero_point > codes.qmin) & (quantizer.zero_point < codes.qmax)
        assert inner.all()
        assert not codes.affine or (quantizer.zero_point != 0).any()
    b = layer.bias.detach().numpy() if bias else None
    want = oracle.linear(
        x.numpy(), layer.weight.detach().numpy(), b, seen.numpy(), case, case.products(m)
    )
    _assert_equal(layer(x), want)


@pytest.mark.parametrize("circuit", ["exact", "odd"])
def test_one_scale_for_all_channels(some_case, circuit, oracle, activations, shaken):
    """With per_channel=False one weight scale serves all channels."""
    m = getattr(some_case, circuit)()
    layer = ah.nn.Linear(5, 3, multiplier=m, mapping=some_case.mapping, per_channel=False)
    seen = activations(11, 5)
    layer = _fitted(shaken(layer), seen)
    assert layer.weight_quantizer.scale.shape == ()
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    products = some_case.products(m)
    want = oracle.linear(seen.numpy(), weight, bias, seen.numpy(), some_case, products, False)
    _assert_equal(layer(seen), want)


def test_exact_multiplier_equals_mode_exact(case, activations, shaken):
    """With the exact multiplier, approximate and exact mode give the same bits."""
    layer = ah.nn.Linear(6, 4, multiplier=case.exact(), mapping=case.mapping)
    layer, x = _fitted(shaken(layer), activations(9, 6)), activations(4, 6)
    approximate = layer(x)
    layer.mode = "exact"
    assert torch.equal(layer(x), approximate)


def test_mode_exact_is_the_exact_product(case, oracle, activations, shaken):
    """Mode exact ignores the table: it equals the loop with the products of the codes."""
    layer = ah.nn.Linear(6, 4, multiplier=case.odd(), mapping=case.mapping, mode="exact")
    seen = activations(9, 6)
    layer = _fitted(shaken(layer), seen)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    want = oracle.linear(seen.numpy(), weight, bias, seen.numpy(), case, np.multiply)
    _assert_equal(layer(seen), want)


def test_mode_float_is_torch(activations):
    """Mode float is torch's layer, and needs no calibration."""
    layer = ah.nn.Linear(6, 4, multiplier=ah.exact(8), mode="float").eval()
    plain = nn.Linear(6, 4)
    plain.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    x = activations(2, 3, 6)
    assert torch.equal(layer(x), plain(x))


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("signed", [True, False])
def test_wide_exact(bits, signed, oracle, activations, shaken):
    """12 and 16 bits a side: sums beyond int32 are exact integers too."""
    k, m = 600, ah.exact(bits, signed)
    layer = shaken(ah.nn.Linear(k, 3, multiplier=m))
    assert layer._accumulator(k) == torch.int64
    seen = activations(4, k) + 3
    layer = _fitted(layer, seen)
    top = (1 << (bits - signed)) - 1
    codes = oracle.Codes(-top, top, False) if signed else oracle.Codes(0, top, True)
    wide = oracle.Case("wide", str(m.a), str(m.b), codes, codes)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    want = oracle.linear(seen.numpy(), weight, bias, seen.numpy(), wide, np.multiply)
    _assert_equal(layer(seen), want)


def test_wide_circuit_without_a_table(activations, shaken):
    """A 16 x 16 circuit that has no table gives the sums of its function."""
    m = ah.Multiplier.from_function(
        lambda a, b: a * b - (a & 3), name="wide", a="16s", b="16s", fingerprint="a * b - (a & 3)"
    )
    layer = _fitted(shaken(ah.nn.Linear(5, 3, False, multiplier=m)), activations(6, 5))
    x = activations(4, 5)
    a = layer.input_quantizer.codes(x).numpy().astype(np.int64)
    w = layer.weight_quantizer.codes(layer.weight).detach().numpy().astype(np.int64)
    acc = (a[:, None] * w[None] - (a[:, None] & 3)).sum(-1)
    scale = layer.input_quantizer.scale * layer.weight_quantizer.scale
    _assert_equal(layer(x), acc.astype(np.float32) * scale.numpy())


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 5), st.integers(0, 2**31 - 1))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_any_shape_and_data(rows, k, which, seed):
    """Exact products equal a float64 matrix product of the dequantised codes, for any data."""
    generator = torch.Generator().manual_seed(seed)
    m = [ah.exact(8), ah.exact(8, False), ah.exact(4), ah.exact(3, False)][which % 4]
    layer = ah.nn.Linear(k, 2, False, multiplier=m)
    with torch.no_grad():
        layer.weight.copy_(torch.randn((2, k), generator=generator))
    x = torch.randn((rows, k), generator=generator) * 10.0 ** (which - 2)
    y = layer(x)
    real_x = layer.input_quantizer(x)[0].double()
    real_w = layer.weight_quantizer(layer.weight)[0].double()
    torch.testing.assert_close(
        y.double(), real_x @ real_w.t(), rtol=1e-5, atol=1e-5 * x.abs().max().item()
    )


@pytest.mark.parametrize("x", [torch.zeros(()), torch.zeros(4), torch.zeros(2, 4)])
def test_wrong_width_is_refused(x):
    """An input whose last dimension does not fit is refused with what would fit."""
    layer = ah.nn.Linear(5, 3, multiplier=ah.exact(8))
    with pytest.raises(InputError, match=r"\(\.\.\., 5\)"):
        layer(x)


def test_signature_is_torch_s():
    """The positional signature is torch's, and the attributes are too."""
    layer = ah.nn.Linear(5, 3, False, "cpu", torch.float64, multiplier=ah.exact(8))
    assert (layer.in_features, layer.out_features, layer.bias) == (5, 3, None)
    assert layer.weight.dtype == torch.float64
    assert isinstance(layer, nn.Linear)
