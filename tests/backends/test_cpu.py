"""The native CPU engine: every instruction set and every way, against the contract and the slow
loop."""

from __future__ import annotations

import functools
import itertools
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from campaigns import engine as campaign

import approxhub as ah
from approxhub.backends import (
    Backend,
    Convolution,
    ConvRequest,
    GemmRequest,
    ReferenceBackend,
    available_backends,
    patches,
)
from approxhub.backends import cpu as engine
from approxhub.backends.cpu import RATES, CpuBackend
from approxhub.backends.native import load_library
from approxhub.backends.planner import Rates, Work, plan
from approxhub.errors import BackendUnavailableError
from approxhub.ops import code_dtype
from approxhub.testing import BackendConformance
from approxhub.testing.backend import conv_loop, gemm_loop

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
    return torch.from_numpy(gemm_loop(m, a.numpy().astype(np.int64), b.numpy().astype(np.int64)))


def slow_conv(m: ah.Multiplier, x: torch.Tensor, w: torch.Tensor, c: Convolution) -> torch.Tensor:
    """The obvious convolution, in int64."""
    return torch.from_numpy(conv_loop(m, x.numpy().astype(np.int64), w.numpy().astype(np.int64), c))


def images(
    m: ah.Multiplier, x_shape: tuple[int, ...], w_shape: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images and weights, in bytes, as a layer hands them over."""
    x, w = values(m, 1, math.prod(x_shape), 1)[0], values(m, 1, 1, math.prod(w_shape))[1]
    return (
        x.reshape(x_shape).to(code_dtype(m.a)),
        w.reshape(w_shape).to(code_dtype(m.b)),
    )


def plain(dims: int, pad: int = 0, value: int = 0, groups: int = 1) -> Convolution:
    """Stride and dilation of one, padding of `pad` on all sides."""
    return Convolution((1,) * dims, ((pad, pad),) * dims, (1,) * dims, groups, value)


Threads = Callable[[int], None]


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Sets the number of torch's threads, and puts it back in the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class _Conformance(BackendConformance):
    """One backend for all tests of a class, so each instruction set has a class of its own."""

    isa: ClassVar[str]

    def make_backend(self) -> Backend:
        """Make the engine on the instruction set under test."""
        return CpuBackend(self.isa)


# Of the sets that this machine can run: hundreds of skips for the others would say nothing.
for _isa in ISAS:
    globals()[f"Test{_isa.capitalize()}"] = type(
        f"Test{_isa.capitalize()}", (_Conformance,), {"isa": _isa, "__module__": __name__}
    )


def test_which_instruction_sets_keep_the_contract() -> None:
    """The sets that the contract was not tried on here are named."""
    missing = sorted(set(RATES) - set(ISAS))
    if missing:
        pytest.skip(f"not tried here, for lack of them: {', '.join(missing)}")


@pytest.mark.cover(3)
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
def test_threads_give_the_same_integers(isa: str, way: str, threads: Threads) -> None:
    """One to four threads, a size large enough to be shared, no difference."""
    m = table("rank-2", signed=True)
    backend = CpuBackend(isa, way)
    tables = backend.prepare(m, CPU)
    a, b = values(m, 300, 300, 70)
    expected = slow(m, a, b)
    for count in (1, 2, 3, 4):
        threads(count)
        assert torch.equal(backend.gemm(a, b, tables, torch.int64), expected)


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
    rates = Rates(lookup=25e9, product=200e9, lay=2e9, emit=1e9)
    work = Work(lanes=256, rows=256, k=1152, laid=256 * 1152)

    def made(planes: int | None, exact: bool = False, forced: str | None = None) -> Any:
        product = None if planes is None else work
        return plan(
            rates, 1, product=product, lookup=work, planes=planes, exact=exact, forced=forced
        )

    assert made(2).way == "factored"
    assert made(30).way == "lookup"
    assert made(1, exact=True).way == "exact"
    assert made(None).way == "lookup"
    assert made(None, forced="factored").way == "lookup"
    assert made(1, exact=True, forced="factored").way == "exact"
    forced = made(2, forced="lookup")
    assert forced.way == "lookup"
    assert "factored (2 int8 products for one)" in str(forced)
    assert forced.seconds == dict(forced.estimates)["lookup"] > dict(forced.estimates)["factored"]


def test_the_plan_knows_both_loops_of_a_lookup() -> None:
    """Few rows or lanes take one loop; many take the other, and pay for 16 rows at a time."""
    few = Rates(lookup=2e9, product=1e9, lay=1e9, emit=1e9)
    both = Rates(lookup=2e9, product=1e9, lay=1e9, emit=1e9, spread=16e9, many=32e9)
    assert few.lookups(65, 3, 10) == both.lookups(65, 3, 10) == 128 * 3 * 10 / 2e9
    assert both.lookups(1024, 33, 7) == pytest.approx(7 * 48 * (256 / 16e9 + 1024 / 32e9))
    assert both.lookups(1025, 64, 7) == pytest.approx(7 * 64 * (512 / 16e9 + 1025 / 32e9))
    assert few.lookups(1024, 64, 7) > 4 * both.lookups(1024, 64, 7)
    loading = Rates(lookup=2e9, product=1e9, lay=1e9, emit=1e9, load=50)
    assert loading.lookups(257, 3, 10) == (320 + 2 * 50) * 3 * 10 / 2e9


def test_the_plan_knows_what_scattered_sums_take() -> None:
    """Sums of neighbouring lanes that lie apart take longer to write."""
    rates = Rates(lookup=1e9, product=1e9, lay=1e9, emit=1e9)

    def seconds(scattered: bool) -> float:
        work = Work(64, 10, 3, 0, scattered)
        return plan(rates, 1, product=None, lookup=work, planes=None, exact=False).seconds

    assert seconds(True) - seconds(False) == pytest.approx(3 * 64 * 10 / 1e9)


# --- convolutions -------------------------------------------------------------------------

CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Convolution]] = {
    "plain": ((2, 5, 9, 11), (7, 5, 3, 3), plain(2, 1, 77)),
    "depthwise": ((3, 13, 9, 10), (13, 1, 3, 3), plain(2, 1, 77, groups=13)),
    "depthwise, many images": ((11, 4, 9, 10), (4, 1, 3, 3), plain(2, 1, 77, groups=4)),
    "depthwise, two each": (
        (2, 5, 12, 10), (10, 1, 3, 2), Convolution((2, 3), ((1, 0), (0, 1)), (1, 2), 5, 77),
    ),
    "groups": ((2, 15, 8, 9), (6, 5, 2, 3), plain(2, 1, 77, groups=3)),
    "strides": ((2, 6, 17, 19), (5, 6, 3, 3), Convolution((2, 3), ((1, 2), (0, 1)), (1, 1), 1, 77)),
    "dilation": ((1, 3, 17, 19), (4, 3, 3, 3), Convolution((3, 2), ((4, 1),) * 2, (2, 3), 1, 77)),
    "line": ((3, 6, 301), (5, 6, 7), Convolution((2,), ((3, 4),), (2,), 1, 77)),
    "volume": ((2, 3, 6, 7, 8), (5, 3, 2, 3, 3), plain(3, 1, 77)),
    "tiny": ((19, 8, 2, 2), (5, 8, 3, 3), plain(2, 1, 77)),
    "tiny groups": ((19, 6, 2, 2), (4, 3, 3, 3), plain(2, 1, 77, groups=2)),
    "many rows": ((1, 4, 9, 9), (203, 4, 1, 1), plain(2)),
}  # fmt: skip


@needs_engine
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["full-rank", "rank-0", "rank-3"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_way_of_a_convolution(isa: str, way: str, kind: str, name: str) -> None:
    """Lookup and products of lanes give == sums, also where patches are not worth it."""
    x_shape, w_shape, c = CONVOLUTIONS[name]
    m = table(kind, signed=True)
    x, w = images(m, x_shape, w_shape)
    found = CpuBackend(isa, way).conv(x, w, prepared(kind), torch.int32, c)
    assert torch.equal(found.to(torch.int64), slow_conv(m, x, w, c))


@functools.cache
def prepared(kind: str, signed: bool = True) -> engine.CpuTables:
    """Tables are the same for every instruction set, so they are prepared once."""
    return CpuBackend().prepare(table(kind, signed), CPU)


@needs_engine
@pytest.mark.parametrize("kind", ["full-rank", "rank-0", "rank-3"])
def test_tables_for_every_way(kind: str) -> None:
    """Tables hold the lookup's image always, and planes for either operand where that pays."""
    tables = prepared(kind)
    expected = {"full-rank": None, "rank-0": 1}.get(kind, 4)
    assert tables.planes == expected
    for planes in (tables.activation_rows, tables.weight_rows):
        assert (planes is None) == (expected is None)
        assert planes is None or len(planes) == expected
    for image in (tables.by_weight, tables.by_activation):
        assert image.shape == (256, 512)
    m = tables.multiplier
    entry = int(tables.by_weight[7, 200]) + 256 * int(tables.by_weight[7, 456]) + tables.bias
    assert entry == m.table[200, 7]
    entry = (
        int(tables.by_activation[7, 200]) + 256 * int(tables.by_activation[7, 456]) + tables.bias
    )
    assert entry == m.table[7, 200]


@needs_engine
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_lanes_of_both_ways_are_counted(name: str) -> None:
    """A plan is made of what either way computes: all outputs, and less than all padded lines."""
    x_shape, w_shape, c = CONVOLUTIONS[name]
    size = c.output_size(x_shape[2:], w_shape[2:])
    strides = tuple(math.prod(x_shape[i:]) for i in range(1, len(x_shape) + 1))
    sizes = load_library().measure(engine._image(x_shape, strides, w_shape[2:], size, c), 1)
    outputs = x_shape[0] * math.prod(size)
    padded = x_shape[0] * math.prod(n + k * 3 + 64 for n, k in zip(size, w_shape[2:], strict=True))
    assert outputs <= sizes.product_lanes <= sizes.lookup_lanes <= padded


@needs_engine
@pytest.mark.parametrize("isa", ISAS)
def test_a_convolution_takes_what_is_quickest(isa: str) -> None:
    """Of 64 channels, the exact table is multiplied, and one without structure looked up."""
    shape, backend = ((4, 64, 28, 28), (64, 64, 3, 3), plain(2, 1)), CpuBackend(isa)
    for kind, way in (("rank-0", "exact"), ("full-rank", "lookup")):
        request = ConvRequest(table(kind, signed=True), *shape, CPU, torch.int32)
        assert f"; {way}" in backend.explain(request, prepared(kind))


@needs_engine
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["plain", "groups", "volume", "tiny"])
def test_blocks_of_images(way: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few images fit the memory for lanes, the last block included, sums are the same."""
    _, w_shape, c = CONVOLUTIONS[name]
    x_shape = (7, *CONVOLUTIONS[name][0][1:])
    m = table("rank-3", signed=True)
    x, w = images(m, x_shape, w_shape)
    tables, want = prepared("rank-3"), slow_conv(m, x, w, c)
    monkeypatch.setattr(engine, "_PATCH_BYTES", 0)
    calls = []
    for method in ("lay_codes", "lay_planes"):
        library = load_library()
        original = getattr(library, method)
        monkeypatch.setattr(library, method, lambda *a, f=original: calls.append(1) or f(*a))
    blocks = set()
    for limit in (1, 1 << 12, 1 << 14, 1 << 24):
        monkeypatch.setattr(engine, "_LANE_BYTES", limit)
        calls.clear()
        backend = CpuBackend(way=way)  # which remembers what it does with a shape
        assert torch.equal(backend.conv(x, w, tables, torch.int64, c), want)
        blocks.add(len(calls))
    assert {1, 7} <= blocks


@needs_engine
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["tiny", "tiny groups", "depthwise", "plain", "line", "volume"])
def test_patches_and_lanes_give_the_same(
    isa: str, way: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether an image is cut into patches or laid as lanes decides speed alone.

    Groups are never cut: each would be a call of its own.
    """
    x_shape, w_shape, c = CONVOLUTIONS[name]
    m = table("rank-3", signed=True)
    x, w = images(m, x_shape, w_shape)
    want, cut = slow_conv(m, x, w, c), []
    original = patches.convolve_patches
    monkeypatch.setattr(engine, "convolve_patches", lambda *a: cut.append(1) or original(*a))
    for limit in (0, 1 << 40):
        monkeypatch.setattr(engine, "_PATCH_BYTES", limit)
        backend = CpuBackend(isa, way)  # which remembers what it does with a shape
        assert torch.equal(backend.conv(x, w, prepared("rank-3"), torch.int64, c), want)
        assert bool(cut) == (limit > 0 and name == "tiny")


@pytest.mark.parametrize("per_block", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("name", ["plain", "groups", "strides", "line", "volume"])
def test_patches_in_blocks(name: str, per_block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few images of patches fit a block, the last one included, sums are the same."""
    _, w_shape, c = CONVOLUTIONS[name]
    m = table("rank-3", signed=True)
    x, w = images(m, (7, *CONVOLUTIONS[name][0][1:]), w_shape)
    reference, calls = ReferenceBackend(), []
    kept = reference.prepare(m, CPU)

    def gemm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        calls.append(len(a))
        return reference.gemm(a, b, kept, torch.int64)

    pixels = math.prod(c.output_size(tuple(x.shape[2:]), w_shape[2:]))
    image = c.groups * math.prod(w_shape[1:]) * pixels
    monkeypatch.setattr(patches, "_PATCH_BYTES", per_block * image)
    found = patches.convolve_patches(x, w, c, torch.int64, gemm)
    assert torch.equal(found, slow_conv(m, x, w, c))
    assert len(calls) == -(-7 // max(1, per_block)) * c.groups


@needs_engine
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("isa", ISAS)
def test_threads_of_a_convolution(isa: str, way: str, threads: Threads) -> None:
    """One to four threads, sizes large enough to be shared, batch one too: no difference."""
    m = table("rank-3", signed=True)
    backend = CpuBackend(isa, way)
    for x_shape, w_shape, groups in (
        ((1, 16, 20, 20), (33, 16, 3, 3), 1),
        ((5, 24, 30, 30), (24, 1, 3, 3), 24),
    ):
        c = plain(2, 1, 77, groups)
        x, w = images(m, x_shape, w_shape)
        expected = slow_conv(m, x, w, c)
        for count in (1, 2, 3, 4):
            threads(count)
            assert torch.equal(backend.conv(x, w, prepared("rank-3"), torch.int64, c), expected)


# --- long sums ------------------------------------------------------------------------------

# Ranges of the two factors of a table; all of their products span at most 16 bits.
FACTORS = {
    "bytes": ((0, 255), (-128, 127)),
    "offset-left": ((-200, 55), (-128, 127)),
    "offset-right": ((0, 255), (-20, 235)),
    "offset-both": ((-200, 55), (-20, 235)),
    "digits-left": ((-3900, 4000), (-8, 7)),
    "digits-right": ((-8, 7), (-3900, 4000)),
    "most-digits": ((-32_000, 32_000), (0, 1)),
}


@functools.cache
def product_of(name: str) -> ah.Multiplier:
    """A table of rank one, its factors of those ranges in a random order."""
    rng = np.random.default_rng(3)
    left, right = (rng.integers(*ends, 256, endpoint=True) for ends in FACTORS[name])
    for factor, ends in zip((left, right), FACTORS[name], strict=True):
        factor[[3, 77]] = ends
    return ah.Multiplier.from_table(np.outer(left, right), name=name)


@needs_engine
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", FACTORS)
def test_digits_and_offsets_of_factors(isa: str, name: str) -> None:
    """Factors of several digits, or of bytes with an offset, give exact sums either way round."""
    m = product_of(name)
    backend = CpuBackend(isa, "factored")
    tables = backend.prepare(m, CPU)
    assert tables.planes == (2 if "digits" in name else 1)
    offset = [
        any(o.any() for o in t.arrays[2:4])
        for t in (tables.activation_rows, tables.weight_rows)
        if t
    ]
    if "digits" not in name:
        assert offset == ([True, True] if "offset" in name else [False, True])
    a, b = values(m, 19, 147, 33)
    assert torch.equal(backend.gemm(a, b, tables, torch.int64), slow(m, a, b))
    c = Convolution((2, 1), ((1, 2), (0, 1)), (1, 2), 2, 201)
    x, w = images(m, (2, 10, 9, 11), (6, 5, 3, 3))
    assert torch.equal(backend.conv(x, w, tables, torch.int64, c), slow_conv(m, x, w, c))


@needs_engine
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("k", [255, 256, 257, 32767, 32768, 32769, 65535, 65536, 65537, 131077])
def test_sums_beyond_every_flush(isa: str, way: str, k: int) -> None:
    """Sums of the largest products are exact at each K where a kernel empties its lanes."""
    m, tables = largest()
    a, b = torch.full((2, k), 255, dtype=torch.uint8), torch.full((k, 3), 255, dtype=torch.uint8)
    a[1, ::2], b[:, 1] = 0, 128
    backend = CpuBackend(isa, way)
    found = backend.gemm(a, b, tables, torch.int64)
    want = torch.tensor([[int(m.table[x, w]) for w in (255, 128, 255)] for x in (255, 0)])
    even = (k + 1) // 2
    assert torch.equal(found, torch.stack([k * want[0], even * want[1] + (k - even) * want[0]]))
    # A convolution of one line, its channels as many as fit below three taps of them.
    x, w = a[:1, : k - k % 3].reshape(1, -1, 3), b.t()[:, : k - k % 3].reshape(3, -1, 3)
    found = backend.conv(x.contiguous(), w.contiguous(), tables, torch.int64, plain(1))
    assert found.reshape(-1).tolist() == [(k - k % 3) * int(v) for v in want[0]]


@functools.cache
def largest() -> tuple[ah.Multiplier, engine.CpuTables]:
    """Products from 0 to 65,535, both bytes of the largest full, of factors that span a byte."""
    t = np.arange(256)[:, None] * np.arange(2, 258)
    t[0, 0] = 64
    m = ah.Multiplier.from_table(t, name="largest")
    tables = CpuBackend().prepare(m, CPU)
    assert tables.planes is not None
    return m, tables


# --- weights that are kept packed -------------------------------------------------------------


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> tuple[CpuBackend, list[str]]:
    """An engine of its own, and what it packs, call by call."""
    backend, calls = CpuBackend(), []
    for method in ("pack_rows", "lay_planes", "lay_codes"):
        library = load_library()
        original = getattr(library, method)
        monkeypatch.setattr(
            library, method, lambda *a, n=method, f=original: calls.append(n) or f(*a)
        )
    return backend, calls


@needs_engine
def test_equal_weights_are_not_packed_again(packing: tuple[CpuBackend, list[str]]) -> None:
    """The same codes in a new tensor are kept the second time, and then found by their content."""
    backend, calls = packing
    backend._way = "factored"
    m, c = table("rank-3", signed=True), plain(2, 1, 77)
    x, w = images(m, (2, 5, 9, 11), (7, 5, 3, 3))
    want = slow_conv(m, x, w, c)
    for weights in (w, w.clone(), w.to(torch.int64), w.mT.contiguous().mT):
        assert torch.equal(backend.conv(x, weights, prepared("rank-3"), torch.int64, c), want)
    assert calls.count("pack_rows") == 2
    a, b = values(m, 9, 33, 17)
    turned = b.t().contiguous().t()  # as a linear layer has it
    for weights in (b, b.clone(), b.to(torch.int8), turned, turned.to(torch.int8), turned.clone()):
        got = backend.gemm(a, weights, prepared("rank-3"), torch.int64)
        assert torch.equal(got, slow(m, a, b))
    assert calls.count("lay_planes") == 4 + 2 + 2  # an image at each call, each matrix twice


@needs_engine
def test_weights_that_change_are_not_kept(packing: tuple[CpuBackend, list[str]]) -> None:
    """In training every step brings other weights, which take no memory."""
    backend, _ = packing
    backend._way = "factored"
    m = table("rank-3", signed=True)
    for step in range(5):
        a, b = values(m, 9, 33, 17 + step)
        backend.gemm(a, b, prepared("rank-3"), torch.int64)
    assert backend._packed._bytes == 0
    assert not backend._packed._kept


@needs_engine
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("same_digest", [False, True])
def test_changed_weights_are_packed_again(
    way: str, same_digest: bool, packing: tuple[CpuBackend, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Other codes in the same memory give their own sums, though all digests be equal."""
    backend, _ = packing
    backend._way = way
    if same_digest:
        monkeypatch.setattr(backend._library, "digest", lambda codes, every=1: 7)
    m, c, tables = table("rank-3", signed=True), plain(2, 1, 77), prepared("rank-3")
    x, w = images(m, (2, 5, 9, 11), (7, 5, 3, 3))
    a, b = values(m, 3, 33, 130)
    for step in range(4):
        w.view(-1)[step * 3] ^= 1  # the least change
        b.view(-1)[step * 5] ^= 1
        assert torch.equal(backend.conv(x, w, tables, torch.int64, c), slow_conv(m, x, w, c))
        assert torch.equal(backend.gemm(a, b, tables, torch.int64), slow(m, a, b))


@needs_engine
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [1, 40])  # of which one lies along the lanes of a lookup
def test_a_matrix_and_its_transpose_share_memory_but_no_sums(way: str, rows: int) -> None:
    """Where lines of one are columns of the other, each is multiplied as what it is."""
    m, backend, tables = table("rank-3", signed=True), CpuBackend(way=way), prepared("rank-3")
    a, b = values(m, rows, 30, 30)
    for _ in range(3):
        for weights in (b.to(torch.int8), b.to(torch.int8).t(), b.repeat(1, 2)[:, ::2]):
            got = backend.gemm(a, weights, tables, torch.int64)
            assert torch.equal(got, slow(m, a, weights.to(torch.int64)))


@needs_engine
@pytest.mark.parametrize("way", WAYS)
def test_no_changed_byte_is_overlooked(way: str) -> None:
    """Weights are compared as a whole, though they are found again by a few of their bytes."""
    m, backend, tables = table("rank-3", signed=True), CpuBackend(way=way), prepared("rank-3")
    a, b = values(m, 1, 61, 97)
    for weights in (b.to(torch.int8), b.to(torch.int8).t().contiguous().t()):
        for at in range(0, weights.numel(), 59):
            weights.t()[at // 61, at % 61] ^= 1
            for _ in range(2):
                got = backend.gemm(a, weights, tables, torch.int64)
                assert torch.equal(got, slow(m, a, weights.to(torch.int64))), at


@needs_engine
def test_weights_that_differ_in_a_byte_are_kept_side_by_side(
    packing: tuple[CpuBackend, list[str]],
) -> None:
    """A network and its faulty copy, evaluated in turn, do not push each other out."""
    backend, calls = packing
    backend._way = "factored"
    m, tables = table("rank-3", signed=True), prepared("rank-3")
    a, b = values(m, 3, 61, 97)
    both = [b.to(torch.int8), b.to(torch.int8)]
    both[1][31, 47] ^= 1  # between the bytes by which the last ones are found again
    pieces = [backend._library.digest(t, 1 + t.numel() // engine._PIECES) for t in both]
    assert pieces[0] == pieces[1]
    for _ in range(4):
        for weights in both:
            got = backend.gemm(a, weights, tables, torch.int64)
            assert torch.equal(got, slow(m, a, weights.to(torch.int64)))
    assert calls.count("lay_planes") == 2 * 2


@needs_engine
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [1, 2, 5, 64, 1000])
def test_every_byte_is_compared(n: int, threads: int) -> None:
    """Whatever part a thread takes, one other byte anywhere makes a difference."""
    library = load_library()
    a = torch.arange(n).to(torch.uint8)
    assert library.same(a, a.clone(), threads)
    for at in {0, 1, n // 2, n - 2, n - 1} & set(range(n)):
        b = a.clone()
        b[at] ^= 1
        assert not library.same(a, b, threads)


@needs_engine
@pytest.mark.parametrize("way", WAYS)
def test_packed_weights_are_those_of_their_table_and_shape(way: str) -> None:
    """Equal codes under another table, in another shape or for a convolution are not mixed up."""
    backend = CpuBackend(way=way)
    tables = {kind: prepared(kind) for kind in ("rank-0", "rank-3", "rank-1")}
    for kind, shape in itertools.product([*tables, *tables], [(12, 30), (30, 12), (6, 60)]):
        m = table(kind, signed=True)
        b = torch.arange(-180, 180).remainder(251).sub(125).reshape(shape)
        a = values(m, 5, shape[0], 1)[0]
        got = backend.gemm(a, b, tables[kind], torch.int64)
        assert torch.equal(got, slow(m, a, b)), (kind, shape)
        for groups, w_shape in ((1, (4, 10, 3, 3)), (2, (8, 5, 3, 3)), (1, (4, 10, 9, 1))):
            w, c = b.reshape(w_shape), plain(2, 4, 3, groups)
            x = images(m, (2, w_shape[1] * groups, 5, 6), (1,))[0]
            got = backend.conv(x, w, tables[kind], torch.int64, c)
            assert torch.equal(got, slow_conv(m, x, w, c)), (kind, w_shape)


@needs_engine
@pytest.mark.parametrize("limit", [0, 1, 3000, 20_000])
def test_packed_weights_stay_within_their_bound(
    limit: int, packing: tuple[CpuBackend, list[str]]
) -> None:
    """Old weights make room for new ones; what is larger than the bound is not kept at all."""
    backend, _ = packing
    backend._way = "factored"
    kept = backend._packed = engine._Packed(backend._library, limit)
    m, tables = table("rank-3", signed=True), prepared("rank-3")
    a = values(m, 3, 33, 1)[0]
    held = set()
    for seed in range(12):
        b = torch.randint(-128, 128, (33, 5 + seed), generator=torch.Generator().manual_seed(seed))
        for _ in range(2):
            assert torch.equal(backend.gemm(a, b, tables, torch.int64), slow(m, a, b))
            sizes = [size for _, _, size in kept._kept.values()]
            assert kept._bytes == sum(sizes) <= limit
        held.add(len(sizes))
    assert held == {0} if limit < 3000 else max(held) >= 1
    assert limit < 20_000 or max(held) > 1


@needs_engine
def test_packing_from_several_threads(packing: tuple[CpuBackend, list[str]]) -> None:
    """Threads that pack, find and push out weights at a time get the sums of their own."""
    backend, _ = packing
    backend._way = "factored"
    backend._packed = engine._Packed(backend._library, 40_000)
    m, tables = table("rank-3", signed=True), prepared("rank-3")
    pairs = [values(m, 3, 33, n) for n in range(17, 25)]
    wants = [slow(m, a, b) for a, b in pairs]

    def work(start: int) -> bool:
        order = [(start + i) % len(pairs) for i in range(40)]
        return all(
            torch.equal(backend.gemm(*pairs[i], tables, torch.int64), wants[i]) for i in order
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))
    assert backend._packed._bytes == sum(s for _, _, s in backend._packed._kept.values()) <= 40_000


# --- requests -------------------------------------------------------------------------------


@needs_engine
def test_convolutions_that_it_does() -> None:
    """supports() and cost() answer for convolutions as for the products that they are."""
    backend, shapes = CpuBackend(), ((2, 4, 9, 9), (6, 4, 3, 3))
    for m, expected in ((table("full-rank"), True), (ah.exact(8), True), (ah.exact(9), False)):
        request = ConvRequest(m, *shapes, plain(2), CPU, torch.int64)
        assert backend.supports(request) is expected
        assert backend.supports(request) == backend.supports(request.gemm)
        elsewhere = ConvRequest(m, *shapes, plain(2), torch.device("cuda"), torch.int64)
        assert not backend.supports(elsewhere)
    small, large = (
        backend.cost(
            ConvRequest(ah.exact(8), (n, 4, 9, 9), (6, 4, 3, 3), plain(2), CPU, torch.int32)
        )
        for n in (1, 1000)
    )
    assert 0 < small < large


@needs_engine
@pytest.mark.parametrize("seed", [0, 1])
def test_a_sample_of_the_campaign(seed: int) -> None:
    """Some cases of the whole grid of tests/campaigns/engine.py, of small tables and sizes."""
    tables = list(itertools.product(["rank-0", "rank-1", "rank-3", "corner"], campaign.FORMATS))
    some = (c for c in campaign.cases(seed, tables) if c.m * c.k * c.n < 1 << 19)
    total = sum((campaign.check(case) for case in itertools.islice(some, 60)), Counter())
    assert total["products"] > 1 << 16
    assert len([name for name in total if name.startswith("conv")]) == len(ISAS) * len(WAYS)
