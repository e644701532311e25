"""Hardware's choices in layers: each product written out, with and without every choice."""

from __future__ import annotations

import copy
import io
import json
import logging

import numpy as np
import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import MappingError
from approxhub.quantization import Datapath, LearnedQuantizer

AFFINE = ("affine-signed-8sx8s", "affine-8ux8u", "mixed-6sx4u")
SIGNED = "affine-signed-8sx8s"
LAYERS = {
    "linear": (ah.nn.Linear, (6, 3), {}, (4, 6)),
    "conv1d": (ah.nn.Conv1d, (2, 3, 3), {"padding": 2, "dilation": 2}, (2, 2, 6)),
    "conv2d": (ah.nn.Conv2d, (4, 4, 3), {"padding": 1, "groups": 2, "stride": 2}, (2, 4, 5, 4)),
    "same": (ah.nn.Conv2d, (2, 3, 2), {"padding": "same", "bias": False}, (1, 2, 3, 4)),
    "reflect": (ah.nn.Conv2d, (1, 2, 3), {"padding": 1, "padding_mode": "reflect"}, (1, 1, 4, 4)),
    "transposed": (ah.nn.ConvTranspose2d, (2, 3, 3), {"stride": 2, "padding": 1}, (1, 2, 3, 3)),
}


def _codes(quantizer, t: torch.Tensor) -> np.ndarray:
    return quantizer.codes(t).detach().numpy().astype(np.int64)


def _pairs(layer: nn.Module, shape: torch.Size):
    """Which input (None for padding) meets which weight in which output, one after the other.

    Found by showing the float layer numbered inputs, one weight at a time.
    """
    plain = copy.deepcopy(layer).double()
    plain.mode = "float"
    plain.bias = None
    numbers = torch.arange(1, shape[1:].numel() + 1, dtype=torch.float64).reshape(1, *shape[1:])
    with torch.no_grad():
        for at in np.ndindex(*plain.weight.shape):
            plain.weight.zero_()
            plain.weight[at] = 1
            met = plain(numbers)[0].numpy().astype(np.int64)
            channel = at[0] if not getattr(layer, "transposed", False) else at[1]
            for out in np.ndindex(*met.shape):
                if out[0] == channel:
                    yield at, met[out] - 1 if met[out] else None, out


def _slow(layer, x: torch.Tensor, case, products) -> np.ndarray:
    """The layer, one product after the other; a convolution of groups, or over channels."""
    path = layer.datapath
    xq, wq = layer.input_quantizer, layer.weight_quantizer
    codes, z_x = _codes(xq, x).reshape(len(x), -1), int(xq.zero_point)
    weights = _codes(wq, layer.quantized_weight())
    if getattr(layer, "transposed", False):
        weights = weights.swapaxes(0, 1)
    first = layer.weight.shape[1] if getattr(layer, "transposed", False) else len(weights)
    z_w = wq.zero_point.numpy().astype(np.int64)
    scale = (xq.scale * wq.scale).numpy()
    padded = isinstance(layer, (nn.Conv1d, nn.Conv2d))
    total: np.ndarray | None = None
    for at, source, out in _pairs(layer, x.shape):
        if total is None:
            total = np.zeros((len(x), first, *[1] * (len(out) - 1)), np.int64)
        if any(n <= i for n, i in zip(total.shape[2:], out[1:], strict=True)):
            grown = [max(n, i + 1) for n, i in zip(total.shape[2:], out[1:], strict=True)]
            new = np.zeros((len(x), first, *grown), np.int64)
            new[tuple(slice(n) for n in total.shape)] = total
            total = new
        if source is None and (not padded or path.padding == "skip"):
            continue
        a = np.full(len(x), z_x) if source is None else codes[:, source]
        b, zero = weights[at], z_w[out[0]]
        if path.zero_point == "before":
            total[(slice(None), *out)] += products(a - z_x, b - zero)
        else:
            total[(slice(None), *out)] += products(a, b) - z_x * b - zero * a + z_x * zero
    assert total is not None
    along = (1, -1, *[1] * (total.ndim - 2))
    bias = None if layer.bias is None else layer.bias.detach().numpy()
    if bias is not None and path.bias == "int32":
        total = total + np.rint(bias.astype(np.float64) / scale).astype(np.int64).reshape(along)
    y = total.astype(np.float32) * scale.reshape(along)
    return y if bias is None or path.bias == "int32" else y + bias.reshape(along)


