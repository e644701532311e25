"""The defects found in other simulators, each a test by its number.

1 operand order, 2 tails of K, 3 padding, 4 signs of zero points, 5 scales per channel, 6 sums in
floating point, 7 signed tables, 8 operands that do not fit, 9 observers in evaluation, 10 what
torch's layers can and theirs cannot.
"""

from __future__ import annotations

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import MappingError
from approxhub.multiplier import Multiplier

TABLE = np.random.default_rng(8).integers(-30000, 30000, (256, 256))
TABLE[0, 0] = 64
KINDS = {
    "linear": ("Linear", (4, 3), (5, 4)),
    "conv2d": ("Conv2d", (2, 3, (3, 2)), (2, 2, 5, 4)),
    "conv_transpose2d": ("ConvTranspose2d", (2, 3, (3, 2)), (2, 2, 3, 2)),
}


def _odd(signed: bool = False, name: str = "odd", table: np.ndarray = TABLE) -> Multiplier:
    return Multiplier.from_table(table, name=name, a_signed=signed, b_signed=signed)


def _make(kind: str, multiplier: Multiplier, **options):
    name, arguments, _ = KINDS[kind]
    return getattr(ah.nn, name)(*arguments, multiplier=multiplier, **options)


def _state(module: nn.Module) -> dict[str, list]:
    found = {n: b.reshape(-1).tolist() for n, b in module.named_buffers()}
    for name in ("input_quantizer", "weight_quantizer"):
        seen = getattr(module, name).calibrator.range()
        found[name] = [t.reshape(-1).tolist() for t in seen]
    return found


def test_defect_01_operand_order_is_the_same_in_every_layer():
    """Activation first, weight second, in every layer: T = 2 a + 5 b tells them apart."""
    m = Multiplier.from_function(lambda a, b: 2 * a + 5 * b, name="order", a="8s", b="8s")
    kinds = ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
    layers = [(ah.nn.Linear(1, 1, False, multiplier=m), (1, 1))]
    for name in kinds:
        shape = (1,) * (2 + int(name[-2]))
        layers.append((getattr(ah.nn, name)(1, 1, 1, bias=False, multiplier=m), shape))
    for layer, shape in layers:
        with torch.no_grad():
            layer.weight.fill_(1.0)  # code 127
        layer.input_quantizer.set_range(torch.tensor(-127.0), torch.tensor(127.0))
        y = layer.eval()(torch.full(shape, 3.0))
        want = np.float32(2 * 3 + 5 * 127) * (np.float32(1) * (np.float32(1) / np.float32(127)))
        assert y.item() == want


@pytest.mark.parametrize("k", [1, 3, 27, 147])
def test_defect_02_tails_of_k_never_reach_the_table(k):
    """A sum has K products and not one T[0][0] = 64 more, whatever K is."""
    table = np.zeros((256, 256), np.int64)
    table[0, 0] = 64
    for mapping, count in (("affine", 0), ("signmag-both", 0)):
        layer = ah.nn.Linear(k, 2, False, multiplier=_odd(table=table), mapping=mapping)
        with torch.no_grad():
            layer.weight.fill_(1.0)  # never code 0
        layer.input_quantizer.set_range(torch.tensor(0.0), torch.tensor(1.0))
        codes = layer.input_quantizer.codes(torch.ones(1, k)).to(torch.uint8)
        weights = layer.weight_quantizer.codes(layer.weight).detach().to(torch.uint8)
        assert (codes > 0).all()
        assert (weights > 0).all()
        m = layer.effective_multiplier
        assert ah.matmul(codes, weights.t(), m).tolist() == [[count, count]]
        assert ah.matmul(codes * 0, weights.t() * 0, m).tolist() == [[64 * k, 64 * k]]


