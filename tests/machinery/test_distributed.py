"""Two processes on this machine: calibration, DDP, FSDP2 and torchrun; see worker.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import approxhub as ah
from approxhub.errors import InputError

WORKER = Path(__file__).with_name("worker.py")


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch has no gloo",
)
@pytest.mark.slow
def test_two_processes(tmp_path):
    """Launched by torchrun: calibration, DDP, FSDP2 and its checkpoints are those of one process.

    Ranges and integers bit for bit.
    """
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(WORKER), "calibrate", "ddp", "fsdp",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment,
                          check=False, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_synchronizing_needs_a_calibrator_that_can(network):
    """Histograms of several processes are not joined at every step: that is refused."""
    ah.calibrate(network, [torch.randn(2, 1, 6, 6)], calibrator="mse")
    with pytest.raises(InputError, match="moving-average"):
        ah.synchronize_ranges(network)
    assert not network[0].input_quantizer.synchronized
    ah.calibrate(network, [torch.randn(2, 1, 6, 6)], calibrator="minmax")
    ah.synchronize_ranges(network)
    network.train()(torch.randn(2, 1, 6, 6))  # without a group nothing is exchanged
