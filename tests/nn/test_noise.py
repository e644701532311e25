"""Mode noise: exact sums, and a Gaussian of the right size in place of the error."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import InputError
from approxhub.multiplier import Multiplier
from approxhub.nn import Noise

TABLE = np.random.default_rng(8).integers(-30000, 30000, (256, 256))
TABLE[0, 0] = 64
ODD = Multiplier.from_table(TABLE, name="odd")


def _layer(kind: str) -> tuple[nn.Module, torch.Tensor]:
    if kind == "linear":
        return ah.nn.Linear(4, 3, multiplier=ODD), torch.randn(5, 4)
    if kind == "conv2d":
        return ah.nn.Conv2d(4, 6, 3, padding=1, groups=2, multiplier=ODD), torch.randn(2, 4, 5, 4)
    transposed = ah.nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, multiplier=ODD)
    return transposed, torch.randn(2, 4, 3, 2)


@pytest.fixture(params=["linear", "conv2d", "transposed"])
def fitted(request):
    """A layer with a range, in evaluation, and an input of it."""
    layer, x = _layer(request.param)
    with torch.no_grad():
        shape = [-1, *[1] * (layer.weight.dim() - 1)]
        layer.weight.mul_(torch.linspace(0.2, 3, len(layer.weight)).reshape(shape))
    layer(x)
    return layer.eval(), x


def test_without_noise_there_is_nothing_to_draw(fitted):
    """Noise of deviation 0 is mode exact, bit for bit; without any, the mode is refused."""
    layer, x = fitted
    layer.mode = "exact"
    exact = layer(x)
    layer.mode = "noise"
    with pytest.raises(InputError, match="set_noise"):
        layer(x)
    layer.noise = Noise()
    assert torch.equal(layer(x), exact)


def test_each_sum_gets_its_own_draw_of_the_right_size(fitted):
    """Over many passes the error has mean K mu s_x s_w and deviation sqrt(K) sigma s_x s_w."""
    layer, x = fitted
    layer.mode = "exact"
    exact = layer(x)
    layer.mode, layer.noise = "noise", Noise(mean=7.0, deviation=40.0)
    with torch.no_grad():
        errors = torch.stack([layer(x) - exact for _ in range(200)])
    k = {"Linear": 4, "Conv2d": 2 * 9, "ConvTranspose2d": 2 * 9}[type(layer).__name__]
    scale = layer.input_quantizer.scale * layer.weight_quantizer.scale
    channel = -1 if x.dim() == 2 else 1
    shape = [1] * exact.dim()
    shape[channel] = -1
    units = errors / scale.reshape(1, *shape)
    count = units.numel()
    assert units.mean().item() == pytest.approx(k * 7, abs=6 * k**0.5 * 40 / count**0.5)
    assert units.std().item() == pytest.approx(k**0.5 * 40, rel=6 / (2 * count) ** 0.5)
    by_channel = units.movedim(channel + 1 if channel > 0 else channel, 0).flatten(1).std(1)
    assert (by_channel / by_channel.mean() - 1).abs().max() < 0.1, "one size in every channel"
    flat = units.flatten(1)
    assert abs(torch.corrcoef(flat[:, :2].t())[0, 1].item()) < 0.3, "sums are independent"


def test_it_is_seeded_and_changes_nothing(fitted):
    """Torch's seed decides the draw, evaluation draws too, and no state moves."""
    layer, x = fitted
    layer.mode, layer.noise = "noise", Noise(deviation=40.0)
    before = copy.deepcopy(layer.state_dict())
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(layer(x))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert before.keys() == layer.state_dict().keys()
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_gradients_pass_the_noise(fitted):
    """Activations and weights get the gradient of exact products: noise does not depend on them."""
    layer, x = fitted
    grads = []
    for mode in ("exact", "noise"):
        layer.mode, layer.noise = mode, Noise(deviation=40.0)
        given = x.clone().requires_grad_()
        layer.zero_grad()
        layer(given).sum().backward()
        grads.append((given.grad, layer.weight.grad.clone()))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])


def test_a_learned_deviation(fitted):
    """Its gradient is the draw itself: finite differences under one seed agree."""
    layer, x = fitted
    layer.mode, layer.noise = "noise", Noise(deviation=40.0, unit=1000.0, learned=True)
    relative = layer.noise.relative
    assert "noise.relative" in layer.state_dict()
    assert relative in set(layer.parameters())
    layer.requires_grad_(False)
    relative.requires_grad_(True)
    upstream = torch.randn_like(layer(x))

    def loss() -> torch.Tensor:
        torch.manual_seed(5)
        return (layer(x).double() * upstream).sum()

    loss().backward()
    step = 0.01
    with torch.no_grad():
        relative += step
        high = loss()
        relative -= 2 * step
        low = loss()
        relative += step
    assert relative.grad.item() == pytest.approx(((high - low) / (2 * step)).item(), rel=1e-3)


def test_learning_lowers_a_deviation_that_hurts():
    """Trained against its own error, the deviation of a layer shrinks."""
    torch.manual_seed(0)
    layer, x = _layer("linear")
    layer(x)
    layer.eval()
    layer.mode, layer.noise = "noise", Noise(deviation=2000.0, unit=255.0**2, learned=True)
    target = torch.zeros(())
    optimiser = torch.optim.Adam([layer.noise.relative], 1e-3)
    with torch.no_grad():
        layer.mode = "exact"
        target = layer(x)
        layer.mode = "noise"
    for _ in range(20):
        optimiser.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimiser.step()
    assert layer.noise.deviation < 1500


def test_a_learned_deviation_survives_copies_and_checkpoints():
    """Deep copies and state dictionaries hold it; given numbers are a setting of the model."""
    layer, x = _layer("linear")
    layer(x)
    layer.noise = Noise(deviation=30.0, unit=10.0, learned=True)
    assert copy.deepcopy(layer).noise.deviation == pytest.approx(30.0)
    other, _ = _layer("linear")
    other.noise = Noise(deviation=1.0, unit=10.0, learned=True)
    other.load_state_dict(layer.state_dict())
    assert other.noise.deviation == pytest.approx(30.0)
    layer.noise = Noise(deviation=30.0)
    assert not [key for key in layer.state_dict() if key.startswith("noise")]


@pytest.mark.parametrize(
    "given",
    [{"deviation": -1.0}, {"mean": float("nan")}, {"unit": 0.0}, {"deviation": float("inf")}],
)
def test_bad_numbers(given):
    """What is no mean or deviation is refused."""
    with pytest.raises(InputError, match="0 or more"):
        Noise(**given)
