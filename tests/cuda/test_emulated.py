"""The kernels on the host, through the wrapper that users have: small sums, errors, schedules."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import emulated
import numpy as np
import pytest
import torch
from approxhub_cuda.backend import CudaBackend
from approxhub_cuda.native import Library

from approxhub.backends import Convolution, ConvRequest, GemmRequest, ReferenceBackend
from approxhub.errors import BackendUnavailableError, EngineError
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat
from approxhub.testing.contract import lopsided

WAYS = ("staged", "shared", "cached", "plain")
CPU = torch.device("cpu")
HERE = Path(__file__).parent


def operands(
    m: Multiplier, rows: int, k: int, n: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random values of both operands."""
    rng = np.random.default_rng(seed)
    return (
        torch.from_numpy(rng.integers(m.a.min, m.a.max + 1, (rows, k))),
        torch.from_numpy(rng.integers(m.b.min, m.b.max + 1, (k, n))),
    )


def looped(m: Multiplier, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The sums, by numpy on the table."""
    x, w = a.numpy() & (m.a.size - 1), b.numpy() & (m.b.size - 1)
    return torch.from_numpy(m.table[x[:, :, None], w[None]].astype(np.int64).sum(1))


def sums(
    backend: CudaBackend, m: Multiplier, rows: int, k: int, n: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the backend makes of random operands, and what it must be."""
    a, b = operands(m, rows, k, n, seed)
    return backend.gemm(a, b, backend.prepare(m, CPU), torch.int64), looped(m, a, b)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("formats", ["8s 8u", "4u 8s"])
def test_every_way_gives_the_sums_of_the_table(kernels: Path, way: str, formats: str) -> None:
    """Odd sizes, tails of tiles and cut sums are exact, though T[0][0] is 64."""
    backend, m = CudaBackend(Library(str(kernels)), way), lopsided(*formats.split())
    for size in ((3, 1, 2), (5, 147, 9), (130, 33, 5), (2, 300, 33)):
        found, wanted = sums(backend, m, *size)
        assert torch.equal(found, wanted), size


@pytest.mark.parametrize(("formats", "rank"), [("8s 8u", 0), ("8u 8u", 3), ("4u 8s", 6)])
def test_recoded_products_are_the_sums_of_the_table(kernels: Path, formats: str, rank: int) -> None:
    """On the matrix units too, with one pass of planes or several, of every sign and weight."""
    m = of_rank(*formats.split(), rank)
    backend = CudaBackend(Library(str(kernels)), "factored")
    tables = backend.prepare(m, CPU)
    assert tables.recodings is not None
    assert tables.recodings.planes > rank
    assert (len(tables.recodings.passes) > 1) == (rank > 0)
    for size in ((3, 1, 2), (5, 147, 9), (130, 33, 5), (2, 600, 70)):
        a, b = operands(m, *size)
        assert "factored" in explained(backend, m, *size) or rank == 0
        for dtype in (torch.int32, torch.int64):
            assert torch.equal(backend.gemm(a, b, tables, dtype).long(), looped(m, a, b)), size


def of_rank(a: str, b: str, rank: int) -> Multiplier:
    """The exact product plus `rank` terms, one of which takes two digits where both are 8u."""
    x, w = OperandFormat.parse(a), OperandFormat.parse(b)
    rng = np.random.default_rng(rank)
    u, v = rng.integers(-6, 7, (x.size, rank)), rng.integers(-6, 7, (rank, w.size))
    if rank and a == b:
        u[:, 0] = rng.integers(-300, 300, x.size)
    table = x.values()[:, None] * w.values()[None, :] + u @ v
    return Multiplier.from_table(table, name=f"r{rank}", a_signed=x.signed, b_signed=w.signed)


def explained(backend: CudaBackend, m: Multiplier, rows: int, k: int, n: int) -> str:
    """What the backend says of a product."""
    request = GemmRequest(m, rows, k, n, CPU, torch.int64)
    return backend.explain(request, backend.prepare(m, CPU))


@pytest.mark.parametrize("way", [*WAYS, "factored"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_convolutions(kernels: Path, way: str, groups: int) -> None:
    """Padding is a code like others; strides, dilations, groups and depthwise are exact."""
    backend = CudaBackend(Library(str(kernels)), way)
    m = of_rank("8u", "8s", 3) if way == "factored" else lopsided("8u", "8s")
    c = Convolution((2, 1), ((1, 2), (0, 1)), (1, 2), groups, 77)
    rng = np.random.default_rng(groups)
    x = torch.from_numpy(rng.integers(0, 256, (2, 8, 7, 6), dtype=np.uint8))
    w = torch.from_numpy(rng.integers(-128, 128, (8, 8 // groups, 3, 2), dtype=np.int8))
    reference = ReferenceBackend()
    from approxhub.backends.patches import convolve_patches

    prepared = reference.prepare(m, CPU)
    wanted = convolve_patches(
        x, w, c, torch.int32, lambda a, b: reference.gemm(a, b, prepared, torch.int32)
    )
    assert torch.equal(backend.conv(x, w, backend.prepare(m, CPU), torch.int32, c), wanted)


def test_no_schedule_changes_a_sum(kernels: Path) -> None:
    """Threads and blocks in other orders, and sums cut for other cards, give the same integers."""
    m = lopsided("8s", "8s")
    for seed in range(3):
        emulated.configure(kernels, seed=seed, processors=1 + 30 * seed)
        for way in (*WAYS, "factored"):
            backend = CudaBackend(Library(str(kernels)), way)
            taken = of_rank("8s", "8s", 2) if way == "factored" else m
            found, wanted = sums(backend, taken, 9, 1100, 10)
            assert torch.equal(found, wanted), (seed, way)


def test_a_launch_that_fails_is_an_error(kernels: Path) -> None:
    """A launch that the card refuses raises, with CUDA's name for it; the next one works."""
    backend, m = CudaBackend(Library(str(kernels))), lopsided("8u", "8u")
    prepared = backend.prepare(m, CPU)
    a, b = operands(m, 3, 5, 2)
    emulated.configure(kernels, refused=1)
    with pytest.raises(EngineError, match="cudaErrorLaunchOutOfResources"):
        backend.gemm(a, b, prepared, torch.int64)
    assert torch.equal(backend.gemm(a, b, prepared, torch.int64), looped(m, a, b))


def test_it_says_what_it_supports_and_how(kernels: Path) -> None:
    """No other devices, no images beyond 32 bits; the explanation names card and way."""
    backend, m = CudaBackend(Library(str(kernels)), "cached"), lopsided("8u", "8u")
    request = GemmRequest(m, 8, 16, 4, CPU, torch.int32)
    assert backend.supports(request)
    assert not backend.supports(replace(request, device=torch.device("meta")))
    plain = Convolution((1,), ((0, 0),), (1,))
    image = ConvRequest(m, (1, 1, 1 << 30), (1, 1, 1), plain, CPU, torch.int32)
    assert not backend.supports(image)
    told = backend.explain(request, backend.prepare(m, CPU))
    assert "emulated card" in told
    assert "(cached)" in told
    assert "not measured" in told
    with pytest.raises(BackendUnavailableError, match="no way is called 'quick'"):
        CudaBackend(Library(str(kernels)), "quick")


def test_a_library_of_another_version_is_refused(tmp_path: Path) -> None:
    """A library that is none, or whose interface is another, is refused with its path."""
    wrong = tmp_path / "wrong.so"
    wrong.write_bytes(b"not a library")
    with pytest.raises(BackendUnavailableError, match="cannot be loaded"):
        Library(str(wrong))
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc for a library of another version")
    source = tmp_path / "other.c"
    source.write_text("int ah_cuda_abi(void) { return 999; }\n")
    other = tmp_path / "other.so"
    subprocess.run(["gcc", "-shared", "-fPIC", str(source), "-o", str(other)], check=True)
    with pytest.raises(BackendUnavailableError, match="interface 999"):
        Library(str(other))


# --- seeded faults --------------------------------------------------------------------

# Of each: the file, what is there, and what is put in its place. Headers of both kernels are those
# of the lookups here.
FAULTS = {
    "a barrier is missing before an image is read": (
        "lookup.cuh",
        "taps[thread] = tap_of(w.a, k + thread);\n        __syncthreads();",
        "taps[thread] = tap_of(w.a, k + thread);",
    ),
    "a barrier is missing before an image is written": (
        "lookup.cuh", "__syncthreads();  // nobody reads the last image any more", ""
    ),
    "elements beyond K reach the table": (
        "lookup.cuh", "if (i + j < depth) {  // what is beyond K never reaches the table", "{"
    ),
    "a barrier is missing before tiles are multiplied": (
        "product.cuh",
        "}\n            __syncthreads();\n            if (following < end) fetch",
        "}\n            if (following < end) fetch",
    ),
    "a barrier is missing before tiles are written": (
        "product.cuh", "__syncthreads();  // the tiles are multiplied, the taps are used", ""
    ),
    "elements beyond K are recoded": ("product.cuh", "i < count ? recoding[", "true ? recoding["),
    "a fragment is another row's": (
        "product.cuh", "a[i][1] = at[8 * T::kStride];", "a[i][1] = at[7 * T::kStride];"
    ),
    "a column too many is written": (
        "product.cuh", "if (c < w.columns) {", "if (c <= w.columns) {"
    ),
    "padding is code 0": ("operand.cuh", "return static_cast<uint32_t>(o.pad);", "return 0;"),
    "a row of the image too many": ("operand.cuh", "at < o.size[d]", "at <= o.size[d]"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_caught(kernels: Path, name: str, tmp_path: Path) -> None:
    """A fault put into the sources makes the small tests above fail."""
    emulated.need()
    file, right, wrong = FAULTS[name]
    package = Path(shutil.copytree(emulated.PACKAGE, tmp_path / "package"))
    source = package / "csrc" / file
    text = source.read_text(encoding="utf-8")
    assert text.count(right) >= 1, "the fault has nowhere to go: the source has changed"
    source.write_text(text.replace(right, wrong), encoding="utf-8")
    library = emulated.build(
        tmp_path / "kernels.so",
        "-Wno-unused",
        "-Wno-unused-parameter",
        package=package,
        known=kernels,
        changed="product.cu" if file == "product.cuh" else "lookup.cu",
    )
    done = run_small_tests(library)
    assert done.returncode != 0, f"nobody noticed that {name}\n{done.stdout}"


def run_small_tests(library: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the tests above that make sums, on another build of the kernels."""
    import os

    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider",
            "-m", "not slow", str(HERE / "test_emulated.py"),
            "-k", "every_way or recoded or convolutions or schedule",
        ],
        cwd=library.parent, capture_output=True, text=True, timeout=500,
        env={**os.environ, "APPROXHUB_TEST_EMULATED": str(library), "OMP_NUM_THREADS": "1",
             **environment},
    )  # fmt: skip


@pytest.mark.slow
def test_no_sanitizer_complains(tmp_path: Path) -> None:
    """Under the address and undefined-behaviour sanitizers the small tests pass."""
    emulated.need()
    library = emulated.build(tmp_path / "kernels.so", *emulated.SANITIZED)
    done = run_small_tests(library, **sanitizers())
    assert done.returncode == 0, done.stdout + done.stderr


def sanitizers() -> dict[str, str]:
    """Environment in which Python can load a sanitized library."""
    names = ("libasan.so", "libubsan.so", "libstdc++.so")
    found = [
        subprocess.run(["g++", f"-print-file-name={n}"], capture_output=True, text=True).stdout
        for n in names
    ]
    return {
        "LD_PRELOAD": " ".join(path.strip() for path in found),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
