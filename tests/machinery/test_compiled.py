"""torch.compile takes every layer whole; see also tests/nn/test_layers_common.py."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator

import pytest
import torch

pytestmark = [
    pytest.mark.slow,  # the layers that most networks are made of are compiled in tests/nn
    pytest.mark.filterwarnings("ignore"),
]


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
        if kind.name not in ("Linear", "Conv2d", "ConvTranspose2d", "Matmul"):
            pytest.skip("the others are made of these")
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