def _fits(path: Datapath, case) -> bool:
    affine = [s for s, c in ((case.a, case.x), (case.b, case.w)) if c.affine]
    return path.zero_point == "after" or all(s.endswith("s") for s in affine)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's
@pytest.mark.cover(2)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("zero_point", ["after", "before"])
@pytest.mark.parametrize("padding", ["code", "skip"])
@pytest.mark.parametrize("bias", ["float", "int32"])
@pytest.mark.parametrize("scales", ["any", "power-of-two"])
def test_equals_the_loop(kind, zero_point, padding, bias, scales, oracle, activations, shaken):
    """Every layer and choice equals a loop over products, bit for bit, gradients wanted or not."""
    path = Datapath(zero_point, padding, bias, scales)
    make, arguments, keywords, shape = LAYERS[kind]
    for name in AFFINE:
        case = oracle.cases[name]
        if not _fits(path, case):
            continue
        m = case.odd()
        options = {**keywords, "multiplier": m, "mapping": case.mapping, "datapath": path}
        layer = shaken(make(*arguments, **options))
        x = activations(*shape)
        layer(x)
        layer.eval()
        found = layer(x)
        if path.scales == "power-of-two":
            scales = torch.cat([layer.input_quantizer.scale[None], layer.weight_quantizer.scale])
            assert (torch.frexp(scales)[0] == 0.5).all()
        if kind == "reflect":
            plain = nn.functional.pad(x, (1,) * 4, mode="reflect")
            inner = ah.nn.Conv2d(1, 2, 3, multiplier=m, mapping=case.mapping, datapath=path)
            inner.load_state_dict(layer.state_dict())
            want = _slow(inner.eval(), plain, case, case.products(m))
        else:
            want = _slow(layer, x, case, case.products(m))
        np.testing.assert_array_equal(found.detach().numpy(), want)
        with torch.no_grad():
            assert torch.equal(layer(x), found)


@pytest.mark.parametrize("path", ["zero_point=before", "padding=skip", "bias=int32"])
def test_the_exact_multiplier_makes_no_difference(path, activations):
    """Where nothing rounds, each choice gives the same integers as the default."""
    x = activations(2, 2, 5, 5)
    layer = ah.nn.Conv2d(2, 3, 3, padding=1, multiplier=ah.exact(9), mapping="affine-signed")
    with torch.no_grad():
        layer.bias.zero_()
    layer.input_quantizer.set_range(x.min(), x.max())
    layer.eval()
    with ah.use_backend("reference"):
        before, want = layer.input_quantizer.codes(x), layer(x)
        layer.set_datapath(path)
        if path == "zero_point=before":  # one bit less: give the circuit another
            layer.set_multiplier(ah.exact(10, b_bits=9))
            assert torch.equal(layer.input_quantizer.codes(x), before)
        assert torch.equal(layer(x), want)


@pytest.mark.parametrize("gradient", ["straight-through", "table-2d", "lre"])
@pytest.mark.parametrize("padding", ["code", "skip"])
def test_gradient_of_skipped_padding(gradient, padding, activations):
    """What is skipped has no derivative: the gradient of padding's products is left out."""
    m = ah.Multiplier.from_function(lambda a, b: a * b + 7 * b, name="more", a="6s", b="6s")
    layer = ah.nn.Conv2d(
        1, 1, 3, padding=1, bias=False, multiplier=m, gradient=gradient,
        datapath=f"padding={padding}",
    )  # fmt: skip
    layer.input_quantizer.set_range(torch.tensor(-31.0), torch.tensor(31.0))
    x = torch.full((1, 1, 1, 1), 3.0)  # meets the middle of the kernel; the rest is padding
    layer.eval()(x).sum().backward()
    around = layer.weight.grad.clone()
    around[0, 0, 1, 1] = 0
    assert layer.weight.grad[0, 0, 1, 1] != 0
    seen = gradient != "straight-through" and padding == "code"
    assert bool((around.abs() > 1).any()) == seen


