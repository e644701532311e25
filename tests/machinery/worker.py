"""One of several processes, for test_distributed.py: `python worker.py calibrate ddp fsdp ...`.

Writes nothing; an assertion that fails ends it with an error.
"""

from __future__ import annotations

import copy
import os
import sys

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import approxhub as ah
from approxhub.errors import CalibrationError
from approxhub.multiplier import Multiplier
from approxhub.quantization import MinMax


def made() -> tuple[nn.Module, list[torch.Tensor]]:
    """The same network and batches in every process."""
    table = np.random.default_rng(8).integers(-30000, 30000, (256, 256))
    table[0, 0] = 64
    m = Multiplier.from_table(table, name="odd", a_signed=False, b_signed=False)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    return ah.approximate(net, m), [torch.randn(8, 1, 6, 6) * (i + 1) for i in range(5)]


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether all buffers are equal, bit for bit."""
    pairs = zip(one.buffers(), other.buffers(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def fails(words: str, model: nn.Module, batches: list[torch.Tensor]) -> None:
    """Calibrating is a named error, in this process too, and leaves the model as it was."""
    before = copy.deepcopy(model)
    said = ""
    try:
        ah.calibrate(model, batches)
    except CalibrationError as error:
        said = str(error)
    assert words in said
    assert same(model, before)


class Own:
    """A calibrator that nothing is known of."""

    def __init__(self) -> None:
        self._inner = MinMax()
        self.observe, self.range, self.resume = (
            self._inner.observe, self._inner.range, self._inner.resume,
        )  # fmt: skip


def calibrate(rank: int) -> None:
    """Ranges of all processes agree, and are those of one that sees all batches."""
    model, batches = made()
    mine = batches[:3] if rank == 0 else batches[3:]
    for name in ("minmax", "percentile(99)", "mse", "moving-average"):
        alone = copy.deepcopy(model)
        ah.calibrate(model, mine, calibrator=name)
        ah.calibrate(alone, batches, calibrator=name, synchronize=False)
        ranges = [q.range_max for q in (model[0].input_quantizer, model[3].input_quantizer)]
        everywhere = [None] * distributed.get_world_size()
        distributed.all_gather_object(everywhere, [t.item() for t in ranges])
        assert everywhere[0] == everywhere[1]
        assert same(model, alone) == (name != "moving-average")
    ah.calibrate(model, batches if rank == 0 else [], calibrator="minmax")
    alone = ah.calibrate(copy.deepcopy(model), batches, calibrator="minmax", synchronize=False)
    assert same(model, alone)
    for quantizer in (model[0].input_quantizer, model[3].input_quantizer):
        quantizer._fresh = lambda name: Own()
    ah.calibrate(model, mine)
    assert same(model, alone)
    model = alone
    spoilt = [batches[0] * (1.0 if rank == 0 else torch.nan)]
    fails("in another process" if rank == 0 else "NaN", model, spoilt)
    fails("at least one batch", model, [])


def train(rank: int, wrapped: str) -> None:
    """Passes, ranges and weights are those of one process that has the whole batches."""
    model, batches = made()
    ah.calibrate(model, batches, synchronize=False)
    alone = copy.deepcopy(model).train()
    model.train()
    ah.synchronize_ranges(model)
    if wrapped == "ddp":
        parallel: nn.Module = DistributedDataParallel(model)
    else:
        from torch.distributed.fsdp import fully_shard

        for part in (model[0], model[3], model):
            parallel = fully_shard(part)
    steps = [torch.optim.SGD(m.parameters(), 1e-3) for m in (parallel, alone)]
    rows = slice(4 * rank, 4 * rank + 4)
    for x in reversed(batches):
        y, want = parallel(x[rows]), alone(x)
        assert torch.equal(y, want[rows])
        y.square().mean().backward()
        want.square().mean().backward()
        for step in steps:
            step.step()
            step.zero_grad()
    assert same(model, alone)
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        whole = p.full_tensor() if hasattr(p, "full_tensor") else p
        assert torch.allclose(whole, q, rtol=0, atol=1e-6)
        with torch.no_grad():
            q.copy_(whole)  # sums of gradients may round differently
    parallel.eval()
    alone.eval()
    assert torch.equal(parallel(batches[0][rows]), alone(batches[0])[rows])
    if wrapped == "fsdp":
        reload(parallel, alone, batches[0])


def reload(parallel: nn.Module, alone: nn.Module, x: torch.Tensor) -> None:
    """A checkpoint of the sharded network is one of the whole, and loads into both."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        set_model_state_dict,
    )

    whole = StateDictOptions(full_state_dict=True)
    saved = get_model_state_dict(parallel, options=whole)
    other, _ = made()
    other.load_state_dict(saved)
    assert torch.equal(other.eval()(x), alone(x))
    set_model_state_dict(parallel, saved, options=whole)
    assert torch.equal(parallel(x), alone(x))


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    for task in sys.argv[1:]:
        if task == "calibrate":
            calibrate(distributed.get_rank())
        else:
            train(distributed.get_rank(), task)
    distributed.destroy_process_group()
    # DDP and FSDP keep gloo's threads, which may end an interpreter that is being taken down
    # (seen once: "terminate called without an active exception"). Nothing is left to be done.
    os._exit(0)
