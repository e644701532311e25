"""Models of Brevitas: quantisers inside layers, and before them."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import ConversionError, MappingError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # importing it takes seconds


@pytest.fixture
def brevitas():
    """Our adaptor, where Brevitas is installed."""
    pytest.importorskip("brevitas")
    from approxhub.interop import brevitas

    return brevitas


@pytest.fixture
def net(images):
    """Per-channel and per-tensor weights, quantisers before a layer and in it, 8 and 4 bits."""
    qnn = pytest.importorskip("brevitas.nn")
    from brevitas import quant

    made = nn.Sequential(
        qnn.QuantIdentity(act_quant=quant.Int8ActPerTensorFloat, return_quant_tensor=True),
        qnn.QuantConv2d(
            1, 4, 3, weight_quant=quant.Int8WeightPerChannelFloat, return_quant_tensor=False
        ),
        nn.ReLU(),
        nn.Flatten(),
        qnn.QuantLinear(
            64, 8, bias=True, weight_bit_width=4, input_quant=quant.Int8ActPerTensorFloat,
            output_quant=quant.Int8ActPerTensorFloat, return_quant_tensor=True,
        ),
        qnn.QuantLinear(8, 5, bias=False, input_quant=None),
    )  # fmt: skip
    for _ in range(3):
        made(images)
    return made.eval()


def test_no_value_differs(brevitas, net, images, caplog):
    """Scales, zero points, widths, codes and outputs are those of Brevitas."""
    with caplog.at_level(logging.WARNING, logger="approxhub"):
        model = brevitas.import_model(net, "exact:8s", images)
    assert "weights have the codes -7..7 of -128..127" in caplog.text
    for i in (1, 4, 5):
        theirs, ours = net[i].quant_weight(), model[i]
        quantizer = ours.weight_quantizer
        assert torch.equal(quantizer.scale.reshape(-1), theirs.scale.reshape(-1))
        assert torch.equal(quantizer.codes(ours.weight), theirs.int().float())
        assert ours.input_quantizer.fixed
    given = net[0](images)
    assert model[1].input_quantizer.scale == given.scale
    assert model[4].input_quantizer.scale == net[4].input_quant.scale()
    assert model[5].input_quantizer.scale == net[4].output_quant.scale()
    assert torch.allclose(model(images), net(images), atol=1e-6)
    ah.set_multiplier(model, "drum:8s/k=3")
    assert not torch.allclose(model(images), net(images), atol=1e-6)


def test_zero_points(brevitas):
    """An unsigned quantiser with a zero point fits unsigned activations, and no signed operand."""
    import brevitas.nn as qnn
    from brevitas import quant

    layer = qnn.QuantLinear(4, 3, bias=True, input_quant=quant.ShiftedUint8ActPerTensorFloat)
    x = torch.randn(16, 4) + 0.3
    for _ in range(3):
        layer(x)
    layer.eval()
    model = brevitas.import_model(layer, "exact:8u", x)
    assert model.mapping.name == "signmag-weights"
    assert model.input_quantizer.zero_point == layer.input_quant.zero_point()
    assert torch.allclose(model(x), layer(x), atol=1e-6)
    with pytest.raises(MappingError, match=r"0\.\.255"):
        brevitas.import_model(layer, "exact:8s", x)


def test_what_cannot_be_imported(brevitas, images):
    """A model without quantised layers is a named error."""
    with pytest.raises(ConversionError, match="no layer that Brevitas"):
        brevitas.import_model(nn.Sequential(nn.Conv2d(1, 2, 3)), "exact:8s", images)
