"""Conv1d and Conv3d against integer arithmetic written in numpy; Conv2d has a file of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import InputError

# layer, in, out, kernel, options, input
CONFIGURATIONS = {
    "1d plain": ("Conv1d", 3, 4, 3, {}, (2, 3, 8)),
    "1d no bias": ("Conv1d", 3, 4, 1, {"bias": False}, (2, 3, 5)),
    "1d stride, dilation": (
        "Conv1d", 3, 2, 3, {"stride": 2, "dilation": 2, "padding": 3}, (2, 3, 9),
    ),
    "1d same, even": ("Conv1d", 2, 3, 4, {"padding": "same"}, (2, 2, 7)),
    "1d valid": ("Conv1d", 2, 3, 2, {"padding": "valid"}, (2, 2, 7)),
    "1d reflect": ("Conv1d", 2, 3, 3, {"padding": 2, "padding_mode": "reflect"}, (2, 2, 7)),
    "1d replicate, same": (
        "Conv1d", 2, 3, 4, {"padding": "same", "padding_mode": "replicate"}, (2, 2, 7),
    ),
    "1d groups": ("Conv1d", 4, 6, 3, {"groups": 2, "padding": 1}, (2, 4, 6)),
    "1d depthwise": ("Conv1d", 3, 3, 3, {"groups": 3, "padding": 1}, (2, 3, 6)),
    "1d unbatched": ("Conv1d", 3, 4, 3, {"padding": 1}, (3, 8)),
    "1d unbatched circular": (
        "Conv1d", 3, 4, 3, {"padding": 1, "padding_mode": "circular"}, (3, 8),
    ),
    "1d empty batch": ("Conv1d", 3, 4, 3, {}, (0, 3, 8)),
    "3d plain": ("Conv3d", 2, 3, 2, {}, (2, 2, 3, 4, 3)),
    "3d strides": (
        "Conv3d", 2, 3, (1, 2, 3), {"stride": (2, 1, 3), "padding": (0, 1, 2)}, (1, 2, 3, 4, 5),
    ),
    "3d dilation": ("Conv3d", 1, 2, 2, {"dilation": (1, 2, 3), "padding": 1}, (1, 1, 3, 4, 5)),
    "3d same, even": ("Conv3d", 1, 2, (2, 1, 4), {"padding": "same"}, (1, 1, 3, 2, 5)),
    "3d replicate": (
        "Conv3d", 1, 2, 2, {"padding": (1, 2, 1), "padding_mode": "replicate"}, (1, 1, 3, 3, 3),
    ),
    "3d circular, unbatched": (
        "Conv3d", 1, 2, 2, {"padding": (1, 2, 1), "padding_mode": "circular"}, (1, 3, 3, 3),
    ),
    "3d groups": ("Conv3d", 4, 2, 2, {"groups": 2}, (1, 4, 2, 3, 3)),
    "3d empty batch": ("Conv3d", 1, 2, 2, {}, (0, 1, 3, 4, 3)),
}  # fmt: skip


@pytest.fixture(params=CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def configuration(request):
    """Every configuration in turn."""
    return request.param


@pytest.mark.cover(2)
@pytest.mark.parametrize("circuit", ["exact", "odd"])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_equals_the_loop(some_case, circuit, configuration, oracle, activations, shaken):
    """Every configuration equals a loop over its products, bit for bit."""
    _check(some_case, circuit, configuration, oracle, activations, shaken)


@pytest.mark.parametrize("circuit", ["exact", "odd"])
@pytest.mark.parametrize("name", ["1d groups", "3d strides"])
def test_every_mapping(case, circuit, name, oracle, activations, shaken):
    """Every mapping equals the loop, bit for bit."""
    _check(case, circuit, CONFIGURATIONS[name], oracle, activations, shaken)


def _check(case, circuit, configuration, oracle, activations, shaken):
    kind, i, o, kernel, options, shape = configuration
    m = getattr(case, circuit)()
    make = getattr(ah.nn, kind)
    layer = shaken(make(i, o, kernel, multiplier=m, mapping=case.mapping, **options))
    seen, x = activations(2, i, *[5] * layer._dims), activations(*shape) * 1.3
    layer.train()(seen)
    want = oracle.convolution(x.numpy(), layer.eval(), seen.numpy(), case, case.products(m))
    y = layer(x)
    assert y.shape == want.shape
    np.testing.assert_array_equal(y.detach().numpy(), want)
    if circuit == "exact":
        layer.mode = "exact"
        np.testing.assert_array_equal(layer(x).detach().numpy(), want)
    layer.mode = "float"
    plain = getattr(nn, kind)(i, o, kernel, **options)
    plain.load_state_dict({n: p.detach() for n, p in layer.named_parameters()})
    assert torch.equal(layer(x), plain(x))
    assert layer(x).shape == y.shape


@pytest.mark.parametrize(
    ("kind", "axes", "fits"), [("Conv1d", 1, r"\(N, 3, L\)"), ("Conv3d", 3, r"\(N, 3, D, H, W\)")]
)
def test_wrong_channels_are_refused(kind, axes, fits):
    """An input whose channels or dimensions do not fit is refused with what would fit."""
    layer = getattr(ah.nn, kind)(3, 2, 2, multiplier=ah.exact(8))
    for shape in ((2, 4, *[5] * axes), (4, *[5] * axes), (5,) * axes, (1, 1, 3, *[5] * axes)):
        with pytest.raises(InputError, match=fits):
            layer(torch.zeros(shape))


def test_channels_last_3d(some_case, activations, shaken):
    """The memory format of volumes does not matter."""
    m = some_case.odd()
    layer = shaken(ah.nn.Conv3d(2, 3, 2, multiplier=m, mapping=some_case.mapping))
    x = activations(2, 2, 3, 4, 3)
    layer(x)
    y = layer.eval()(x)
    assert torch.equal(layer(x.to(memory_format=torch.channels_last_3d)), y)
    assert torch.equal(layer.to(memory_format=torch.channels_last_3d)(x), y)


def test_dimensions_agree(some_case, activations, shaken):
    """Conv1d and Conv3d of flat images equal Conv2d."""
    m, mapping = some_case.odd(), some_case.mapping
    flat = shaken(ah.nn.Conv1d(3, 4, 3, padding=1, stride=2, multiplier=m, mapping=mapping))
    x = activations(2, 3, 7)
    want = flat(x)
    image = ah.nn.Conv2d(3, 4, (1, 3), (1, 2), (0, 1), multiplier=m, mapping=mapping)
    volume = ah.nn.Conv3d(3, 4, (3, 1, 1), (2, 1, 1), (1, 0, 0), multiplier=m, mapping=mapping)
    for layer, weight, inputs, shape in (
        (image, flat.weight.unsqueeze(2), x.unsqueeze(2), (2, 4, 1, 4)),
        (volume, flat.weight[..., None, None], x[..., None, None], (2, 4, 4, 1, 1)),
    ):
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(flat.bias)
        assert torch.equal(layer(inputs), want.reshape(shape))
