"""One of each layer, small, with inputs; a table that no mistake about operands survives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import approxhub as ah
from approxhub.multiplier import Multiplier

Inputs = tuple[Tensor, ...]


def _odd() -> Multiplier:
    table = np.random.default_rng(8).integers(-30000, 30000, (256, 256))
    table[0, 0] = 64
    return Multiplier.from_table(table, name="odd", a_signed=False, b_signed=False)


class Kind(NamedTuple):
    """A layer's name in ``approxhub.nn``, what it is made of, shapes of inputs, their batch."""

    name: str
    arguments: tuple
    keywords: dict
    shapes: tuple[tuple[int, ...], ...]
    batch_dim: int = 0

    def make(self, multiplier: Multiplier) -> nn.Module:
        """A layer in evaluation that has found its ranges."""
        layer = getattr(ah.nn, self.name)(*self.arguments, **self.keywords, multiplier=multiplier)
        layer(*self.inputs())
        return layer.eval()

    def inputs(self, repeats: int = 1) -> Inputs:
        """Random inputs, of a batch so many times as large."""
        drawn = (torch.randn(shape) * 1.5 + 0.6 for shape in self.shapes)
        return tuple(torch.cat([t] * repeats, self.batch_dim) for t in drawn)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("Linear", (4, 3), {}, ((5, 4),)),
        Kind("Conv1d", (2, 3, 3), {"padding": 1}, ((2, 2, 5),)),
        Kind("Conv2d", (2, 3, (3, 2)), {"padding": (1, 0)}, ((2, 2, 5, 4),)),
        Kind("Conv3d", (2, 3, (1, 3, 2)), {"padding": (0, 1, 0)}, ((2, 2, 2, 4, 3),)),
        Kind("ConvTranspose1d", (2, 3, 3), {"stride": 2}, ((2, 2, 3),)),
        Kind("ConvTranspose2d", (2, 3, (3, 2)), {"stride": 2}, ((2, 2, 3, 2),)),
        Kind("ConvTranspose3d", (2, 3, (3, 2, 1)), {"stride": 2}, ((2, 2, 3, 2, 2),)),
        Kind("NormalizedConv2d", (2, 3, 3), {}, ((4, 2, 5, 4),)),
        Kind("LSTM", (3, 4), {"bidirectional": True}, ((3, 2, 3),), 1),
        Kind("GRU", (3, 4), {}, ((3, 2, 3),), 1),
        Kind("RNN", (3, 4), {}, ((3, 2, 3),), 1),
        Kind("LSTMCell", (3, 4), {}, ((2, 3),)),
        Kind("GRUCell", (3, 4), {}, ((2, 3),)),
        Kind("RNNCell", (3, 4), {}, ((2, 3),)),
        Kind("Matmul", (), {}, ((2, 4, 3), (2, 3, 5))),
        Kind("ScaledDotProductAttention", (), {}, ((2, 2, 4, 8),) * 3),
        Kind(
            "MultiheadAttention",
            (8, 2),
            {"batch_first": True, "approximate_products": True},
            ((2, 4, 8),) * 3,
        ),
    )
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of layer in turn."""
    return KINDS[request.param]


@pytest.fixture
def odd() -> Multiplier:
    """A circuit that is not commutative, not exact anywhere, with T[0][0] = 64."""
    return _odd()


@pytest.fixture
def first() -> Callable[[object], Tensor]:
    """The output among what a layer returns."""

    def take(y: object) -> Tensor:
        while isinstance(y, tuple):
            y = y[0]
        assert isinstance(y, Tensor)
        return y

    return take


@pytest.fixture
def network(odd: Multiplier) -> nn.Module:
    """A calibrated network of convolution and linear layer, in evaluation."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    model = ah.approximate(net, odd, mapping="signmag-weights")
    return ah.calibrate(model, [torch.randn(8, 1, 6, 6)]).eval()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20)
