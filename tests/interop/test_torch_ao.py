"""Models of torch.ao.quantization: prepared in every way it has, and our layers in prepare_qat."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx

import approxhub as ah
from approxhub.errors import CalibrationError, ConversionError, InputError, MappingError
from approxhub.interop import torch_ao

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.ao is deprecated, and says so


class Net(nn.Module):
    """Convolutions with and without batch normalisation, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.conv, self.bn, self.relu = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()
        self.fc = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of images."""
        x = self.relu(self.bn(self.conv(self.quant(x))))
        x = self.relu2(self.conv2(x))
        return self.dequant(self.fc(torch.flatten(x, 1)))


def _eager_qat(x):
    net = Net().train()
    net.qconfig = quantization.get_default_qat_qconfig("x86")
    fused = quantization.fuse_modules_qat(net, [["conv", "bn", "relu"], ["conv2", "relu2"]])
    return quantization.prepare_qat(fused)


def _eager_ptq(x):
    net = Net().eval()
    net.qconfig = quantization.get_default_qconfig("x86")
    fused = quantization.fuse_modules(net, [["conv", "bn", "relu"], ["conv2", "relu2"]])
    return quantization.prepare(fused)


def _fx_qat(x):
    settings = quantization.get_default_qat_qconfig_mapping("x86")
    return quantize_fx.prepare_qat_fx(Net().train(), settings, (x,))


def _fx_ptq(x):
    settings = quantization.get_default_qconfig_mapping("x86")
    return quantize_fx.prepare_fx(Net().eval(), settings, (x,))


@pytest.mark.parametrize(
    "prepare",
    [
        _eager_qat,
        *(pytest.param(p, marks=pytest.mark.slow) for p in (_eager_ptq, _fx_qat, _fx_ptq)),
    ],
)
def test_no_value_differs(prepare, images, caplog):
    """Scales, zero points and codes of every layer are torch.ao's, and so is what comes out."""
    prepared = prepare(images)
    for _ in range(3):
        prepared(images)
    with caplog.at_level(logging.WARNING, logger="approxhub"):
        model = torch_ao.import_model(prepared, "exact:8u", images).eval()
    assert "0..127 of 0..255" in caplog.text
    layers = ah.model.layers.approx_layers(model)
    assert len(layers) == 3
    given = {"conv": "quant", "conv2": "conv", "fc": "conv2"}
    for name, layer in layers.items():
        place = name.removesuffix(".0")
        theirs = prepared.get_submodule(place)
        inner = theirs if isinstance(theirs, (nn.Conv2d, nn.Linear)) else theirs[0]
        weight = getattr(inner, "weight_fake_quant", None)
        if weight is None:
            weight = (theirs.qconfig or inner.qconfig).weight()
            weight(inner.weight)
            scale, zero = weight.calculate_qparams()
        else:
            scale, zero = weight.scale, weight.zero_point
        assert torch.equal(layer.weight_quantizer.scale, scale)
        assert torch.equal(layer.weight_quantizer.zero_point, zero.int())
        assert layer.weight_quantizer.code_range.qmin == -128
        source = (
            prepared.get_submodule(given[place]) if prepare in (_eager_qat, _eager_ptq) else None
        )
        if source is not None:
            p = torch_ao.read(source.activation_post_process)
            assert layer.input_quantizer.scale == p.scale
            assert layer.input_quantizer.zero_point == p.zero_point
        assert layer.input_quantizer.fixed
        assert layer.input_quantizer.code_range.qmax == 127
    if prepare in (_eager_qat, _fx_qat):
        want = prepared.eval().apply(quantization.disable_observer)(images)
        step = model.fc.activation_post_process.scale.item() if prepare is _eager_qat else 0.02
    else:
        convert = quantization.convert if prepare is _eager_ptq else quantize_fx.convert_fx
        want, step = convert(copy.deepcopy(prepared))(images), 0.02
    # Half-way values are rounded otherwise there.
    assert (model(images) - want).abs().max() <= 1.01 * step


def test_imported_models_are_ours(images):
    """They switch multipliers and train like any other, and evaluation moves nothing."""
    prepared = _eager_qat(images)
    prepared(images)
    model = torch_ao.import_model(prepared, "exact:8u", images).eval()
    before = {name: b.clone() for name, b in model.named_buffers()}
    want = model(images * 3)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    with ah.mode(model, "exact"):
        assert torch.equal(model(images * 3), want)
    ah.set_multiplier(model, "drum:8u/k=3")
    assert not torch.equal(model(images * 3), want)
    model.train()(images).sum().backward()
    assert model.conv[0].weight.grad is not None


def test_what_cannot_be_imported(images):
    """Nothing quantised, no data seen, converted, no example, and codes that do not fit: named."""
    with pytest.raises(ConversionError, match="no layer that"):
        torch_ao.import_model(Net(), "exact:8u", images)
    prepared = _eager_qat(images)
    with pytest.raises(CalibrationError, match=r"conv.*seen no data"):
        torch_ao.import_model(prepared, "exact:8u", images)
    prepared(images)
    with pytest.raises(InputError, match="example"):
        torch_ao.import_model(prepared, "exact:8u")
    with pytest.raises(MappingError, match=r"0\.\.127"):
        torch_ao.import_model(prepared, "exact:6u", images)
    converted = nn.Sequential(torch.ao.nn.quantized.Linear(4, 2))
    with pytest.raises(ConversionError, match="before convert"):
        torch_ao.import_model(converted, "exact:8u", images)


def _with_qconfig():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).train()
    for layer in (net[0], net[3]):
        layer.qconfig = quantization.get_default_qat_qconfig("x86")
    return net


def test_prepare_qat_with_our_layers(images):
    """prepare_qat puts our layers in; their ranges are those of the observers of the qconfig."""
    net = _with_qconfig()
    model = quantization.prepare_qat(net, mapping=torch_ao.mapping("exact:8u"))
    assert [type(layer) for layer in (model[0], model[3])] == [ah.nn.Conv2d, ah.nn.Linear]
    observers = [net[0].qconfig.activation(), net[0].qconfig.weight()]
    observers[1].activation_post_process(net[0].weight.detach())  # when the layer was made
    for scale in (1, 3):
        model(images * scale)
        for observer, t in zip(observers, (images * scale, net[0].weight.detach()), strict=True):
            observer.activation_post_process(t)
    for quantizer, observer in zip(
        (model[0].input_quantizer, model[0].weight_quantizer), observers, strict=True
    ):
        scale, zero = observer.activation_post_process.calculate_qparams()
        assert torch.equal(quantizer.scale.reshape(-1), scale)
        assert torch.equal(quantizer.zero_point.reshape(-1), zero.int())
    assert model[0].input_quantizer.code_range.qmax == 127
    model(images).sum().backward()
    assert model[0].weight.grad is not None


def test_prepared_layers_hold_still_when_told_to(images):
    """In evaluation, and after torch.ao's disable_observer, ranges stay; copies load states."""
    model = quantization.prepare_qat(_with_qconfig(), mapping=torch_ao.mapping("exact:8u"))
    model(images)
    other = copy.deepcopy(model)
    model.apply(quantization.disable_observer)
    before = model[0].input_quantizer.scale.clone()
    model(images * 9)
    model.eval()(images * 9)
    assert torch.equal(model[0].input_quantizer.scale, before)
    other(images * 2)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(images), model(images))
    with pytest.raises(InputError, match="mse"):
        ah.calibrate(other, [images], calibrator="mse")
    ah.set_multiplier(model, "drum:8u/k=3")
    with pytest.raises(MappingError):
        ah.set_multiplier(model, "exact:6u")
