"""The digits network for the tests of experiments, as an experimenter would write it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from approxhub import demo

IDS = [
    "exact:8s",
    "exact:8u",
    *(f"drum:8{s}/k={k}" for s in "su" for k in (3, 4, 5, 6, 7)),
    *(f"truncation:8{s}/a={a},b={b}" for s in "su" for a in range(4) for b in (1, 2, 3)),
    *(f"bam:8{s}/h=0,v={v}" for s in "su" for v in (2, 4, 6, 7, 8, 9, 10)),
]
assert len(IDS) == 50


@functools.cache
def data() -> demo._Digits:
    """The demonstration's images."""
    return demo._digits()


@functools.cache
def trained(epochs: int = 6, seed: int = 0) -> nn.Module:
    """The demonstration's network, trained for less long."""
    with demo._seeded(seed):
        net = demo._network()
        demo._train(net, data(), epochs, 3e-3, seed)
    return net


def model() -> nn.Module:
    """The network, for the command line."""
    return trained()


def calibration() -> list[torch.Tensor]:
    """What to calibrate with."""
    return list(torch.split(data().train_x[:256], 128))


@torch.no_grad()
def evaluate(model: nn.Module) -> dict[str, float]:
    """Accuracy on some images, and the loss."""
    y = model(data().test_x[:200])
    labels = data().test_y[:200]
    return {
        "accuracy": float((y.argmax(1) == labels).float().mean()),
        "loss": float(nn.functional.cross_entropy(y, labels)),
    }


def counting() -> tuple[Callable[[nn.Module], Any], list[int]]:
    """An evaluator, and a list that grows with each call."""
    calls: list[int] = []

    def evaluator(model: nn.Module) -> Any:
        calls.append(1)
        return evaluate(model)

    return evaluator, calls