def test_backward_through_the_circuit_skips_padding(activations):
    """`approximate-backward` makes no product of a gradient with padding that is skipped."""
    m = ah.Multiplier.from_function(lambda a, b: a * b + 100, name="offset", a="8s", b="8s")
    layer = ah.nn.Conv2d(
        1, 1, 3, padding=1, bias=False, multiplier=m, datapath="padding=skip",
        gradient="approximate-backward(rounding=nearest)",
    )  # fmt: skip
    layer.input_quantizer.set_range(torch.tensor(-127.0), torch.tensor(127.0))
    layer.eval()(torch.full((1, 1, 1, 1), 3.0)).sum().backward()
    grad = layer.weight.grad.clone()
    assert grad[0, 0, 1, 1] != 0
    grad[0, 0, 1, 1] = 0
    assert (grad == 0).all()


@pytest.mark.parametrize("gradient", ["table-2d", "approximate-backward(rounding=nearest)"])
def test_gradients_see_what_was_multiplied(gradient, activations, shaken):
    """With zero points subtracted before, gradients are those of the codes without zero points."""
    case = ah.Multiplier.from_function(lambda a, b: a * b - (a & 3) * 5, name="low", a="8s", b="8s")
    x = activations(6, 5)
    one = shaken(ah.nn.Linear(5, 3, multiplier=case, mapping="affine-signed", gradient=gradient,
                              datapath="zero_point=before"))  # fmt: skip
    one(x)
    other = ah.nn.Linear(5, 3, multiplier=case, mapping="symmetric", gradient=gradient)
    other.load_state_dict({"weight": one.weight, "bias": one.bias})
    step, zero = one.input_quantizer.scale, one.input_quantizer.zero_point
    # The same grid of real numbers, without a zero point.
    other.input_quantizer.set_range(-step * 127, step * 127)
    inside = one.input_quantizer(x)[0]
    found = []
    for layer in (one.eval(), other.eval()):
        t = inside.clone().requires_grad_()
        y = layer(t)
        y.square().sum().backward()
        found.append((y.detach(), t.grad, layer.weight.grad))
    assert zero != 0
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_an_integer_bias_learns(activations):
    """Its gradient is that of a real bias: the sum over everything but channels."""
    x = activations(4, 2, 3, 3)
    layer = ah.nn.Conv2d(2, 3, 2, multiplier=ah.exact(8), datapath="bias=int32")
    y = layer(x)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    torch.testing.assert_close(layer.bias.grad, weights.sum((0, 2, 3)))
    layer.weight.requires_grad_(False)
    layer.zero_grad()
    layer(x).sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((3,), float(y[:, 0].numel())))


@pytest.mark.parametrize("path", ["zero_point=before", "scales=power-of-two", "padding=skip"])
def test_state_holds_the_datapath(path, activations, caplog):
    """Saved and loaded the results are the same; another layer keeps its own and says so."""

    def make(text):
        return ah.nn.Conv2d(
            2, 3, 3, padding=1, multiplier=ah.exact(8), mapping="affine-signed", datapath=text
        )

    layer, x = make(path), activations(2, 2, 5, 5)
    layer(x)
    file = io.BytesIO()
    torch.save(layer.eval().state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    same, other = make(path), make("")
    with caplog.at_level(logging.WARNING, logger="approxhub"):
        same.load_state_dict(state)
        assert not caplog.records
        other.load_state_dict(state)
    assert f"made with datapath {path}; this layer keeps default" in caplog.text
    assert torch.equal(same.eval()(x), layer(x))
    layer.set_datapath("")
    assert torch.equal(other.eval()(x), layer(x))
    layer.set_datapath(path)
    assert torch.equal(copy.deepcopy(layer)(x), same(x))


def test_a_state_of_version_one_is_the_default_datapath(activations):
    """States of before there were datapaths load as they did."""
    layer, x = ah.nn.Linear(4, 2, multiplier=ah.exact(8)), activations(5, 4)
    layer(x)
    state = layer.eval().state_dict()
    said = json.loads(bytes(state["_extra_state"].tolist()))
    del said["datapath"]
    old = torch.tensor(list(json.dumps({**said, "schema": 1}).encode()), dtype=torch.uint8)
    other = ah.nn.Linear(4, 2, multiplier=ah.exact(8), datapath="bias=int32")
    other.load_state_dict({**state, "_extra_state": old})
    assert other.input_quantizer.calibrated
    layer.set_datapath("bias=int32")
    assert torch.equal(other.eval()(x), layer(x))


@pytest.mark.parametrize("operand", ["affine", "signmag-weights"])
def test_what_does_not_fit_changes_nothing(operand, activations):
    """Unsigned operands take no differences: the error says what would, the layer stays."""
    with pytest.raises(MappingError, match="operand is unsigned"):
        ah.nn.Linear(4, 2, multiplier=ah.exact(8, False), mapping=operand,
                     datapath="zero_point=before")  # fmt: skip
    net = ah.approximate(
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)),
        {"0": ah.exact(8), "1": ah.exact(8, False)},
    )
    x = activations(3, 4)
    net(x)
    want = net.eval()(x)
    with pytest.raises(MappingError, match="operand is unsigned"):
        ah.set_datapath(net, "zero_point=before,padding=skip")
    assert [str(layer.datapath) for layer in net] == ["", ""]
    assert torch.equal(net(x), want)
    with pytest.raises(MappingError, match="not a choice"):
        ah.set_datapath(net, "rounding=up")


