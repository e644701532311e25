"""Gradient checkpointing, gradient accumulation and mixed precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import approxhub as ah

STATELESS = ["Linear", "Conv2d", "NormalizedConv2d", "LSTM", "MultiheadAttention"]


def _same_state(one: nn.Module, other: nn.Module) -> bool:
    state, wanted = one.state_dict(), other.state_dict()
    return all(torch.equal(state[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", STATELESS, indirect=True)
def test_checkpointed_activations(kind, odd, first, reentrant):
    """Computing a pass again in the backward pass moves no range and no statistic again."""
    layer = kind.make(odd).train()
    plain = copy.deepcopy(layer)
    for _ in range(2):
        x = [2 * t for t in kind.inputs()]
        for t in x:
            t.requires_grad_()
        others = [t.detach().clone().requires_grad_() for t in x]
        y, want = first(checkpoint(layer, *x, use_reentrant=reentrant)), first(plain(*others))
        assert torch.equal(y, want)
        y.square().sum().backward()
        want.square().sum().backward()
        assert all(torch.equal(t.grad, other.grad) for t, other in zip(x, others, strict=True))
    grads = zip(layer.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(p.grad, q.grad) for p, q in grads)
    assert _same_state(layer, plain)


def test_accumulated_gradients(network):
    """The gradient of two parts of a batch is the sum of the gradients of each."""
    network.train()
    parts = torch.randn(8, 1, 6, 6).split(4)
    network(torch.cat(parts))  # ranges are of the whole batch, and stay in evaluation
    network.eval()
    alone = []
    for part in parts:
        network.zero_grad()
        network(part).sum().backward()
        alone.append([p.grad.clone() for p in network.parameters()])
    network.zero_grad()
    for part in parts:
        network(part).sum().backward()
    for p, one, two in zip(network.parameters(), *alone, strict=True):
        assert torch.equal(p.grad, one + two)


def test_mixed_precision(network):
    """Under autocast layers see bfloat16, sum in integers, and give parameters full gradients."""
    seen = {}

    def capture(x, w, product):
        seen["codes"] = x.clone()

    layer = network[0]
    x = torch.randn(4, 1, 6, 6)
    layer._capture = capture
    y = network(x.bfloat16().float())
    eager = seen["codes"]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(x.bfloat16())
    layer._capture = None
    assert torch.equal(seen["codes"], eager)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(layer(x.bfloat16()).float(), layer(x.bfloat16().float()).bfloat16().float())
    mixed.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in network.parameters())
    assert y.dtype == torch.float32


def test_a_step_in_mixed_precision_needs_no_scaler(network):
    """Training under autocast with bfloat16 reaches a lower loss, without scaling gradients."""
    network.train()
    x, target = torch.randn(16, 1, 6, 6), torch.randn(16, 5)
    optimizer = torch.optim.SGD(network.parameters(), 0.02)
    losses = []
    ah.set_mode(network, "exact")  # what the gradient is of
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.mse_loss(network(x).float(), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
