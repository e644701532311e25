"""Small sums and real numbers on one build of the kernels: what a fault in them must not survive.

Run as a program, with the path of a library and the names of checks, it makes them: under a
sanitizer, in a process of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import emulated
import numpy as np
import torch
from approxhub_cuda.backend import CudaBackend
from approxhub_cuda.native import Library
from torch import Tensor, nn

import approxhub as ah
from approxhub.backends import Convolution, GemmRequest, ReferenceBackend
from approxhub.backends.patches import convolve_patches
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat
from approxhub.plugins import BackendInfo
from approxhub.testing import BackendConformance
from approxhub.testing.contract import lopsided, offered

WAYS = ("staged", "shared", "cached", "plain")
CPU = torch.device("cpu")


def operands(m: Multiplier, rows: int, k: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random values of both operands."""
    rng = np.random.default_rng(seed)
    return (
        torch.from_numpy(rng.integers(m.a.min, m.a.max + 1, (rows, k))),
        torch.from_numpy(rng.integers(m.b.min, m.b.max + 1, (k, n))),
    )


def looped(m: Multiplier, a: Tensor, b: Tensor) -> Tensor:
    """The sums, by numpy on the table."""
    x, w = a.numpy() & (m.a.size - 1), b.numpy() & (m.b.size - 1)
    return torch.from_numpy(m.table[x[:, :, None], w[None]].astype(np.int64).sum(1))


