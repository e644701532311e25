"""The checks that ``approxhub doctor`` makes of the core itself.

Each returns whether all is well, and one line of what was found and, if it is not, what to do.
Nothing heavy is imported before a check runs, and none of them changes anything.
"""

from __future__ import annotations

import importlib.resources
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

from approxhub.plugins.descriptors import HealthCheck

__all__ = ["CHECKS", "Finding"]

Finding = tuple[bool, str]
"""Whether all is well, and one line."""

_DISTRIBUTION = "approxhub"
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)[^;]*?>=\s*([0-9.]+)")
_COMPILERS = ("gcc", "clang", "cc")
_SIZE = (3, 70, 5)  # more than a register each way, and none of them a multiple of one


def python() -> Finding:
    """Say which Python runs, and where."""
    return True, f"{platform.python_version()} at {sys.executable}, {platform.platform()}"


def packages() -> Finding:
    """Whether the packages that the core needs are there, and new enough."""
    found, wrong = [], []
    for name, least in _requirements():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing: pip install '{name}>={least}'")
            continue
        found.append(f"{name} {version}")
        if _numbers(version) < _numbers(least):
            wrong.append(f"{name} {version} is too old: pip install '{name}>={least}'")
    import numpy
    import torch

    if not found:  # a source tree that was not installed says nothing of what it needs
        found = [f"numpy {numpy.__version__}", f"torch {torch.__version__}"]
    return not wrong, "; ".join(wrong or [", ".join(found)])


def _requirements() -> Iterable[tuple[str, str]]:
    """Names and least versions of what the core needs, extras left out."""
    try:
        required = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return
    for text in required:
        found = _REQUIREMENT.match(text)
        if found is not None and "extra ==" not in text:
            yield found[1], found[2]


def _numbers(version: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", version.partition("+")[0])[:3]]


def engine() -> Finding:
    """Whether the CPU engine was built, loads, and multiplies rightly on every instruction set."""
    from approxhub.backends.native import load_library
    from approxhub.errors import BackendUnavailableError

    try:
        isas = list(load_library().isas)
    except BackendUnavailableError as error:
        # Not to have built it is a choice; to have built it in vain is not.
        folder = importlib.resources.files("approxhub").joinpath("_native")
        built = folder.is_dir() and any(f.name.startswith("lib") for f in folder.iterdir())
        return not built, f"none, so that the slower torch reference serves: {error}"
    wrong = [isa for isa in isas if not _multiplies(isa)]
    if wrong:
        return False, (
            f"wrong sums on {', '.join(wrong)}: set APPROXHUB_BACKEND=reference, and report this"
        )
    forced = os.environ.get("APPROXHUB_CPU_ISA") or None
    if forced is not None and forced not in isas:
        return False, f"APPROXHUB_CPU_ISA={forced} is none of {', '.join(isas)}: unset it"
    taken = f"{forced} (forced)" if forced else isas[-1]
    return True, f"built and loaded; instruction sets here: {', '.join(isas)}; in use: {taken}"


def _multiplies(isa: str) -> bool:
    """Whether both ways of the engine give the sums of a plain loop, for a random table."""
    import numpy as np
    import torch

    from approxhub.backends.cpu import CpuBackend
    from approxhub.multiplier import Multiplier, exact

    rng = np.random.default_rng(0)
    m, k, n = _SIZE
    random = Multiplier.from_table(
        rng.integers(-30000, 30000, (256, 256)), name="doctor", a_signed=True, b_signed=True
    )
    for multiplier in (random, exact(8, signed=True)):
        a, b = (rng.integers(-128, 128, size).astype(np.int8) for size in ((m, k), (k, n)))
        expected = np.asarray(multiplier(a[:, :, None], b[None, :, :])).sum(1)
        backend = CpuBackend(isa)
        tables = backend.prepare(multiplier, torch.device("cpu"))
        sums = backend.gemm(torch.from_numpy(a), torch.from_numpy(b), tables, torch.int64)
        if not np.array_equal(sums.numpy(), expected):
            return False
    return True


def threads() -> Finding:
    """Say how many threads torch's OpenMP pool has: the engine's too."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pool = torch.get_num_threads()
    said = f"torch's OpenMP pool has {pool} thread(s), on {cores} core(s)"
    if "OpenMP" not in torch.__config__.parallel_info():
        said += "; this torch has no OpenMP, so that the engine has a pool of its own"
    return True, said


def compilers() -> Finding:
    """Say which C compilers there are: one is needed to build the engine."""
    found = [f"{name} ({path})" for name in _COMPILERS if (path := shutil.which(name))]
    return True, ", ".join(found) or "none; one is needed only to build the CPU engine"


def cuda() -> Finding:
    """Say what there is of CUDA: nothing of the core needs it."""
    import torch

    built = torch.version.cuda
    parts = [f"torch is built for CUDA {built}" if built else "torch is built without CUDA"]
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        parts.append(f"devices: {', '.join(devices)}")
    else:
        parts.append("no device")
    nvcc = shutil.which("nvcc")
    parts.append(f"nvcc at {nvcc}" if nvcc else "no nvcc")
    return True, "; ".join(parts)


def cache() -> Finding:
    """Whether the cache can be written, and holds nothing damaged."""
    from approxhub.registry.audit import verify
    from approxhub.registry.housekeeping import usage
    from approxhub.registry.store import default_root

    root = default_root()
    if not root.exists():
        if _writable(root):
            return True, f"{root}: empty, made at the first fetch"
        return False, f"{root} cannot be made: set APPROXHUB_HOME to a folder you can write"
    if not root.is_dir():
        return False, f"{root} is not a folder: set APPROXHUB_HOME to one"
    kinds = usage()
    total = sum(kind.bytes for kind in kinds.values()) / 1e6
    held = f"{root}: {kinds['refs'].files} id(s), {kinds['objects'].files} table(s), {total:.1f} MB"
    damaged = [r.name for r in verify() if not r.ok]
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        return False, f"{held}; damaged: {damaged[0]}{more}; `approxhub verify` says how to heal it"
    if not _writable(root):
        return False, f"{held}; it cannot be written: set APPROXHUB_HOME to a folder you can write"
    return True, f"{held}; writable, nothing damaged"


def _writable(folder: Path) -> bool:
    """Whether a folder can be written, or be made in the nearest one that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


_NAMED: dict[str, Callable[[], Finding]] = {
    "cache": cache,
    "compilers": compilers,
    "cpu-engine": engine,
    "cuda": cuda,
    "packages": packages,
    "python": python,
    "threads": threads,
}

CHECKS = tuple(HealthCheck(name, run) for name, run in _NAMED.items())
"""What ApproxHub offers through its own hook ``approxhub_checks``."""
