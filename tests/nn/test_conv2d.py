"""Conv2d against integer arithmetic written in numpy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.backends import available_backends
from approxhub.errors import InputError

# in, out, kernel, options
CONFIGURATIONS = {
    "plain": (3, 4, 3, {}),
    "no bias": (3, 4, 3, {"bias": False}),
    "1x1": (3, 4, 1, {}),
    "stride": (3, 4, 3, {"stride": 2, "padding": 1}),
    "strides": (3, 4, (3, 2), {"stride": (3, 2), "padding": (2, 1)}),
    "stride leaves a rest": (2, 3, 2, {"stride": 3}),
    "dilation": (3, 2, 3, {"dilation": 2, "padding": 2}),
    "dilations": (3, 2, (2, 3), {"dilation": (3, 1), "padding": (0, 2)}),
    "same": (3, 4, 3, {"padding": "same"}),
    "same, even kernel": (3, 4, (2, 4), {"padding": "same"}),
    "same, even kernel, dilation": (2, 3, (4, 2), {"padding": "same", "dilation": (1, 3)}),
    "valid": (3, 4, (2, 3), {"padding": "valid"}),
    "reflect": (3, 2, 3, {"padding": (1, 2), "padding_mode": "reflect"}),
    "replicate": (3, 2, 3, {"padding": (2, 3), "padding_mode": "replicate"}),
    "circular": (3, 2, 3, {"padding": (2, 1), "padding_mode": "circular"}),
    "reflect, same, even": (2, 2, (4, 2), {"padding": "same", "padding_mode": "reflect"}),
    "circular, same, even": (2, 2, (2, 4), {"padding": "same", "padding_mode": "circular"}),
    "groups": (4, 6, 3, {"groups": 2, "padding": 1}),
    "depthwise": (3, 3, 3, {"groups": 3, "padding": 1, "bias": False}),
    "depthwise, twice": (3, 6, (3, 2), {"groups": 3, "stride": 2, "padding": "valid"}),
    "groups, same, even": (4, 4, 2, {"groups": 2, "padding": "same"}),
}


@pytest.fixture(params=CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def configuration(request):
    """Every configuration in turn."""
    return request.param


def _fitted(layer, seen):
    layer.train()(seen)
    return layer.eval()


def _assert_equal(got: torch.Tensor, want: np.ndarray) -> None:
    assert got.shape == want.shape
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.detach().numpy(), want)


@pytest.mark.cover(2)
@pytest.mark.parametrize("circuit", ["exact", "odd"])
def test_equals_the_loop(case, circuit, configuration, oracle, activations, shaken):
    """Every configuration and mapping equals a loop over products, bit for bit."""
    i, o, kernel, options = configuration
    m = getattr(case, circuit)()
    layer = shaken(ah.nn.Conv2d(i, o, kernel, multiplier=m, mapping=case.mapping, **options))
    seen, x = activations(2, i, 7, 5), activations(2, i, 5, 9) * 1.3
    layer = _fitted(layer, seen)
    zero = layer.input_quantizer.zero_point.item()
    assert case.x.qmin < zero < case.x.qmax
    assert (zero != 0) == case.x.affine
    want = oracle.convolution(x.numpy(), layer, seen.numpy(), case, case.products(m))
    _assert_equal(layer(x), want)
    if circuit == "exact":
        layer.mode = "exact"
        _assert_equal(layer(x), want)


@pytest.mark.parametrize("circuit", ["exact", "odd"])
@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 4, 4), (1, 3, 11, 4), (0, 3, 5, 5)], ids=str)
def test_unbatched_odd_and_empty(some_case, circuit, shape, oracle, activations, shaken):
    """Inputs without a batch dimension, of odd shapes and with an empty batch work as torch's."""
    m = getattr(some_case, circuit)()
    layer = ah.nn.Conv2d(3, 4, (4, 3), padding=(1, 0), multiplier=m, mapping=some_case.mapping)
    seen, x = activations(2, 3, 6, 6), activations(*shape)
    layer = _fitted(shaken(layer), seen)
    want = oracle.convolution(x.numpy(), layer, seen.numpy(), some_case, some_case.products(m))
    _assert_equal(layer(x), want)


