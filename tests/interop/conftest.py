"""What the tests of imported models share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import approxhub as ah


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20)


@pytest.fixture
def images() -> torch.Tensor:
    """A batch of small images."""
    return torch.randn(16, 1, 6, 6) + 0.2


@pytest.fixture
def fixed() -> nn.Module:
    """A layer with imported parameters, in evaluation."""
    layer = ah.nn.Linear(4, 2, multiplier=ah.exact(8, signed=False))
    layer.input_quantizer.adopt(torch.tensor(0.11), torch.tensor(7), (0, 127))
    layer.weight_quantizer.adopt(torch.tensor([0.01, 0.02]), torch.tensor([3, 250]), (0, 255))
    return layer.eval()
