"""Folding batch normalisation in whole models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import ConversionError, InputError


class Residual(nn.Module):
    """A block with a shortcut, as in a residual network."""

    def __init__(self, after_activation: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.shortcut = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(100, 5), nn.BatchNorm1d(5))
        self.after_activation = after_activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify images of 5 x 5."""
        y = self.conv1(x)
        y = self.bn1(torch.relu(y)) if self.after_activation else torch.relu(self.bn1(y))
        return self.head(torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x)))


class Untraceable(nn.Module):
    """A model that torch.fx cannot trace, around one that it can."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = Residual(), nn.BatchNorm1d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take a path that depends on the data."""
        y = self.inner(x)
        return self.out(y) if y.sum() > 0 else y


def _seen(model: nn.Module) -> nn.Module:
    """A model whose batch normalisation is far from the identity."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    for _ in range(3):
        model.train()(torch.randn(16, 3, 5, 5) + 0.5)
    return model.eval()


def _norms(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_folded_model_is_the_model(state):
    """All batch normalisation is gone, results stay within rounding, and the original too."""
    model, x = _seen(Residual()), torch.randn(4, 3, 5, 5)
    before = state(model)
    folded = ah.fold_batch_norm(model)
    assert not _norms(folded)
    assert state(model) == before
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
    assert ah.fold_batch_norm(model, inplace=True) is model
    assert not _norms(model)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(3, 4, 2, groups=1),
        nn.Conv2d(3, 6, 2, groups=3, bias=False),
        nn.ConvTranspose2d(3, 6, 2, stride=2, groups=3),
    ],
    ids=str,
)
@pytest.mark.parametrize("affine", [True, False])
def test_every_layer(layer, affine):
    """Groups, transposed convolutions and batch normalisation without parameters fold too."""
    model = _seen(nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels, affine=affine)))
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(ah.fold_batch_norm(model)(x), model(x), rtol=1e-4, atol=1e-4)


def test_converted_with_folding():
    """Converted with folding, layers hold their batch normalisation, and stay near the model."""
    model, x = _seen(Residual()), torch.randn(16, 3, 5, 5)
    converted = ah.approximate(model, ah.exact(8, False), fold_batch_norm=True)
    assert isinstance(converted.conv1, ah.nn.NormalizedConv2d)
    assert isinstance(converted.head[1], ah.nn.NormalizedLinear)
    assert isinstance(converted.bn1, nn.Identity)
    with ah.mode(converted, "float"):
        torch.testing.assert_close(converted(x), model(x))
    ah.calibrate(converted, [x], calibrator="minmax")
    y, want = converted.eval()(x), model(x)
    assert (y - want).abs().max() < 0.1 * want.abs().max()
    folded = ah.approximate(ah.fold_batch_norm(model), ah.exact(8, False))
    other = ah.calibrate(folded, [x], calibrator="minmax").eval()(x)
    assert (y - other).abs().max() < 0.05 * want.abs().max()
    converted.train()(x).sum().backward()
    assert converted.conv1.norm.weight.grad is not None
    with torch.no_grad():
        ah.summary(converted, x)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: ah.fold_batch_norm(model, inplace=True),
        lambda model: ah.approximate(model, ah.exact(8), fold_batch_norm=True, inplace=True),
    ],
    ids=["fold", "approximate"],
)
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Residual(after_activation=True), "bn1: what it normalises is not the output"),
        (Untraceable, "out: its place in the model could not be traced"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
         "1: it keeps no running statistics"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4)), "1: SyncBatchNorm is not"),
        (lambda: nn.Sequential(*[nn.Conv2d(3, 3, 1)] * 2, nn.BatchNorm2d(3)), "2: it, or the"),
    ],
    ids=["after an activation", "untraceable", "statistics", "type", "shared"],
)  # fmt: skip
def test_what_cannot_be_folded_is_refused_by_name(call, make, says, state):
    """Each batch normalisation that cannot be folded is named with the reason; nothing changes."""
    model = make().eval()
    before = state(model)
    with pytest.raises(ConversionError, match=says):
        call(model)
    assert state(model) == before


def test_skipped_by_name():
    """What skip names is left as it is, and the rest is folded."""
    model = _seen(Residual(after_activation=True))
    assert _norms(ah.fold_batch_norm(model, skip=("bn1", "head"))) == ["bn1", "head.2"]
    converted = ah.approximate(model, ah.exact(8), fold_batch_norm=True, skip=["bn1", "conv2"])
    assert _norms(converted) == ["bn1", "bn2", "shortcut.0.norm", "head.1.norm"]


def test_parts_of_an_untraceable_model_are_folded():
    """Inside a model that cannot be traced, the modules that can be are."""
    assert _norms(ah.fold_batch_norm(Untraceable().eval(), skip="out")) == ["out"]


def test_training_models_are_refused():
    """In training batch normalisation follows the batch: it is refused, with what helps."""
    with pytest.raises(ConversionError, match="fold_batch_norm=True"):
        ah.fold_batch_norm(Residual().train())
    with pytest.raises(InputError, match="int"):
        ah.fold_batch_norm(3)


def test_computed_weights_are_refused():
    """A weight that a hook computes cannot take a scale in."""
    with pytest.warns(FutureWarning):
        layer = nn.utils.weight_norm(nn.Linear(3, 4))
    with pytest.raises(ConversionError, match="remove_weight_norm"):
        ah.fold_batch_norm(nn.Sequential(layer, nn.BatchNorm1d(4)).eval(), inplace=True)


def test_an_output_that_is_used_twice_is_not_folded():
    """What something else uses as well, before it is normalised, must stay as it is."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y + self.bn(y)

    with pytest.raises(ConversionError, match="bn: what it normalises is not the output of one"):
        ah.fold_batch_norm(Twice().eval())
