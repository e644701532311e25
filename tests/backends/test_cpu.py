"""The native CPU engine: every instruction set and every way, against the contract and the slow
loop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import approxhub as ah
from approxhub.backends import GemmRequest, ReferenceBackend, available_backends
from approxhub.backends.cpu import CpuBackend
from approxhub.backends.native import load_library
from approxhub.backends.planner import Rates, plan
from approxhub.errors import BackendUnavailableError
from approxhub.testing import BackendConformance

CPU = torch.device("cpu")
SIZES = [0, 1, 2, 3, 17, 64, 65, 255]


def _built() -> list[str]:
    try:
        return list(load_library().isas)
    except BackendUnavailableError:
        return []


ISAS = _built()
WAYS = ["lookup", "factored"]
needs_engine = pytest.mark.skipif(not ISAS, reason="approxhub was installed without its CPU engine")


def table(kind: str, signed: bool = False) -> ah.Multiplier:
    """An 8x8 multiplier that does not commute, with T[0, 0] = 64."""
    rng = np.random.default_rng(5)
    if kind == "full-rank":
        t = rng.integers(-32000, 32000, (256, 256))
        t[0, 0] = 64
    else:
        rank = int(kind.removeprefix("rank-"))
        v = ah.exact(8, signed).table.astype(np.int64)
        left = rng.integers(0, 4, (256, rank))  # small: products must span at most 16 bits
        right = rng.integers(0, 4, (rank, 256))
        left[0], right[:, 0] = 0, 0
        if rank:
            left[0, 0], right[0, 0] = 8, 8
        t = v + left @ right
    return ah.Multiplier.from_table(t, name=kind, a_signed=signed, b_signed=signed)


def values(m: ah.Multiplier, rows: int, k: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random operands with the extreme codes among them."""
    rng = np.random.default_rng(rows + 7 * k + 31 * columns)
    a = rng.integers(m.a.min, m.a.max, (rows, k), endpoint=True)
    b = rng.integers(m.b.min, m.b.max, (k, columns), endpoint=True)
    if a.size and b.size:
        a.flat[0], a.flat[-1], b.flat[0], b.flat[-1] = m.a.min, m.a.max, m.b.max, m.b.min
    return torch.from_numpy(a), torch.from_numpy(b)


