"""The native engine against plain loops: built here from its sources, under sanitizers.

`driver.c` runs on every instruction set that the machine has; on NEON in an emulated machine, and
on AVX-512 with its intrinsics emulated in portable C.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCES = ROOT / "csrc"
COMMON = ("-std=c11", "-D_POSIX_C_SOURCE=200809L", "-g", "-Werror", "-fopenmp")
SANITIZERS = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
ARM_ROOT = "/usr/aarch64-linux-gnu"
ARM_COMPILER, ARM_EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
EMULATED = HERE / "emulated"
X86_EMULATOR = "qemu-x86_64"
SIMDE = Path("/usr/include/simde/x86/avx512.h")

pytestmark = [
    pytest.mark.skipif(not SOURCES.is_dir(), reason="needs a checkout: no csrc/"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs gcc and its sanitizers on Linux"),
]


def cmake_flags(processor: str) -> tuple[list[str], dict[str, list[str]]]:
    """Flags of all sources in CMakeLists.txt, and of each instruction set of a processor."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    [common] = re.findall(r"target_compile_options\(\w+ PRIVATE ([^)]*)\)", text)
    branches = re.findall(r'CMAKE_SYSTEM_PROCESSOR MATCHES "(.+)"\)\n((?:  .*\n)+)', text)
    kernels = "".join(body for pattern, body in branches if re.search(pattern, processor))
    own = re.findall(r'add_kernels\((\w+) "(.*)"\)', kernels)
    return common.split(), {name: flags.split() for name, flags in own}


def build(
    folder: Path,
    compiler: str,
    processor: str,
    optimization: str,
    *,
    emulated: Sequence[str] | None = None,
    sanitized: bool = True,
) -> Path:
    """Compile the driver and all of the engine, or of its sets AVX-512 alone, emulated.

    `emulated` holds more flags for that one.
    """
    flags, own = cmake_flags(processor)
    if emulated is not None:  # intrinsics wrap, and SIMDe writes them as signed sums
        own = {"avx512": [f"-I{EMULATED}", "-fwrapv", "-Wno-psabi", *emulated]}
    flags += [*COMMON, f"-I{SOURCES}"]
    flags += [f"-DAH_HAVE_{name.upper()}" for name in own]
    shared = [p for p in SOURCES.glob("*.c") if not p.stem.startswith("kernels_")]
    # The engine is watched, and not the loops that it is compared with; but for their memory.
    watched = [*(SANITIZERS if sanitized else ()), optimization]
    sources: dict[Path, list[str]] = {p: ["-O2"] for p in HERE.glob("*.c")}
    sources |= {p: watched for p in (*shared, SOURCES / "kernels_scalar.c")}
    sources |= {SOURCES / f"kernels_{name}.c": watched + extra for name, extra in own.items()}
    objects = [folder / f"{path.parent.name}_{path.stem}.o" for path in sources]

    def compile_one(path: Path, to: Path) -> None:
        command = [compiler, *flags, *sources[path], "-c", str(path), "-o", str(to)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, objects))
    driver = folder / "driver"
    subprocess.run(
        [compiler, *flags, *watched, *map(str, objects), "-lm", "-o", str(driver)], check=True
    )
    return driver


def run(driver: Path, vectors: Path, *emulator: str) -> subprocess.CompletedProcess[str]:
    """Run the driver, under an emulator if one is given."""
    return subprocess.run(
        [*emulator, str(driver), str(vectors)], capture_output=True, text=True,
        env=os.environ | {
            "OMP_DYNAMIC": "false", "OMP_WAIT_POLICY": "passive",
            # The leak check traces threads, which an emulator does not offer.
            "ASAN_OPTIONS": f"detect_leaks={int(not emulator)}",
        },
    )  # fmt: skip


