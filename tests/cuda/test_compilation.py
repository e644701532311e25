"""What nvcc makes of the kernels: no warning, no spill, and registers for enough threads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import emulated
import pytest

pytestmark = pytest.mark.slow

ARCHITECTURES = os.environ.get("APPROXHUB_TEST_CUDA_ARCHITECTURES", "80 90").split()
# Blocks of 512 threads fit a processor, of 256 threads, and four of 256 threads.
MOST_REGISTERS = {"lookup.cu": 128, "product.cu": 255, "real.cu": 64}


def resources(output: str) -> dict[str, tuple[int, int]]:
    """Registers, and bytes spilled, of each kernel, from what ``ptxas -v`` says."""
    found = {}
    for block in output.split("Compiling entry function '")[1:]:
        name = block.split("'")[0]
        [registers] = re.findall(r"Used (\d+) registers", block)
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill", block)))
        found[name] = (int(registers), spilled)
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", sorted(p.name for p in emulated.PACKAGE.glob("csrc/*.cu")))
def test_kernels_compile_without_warnings_or_spills(
    source: str, architecture: str, tmp_path: Path
) -> None:
    """Nvcc, with warnings as errors, spills no register, and takes few enough for a block."""
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    done = subprocess.run(
        [
            "nvcc", "-std=c++17", "-O3", f"-arch=sm_{architecture}", "-Xptxas=-v",
            "-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror", "-c",
            str(emulated.PACKAGE / "csrc" / source), "-o", str(tmp_path / "kernels.o"),
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = resources(done.stdout + done.stderr)
    assert bool(found) == ("__global__" in _with_headers(source))
    for name, (registers, spilled) in found.items():
        assert spilled == 0, f"{name} spills {spilled} bytes"
        assert registers <= MOST_REGISTERS[source], f"{name} takes {registers} registers"


def _with_headers(source: str) -> str:
    text = (emulated.PACKAGE / "csrc" / source).read_text(encoding="utf-8")
    headers = re.findall(r'#include "(\w+\.cuh)"', text)
    return text + "".join(
        (emulated.PACKAGE / "csrc" / h).read_text(encoding="utf-8") for h in headers
    )


def test_spills_are_read_from_the_compiler() -> None:
    """Registers and spills are found in the words of ptxas, of each kernel its own."""
    said = """
ptxas info    : Compiling entry function '_Zfirst' for 'sm_80'
ptxas info    : Function properties for _Zfirst
    24 bytes stack frame, 36 bytes spill stores, 76 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 24 bytes cumulative stack size
ptxas info    : Compiling entry function '_Zsecond' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 121 registers, used 1 barriers, 832 bytes cmem[0]
"""
    assert resources(said) == {"_Zfirst": (64, 112), "_Zsecond": (121, 0)}
