"""Transposed convolutions against a loop that makes real products alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import InputError
from approxhub.multiplier import Multiplier

# layer, in, out, kernel, options, input
CONFIGURATIONS = {
    "1d": ("ConvTranspose1d", 3, 2, 3, {}, (2, 3, 4)),
    "1d stride over kernel": ("ConvTranspose1d", 2, 3, 2, {"stride": 3}, (2, 2, 4)),
    "1d everything": (
        "ConvTranspose1d", 4, 6, 3,
        {"stride": 2, "padding": 2, "output_padding": 1, "groups": 2, "dilation": 2}, (2, 4, 5),
    ),
    "1d no bias, unbatched": ("ConvTranspose1d", 3, 2, 4, {"bias": False, "stride": 2}, (3, 4)),
    "2d": ("ConvTranspose2d", 2, 3, 2, {"stride": 2}, (2, 2, 3, 2)),
    "2d cropped": ("ConvTranspose2d", 2, 3, (3, 2), {"padding": (2, 1)}, (1, 2, 4, 3)),
    "2d everything": (
        "ConvTranspose2d", 4, 2, (2, 3),
        {"stride": (3, 2), "padding": (0, 1), "output_padding": (2, 1), "groups": 2,
         "dilation": (1, 2)}, (1, 4, 2, 3),
    ),
    "2d depthwise": ("ConvTranspose2d", 3, 6, 2, {"stride": 2, "groups": 3}, (1, 3, 2, 3)),
    "2d empty batch": ("ConvTranspose2d", 2, 3, 2, {"stride": 2}, (0, 2, 3, 2)),
    "3d": (
        "ConvTranspose3d", 2, 2, (2, 1, 2), {"stride": (2, 1, 3), "padding": (1, 0, 0)},
        (1, 2, 2, 2, 2),
    ),
}  # fmt: skip


@pytest.fixture(params=CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def configuration(request):
    """Every configuration in turn."""
    return request.param


@pytest.mark.cover(2)
@pytest.mark.parametrize("circuit", ["exact", "odd"])
def test_equals_the_loop(some_case, circuit, configuration, oracle, activations, shaken):
    """Every configuration equals a loop over its products, bit for bit."""
    _check(some_case, circuit, configuration, oracle, activations, shaken)


@pytest.mark.parametrize("circuit", ["exact", "odd"])
@pytest.mark.parametrize("name", ["1d everything", "2d"])
def test_every_mapping(case, circuit, name, oracle, activations, shaken):
    """Every mapping equals the loop, bit for bit."""
    _check(case, circuit, CONFIGURATIONS[name], oracle, activations, shaken)


def _check(case, circuit, configuration, oracle, activations, shaken):
    kind, i, o, kernel, options, shape = configuration
    m = getattr(case, circuit)()
    layer = shaken(
        getattr(ah.nn, kind)(i, o, kernel, multiplier=m, mapping=case.mapping, **options)
    )
    seen, x = activations(2, i, *[5] * layer._dims), activations(*shape) * 1.3
    layer.train()(seen)
    layer.eval()
    zero = layer.input_quantizer.zero_point.item()
    assert (zero != 0) == case.x.affine
    want = oracle.transposed_convolution(x.numpy(), layer, seen.numpy(), case, case.products(m))
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


def test_no_product_is_made_of_structural_zeros():
    """A circuit that gives 64 for two zeros adds nothing where no input reaches."""
    table = np.full((256, 256), 64)
    m = Multiplier.from_table(table, name="all64", a_signed=True, b_signed=True)
    layer = ah.nn.ConvTranspose1d(1, 1, 2, stride=3, bias=False, multiplier=m)
    layer.input_quantizer.set_range(torch.tensor(-127.0), torch.tensor(127.0))
    with torch.no_grad():
        layer.weight.fill_(127.0)
    y = layer.eval().double()(torch.zeros(1, 1, 3, dtype=torch.float64))
    layer.observe_weight()
    assert y[0, 0].tolist() == [64, 64, 0, 64, 64, 0, 64, 64]


def test_output_size(some_case, oracle, activations, shaken):
    """A wanted output size gives torch's shape and the loop's numbers; an impossible one fails."""
    m = some_case.odd()
    layer = shaken(ah.nn.ConvTranspose2d(2, 3, 3, 2, 1, multiplier=m, mapping=some_case.mapping))
    plain, x = nn.ConvTranspose2d(2, 3, 3, 2, 1), activations(2, 2, 3, 4)
    layer(x)
    layer.eval()
    for size, extra in (((5, 8), (0, 1)), ((2, 3, 6, 7), (1, 0))):
        y = layer(x, output_size=size)
        assert y.shape == plain(x, output_size=size).shape
        want = oracle.transposed_convolution(
            x.numpy(), layer, x.numpy(), some_case, some_case.products(m), extra
        )
        np.testing.assert_array_equal(y.detach().numpy(), want)
    with pytest.raises(ValueError, match="output size"):
        layer(x, output_size=(9, 9))


@pytest.mark.parametrize("groups", [1, 2])
def test_one_scale_for_each_output_channel(groups):
    """Each output channel of every group has its own weight scale."""
    layer = ah.nn.ConvTranspose1d(4, 6, 2, groups=groups, multiplier=ah.exact(8))
    weight = layer.weight.detach()
    assert layer.weight_quantizer.scale.shape == (6,)
    per_group = 6 // groups
    for o in range(6):
        rows = slice(o // per_group * 4 // groups, (o // per_group + 1) * 4 // groups)
        assert layer.weight_quantizer.range_max[o] == weight[rows, o % per_group].max()


def test_gradients_are_those_of_torch(some_case, activations, shaken):
    """The straight-through gradient is torch's on the real values of the codes."""
    m = some_case.exact()
    options = {"stride": (2, 1), "padding": (0, 1), "output_padding": (1, 0), "groups": 2}
    layer = shaken(
        ah.nn.ConvTranspose2d(4, 6, (2, 3), multiplier=m, mapping=some_case.mapping, **options)
    )
    x = activations(2, 4, 3, 4)
    layer(x)
    layer.eval()
    x.requires_grad_()
    y = layer(x)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    plain = nn.ConvTranspose2d(4, 6, (2, 3), **options)
    first = layer.quantized_weight()
    real_w = layer.weight_quantizer(first)[0]
    from approxhub.nn.gradients.products import exchanged

    plain.weight = nn.Parameter(exchanged(real_w, 2).detach())
    plain.bias = nn.Parameter(layer.bias.detach())
    real_x = layer.input_quantizer(x.detach())[0].requires_grad_()
    want = plain(real_x)
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-3)
    want.backward(upstream)
    torch.testing.assert_close(x.grad, real_x.grad)
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad)


def test_wrong_channels_are_refused():
    """An input whose channels or dimensions do not fit is refused with what would fit."""
    layer = ah.nn.ConvTranspose2d(3, 2, 2, multiplier=ah.exact(8))
    for shape in ((2, 4, 5, 5), (5, 5), (1, 1, 3, 5, 5)):
        with pytest.raises(InputError, match=r"\(N, 3, H, W\)"):
            layer(torch.zeros(shape))


def test_signature_is_torch_s():
    """The positional signature is torch's, and the attributes are too."""
    layer = ah.nn.ConvTranspose2d(
        4, 6, (3, 1), 2, 1, 1, 2, False, (1, 2), "zeros", "cpu", torch.float64,
        multiplier=ah.exact(8),
    )  # fmt: skip
    plain = nn.ConvTranspose2d(4, 6, (3, 1), 2, 1, 1, 2, False, (1, 2), "zeros", "cpu",
                               torch.float64)  # fmt: skip
    for name in plain.__constants__:
        assert getattr(layer, name) == getattr(plain, name)
    assert layer.weight.dtype == torch.float64
    assert isinstance(layer, nn.ConvTranspose2d)