def agreed(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Instruction sets on which everything agreed."""
    assert done.returncode == 0, done.stdout + done.stderr
    return set(
        re.findall(r"^(\w+): [1-9]\d* kernel calls, [1-9]\d* engine runs$", done.stdout, re.M)
    )


def need(*tools: str) -> None:
    """Skip a test without its tools; continuous integration sets APPROXHUB_TEST_NATIVE=1: fail."""
    missing = [tool for tool in tools if shutil.which(tool) is None and not Path(tool).is_file()]
    if missing and os.environ.get("APPROXHUB_TEST_NATIVE") == "1":
        pytest.fail(f"{', '.join(missing)} must be installed")
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver for this machine, built in a hurry."""
    need("gcc")
    return build(tmp_path_factory.mktemp("native"), "gcc", platform.machine(), "-O1")


def test_every_instruction_set_equals_plain_loops(
    driver: Path, write_vectors: Callable[..., Path]
) -> None:
    """Kernels and engine give the sums of plain loops, and no sanitizer has a complaint."""
    assert "scalar" in agreed(run(driver, write_vectors(30)))


def test_a_difference_is_reported(driver: Path, write_vectors: Callable[..., Path]) -> None:
    """One wrong sum in the vectors ends the driver with 1 and a line that says where."""
    path = write_vectors(1, named=False)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the last sum of the last case
    path.write_bytes(content)
    done = run(driver, path)
    assert done.returncode == 1
    assert re.fullmatch(
        r"scalar, 1 threads, random 1, element \d+ of \d+: -?\d+ instead of -?\d+\n", done.stderr
    )


def test_expected_sums_are_convolutions(geometry: type) -> None:
    """The patches that the expected sums are made of are those of torch's convolution."""
    g = geometry(
        2, 2, 3, (5, 7, 9), (2, 3, 2), (1, 0, 2), (0, 2, 1), (2, 1, 3), (1, 2, 2), (0, 2, 3, 4, 1),
        2,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, g.shape).astype(np.uint8)
    source = np.zeros(2 * x.size, np.uint8)
    np.lib.stride_tricks.as_strided(source, g.shape, g.step)[...] = x
    rows = rng.integers(-128, 128, (4, 3, *g.kernel))
    sums = np.einsum(
        "grct,igct...->igr...", rows.reshape(2, 2, 3, -1), g.patches(source).astype(np.int64)
    )
    sides = [side for both in zip(g.before[::-1], g.after[::-1], strict=True) for side in both]
    padded = torch.nn.functional.pad(torch.from_numpy(x).double(), sides)
    found = torch.nn.functional.conv3d(
        padded, torch.from_numpy(rows).double(), None, g.stride, 0, g.dilation, 2
    )
    assert np.array_equal(found.numpy(), sums.reshape(found.shape))


@pytest.mark.slow
def test_many_cases_equal_plain_loops(tmp_path: Path, write_vectors: Callable[..., Path]) -> None:
    """So do many more shapes, layouts and tables, optimized as a release is."""
    need("gcc")
    driver = build(tmp_path, "gcc", platform.machine(), "-O3")
    assert "scalar" in agreed(run(driver, write_vectors(1000)))


@pytest.mark.slow
def test_neon_equals_plain_loops(tmp_path: Path, write_vectors: Callable[..., Path]) -> None:
    """So do the NEON kernels, cross-compiled and emulated, under the same sanitizers."""
    need(ARM_COMPILER, ARM_EMULATOR)
    driver = build(tmp_path, ARM_COMPILER, "aarch64", "-O3")
    done = run(driver, write_vectors(30), ARM_EMULATOR, "-L", ARM_ROOT)
    assert agreed(done) == {"scalar", "neon"}


@pytest.mark.slow
def test_what_a_machine_lacks_is_left_alone(
    tmp_path: Path, write_vectors: Callable[..., Path]
) -> None:
    """One library serves older machines: no instruction that they lack runs, and sums are right."""
    if platform.machine() != "x86_64":
        pytest.skip("the compiler here builds for another machine")
    need("gcc", X86_EMULATOR)
    driver = build(tmp_path, "gcc", "x86_64", "-O3", sanitized=False)
    vectors = write_vectors(2, long=False)
    for cpu, sets in (("Nehalem", {"scalar"}), ("Haswell", {"scalar", "avx2"})):
        assert agreed(run(driver, vectors, X86_EMULATOR, "-cpu", cpu)) == sets


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [0, 1])
def test_avx512_equals_plain_loops(
    pairs: int, tmp_path: Path, write_vectors: Callable[..., Path]
) -> None:
    """So do the AVX-512 kernels on any machine, their intrinsics emulated, likewise.

    Both kinds of permutation: of what Intel's and of what AMD's cores are quick at.
    """
    need("gcc", str(SIMDE))
    driver = build(tmp_path, "gcc", platform.machine(), "-O2", emulated=[f"-DAH_PAIRS={pairs}"])
    vectors = write_vectors(30, long=pairs == 0)  # where sums are cut is the engine's affair
    assert agreed(run(driver, vectors)) == {"scalar", "avx512"}
