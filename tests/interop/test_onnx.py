"""ONNX files: checked in onnxruntime, which knows nothing of us."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import CalibrationError, ConversionError, InputError

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
export = pytest.importorskip("approxhub.interop.onnx").export


def run(path, x, optimised=False):
    """Run a file in onnxruntime; not optimised, it does what the nodes say."""
    options = runtime.SessionOptions()
    levels = runtime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    )
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


def powers(model):
    """Scales that are powers of two: sums of real numbers are exact then, as those of integers."""
    for layer in ah.model.layers.approx_layers(model).values():
        layer.set_datapath("scales=power-of-two")
    return model


CASES = [
    ("drum:8s/k=4", "symmetric", nn.Linear(9, 4), (9,)),
    ("drum:8s/k=4", "affine-signed", nn.Linear(9, 4, bias=False), (9,)),
    ("drum:8u/k=4", "affine", nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), (2, 6, 5)),
    ("drum:8u/k=4", "signmag-weights", nn.Conv2d(2, 4, (3, 2), dilation=2), (2, 6, 5)),
    ("drum:8u/k=4", "signmag-both", nn.Conv1d(2, 3, 3, padding="same"), (2, 7)),
    ("drum:6u/k=4", "affine", nn.Conv3d(1, 2, 2), (1, 3, 4, 3)),
]


@pytest.mark.parametrize(("m", "mapping", "layer", "shape"), CASES)
def test_integers_are_those_of_exact_mode(m, mapping, layer, shape, tmp_path):
    """With scales that make floating point exact, results are those of mode exact, bit for bit."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)  # what is added is rounded elsewhere
    model = powers(ah.approximate(nn.Sequential(layer), m, mapping=mapping))
    x = torch.randn(8, *shape) + 0.3
    ah.calibrate(model, [x]).eval()
    export(model, x, tmp_path / "model.onnx")
    with ah.mode(model, "exact"):
        for rows in (1, 8):
            want = model(2 * x[:rows])  # clamped too
            assert torch.equal(run(tmp_path / "model.onnx", 2 * x[:rows]), want)
    assert not torch.equal(model(2 * x), run(tmp_path / "model.onnx", 2 * x))


def test_a_network_and_its_metadata(images, tmp_path):
    """A network of many kinds of modules runs, and names multiplier, table and mapping."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.pool = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2)
            self.fc, self.last = nn.Linear(16, 16), nn.Linear(16, 5)

        def forward(self, x):
            x = torch.flatten(self.pool(torch.relu(self.bn(self.conv(x)))), 1)
            return self.last(torch.relu(self.fc(x)) + x * 0.5)

    net = Net()
    net(images)  # gives batch normalisation statistics
    multipliers = {"conv": "drum:8u/k=4", "fc": "mitchell:8u", "last": "exact:8u"}
    model = ah.calibrate(ah.approximate(net, multipliers), [images]).eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    model.train()
    export(model, images, tmp_path / "net.onnx")
    assert model.training
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    model.eval()
    with ah.mode(model, "exact"):
        want = model(images)
    got = run(tmp_path / "net.onnx", images)
    # A code that is half-way between two may be the other one there: few are, by a step.
    assert ((got - want).abs() > 1e-4).float().mean() < 0.05
    assert torch.allclose(got, want, atol=0.05)
    file = onnx.load(tmp_path / "net.onnx")
    kinds = [node.op_type for node in file.graph.node]
    assert (kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear")) == (3, 6)
    [entry] = [p for p in file.metadata_props if p.key == "approxhub"]
    layers = json.loads(entry.value)["layers"]
    assert {n: row["multiplier"] for n, row in layers.items()} == multipliers
    assert layers["fc"]["table_sha256"] == ah.load("mitchell:8u").table_sha256
    assert layers["conv"]["mapping"] == "affine"
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in file.graph.initializer}
    codes = model.conv.weight_quantizer.codes(model.conv.weight).detach().numpy()
    assert np.array_equal(weights["conv.weight_codes"], codes)


def test_what_has_no_form(images, tmp_path):
    """What cannot be expressed is named, with its place, and no file is left."""
    m, path = "exact:8s", tmp_path / "no.onnx"

    def refused(error, words, net, x=images, **options):
        model = ah.approximate(net, m, **options)
        if error is not CalibrationError:
            ah.calibrate(model, [x])
        with pytest.raises(error, match=words):
            export(model, x, path)
        assert not list(tmp_path.iterdir())

    conv = nn.Conv2d(1, 2, 3)
    refused(CalibrationError, "^0: .*no range", nn.Sequential(conv))
    refused(ConversionError, "^1: a Softmax2d", nn.Sequential(conv, nn.Softmax2d()))
    refused(ConversionError, "^0: a ConvTranspose2d", nn.Sequential(nn.ConvTranspose2d(1, 2, 3)))
    refused(ConversionError, "padding mode", nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"))

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return self.conv(x) if x.sum() > 0 else x

    refused(ConversionError, "cannot be traced", Branching())
    model = ah.calibrate(ah.approximate(nn.Sequential(conv), m), [images])
    with pytest.raises(InputError, match="example"):
        export(model, images.long(), path)
    model[0].set_datapath("padding=skip")
    with pytest.raises(ConversionError, match="datapath"):
        export(model, images, path)


def test_a_file_that_cannot_be_written(tmp_path):
    """A pipe is refused with our error, and stays one."""
    path = tmp_path / "model.onnx"
    os.mkfifo(path)
    layer = ah.nn.Linear(4, 2, multiplier="exact:8s")
    ah.calibrate(layer, [torch.randn(8, 4)]).eval()
    with pytest.raises(InputError, match="cannot be written: it is a pipe"):
        export(layer, torch.randn(8, 4), path)
    assert path.is_fifo()
