"""Models of torchao: int8 weights, fake-quantised ones, and our layers through quantize_."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import ConversionError, MappingError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # importing it takes seconds


@pytest.fixture
def torchao():
    """Our adaptor, where torchao is installed."""
    pytest.importorskip("torchao", minversion="0.18")
    from approxhub.interop import torchao

    return torchao


@pytest.fixture
def net():
    """Two linear layers."""
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5)).eval()


@pytest.fixture
def x():
    """A batch."""
    return torch.randn(16, 8)


def test_int8_weights(torchao, net, x):
    """Codes, scales and static scales of activations are torchao's, whatever the configuration."""
    from torchao import quantization as ao

    static = ao.Int8StaticActivationInt8WeightConfig(
        act_quant_scale=torch.tensor(0.03), granularity=ao.PerTensor()
    )
    for config in (
        ao.Int8WeightOnlyConfig(version=2),
        ao.Int8WeightOnlyConfig(version=2, granularity=ao.PerTensor()),
        ao.Int8DynamicActivationInt8WeightConfig(version=2),
        static,
    ):
        theirs = copy.deepcopy(net)
        ao.quantize_(theirs, config)
        model = torchao.import_model(theirs, "exact:8s")
        for i in (0, 2):
            weight, layer = theirs[i].weight, model[i]
            assert torch.equal(layer.weight_quantizer.scale.reshape(-1), weight.scale.reshape(-1))
            codes = layer.weight_quantizer.codes(layer.weight)
            assert torch.equal(codes, weight.qdata.float())
            assert torch.equal(layer.bias, net[i].bias)
            assert layer.input_quantizer.fixed == (config is static)
        if config is static:
            assert model[0].input_quantizer.scale == torch.tensor(0.03)
        ah.calibrate(model, [x])
        assert (model.eval()(x) - net(x)).abs().max() < 0.2


def test_fake_quantised_weights(torchao, net, x):
    """Scales of weights prepared by QATConfig are torchao's; groups are refused by name."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    theirs = copy.deepcopy(net)
    weights = IntxFakeQuantizeConfig(torch.int4, "per_channel")
    quantize_(theirs, QATConfig(weight_config=weights, step="prepare"))
    theirs(x)
    model = torchao.import_model(theirs, "exact:8s")
    for i in (0, 2):
        want = theirs[i].weight_fake_quantizer
        assert torch.equal(model[i].weight_quantizer.scale, want.scale.reshape(-1))
        quantizer = model[i].weight_quantizer
        assert (quantizer.code_range.qmin, quantizer.code_range.qmax) == (-8, 7)
        real = quantizer(model[i].weight)[0]
        steps = ((real - want(theirs[i].weight)) / quantizer.scale[:, None]).round()
        # Half-way values may be rounded otherwise there, which multiplies by 1 / scale.
        halves = (theirs[i].weight / quantizer.scale[:, None]).abs() % 1 - 0.5
        assert (steps.abs() <= (halves.abs() < 1e-3)).all()
    theirs = copy.deepcopy(net)
    groups = IntxFakeQuantizeConfig(torch.int4, group_size=4)
    quantize_(theirs, QATConfig(weight_config=groups, step="prepare"))
    with pytest.raises(ConversionError, match="0: weights have scales of shape"):
        torchao.import_model(theirs, "exact:8s")


def test_quantize_with_our_configuration(torchao, net, x):
    """quantize_ puts our layers in; convolutions too where its filter names them."""
    from torchao.quantization import quantize_

    want = ah.approximate(net, "drum:8s/k=4", calibrator="minmax")
    ours = copy.deepcopy(net)
    quantize_(ours, torchao.ApproximateConfig("drum:8s/k=4", calibrator="minmax"))
    for model in (want, ours):
        ah.calibrate(model, [x]).eval()
    assert torch.equal(ours(x), want(x))
    conv = nn.Sequential(nn.Conv2d(1, 2, 3))
    quantize_(conv, torchao.ApproximateConfig("exact:8s"), filter_fn=lambda m, _: m is conv[0])
    assert isinstance(conv[0], ah.nn.Conv2d)


def test_what_cannot_be_imported(torchao, net):
    """A float model, a circuit that is too narrow, and other layers are named errors."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    with pytest.raises(ConversionError, match="no layer that torchao"):
        torchao.import_model(net, "exact:8s")
    norm = nn.Sequential(nn.LayerNorm(3))
    with pytest.raises(ConversionError, match="LayerNorm"):
        quantize_(norm, torchao.ApproximateConfig("exact:8s"), filter_fn=lambda m, _: m is norm[0])
    quantize_(net, Int8WeightOnlyConfig(version=2))
    with pytest.raises(MappingError, match=r"-128\.\.127"):
        torchao.import_model(net, "exact:6s")
