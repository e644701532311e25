"""The kernels on the host, through the wrapper that users have: small sums, errors, schedules."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import emulated
import pytest
import small
import torch
from approxhub_cuda.backend import CudaBackend
from approxhub_cuda.native import Library
from small import CPU, WAYS, looped, operands

from approxhub.backends import Convolution, ConvRequest, GemmRequest
from approxhub.errors import BackendUnavailableError, EngineError
from approxhub.testing.contract import lopsided

HERE = Path(__file__).parent


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("formats", ["8s 8u", "4u 8s"])
def test_every_way_gives_the_sums_of_the_table(kernels: Path, way: str, formats: str) -> None:
    """Odd sizes, tails of tiles and cut sums are exact, though T[0][0] is 64."""
    small.every_way(kernels, way, formats)


@pytest.mark.parametrize(("formats", "rank"), [("8s 8u", 0), ("8u 8u", 3), ("4u 8s", 6)])
def test_recoded_products_are_the_sums_of_the_table(kernels: Path, formats: str, rank: int) -> None:
    """On the matrix units too, with one pass of planes or several, of every sign and weight."""
    small.recoded(kernels, formats, rank)


@pytest.mark.parametrize("way", [*WAYS, "factored"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_convolutions(kernels: Path, way: str, groups: int) -> None:
    """Padding is a code like others; strides, dilations, groups and depthwise are exact."""
    small.convolutions(kernels, way, groups)


def test_no_schedule_changes_a_sum(kernels: Path) -> None:
    """Threads and blocks in other orders, and sums cut for other cards, give the same integers."""
    small.schedules(kernels)


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
        "product.cuh", "a[i][1] = at[8 * T::kWords + low];", "a[i][1] = at[7 * T::kWords + low];"
    ),
    "a column too many is written": (
        "product.cuh", "if (c < w.columns) {", "if (c <= w.columns) {"
    ),
    "padding is code 0": ("operand.cuh", "? __ldg(o.pad_from) : o.pad", "? __ldg(o.pad_from) : 0"),
    "padding is not read from the card": ("operand.cuh", "? __ldg(o.pad_from) :", "? 0 :"),
    "a row of the image too many": ("operand.cuh", "at < o.size[d]", "at <= o.size[d]"),
    "the last number is left out": ("real.cuh", "numbers - i)), p);", "numbers - i - 1)), p);"),
    "numbers after the first share its channel": (
        "real.cuh", "if (++p.at < inner) return;", "return;"
    ),
    "NaN is not noticed": ("real.cuh", "fabsf(x[j]) <= kLargest", "kLargest > 0.0f"),
    "blocks take their numbers once": ("real.cuh", "numbers; i += step", "numbers; i += numbers"),
    "the first sum of groups serves all": (
        "real.cuh", "p.outer * w.groups + quotient(p.channel, together)", "p.outer * w.groups"
    ),
    "terms of a gradient are left out": ("real.cuh", "if (t >= w.terms)", "if (t > 0)"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_caught(kernels: Path, name: str, tmp_path: Path) -> None:
    """A fault put into the sources makes the small checks fail, or ends their process."""
    emulated.need()
    file, right, wrong = FAULTS[name]
    library = emulated.build(
        tmp_path / "kernels.so",
        "-Wno-unused",
        "-Wno-unused-parameter",
        package=spoilt(tmp_path / "package", file, right, wrong),
        known=kernels,
        changed={"product.cuh": "product.cu", "real.cuh": "real.cu"}.get(file, "lookup.cu"),
    )
    check = small.all_real if file == "real.cuh" else small.all_sums
    assert survives(check, kernels), "the right kernels fail"
    assert not survives(check, library), f"nobody noticed that {name}"


def spoilt(to: Path, file: str, right: str, wrong: str) -> Path:
    """A copy of the package with a fault in one of its sources."""
    package = Path(shutil.copytree(emulated.PACKAGE, to))
    source = package / "csrc" / file
    text = source.read_text(encoding="utf-8")
    assert text.count(right) >= 1, "the fault has nowhere to go: the source has changed"
    source.write_text(text.replace(right, wrong), encoding="utf-8")
    return package


@functools.cache
def survives(check: Callable[[Path], None], library: Path) -> bool:
    """Whether a check ends well, in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    # Imported once, also what torch imports when an operator is called first.
    context.set_forkserver_preload(["small", "torch._dynamo"])
    child = context.Process(target=check, args=(library,))
    child.start()
    child.join(200)
    child.kill()
    return child.exitcode == 0


@pytest.mark.slow
def test_no_sanitizer_complains(tmp_path: Path) -> None:
    """Under the address and undefined-behaviour sanitizers the small checks pass."""
    emulated.need()
    library = emulated.build(tmp_path / "kernels.so", *emulated.SANITIZED)
    done = sanitized(library, emulated.sanitizers(), "sums", "real")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("way", ["not Cached and not Factored", "Cached", "Factored"])
def test_the_contract_holds_under_sanitizers(way: str, tmp_path: Path) -> None:
    """The conformance suite, but for what takes minutes by emulation; a campaign has all of it."""
    emulated.need()
    campaign = HERE.parent / "campaigns" / "kernels.py"
    chosen = f"Emulated and {way} and not float64 and not 4u-33025"
    done = subprocess.run(
        [sys.executable, str(campaign), "-q", "-k", chosen],
        cwd=tmp_path, capture_output=True, text=True, timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [passed] = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) > 200


# What only the thread sanitizer sees: here threads and blocks take turns that hide it.
RACES: dict[str, tuple[str, str, str] | None] = {
    "nothing is wrong": None,
    "sums that blocks share are not added atomically": (
        "device.cuh",
        "atomicAdd(reinterpret_cast<unsigned long long *>(to), "
        "static_cast<unsigned long long>(value));",
        "*to += value;",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RACES)
def test_races_are_seen(name: str, tmp_path: Path) -> None:
    """Two threads meet at one address only with a barrier between them, or atomically."""
    emulated.need()
    fault = RACES[name]
    package = spoilt(tmp_path / "package", *fault) if fault else emulated.PACKAGE
    library = emulated.build(tmp_path / "kernels.so", *emulated.RACES, package=package)
    done = sanitized(library, emulated.sanitizers(races=True), "turns")
    said = done.stdout + done.stderr
    if "unexpected memory mapping" in said:
        pytest.skip("the thread sanitizer does not run here: addresses are too random for it")
    assert ("data race" in said) == (fault is not None), said
    assert (done.returncode == 0) == (fault is None), said


def sanitized(
    library: Path, environment: dict[str, str], *checks: str
) -> subprocess.CompletedProcess[str]:
    """Small checks of a build, in a process that has the sanitizer."""
    return subprocess.run(
        [sys.executable, str(HERE / "small.py"), str(library), *checks],
        cwd=library.parent, capture_output=True, text=True, timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path),
             **environment},
    )  # fmt: skip
