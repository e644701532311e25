"""Calibration of whole models."""

from __future__ import annotations

import copy
import logging
import pickle
from collections import UserDict

import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import CalibrationError, ConversionError, InputError, NotFoundError
from approxhub.nn import ApproxLayer


def _layers(model):
    return [m for m in model.modules() if isinstance(m, ApproxLayer)]


def _ranges(model):
    return [(m.input_quantizer.range_min.item(), m.input_quantizer.range_max.item())
            for m in _layers(model)]  # fmt: skip


@pytest.fixture
def model(net):
    """A converted model without ranges."""
    return ah.approximate(net, ah.exact(8, False))


@pytest.fixture
def batches(images):
    """Batches of different size."""
    return [images() * (i + 1) for i in range(3)]


def test_ranges_are_those_of_the_float_model(net, model, batches):
    """Every layer sees what the float model's layer sees: min/max over all batches."""
    names = ["features.0", "features.3", "block.inner.0", "head"]
    seen = {n: [] for n in names}
    for n in names:
        net.get_submodule(n).register_forward_pre_hook(lambda _, x, n=n: seen[n].append(x[0]))
    for batch in batches:
        net(batch)
    assert ah.calibrate(model, batches, calibrator="minmax") is model
    for name, found in zip(names, _ranges(model), strict=True):
        values = torch.cat([x.flatten() for x in seen[name]])
        assert found == (values.min().item(), values.max().item())


def test_default_is_each_layer_s_own_calibrator(model, batches):
    """Without a name every layer keeps its calibrator; a name replaces it."""
    ah.calibrate(model, batches)
    assert {m.input_quantizer.calibrator_name for m in _layers(model)} == {"moving-average"}
    low, high = batches[0].min(), batches[0].max()
    for x in batches[1:]:
        low, high = torch.lerp(low, x.min(), 0.1), torch.lerp(high, x.max(), 0.1)
    assert _ranges(model)[0] == pytest.approx((low.item(), high.item()))
    ah.calibrate(model, batches, calibrator="minmax")
    assert {m.input_quantizer.calibrator_name for m in _layers(model)} == {"minmax"}


def test_earlier_ranges_are_forgotten(model, batches):
    """A second calibration equals one of a fresh model, and so do outputs."""
    x = batches[0]
    ah.calibrate(model, [b * 100 for b in batches])
    wide = model(x)
    ah.calibrate(model, batches)
    again = model(x)
    ah.calibrate(model, iter(batches))
    assert torch.equal(model(x), again)
    assert not torch.equal(wide, again)


class TwoInputs(nn.Module):
    """A model with two named inputs."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, a, b):
        """Add both."""
        return self.left(a) + self.right(b)


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_mappings_are_keyword_arguments(kind):
    """A mapping is passed as keyword arguments."""
    model = ah.approximate(TwoInputs(), ah.exact(8))
    a, b = torch.randn(5, 3), torch.randn(5, 4)
    ah.calibrate(model, [kind(b=b, a=a)], calibrator="minmax")
    assert _ranges(model) == [(t.min().item(), t.max().item()) for t in (a, b)]


@pytest.mark.parametrize("pack", [tuple, list])
def test_first_of_a_tuple_is_the_input(model, batches, pack):
    """Of a tuple or list, as data loaders with labels give, the first element is the input."""
    ah.calibrate(model, batches)
    want = _ranges(model)
    ah.calibrate(model, [pack((x, torch.zeros(4))) for x in batches])
    assert _ranges(model) == want


def test_forward_for_other_inputs():
    """`forward` says how a model takes its batch."""
    model = ah.approximate(TwoInputs(), ah.exact(8))
    a, b = torch.randn(5, 3), torch.randn(5, 4)
    ah.calibrate(model, [(a, b)], calibrator="minmax", forward=lambda m, batch: m(*batch))
    assert _ranges(model) == [(t.min().item(), t.max().item()) for t in (a, b)]


def test_no_batch(model, state):
    """An empty iterable is an error, and the model is as it was."""
    before = state(model)
    with pytest.raises(CalibrationError, match="at least one batch"):
        ah.calibrate(model, [])
    assert state(model) == before


class Broken(Exception):
    pass


def _fails():
    yield torch.randn(4, 1, 5, 5)
    raise Broken


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize(
    ("batches", "options", "error"),
    [
        ([torch.randn(4, 1, 5, 5), torch.full((4, 1, 5, 5), float("nan"))], {}, CalibrationError),
        ([torch.full((4, 1, 5, 5), float("inf"))], {}, CalibrationError),
        ([torch.randn(4, 2, 5, 5)], {}, RuntimeError),
        ([torch.randn(4, 1, 5, 5)], {"calibrator": "no-such"}, NotFoundError),
        (None, {}, Broken),
        ([torch.randn(4, 1, 5, 5)], {"forward": lambda m, x: 1 / 0}, ZeroDivisionError),
    ],
    ids=["nan", "inf", "shape", "calibrator", "iterable", "forward"],
)
def test_failure_leaves_everything_as_it_was(
    model, images, state, batches, options, error, calibrated
):
    """After any failure ranges, flags, calibrators, modes and training flags are as before."""
    if calibrated:
        ah.calibrate(model, [images()])
    model.train()
    model.features[1].eval()
    model.head.mode = "exact"
    before = state(model)
    with pytest.raises(error):
        ah.calibrate(model, _fails() if batches is None else batches, **options)
    assert state(model) == before
    assert not any(m._observing for m in _layers(model))
    if calibrated:  # the calibrators go on from where they were
        before = _ranges(model)[0]
        x = images() * 9
        model(x)
        assert _ranges(model)[0][1] == pytest.approx(0.9 * before[1] + 0.1 * x.max().item())


def test_an_error_names_batch_and_layer(model, images, state):
    """NaN in a batch is an error with the batch's index and the path of the layer it reached."""
    before = state(model)
    with pytest.raises(CalibrationError, match=r"^batches\[1\]: layer 'features\.0', Conv2d.*NaN"):
        ah.calibrate(model, [images(), images() * float("nan")])
    assert state(model) == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_pass_names_the_layer(copied):
    """NaN in a pass is an error with the layer's path, which no state dict holds."""
    net = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.LSTM(4, 3))
    net = copied(ah.approximate(net, ah.exact(8)))
    assert not any("path" in key for key in net.state_dict())
    net(torch.randn(2, 3, 4))
    x = torch.full((2, 3, 4), float("nan"))
    for mode in (True, False):
        with pytest.raises(CalibrationError, match=r"layer '0\.0', Linear, weight \(4, 4\): NaN"):
            net.train(mode)(x)
        with pytest.raises(CalibrationError, match=r"layer '1\.\w+', .*: NaN"):
            net[1](x)


