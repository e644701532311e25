"""Two processes on this machine: calibration, DDP, FSDP2 and torchrun; see worker.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import approxhub as ah
from approxhub.errors import InputError

WORKER = Path(__file__).with_name("worker.py")

needs_gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch has no gloo",
)


@needs_gloo
def test_calibration_and_ddp(tmp_path):
    """Calibrated and trained in two processes, ranges and integers are those of one."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {
        **os.environ,
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", str(WORKER), "calibrate", "ddp"]
    processes = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank)}, cwd=tmp_path,
                         stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)


@needs_gloo
@pytest.mark.slow
def test_torchrun_and_fsdp2(tmp_path):
    """Launched by torchrun, sharded training and its checkpoints are those of one process too."""
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
