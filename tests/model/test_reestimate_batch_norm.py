"""Statistics of batch normalisation, taken anew through the multiplier."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import approxhub as ah
from approxhub.errors import CalibrationError, InputError


def _net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5),
        nn.BatchNorm1d(5, momentum=0.3),
    ).eval()  # fmt: skip


def test_statistics_are_averages_over_the_batches_in_the_models_mode() -> None:
    """Mean and unbiased variance of what reaches each normalisation, averaged over batches."""
    x = torch.randn(3, 16, 1, 5, 5)
    net = ah.calibrate(ah.approximate(_net(), "truncation:8s/a=3,b=3"), list(x))
    ah.reestimate_batch_norm(net, list(x))
    with torch.no_grad():
        y = [net[0](batch).transpose(0, 1).flatten(1) for batch in x]
    mean, var = (torch.stack([getattr(b, f)(1) for b in y]).mean(0) for f in ("mean", "var"))
    torch.testing.assert_close(net[1].running_mean, mean)
    torch.testing.assert_close(net[1].running_var, var)
    assert net[1].num_batches_tracked == 3
    assert (net[1].momentum, net[5].momentum) == (0.1, 0.3)
    assert not any(m.training for m in net.modules())


def test_nothing_else_changes(state: Any) -> None:
    """Weights, ranges and modes stay; a failure leaves the statistics as they were, too."""
    x = torch.randn(8, 1, 5, 5)
    net = ah.calibrate(ah.approximate(_net(), "truncation:8s/a=3,b=3"), [x])
    before = state(net)

    def failing() -> Any:
        yield x
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        ah.reestimate_batch_norm(net, failing())
    with pytest.raises(CalibrationError, match="at least one batch"):
        ah.reestimate_batch_norm(net, [])
    assert state(net) == before
    ah.reestimate_batch_norm(net, [x])
    after = state(net)
    changed = {n for n, v in after["values"].items() if v != before["values"][n]}
    assert changed == {
        f"{i}.{n}" for i in (1, 5) for n in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert {k: v for k, v in after.items() if k != "values"} == {
        k: v for k, v in before.items() if k != "values"
    }


def test_models_without_such_statistics_are_refused() -> None:
    """None, folded ones alone, and ones that keep none: each says what else there is."""
    x = [torch.randn(8, 1, 5, 5)]
    folded = ah.calibrate(ah.approximate(_net(), "exact:8s", fold_batch_norm=True), x)
    for net in (folded, nn.Linear(2, 2), nn.BatchNorm1d(3, track_running_stats=False)):
        with pytest.raises(InputError, match=r"approxhub\.compensate"):
            ah.reestimate_batch_norm(net, x)
    with pytest.raises(InputError, match=r"write \[x\]"):
        ah.reestimate_batch_norm(_net(), x[0])