def sums(
    backend: CudaBackend, m: Multiplier, rows: int, k: int, n: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """What the backend makes of random operands, and what it must be."""
    a, b = operands(m, rows, k, n, seed)
    return backend.gemm(a, b, backend.prepare(m, CPU), torch.int64), looped(m, a, b)


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


@contextmanager
def offering(backend: CudaBackend) -> Iterator[str]:
    """Let layers run on a backend; its name."""
    info = BackendInfo("emulated-card", "cpu", lambda: backend)
    with offered("approxhub_backends", info), ah.use_backend(info.name):
        yield info.name


# --- checks ---------------------------------------------------------------------------------------


def every_way(library: Path, way: str, formats: str) -> None:
    """Odd sizes, tails of tiles and cut sums are exact, though T[0][0] is 64."""
    backend, m = CudaBackend(Library(str(library)), way), lopsided(*formats.split())
    for size in ((3, 1, 2), (5, 147, 9), (130, 33, 5), (2, 300, 33)):
        found, wanted = sums(backend, m, *size)
        assert torch.equal(found, wanted), size


def recoded(library: Path, formats: str, rank: int) -> None:
    """On the matrix units too, with one pass of planes or several, of every sign and weight."""
    m = of_rank(*formats.split(), rank)
    backend = CudaBackend(Library(str(library)), "factored")
    tables = backend.prepare(m, CPU)
    assert tables.recodings is not None
    assert tables.recodings.planes > rank
    assert (len(tables.recodings.passes) > 1) == (rank > 0)
    for size in ((3, 1, 2), (5, 147, 9), (130, 33, 5), (2, 600, 70)):
        a, b = operands(m, *size)
        assert "factored" in explained(backend, m, *size) or rank == 0
        for dtype in (torch.int32, torch.int64):
            assert torch.equal(backend.gemm(a, b, tables, dtype).long(), looped(m, a, b)), size
    for shared in (99, 64):  # KiB: cards with room for fewer copies of a recoding
        emulated.configure(library, capability=(8, 6), shared=shared * 1024)
        backend = CudaBackend(Library(str(library)), "factored")
        found, wanted = sums(backend, m, 2, 600, 70)
        assert torch.equal(found, wanted), shared
    emulated.configure(library)


def convolutions(library: Path, way: str, groups: int) -> None:
    """Padding is a code like others; strides, dilations, groups and depthwise are exact."""
    backend = CudaBackend(Library(str(library)), way)
    m = of_rank("8u", "8s", 3) if way == "factored" else lopsided("8u", "8s")
    c = Convolution((2, 1), ((1, 2), (0, 1)), (1, 2), groups, 77)
    rng = np.random.default_rng(groups)
    x = torch.from_numpy(rng.integers(0, 256, (2, 8, 7, 6), dtype=np.uint8))
    w = torch.from_numpy(rng.integers(-128, 128, (8, 8 // groups, 3, 2), dtype=np.int8))
    reference = ReferenceBackend()
    prepared = reference.prepare(m, CPU)
    wanted = convolve_patches(
        x, w, c, torch.int32, lambda a, b: reference.gemm(a, b, prepared, torch.int32)
    )
    tables = backend.prepare(m, CPU)
    assert torch.equal(backend.conv(x, w, tables, torch.int32, c), wanted)
    known_there = replace(c, pad_value=0, pad=torch.tensor(77))
    assert torch.equal(backend.conv(x, w, tables, torch.int32, known_there), wanted)


def schedules(library: Path, seeds: Sequence[int] = range(3)) -> None:
    """Threads and blocks in other orders, and sums cut for other cards, give the same integers."""
    m = lopsided("8s", "8s")
    for seed in seeds:
        emulated.configure(library, seed=seed, processors=1 + 30 * seed)
        for way in (*WAYS, "factored"):
            backend = CudaBackend(Library(str(library)), way)
            taken = of_rank("8s", "8s", 2) if way == "factored" else m
            found, wanted = sums(backend, taken, 9, 1100, 10)
            assert torch.equal(found, wanted), (seed, way)


def real_numbers(
    library: Path, check: str, of: torch.dtype | int, cards: Sequence[int] = (1, 132)
) -> None:
    """What the contract says of real numbers and gradients, with one processor or many."""
    for processors in cards:
        emulated.configure(library, processors=processors)
        backend = CudaBackend(Library(str(library)))  # which asks what its card is like
        kit = type("Kit", (BackendConformance,), {"make_backend": lambda self, b=backend: b})()
        getattr(kit, check)(of)


def trained(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """What a layer gives in training and after it, and all gradients."""
    x = x.clone().requires_grad_()
    torch.manual_seed(2)
    y = layer(x)
    y.square().sum().backward()
    after = layer.eval()(2 * x.detach())
    return [y, after, x.grad, *(p.grad for p in layer.parameters())]


def alike(found: list[Tensor], right: list[Tensor]) -> None:
    """All bits are the same."""
    for mine, other in zip(found, right, strict=True):
        assert torch.equal(mine, other)
        assert torch.equal(mine.signbit(), other.signbit())


def gradients(library: Path) -> None:
    """A layer with a gradient table of many terms has the bits of the reference."""
    found = []
    for name in ("emulated-card", "reference"):
        with offering(CudaBackend(Library(str(library)), "cached")), ah.use_backend(name):
            torch.manual_seed(0)
            layer = ah.nn.Conv2d(4, 6, 3, padding=1, groups=2, multiplier=lopsided("8u", "8u"))
            layer.set_gradient("table-2d(half_window=3)")
            found.append(trained(layer, torch.randn(2, 4, 5, 6)))
    alike(*found)


# --- of a fault -----------------------------------------------------------------------------------


def all_sums(library: Path) -> None:
    """Every check of sums."""
    emulated.configure(library)
    for way in WAYS:
        for formats in ("8s 8u", "4u 8s"):
            every_way(library, way, formats)
    for formats, rank in (("8s 8u", 0), ("8u 8u", 3), ("4u 8s", 6)):
        recoded(library, formats, rank)
    for way in (*WAYS, "factored"):
        for groups in (1, 2, 8):
            convolutions(library, way, groups)
    schedules(library)


def all_real(library: Path) -> None:
    """Every check of real numbers."""
    for dtype in (torch.int8, torch.int16, torch.int32):
        real_numbers(library, "test_quantising", dtype)
    for dtype in (torch.int32, torch.int64):
        real_numbers(library, "test_dequantising", dtype)
    real_numbers(library, "test_sums_of_gradient_tables", 4)
    emulated.configure(library)
    gradients(library)


def all_in_turn(library: Path) -> None:
    """Each kernel, in a shape that has its blocks and threads share something."""
    schedules(library, [1])
    emulated.configure(library)
    for way in WAYS:
        every_way(library, way, "8s 8u")
    emulated.configure(library, processors=1)  # whose one block has all tiles
    every_way(library, "shared", "8s 8u")
    emulated.configure(library)
    recoded(library, "8u 8u", 3)
    for way in (*WAYS[:3], "factored"):
        for groups in (1, 8):
            convolutions(library, way, groups)
    for check, of in (
        ("test_quantising", torch.int8),
        ("test_dequantising", torch.int64),
        ("test_sums_of_gradient_tables", 4),
    ):
        real_numbers(library, check, of, [2])
    emulated.configure(library)
    gradients(library)


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = Path(sys.argv[1])
    for part in sys.argv[2:]:
        {"sums": all_sums, "real": all_real, "turns": all_in_turn}[part](given)