def test_a_quantiser_s_own_powers_of_two_stay(activations):
    """Another choice of the datapath leaves scales as they were told to be."""
    layer = ah.nn.Linear(4, 2, multiplier=ah.exact(8))
    layer.input_quantizer.set_codes(layer.input_quantizer.code_range, True)
    layer(activations(8, 4))
    scale = layer.input_quantizer.scale.clone()
    layer.set_datapath("bias=int32")
    layer.set_multiplier(ah.exact(8, b_bits=6))
    assert layer.input_quantizer.power_of_two
    assert torch.equal(layer.input_quantizer.scale, scale)


def test_learned_scales_become_powers_of_two(activations):
    """A learned scale follows the datapath, and goes on learning from there."""
    layer = ah.nn.Linear(4, 2, multiplier=ah.exact(8))
    layer.input_quantizer = LearnedQuantizer.from_quantizer(layer.input_quantizer)
    layer(activations(8, 4))
    layer.set_datapath("scales=power-of-two")
    assert torch.frexp(layer.input_quantizer.scale)[0] == 0.5
    layer(activations(8, 4)).sum().backward()
    assert layer.input_quantizer.log2_scale.grad is not None


def test_whole_models_show_it(activations):
    """`approximate` hands it on, composite layers too; repr, summary and JSON name it."""
    net = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 3))
    made = ah.approximate(net, ah.exact(8), datapath="bias=int32")
    assert made[1].datapath == Datapath(bias="int32")
    assert "datapath(bias=int32)" in repr(made[0])
    said = ah.summary(made)
    assert {row["datapath"] for row in said.to_json()["layers"]} == {"bias=int32"}
    assert "datapath" in str(said)
    made[1].set_datapath("")
    assert "-" in str(ah.summary(made))
    ah.set_datapath(made, "")
    assert "datapath" not in str(ah.summary(made))
    with pytest.raises(MappingError):
        made[1].set_datapath("zero=before")


def test_statistics_count_what_enters(activations):
    """Captured codes are those that enter the multiplier; skipped padding is in no field."""
    layer = ah.nn.Conv2d(1, 1, 3, padding=1, multiplier=ah.exact(8), mapping="affine-signed",
                         datapath="zero_point=before")  # fmt: skip
    layer.input_quantizer.set_range(torch.tensor(-10.0), torch.tensor(117.0))
    x = torch.full((1, 1, 1, 1), 5.0)
    layer.eval()
    for padding, zeros in (("code", 8), ("skip", 0)):
        layer.set_datapath(f"zero_point=before,padding={padding}")
        with ah.capture_statistics(layer, fields=4) as found:
            layer(x)
        counts = found[""]
        assert counts.activations.nonzero()[0].tolist() == [5]
        assert (counts.fields[:, 0] == zeros).all()
        assert (counts.fields[:, 5] == 1).all()


@pytest.mark.parametrize("path", ["", "bias=int32"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_result_may_be_changed_in_place(bias, path):
    """As MobileNetV2's activations do; numbers and gradients are those of a copy."""
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 2, bias=bias), torch.nn.ReLU6(inplace=True))
    x = torch.randn(2, 2, 4, 4)
    model = ah.calibrate(ah.approximate(net, "drum:8s/k=4", skip=(), datapath=path), [x])
    found = []
    for inplace in (True, False):
        model[1].inplace = inplace
        model.zero_grad()
        y = model(x)
        y.square().sum().backward()
        found.append([y.detach(), *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert found[0][1].any()