def test_layers_made_by_hand_are_named_too():
    """A model that was not converted learns its layers' names when it is calibrated."""
    net = nn.Sequential(nn.ReLU(), ah.nn.Linear(4, 2, multiplier=ah.exact(8)))
    with pytest.raises(CalibrationError, match="layer '1', Linear"):
        ah.calibrate(net, [torch.full((1, 4), float("nan"))])


@pytest.mark.parametrize("pack", [lambda x: x, lambda x: (x, 0)])
def test_numpy_batches(model, images, pack):
    """Arrays of numpy are refused with what makes tensors of them, in a batch or as batches."""
    array = images().numpy()
    with pytest.raises(InputError, match=r"torch\.from_numpy"):
        ah.calibrate(model, [pack(array)])
    with pytest.raises(InputError, match="iterable of batches"):
        ah.calibrate(model, array)


def test_nan_in_the_weights(model, images, state):
    """A weight that is not finite is an error that leaves the model as it was."""
    ah.calibrate(model, [images()])
    with torch.no_grad():
        model.head.weight[0, 0] = float("inf")
    before = state(model)
    with pytest.raises(CalibrationError, match=r"layer 'head', Linear.*weights"):
        ah.calibrate(model, [images() * 3])
    assert state(model) == before


def test_modes_and_statistics_are_kept(model, batches):
    """Training flags and modes come back, and batch norm's statistics do not move."""
    model.train()
    model.block.eval()
    model.head.mode = "exact"
    flags = [m.training for m in model.modules()]
    mean = model.features[1].running_mean.clone()
    ah.calibrate(model, batches)
    assert [m.training for m in model.modules()] == flags
    assert [m.mode for m in _layers(model)] == ["approximate"] * 3 + ["exact"]
    assert torch.equal(model.features[1].running_mean, mean)
    assert all(p.grad is None for p in model.parameters())


def test_weights_are_fitted_too(model, batches):
    """Weight scales are those of the weights at the time of calibration."""
    model.eval()
    with torch.no_grad():
        model.head.weight.mul_(3)
    ah.calibrate(model, batches)
    want = model.head.weight.detach().amax(1)
    assert torch.equal(model.head.weight_quantizer.range_max, want)


def test_layers_that_no_batch_reaches(caplog):
    """A layer that no batch reaches is named in a warning and has no range."""
    model = nn.Sequential(nn.Linear(3, 2))
    model.spare = nn.Linear(2, 2)
    model.forward = lambda x: model[0](x)
    model = ah.approximate(model, ah.exact(8), inplace=True)
    with caplog.at_level(logging.WARNING, logger="approxhub"):
        ah.calibrate(model, [torch.randn(4, 3)])
    assert "no batch reached these layers, they have no range yet: spare" in caplog.text
    assert not model.spare.input_quantizer.calibrated


def test_inside_inference_mode(model, batches):
    """Calibration inside inference mode leaves a model that trains."""
    with torch.inference_mode():
        ah.calibrate(model, batches)
    model.train()(batches[0]).sum().backward()
    assert model.head.weight.grad is not None


def test_a_model_without_approximate_layers():
    """A model that was not converted is refused with advice."""
    with pytest.raises(ConversionError, match=r"approxhub\.approximate"):
        ah.calibrate(nn.Linear(2, 2), [torch.zeros(1, 2)])
