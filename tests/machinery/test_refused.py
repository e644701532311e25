"""What of torch does not work with our layers, as the documentation says, and what does."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap

import pytest
import torch

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",  # of torch.jit
    "ignore::torch.jit.TracerWarning",
)


def test_function_transforms(network):
    """torch.func differentiates and maps nothing; autograd and functional_call work."""
    x = torch.randn(3, 1, 6, 6)
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    assert torch.equal(torch.func.functional_call(network, state, (x,)), network(x))
    assert torch.autograd.functional.jacobian(network, x).shape == (3, 5, 3, 1, 6, 6)
    for transformed in (
        torch.func.grad(lambda x: network(x).sum()),
        torch.func.jacrev(network),
        torch.func.vmap(network),
    ):
        with pytest.raises(RuntimeError):
            transformed(x)


def test_jit_trace(network):
    """It works in evaluation without gradients, and is saved; with gradients its checks fail."""
    x, other = torch.randn(3, 1, 6, 6), torch.randn(7, 1, 6, 6)
    with torch.no_grad():
        traced = torch.jit.trace(network, x)
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        assert torch.equal(torch.jit.load(file)(other), network(other))
    with pytest.raises(torch.jit.TracingCheckError):
        torch.jit.trace(network, x)
    traced = torch.jit.trace(network, x, check_trace=False)
    assert torch.equal(traced(other), network(other))
    with pytest.raises(RuntimeError, match="Could not export"):
        torch.jit.save(traced, io.BytesIO())


def test_symbolic_trace(network):
    """A tracer that goes into our layers is refused; the page shows one that does not."""
    with pytest.raises(ValueError, match="got Proxy"):
        torch.fx.symbolic_trace(network)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_in_one_thread(tmp_path):
    """A child of a parent that used threads multiplies, if it asks for one thread first."""
    code = textwrap.dedent("""\
        import os, torch, approxhub as ah
        torch.set_num_threads(2)
        layer = ah.nn.Linear(512, 512, multiplier="drum:8s/k=4")
        x = torch.randn(512, 512)
        ah.calibrate(layer, [x]).eval()
        wanted = layer(x)
        child = os.fork()
        if not child:
            torch.set_num_threads(1)
            os._exit(0 if torch.equal(layer(x), wanted) else 3)
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """)
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60)
    assert ran.returncode == 0
