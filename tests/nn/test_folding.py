"""Layers with batch normalisation folded into their weights."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import ConversionError, InputError
from approxhub.nn.folding import NORMALIZED
from approxhub.nn.gradients.products import exchanged

KINDS = {
    "linear": (lambda: nn.Linear(3, 4), nn.BatchNorm1d, (16, 3)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1, bias=False), nn.BatchNorm1d, (6, 3, 7)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d, (4, 2, 5, 6)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), nn.BatchNorm3d, (3, 1, 3, 4, 3)),
    "conv_transpose2d": (
        lambda: nn.ConvTranspose2d(4, 6, 2, 2, groups=2), nn.BatchNorm2d, (2, 4, 3, 2),
    ),
}  # fmt: skip


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def pair(request):
    """A float layer of each kind, batch normalisation that has seen data, and a maker of data."""
    make, norm_type, shape = request.param
    layer = make()
    norm = norm_type(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
        norm(layer(torch.randn(shape) * 2 + 1))
    return layer, norm, lambda: torch.randn(shape) + 0.4


def _folded_weight(layer, mean, var, norm):
    """Weight (outputs first) and bias of a layer with batch normalisation, as in its paper."""
    transposed = getattr(layer, "transposed", False)
    weight = exchanged(layer.weight, layer.groups) if transposed else layer.weight
    scale = norm.weight * torch.rsqrt(var + norm.eps)
    shift = -mean * scale + norm.bias
    shift = shift if layer.bias is None else shift + layer.bias * scale
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1)), shift


def _same_with(layer, weight, shift, x, **options):
    """What an ordinary approximate layer with that weight computes."""
    other = copy.deepcopy(layer)
    if getattr(layer, "transposed", False):
        weight = exchanged(weight, layer.groups)
    other.weight, other.bias = (nn.Parameter(t.detach().clone()) for t in (weight, shift))
    made = getattr(ah.nn, type(layer).__name__).from_float(other, **options)
    return made


def test_evaluation_quantises_the_folded_weight(pair, some_case):
    """In evaluation it equals, bit for bit, a plain layer with the folded weight and bias."""
    layer, norm, data = pair
    options = {"multiplier": some_case.odd(), "mapping": some_case.mapping, "calibrator": "minmax"}
    made = NORMALIZED[type(layer)].from_pair(layer, norm.eval(), **options)
    x = data()
    weight, shift = _folded_weight(layer, norm.running_mean, norm.running_var, norm)
    want = _same_with(layer, weight, shift, x, **options)
    for one in (made, want):
        ah.calibrate(one, [x])
        one.eval()
    assert torch.equal(made(x), want(x))


def test_training_quantises_the_weight_folded_with_the_batch(pair, some_case):
    """In training the statistics of the batch are folded, and move the running ones as torch's."""
    layer, norm, data = pair
    options = {"multiplier": some_case.odd(), "mapping": some_case.mapping, "calibrator": "minmax"}
    made = NORMALIZED[type(layer)].from_pair(layer, copy.deepcopy(norm), **options).train()
    x = data()
    y = layer(x).detach()
    others = [d for d in range(y.dim()) if d != 1]
    var, mean = torch.var_mean(y, others, correction=0)
    weight, shift = _folded_weight(layer, mean, var, norm)
    want = _same_with(layer, weight, shift, x, **options).train()
    assert torch.equal(made(x), want(x))
    norm.train()(y)
    torch.testing.assert_close(made.norm.running_mean, norm.running_mean)
    torch.testing.assert_close(made.norm.running_var, norm.running_var)
    assert made.norm.num_batches_tracked == norm.num_batches_tracked


def test_gradients_go_through_the_statistics(pair):
    """Gradients are near those of torch's pair, whose weight is not quantised."""
    layer, norm, data = pair
    made = NORMALIZED[type(layer)].from_pair(
        copy.deepcopy(layer), copy.deepcopy(norm), multiplier=ah.exact(12)
    ).train()  # fmt: skip
    x = data()
    want, got = norm.train()(layer(x)), made(x)
    upstream = torch.randn_like(want)
    want.backward(upstream)
    got.backward(upstream)
    for mine, its in ((made.weight, layer.weight), (made.norm.weight, norm.weight),
                      (made.norm.bias, norm.bias)):  # fmt: skip
        assert (mine.grad - its.grad).abs().max() < 0.02 * its.grad.abs().max()


def test_frozen_statistics(pair):
    """With norm.eval() the running statistics are folded in training, and stay."""
    layer, norm, data = pair
    made = NORMALIZED[type(layer)].from_pair(layer, norm, multiplier=ah.exact(8)).train()
    made.norm.eval()
    before, x = made.norm.running_mean.clone(), data()
    y = made(x)
    assert torch.equal(made.norm.running_mean, before)
    assert torch.equal(made.eval()(x), y)


def test_float_mode_is_the_pair(pair):
    """Mode float is torch's layer and batch normalisation, in training and in evaluation."""
    layer, norm, data = pair
    made = NORMALIZED[type(layer)].from_pair(
        layer, copy.deepcopy(norm), multiplier=ah.exact(8), mode="float"
    )
    x = data()
    for training in (True, False):
        assert torch.equal(made.train(training)(x), norm.train(training)(layer(x)))


def test_state_and_copies(pair):
    """Copies, pickles and checkpoints give the same bits; leaving training refits the weight."""
    layer, norm, data = pair
    made = NORMALIZED[type(layer)].from_pair(layer, norm, multiplier=ah.exact(8, False))
    x = data()
    made.train()(x)
    y = made.eval()(x)
    assert torch.equal(made.weight_quantizer.range_max, made.quantized_weight().flatten(1).amax(1))
    for clone in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        with torch.no_grad():
            clone.norm.weight.mul_(3)
        clone.load_state_dict(made.state_dict())
        assert torch.equal(clone(x), y)


def test_made_directly():
    """Made without a float layer it has torch's parameters and a fresh batch normalisation."""
    layer = ah.nn.NormalizedConv2d(2, 4, 3, eps=0.1, momentum=0.5, multiplier=ah.exact(8))
    assert (layer.norm.eps, layer.norm.momentum, layer.norm.num_features) == (0.1, 0.5, 4)
    assert layer(torch.randn(4, 2, 5, 5)).shape == (4, 4, 3, 3)
    assert {n for n, _ in layer.named_parameters()} == {
        "weight", "bias", "norm.weight", "norm.bias",
    }  # fmt: skip


def test_what_does_not_fit_is_refused():
    """Batch normalisation without statistics, or of other channels, and unbatched inputs."""
    layer = nn.Conv2d(2, 4, 3)
    make = ah.nn.NormalizedConv2d.from_pair
    for norm in (nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(3)):
        with pytest.raises(ConversionError, match="cannot be folded into Conv2d of 4"):
            make(layer, norm, ah.exact(8))
    with pytest.raises(InputError, match="batches of 4 dimensions"):
        make(layer, nn.BatchNorm2d(4), ah.exact(8))(torch.zeros(2, 5, 5))