def slow(m: ah.Multiplier, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The obvious sum, in int64."""
    out = np.zeros((a.shape[0], b.shape[1]), dtype=np.int64)
    for k in range(a.shape[1]):
        out += m.evaluate(a[:, k].numpy()[:, None], b[k].numpy()[None, :])
    return torch.from_numpy(out)


@needs_engine
@pytest.mark.parametrize("isa", ISAS)
class TestCpuConformance(BackendConformance):
    """The engine keeps the contract on every instruction set of this machine."""

    @pytest.fixture(autouse=True)
    def _isa(self, isa: str) -> None:
        self.isa = isa

    def make_backend(self) -> Any:
        """The engine on the instruction set under test."""
        return CpuBackend(self.isa)


@needs_engine
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["full-rank", "rank-0", "rank-1", "rank-2", "rank-5", "rank-12"])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_every_way_equals_the_slow_loop(isa: str, way: str, kind: str, signed: bool) -> None:
    """Lookup and factored products give == sums for odd sizes, tails and both signs."""
    m = table(kind, signed)
    backend = CpuBackend(isa, way)
    tables = backend.prepare(m, CPU)
    if way == "factored" and kind != "full-rank":
        assert backend.plan(tables, 3, 3, 3).way in ("factored", "exact")
    for rows, k, columns in [(1, 1, 1), (3, 27, 17), (65, 147, 33), (2, 255, 130), (255, 3, 2)]:
        a, b = values(m, rows, k, columns)
        found = backend.gemm(a, b, tables, torch.int64)
        assert torch.equal(found, slow(m, a, b)), (rows, k, columns)


@needs_engine
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("isa", ISAS)
def test_threads_give_the_same_integers(isa: str, way: str) -> None:
    """One to four threads, a size large enough to be shared, no difference."""
    m = table("rank-2", signed=True)
    backend = CpuBackend(isa, way)
    tables = backend.prepare(m, CPU)
    a, b = values(m, 300, 300, 70)
    before, expected = torch.get_num_threads(), slow(m, a, b)
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            assert torch.equal(backend.gemm(a, b, tables, torch.int64), expected)
    finally:
        torch.set_num_threads(before)


@needs_engine
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("isa", ISAS)
def test_sums_beyond_int32_are_exact(isa: str, way: str) -> None:
    """K past the bound of 32 bits, and past every inner flush, on the largest products."""
    t = np.full((256, 256), 65535)
    t[:128] = 65534
    m = ah.Multiplier.from_table(t, name="large")
    backend = CpuBackend(isa, way)
    tables = backend.prepare(m, CPU)
    a, b = values(m, 2, 70_001, 3)
    found = backend.gemm(a, b, tables, torch.int64)
    assert int(found.max()) > 2**31
    assert torch.equal(found, slow(m, a, b))


@needs_engine
@pytest.mark.parametrize("isa", ISAS)
def test_extreme_digits_do_not_saturate(isa: str) -> None:
    """255 times -128 and 127, four neighbours at a time: no instruction saturates on the way."""
    m = ah.exact(8, signed=False, b_signed=True)
    backend = CpuBackend(isa, "factored")
    tables = backend.prepare(m, CPU)
    a = torch.full((13, 4099), 255)
    b = torch.tensor([-128, 127]).repeat_interleave(40).repeat(4099, 1)
    assert torch.equal(backend.gemm(a, b, tables, torch.int64), a @ b)


@needs_engine
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["full-rank", "rank-2"])
def test_grid_of_sizes(isa: str, way: str, kind: str) -> None:
    """All triples of small sizes and the large ones pairwise, through the operator's own path."""
    m = table(kind, signed=True)
    backend = CpuBackend(isa, way)
    tables = backend.prepare(m, CPU)
    sizes = [s for s in SIZES if s]
    triples = [(x, y, z) for x in sizes for y in sizes for z in sizes]
    triples += [(1152, 64, 17), (3, 4608, 65), (65, 1152, 255), (1, 4608, 1152)]
    for rows, k, columns in triples:
        a, b = values(m, rows, k, columns)
        reference = ReferenceBackend()
        expected = reference.gemm(a, b, reference.prepare(m, CPU), torch.int64)
        found = backend.gemm(a, b, tables, torch.int64)
        assert torch.equal(found, expected), (rows, k, columns)


@needs_engine
def test_the_engine_is_chosen_on_the_cpu() -> None:
    """ah.matmul runs on the engine for 8-bit tables, and on the reference for what it refuses."""
    from approxhub.backends import choose

    for m, expected in ((table("full-rank"), "cpu"), (ah.exact(12), "reference")):
        request = GemmRequest(m, 64, 64, 64, CPU, torch.int64)
        assert choose(request)[0] == expected


def test_products_wider_than_16_bits_are_refused() -> None:
    """A table that spans more than 65,536 values is not the engine's; none is cut short."""
    t = np.zeros((256, 256), dtype=np.int64)
    t[3, 4] = 1 << 16
    m = ah.Multiplier.from_table(t, name="wide-span")
    request = GemmRequest(m, 4, 4, 4, CPU, torch.int64)
    assert not CpuBackend().supports(request)


@needs_engine
def test_an_unknown_instruction_set_is_a_reason() -> None:
    """APPROXHUB_CPU_ISA naming what this machine lacks says what it has."""
    reason = CpuBackend("vax").unavailable_reason()
    assert reason is not None
    assert "scalar" in reason
    assert CpuBackend(way="guess").unavailable_reason() is not None


def test_without_the_library_the_reference_serves() -> None:
    """An install without a compiler works, and says what is missing."""
    body = (
        "import approxhub.backends.native as n; n._NAME = 'nothing.so'\n"
        "import torch, approxhub as ah\n"
        "from approxhub.backends import available_backends\n"
        "print({i.name: r for i, r in available_backends()}['cpu'])\n"
        "a = torch.ones(2, 3, dtype=torch.int8)\n"
        "print(ah.matmul(a, a.t(), ah.exact(8)).tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", body], capture_output=True, text=True, check=True,
        env=os.environ | {"APPROXHUB_CPU_ISA": ""},
    )  # fmt: skip
    assert "C compiler" in done.stdout
    assert "[[3, 3], [3, 3]]" in done.stdout


@needs_engine
def test_one_pool_of_threads() -> None:
    """torch and the engine share one OpenMP runtime."""
    file = Path("/proc/self/maps")
    maps = file.read_text() if file.exists() else ""
    if "gomp" not in maps:
        pytest.skip("this machine's torch does not use libgomp, or has no /proc")
    load_library()
    maps = file.read_text()
    assert len({line.split()[-1] for line in maps.splitlines() if "gomp" in line}) == 1


def test_the_engine_was_built_where_it_must() -> None:
    """Continuous integration sets APPROXHUB_TEST_ENGINE=1: the engine must be there then."""
    if os.environ.get("APPROXHUB_TEST_ENGINE") != "1":
        pytest.skip("APPROXHUB_TEST_ENGINE is not set")
    assert {i.name: r for i, r in available_backends()}["cpu"] is None


def test_the_plan_is_the_cheapest_and_says_why() -> None:
    """Few planes go factored, many or none by lookup; a forced way is taken if it can be."""
    rates = Rates(lookup=25e9, product=200e9, pack=2e9)
    size = (256, 1152, 256, 1)
    assert plan(rates, *size, planes=2, exact=False, lookup=True).way == "factored"
    assert plan(rates, *size, planes=30, exact=False, lookup=True).way == "lookup"
    assert plan(rates, *size, planes=1, exact=True, lookup=True).way == "exact"
    assert plan(rates, *size, planes=None, exact=False, lookup=True).way == "lookup"
    forced = plan(rates, *size, planes=2, exact=False, lookup=True, forced="lookup")
    assert forced.way == "lookup"
    assert "factored" in str(forced)
