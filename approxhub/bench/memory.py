"""Peak memory of a layer, or of a training step, measured in a process of its own.

Python's tracemalloc does not see what torch allocates, so the kernel is asked: the process's peak
of resident memory is reset (Linux, ``/proc/self/clear_refs``) before the layer and its input are
made, and read after a forward pass. Everything that does not depend on the layer's size has
happened before, in a pass of a tiny layer of the same kind. Large blocks are given back as soon as
they are freed (``MALLOC_MMAP_THRESHOLD_``), so that the peak is what is held at one time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["peak_bytes", "peak_bytes_of_step"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def peak_bytes(
    x: tuple[int, ...], out_channels: int, kernel: int, multiplier: str | None
) -> int | None:
    """Resident memory that a convolution takes at its peak, with its input and its output.

    Parameters
    ----------
    x : tuple of int
        Shape of the input, (N, C, H, W).
    out_channels, kernel : int
        Of a square convolution that keeps the size.
    multiplier : str or None
        Id; None for torch's own layer in fp32.

    Returns
    -------
    int or None
        Bytes; None where the system does not tell.
    """
    return _measured({"layer": [x, out_channels, kernel, multiplier]})


def peak_bytes_of_step(batch: int, image: int, multiplier: str | None) -> int | None:
    """Resident memory that a training step of CIFAR ResNet-20 takes at its peak, with its model.

    Parameters
    ----------
    batch, image : int
        Images, and their height and width.
    multiplier : str or None
        Id; None for torch's fake quantisation.

    Returns
    -------
    int or None
        Bytes; None where the system does not tell.
    """
    return _measured({"step": [batch, image, multiplier]})


def _measured(what: dict[str, Any]) -> int | None:
    if not _CLEAR.exists():
        return None
    spec = json.dumps(what)
    done = subprocess.run(
        [sys.executable, "-m", "approxhub.bench.memory", spec],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],  # `-m` looks here first: this copy of the package, no other
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"},
    )
    return int(done.stdout)


def _resident(key: str) -> int:
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {key}")


def _main(spec: str) -> None:
    ((kind, what),) = json.loads(spec).items()
    print(_layer(*what) if kind == "layer" else _step(*what))


def _step(batch: int, image: int, id: str | None) -> int:
    from approxhub.bench.networks import resnet20
    from approxhub.bench.training import fake_quantised, training_step
    from approxhub.model import approximate

    def made() -> Any:
        network = resnet20()
        return fake_quantised(network) if id is None else approximate(network, id, inplace=True)

    training_step(made(), 2, 8)()  # a tiny one of the same kind
    _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    before = _resident("VmRSS")
    run = training_step(made(), batch, image)
    for _ in range(2):
        run()
    return _resident("VmHWM") - before


def _layer(x: list[int], out_channels: int, kernel: int, id: str | None) -> int:
    import torch
    from torch import nn

    import approxhub as ah

    multiplier = None if id is None else ah.load(id)

    def forward(shape: list[int]) -> None:
        float_layer = nn.Conv2d(shape[1], out_channels, kernel, padding=kernel // 2)
        layer: nn.Module = float_layer.eval()
        batch = torch.rand(*shape)
        if multiplier is not None:
            layer = ah.approximate(layer, multiplier, inplace=True).eval()
            ah.calibrate(layer, [batch[:1, :, : 2 * kernel, : 2 * kernel]])
        layer(batch)

    with torch.inference_mode():
        forward([1, x[1], 2 * kernel, 2 * kernel])
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
        before = _resident("VmRSS")
        forward(x)
    return _resident("VmHWM") - before


if __name__ == "__main__":
    _main(sys.argv[1])