def test_defect_02_tails_in_a_convolution():
    """147 = 3 x 7 x 7 products in each sum of a convolution, no more."""
    table = np.zeros((256, 256), np.int64)
    table[0, 0] = 64
    layer = ah.nn.Conv2d(3, 1, 7, bias=False, multiplier=_odd(table=table), mode="approximate")
    with torch.no_grad():
        layer.weight.fill_(-1.0)  # the smallest weight: code 0
    layer.input_quantizer.set_range(torch.tensor(-1.0), torch.tensor(0.0))
    y = layer.eval()(torch.full((1, 3, 7, 7), -1.0))  # the smallest activation: code 0
    z_x, z_w = layer.input_quantizer.zero_point.item(), layer.weight_quantizer.zero_point.item()
    total = 147 * 64 + 147 * z_x * z_w
    scale = layer.input_quantizer.scale * layer.weight_quantizer.scale
    assert y.item() == (torch.tensor(float(total)) * scale).item()


def test_defect_03_padding_is_the_zero_point_code():
    """Padding enters the multiplier as the code of real zero, not as code 0."""
    m = Multiplier.from_function(lambda a, b: a * 1000 + b, name="seen", a="8u", b="8u")
    layer = ah.nn.Conv2d(1, 1, 1, padding=1, bias=False, multiplier=m)
    layer.input_quantizer.set_range(torch.tensor(-100.0), torch.tensor(155.0))
    assert layer.input_quantizer.zero_point.item() == 100
    layer.eval()
    y = layer(torch.zeros(1, 1, 1, 1))
    assert y.shape == (1, 1, 3, 3)
    assert (y == y[0, 0, 1, 1]).all()  # a border of padding equals a real zero
    layer = ah.nn.Conv2d(1, 1, 3, padding=1, multiplier=ah.exact(8, False))
    layer.input_quantizer.set_range(torch.tensor(-100.0), torch.tensor(155.0))
    y = layer.eval()(torch.zeros(1, 1, 4, 4))
    assert torch.equal(y, layer.bias.reshape(1, 1, 1, 1).expand_as(y))


def test_defect_04_zero_points_are_corrected_with_the_right_sign():
    """With zero points far from zero a convolution is within rounding of the float one."""
    layer = ah.nn.Conv2d(3, 4, 3, padding=1, multiplier=ah.exact(8, False))
    with torch.no_grad():
        layer.weight.add_(0.4)
    x = torch.rand(2, 3, 6, 6) * 2 - 1.5
    layer(x)
    layer.eval()
    assert 100 < layer.input_quantizer.zero_point.item() < 250
    assert (layer.weight_quantizer.zero_point < 100).any()
    want = layer._float_forward(x)
    assert (layer(x) - want).abs().max() < 0.02 * want.abs().max()


def test_defect_05_weight_scales_belong_to_channels_not_to_columns():
    """Channels of very different scale are each right where width equals channels."""
    layer = ah.nn.Conv2d(3, 4, 1, multiplier=ah.exact(8))
    with torch.no_grad():
        layer.weight.copy_(torch.randn(4, 3, 1, 1) * torch.tensor([1e-3, 1.0, 1e2, 1e4])
                           .reshape(4, 1, 1, 1))  # fmt: skip
    x = torch.randn(2, 3, 4, 4)
    layer(x)
    y, want = layer.eval()(x), layer._float_forward(x)
    for c in range(4):
        assert (y[:, c] - want[:, c]).abs().max() < 0.03 * want[:, c].abs().max()


def test_defect_06_sums_are_integers():
    """At K = 1152 with unsigned 8-bit data every sum equals the int64 one."""
    rng = np.random.default_rng(0)
    a = rng.integers(128, 256, (16, 1152))
    w = rng.integers(128, 256, (1152, 16))
    got = ah.matmul(torch.from_numpy(a), torch.from_numpy(w), _odd(table=TABLE * 0 + 65025))
    assert (got == 1152 * 65025).all()
    exact = ah.matmul(torch.from_numpy(a), torch.from_numpy(w), ah.exact(8, False))
    np.testing.assert_array_equal(exact.numpy(), a @ w)
    layer = ah.nn.Linear(1152, 16, False, multiplier=ah.exact(8, False))
    x = torch.rand(16, 1152) + 0.5
    layer(x)
    layer.eval()
    codes = layer.input_quantizer.codes(x).numpy().astype(np.int64)
    weights = layer.weight_quantizer.codes(layer.weight).detach().numpy().astype(np.int64)
    z_x, z_w = layer.input_quantizer.zero_point.numpy(), layer.weight_quantizer.zero_point.numpy()
    total = (codes - z_x) @ (weights - z_w[:, None].astype(np.int64)).T
    scale = (layer.input_quantizer.scale * layer.weight_quantizer.scale).numpy()
    np.testing.assert_array_equal(layer(x).detach().numpy(), total.astype(np.float32) * scale)


