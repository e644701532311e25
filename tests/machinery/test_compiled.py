"""torch.compile takes every layer whole; see also tests/nn/test_layers_common.py."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator

import pytest
import torch

import approxhub as ah

pytestmark = [
    pytest.mark.slow,  # the layers that most networks are made of are compiled in tests/nn
    pytest.mark.filterwarnings("ignore"),
]


# Compiling takes seconds: of layers that are made of the same, most are compiled in one mode.
TRAINING_ALONE = (
    "Conv1d", "ConvTranspose3d", "RNN", "LSTMCell", "RNNCell", "MultiheadAttention",
)  # fmt: skip
EVALUATION_ALONE = (
    "Conv3d", "ConvTranspose1d", "GRU", "GRUCell", "ScaledDotProductAttention",
)  # fmt: skip
# And with machine code, which takes half a minute, two; tests/ops has a product.
INDUCTOR = {("Conv2d", False), ("Conv2d", True), ("ConvTranspose2d", False)}


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["eager", "inductor"])
@pytest.mark.parametrize("training", [False, True])
def test_whole_layers(kind, odd, first, training, backend):
    """Outputs and state of a layer compiled as one graph are those of the layer, gradients too."""
    if backend == "inductor":
        if not (shutil.which("c++") or shutil.which("g++")):
            pytest.skip("no C++ compiler")
        if (kind.name, training) not in INDUCTOR:
            pytest.skip("the others are made of these")
    if kind.name in (EVALUATION_ALONE if training else TRAINING_ALONE):
        pytest.skip("the other mode is compiled")
    layer = kind.make(odd).train(training)
    eager = copy.deepcopy(layer)
    # torch compiles recurrent layers, subclasses too, only if asked to.
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(layer, backend=backend, fullgraph=True)
        for _ in range(2):
            x = [t.requires_grad_() for t in kind.inputs()]
            other = [t.detach().clone().requires_grad_() for t in x]
            y, want = first(compiled(*x)), first(eager(*other))
            assert torch.equal(y, want)
            y.square().sum().backward()
            want.square().sum().backward()
            for p, q in zip([*layer.parameters(), *x], [*eager.parameters(), *other], strict=True):
                if backend == "eager":
                    assert torch.equal(p.grad, q.grad)
                else:  # it adds floats up in an order of its own
                    torch.testing.assert_close(p.grad, q.grad)
    state, wanted = layer.state_dict(), eager.state_dict()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("gradient", ["table-2d", "approximate-backward"])
def test_gradients_of_whole_layers(kind, odd, first, gradient):
    """With a gradient that is more than products, too; of a layer that was never called."""
    layer = getattr(ah.nn, kind.name)(*kind.arguments, **kind.keywords, multiplier=odd)
    ah.set_gradient(layer, gradient)
    eager = copy.deepcopy(layer)
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        inputs = kind.inputs()
        found = []
        for module, run in ((layer, compiled), (eager, eager)):
            x = [t.clone().requires_grad_() for t in inputs]
            torch.manual_seed(5)
            y = first(run(*x))
            y.square().sum().backward()
            grads = [p.grad for p in [*module.parameters(), *x]]
            found.append([y.detach(), *grads, *module.state_dict().values()])
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))
