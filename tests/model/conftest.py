"""Small models for the tests of whole models."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from approxhub.multiplier import Hardware, Multiplier
from approxhub.operands import OperandFormat


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Small tensors: waiting for a second thread takes longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    # Not torch.manual_seed: it notes a traceback for each accelerator that is not there.
    torch.default_generator.manual_seed(3)


class Net(nn.Module):
    """A convolutional network with a nested block and a head used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)
        )
        self.block = nn.ModuleDict({"inner": nn.Sequential(nn.Linear(18, 6), nn.ReLU())})
        self.head = nn.Linear(6, 6)
        self.again = self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify images of 5 x 5."""
        x = self.block["inner"](self.features(x).flatten(1))
        return self.again(torch.relu(self.head(x)))


@pytest.fixture
def net() -> nn.Module:
    """A nested network with a shared layer, in evaluation."""
    return Net().eval()


@pytest.fixture
def images() -> Callable[[], torch.Tensor]:
    """A maker of batches for `net`."""
    return lambda: torch.randn(4, 1, 5, 5) + 0.3


@pytest.fixture
def state() -> Callable[[nn.Module], dict[str, object]]:
    """All that a model may not change by looking at it."""

    def of(model: nn.Module) -> dict[str, object]:
        return {
            "names": [(n, id(m)) for n, m in model.named_modules(remove_duplicate=False)],
            "parameters": [(n, id(p)) for n, p in model.named_parameters(remove_duplicate=False)],
            "values": {n: v.reshape(-1).tolist() for n, v in model.state_dict().items()},
            "training": [m.training for m in model.modules()],
            "modes": [getattr(m, "mode", None) for m in model.modules()],
            "calibrated": [getattr(m, "calibrated", None) for m in model.modules()],
            "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        }

    return of


@pytest.fixture
def circuit() -> Callable[..., Multiplier]:
    """A maker of tables with given operands and, if wanted, a power."""

    def make(
        name: str = "odd", a: str = "8u", b: str = "8u", power: float | None = None,
        technology: str | None = "process", exact: bool = False,
    ) -> Multiplier:  # fmt: skip
        fa, fb = OperandFormat.parse(a), OperandFormat.parse(b)
        table = np.outer(fa.values(), fb.values())
        if not exact:
            table = table - (np.arange(fa.size)[:, None] & 3)
        hardware = None if power is None else Hardware(power_mw=power, technology=technology)
        return Multiplier.from_table(
            table, name=name, a_signed=fa.signed, b_signed=fb.signed, hardware=hardware
        )

    return make