def test_defect_07_negative_operands_reach_their_own_entries():
    """Each pair of signs reads its own entry of a signed table, two negatives too."""
    table = np.arange(65536).reshape(256, 256)
    m = _odd(True, "signs", table)
    for a in (-127, -3, 0, 5, 127):
        for b in (-127, -2, 0, 4, 127):
            layer = ah.nn.Linear(1, 1, False, multiplier=m, per_channel=False)
            layer.input_quantizer.set_range(torch.tensor(-127.0), torch.tensor(127.0))
            with torch.no_grad():
                layer.weight.fill_(float(b))
            layer.eval()
            layer.weight_quantizer.set_range(torch.tensor(-127.0), torch.tensor(127.0))
            assert layer(torch.tensor([float(a)])).item() == table[a & 255, b & 255]


@pytest.mark.parametrize("kind", KINDS)
def test_defect_08_signs_must_fit_and_the_full_range_is_used(kind, activations):
    """Signed codes never meet an unsigned circuit silently; the default uses all its codes."""
    data = functools.partial(activations, *KINDS[kind][-1])
    with pytest.raises(MappingError, match="'affine', 'signmag-weights' or 'signmag-both'"):
        _make(kind, ah.exact(8, False), mapping="symmetric")
    with pytest.raises(MappingError, match="'symmetric' or 'affine-signed'"):
        _make(kind, ah.exact(8), mapping="affine")
    for m, codes in ((ah.exact(8, False), (0, 255)), (ah.exact(8), (-127, 127))):
        layer = _make(kind, m)
        layer(data())
        for q in (layer.input_quantizer, layer.weight_quantizer):
            assert (q.code_range.qmin, q.code_range.qmax) == codes
    unsigned = _make(kind, ah.exact(8, False))
    x = data()
    unsigned(x)
    found = unsigned.input_quantizer.codes(x)
    assert found.min() <= 1
    assert found.max() >= 254


@pytest.mark.parametrize("kind", KINDS)
def test_defect_09_evaluation_leaves_observers_alone(kind, activations):
    """Data far outside the range, seen in evaluation, moves nothing."""
    data = functools.partial(activations, *KINDS[kind][-1])
    fitted = _make(kind, _odd())
    fitted(data())
    before = _state(fitted.eval())
    for _ in range(3):
        fitted(data() * 1000)
    assert _state(fitted) == before


@pytest.mark.filterwarnings("ignore")  # torch.compile has warnings of its own
def test_defect_10_every_thing_that_fails_elsewhere_works(activations):
    """3-D inputs, dilation, string padding, no bias, shared and root modules, autocast, copies."""
    linear = ah.nn.Linear(4, 3, False, multiplier=_odd())
    assert linear(activations(2, 5, 4)).shape == (2, 5, 3)
    conv = ah.nn.Conv2d(2, 3, 2, 1, "same", 2, bias=False, multiplier=_odd())
    assert conv(activations(1, 2, 5, 7)).shape == (1, 3, 5, 7)
    shared = nn.Linear(4, 4)
    net = ah.approximate(nn.Sequential(shared, nn.ReLU(), shared), _odd())
    assert net[0] is net[2]
    root = ah.approximate(nn.Linear(4, 2), _odd())
    assert isinstance(root, ah.nn.Linear)
    for model, width in ((net, 4), (root, 4)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model(activations(3, width)).dtype == torch.bfloat16
        clone = pickle.loads(pickle.dumps(copy.deepcopy(model))).eval()
        clone.load_state_dict(model.state_dict())
        x = activations(3, width)
        assert torch.equal(clone(x), model.eval()(x))
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), model(x))