@pytest.mark.cover(2)
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 1, (2, 1), "same", "valid"], ids=str)
@pytest.mark.parametrize("kernel", [2, 3, (4, 1)], ids=str)
def test_shapes_and_float_mode_are_torch_s(padding_mode, padding, kernel, activations):
    """Every padding gives torch's output shape, and mode float torch's output."""
    options = {"padding": padding, "padding_mode": padding_mode}
    layer = ah.nn.Conv2d(2, 3, kernel, multiplier=ah.exact(8), **options)
    warnings.filterwarnings("ignore", "Using padding='same' with even kernel")  # torch's
    plain = nn.Conv2d(2, 3, kernel, **options)
    plain.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    x = activations(2, 2, 7, 6)
    assert layer(x).shape == plain(x).shape
    assert torch.equal(ah.nn.Conv2d.from_float(plain, ah.exact(8))(x), layer(x))
    layer.mode = "float"
    assert torch.equal(layer(x), plain(x))


@pytest.mark.parametrize(
    ("backend", "limits"),
    [
        ("reference", {"patches._PATCH_BYTES": 3000}),
        ("cpu", {"cpu._LANE_BYTES": 1000, "cpu._PATCH_BYTES": 0}),
        ("cpu", {"cpu._PATCH_BYTES": 1 << 30}),
    ],
    ids=str,
)
def test_memory_is_bounded_without_changing_sums(backend, limits, monkeypatch, activations):
    """Blocks of a large batch give the same bits as one block, on every backend."""
    reason = {info.name: reason for info, reason in available_backends()}[backend]
    if reason is not None:
        pytest.skip(reason)
    layer = ah.nn.Conv2d(3, 4, 3, padding="same", multiplier=ah.exact(8, False))
    x = activations(7, 3, 6, 5)
    layer = _fitted(layer, x)
    with ah.use_backend("reference"):
        whole = layer(x)
    for name, limit in limits.items():
        monkeypatch.setattr(f"approxhub.backends.{name}", limit)
    with ah.use_backend(backend):
        assert torch.equal(layer(x), whole)


def test_channels_last(case, activations, shaken):
    """The memory format of the input and of the weights does not matter."""
    layer = ah.nn.Conv2d(4, 6, 3, groups=2, padding=1, multiplier=case.odd(), mapping=case.mapping)
    x = activations(2, 4, 5, 7)
    layer = _fitted(shaken(layer), x)
    y = layer(x)
    assert torch.equal(layer(x.to(memory_format=torch.channels_last)), y)
    assert torch.equal(layer(x.transpose(2, 3).contiguous().transpose(2, 3)), y)
    layer = layer.to(memory_format=torch.channels_last)
    assert torch.equal(layer(x), y)


def test_a_1x1_convolution_is_a_linear_layer(case, activations, shaken):
    """Conv2d and Linear share one operand order: a 1x1 convolution equals the linear layer."""
    conv = ah.nn.Conv2d(5, 3, 1, multiplier=case.odd(), mapping=case.mapping)
    linear = ah.nn.Linear(5, 3, multiplier=case.odd(), mapping=case.mapping)
    shaken(conv)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
        linear.bias.copy_(conv.bias)
    x = activations(2, 5, 3, 4)
    assert torch.equal(conv(x), linear(x.movedim(1, -1)).movedim(-1, 1))


@pytest.mark.parametrize("shape", [(2, 5, 5), (1, 4, 5, 5), (5, 5), (1, 1, 3, 5, 5)], ids=str)
def test_wrong_channels_are_refused(shape):
    """An input whose channels or dimensions do not fit is refused with what would fit."""
    layer = ah.nn.Conv2d(3, 2, 3, multiplier=ah.exact(8))
    with pytest.raises(InputError, match=r"\(N, 3, H, W\)"):
        layer(torch.zeros(shape))


def test_kernel_larger_than_the_input_is_refused(activations):
    """A kernel that spans more than the padded input is refused with both sizes."""
    layer = ah.nn.Conv2d(1, 1, 3, dilation=2, padding=1, multiplier=ah.exact(8))
    with pytest.raises(InputError, match=r"\(5, 5\), more than the padded input \(4, 6\)"):
        layer(activations(1, 1, 2, 4))


def test_signature_is_torch_s():
    """The positional signature is torch's, and the attributes are too."""
    layer = ah.nn.Conv2d(
        4, 6, (3, 1), 2, 1, (1, 2), 2, False, "reflect", "cpu", torch.float64,
        multiplier=ah.exact(8),
    )  # fmt: skip
    plain = nn.Conv2d(4, 6, (3, 1), 2, 1, (1, 2), 2, False, "reflect", "cpu", torch.float64)
    for name in plain.__constants__:
        assert getattr(layer, name) == getattr(plain, name)
    assert layer.weight.dtype == torch.float64
    assert isinstance(layer, nn.Conv2d)
