"""What a benchmark ran on: the processor and the versions of what matters."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from approxhub import __version__

__all__ = ["commit", "cores", "driver", "machine", "versions"]


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine(isas: tuple[str, ...], isa: str) -> dict[str, Any]:
    """The processor, the instruction sets of the engine that it has, and the one in use."""
    return {
        "cpu": _model(),
        "cores": cores(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "isas": list(isas),
        "isa": isa,
    }


def _model() -> str:
    """Name of the processor's model, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def versions() -> dict[str, str]:
    """Versions of Python, ApproxHub, torch, numpy and gcc."""
    return {
        "python": platform.python_version(),
        "approxhub": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "gcc": _gcc(),
    }


def _gcc() -> str:
    if shutil.which("gcc") is None:
        return "none"
    return _said("gcc", "-dumpfullversion")


def _said(*command: str) -> str:
    """The first line that a command prints, if it is there and prints one."""
    if shutil.which(command[0]) is None:
        return "unknown"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.strip().splitlines() or ["unknown"])[0]


def driver() -> str:
    """Version of NVIDIA's driver, as ``nvidia-smi`` says it."""
    return _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def commit() -> str:
    """The commit of the checkout that the current folder is in, with a ``+`` if it was changed."""
    found = _said("git", "rev-parse", "HEAD")
    changed = _said("git", "status", "--porcelain", "--untracked-files=no")
    return found if "unknown" in (found, changed) else f"{found}+"
