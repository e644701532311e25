"""torch.export: any batch, and another process that finds the multiplier by its hash."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap

import pytest
import torch

import approxhub as ah
from approxhub.registry import Store

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.slow
def test_every_layer_with_a_batch_of_any_size(kind, odd, first):
    """Exported with a dynamic batch, every layer gives the bits of the layer for other sizes."""
    layer, x = kind.make(odd), kind.inputs(3)
    sizes = tuple({kind.batch_dim: torch.export.Dim("batch", min=1, max=64)} for _ in x)
    program = torch.export.export(layer, x, dynamic_shapes=sizes).module()
    for rows in (1, 2, 7):
        some = tuple(t.narrow(kind.batch_dim, 0, rows) for t in kind.inputs(4))
        assert torch.equal(first(program(*some)), first(layer(*some)))


def test_batch_of_any_size(network):
    """A network exported with a dynamic batch gives its bits for every size."""
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(network, (torch.randn(3, 1, 6, 6),), dynamic_shapes=(batch,))
    for rows in (1, 2, 7):
        x = torch.randn(rows, 1, 6, 6)
        assert torch.equal(program.module()(x), network(x))


RUN = textwrap.dedent("""\
    import sys, torch, approxhub.nn
    program = torch.export.load(sys.argv[1]).module()
    x, y = torch.load(sys.argv[2])
    assert torch.equal(program(x), y)
    """)


@pytest.mark.slow
def test_in_another_process(tmp_path, odd, home):
    """A saved program finds its multiplier in the cache; without it, the error names its hash."""
    Store().put(odd)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    model = ah.calibrate(ah.approximate(net, odd), [torch.randn(8, 1, 4, 4)]).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.randn(8, 1, 4, 4),), dynamic_shapes=({0: batch},))
    file, data = tmp_path / "model.pt2", tmp_path / "data.pt"
    torch.export.save(program, file)
    x = torch.randn(3, 1, 4, 4)
    torch.save((x, model(x).detach()), data)
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(file), str(data)]
    subprocess.run(command, check=True, cwd=tmp_path)
    shutil.rmtree(home)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode
    assert "MissingTableError" in done.stderr
    assert odd.identity in done.stderr
