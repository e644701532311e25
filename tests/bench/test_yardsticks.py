"""What the engine is compared with does what it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from approxhub.bench import context as context_module
from approxhub.bench.context import (
    Context,
    Settings,
    codes,
    int8_is_wrong,
    of_rank,
    unstructured,
)
from approxhub.bench.convolutions import CASES, ConvCase
from approxhub.bench.native import LOOPS, PEAKS, PlainLoop, compiled_peak
from approxhub.bench.networks import MobileNetV2, resnet18, resnet20
from approxhub.errors import NetworkError, NotFoundError
from approxhub.factorization import factorize
from approxhub.functional import matmul
from approxhub.multiplier import Multiplier
from approxhub.plugins import BackendInfo, host
from approxhub.registry import load


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    """A quick run."""
    with Context(Settings(quick=True), tmp_path) as made:
        yield made


def bent(bits: int, signed: bool) -> Multiplier:
    """A table that is not commutative, with 64 for two zeros."""
    rng = np.random.default_rng(bits)
    table = rng.integers(-500, 500, (1 << bits, 1 << bits))
    table[0, 0] = 64
    return Multiplier.from_table(table, name="bent", a_signed=signed, b_signed=signed)


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (8, True), (4, True)])
def test_plain_loop(tmp_path: Path, name: str, bits: int, signed: bool) -> None:
    """The C loop sums T[a, b], activation first, like a loop of Python."""
    loop = PlainLoop(tmp_path, name)
    if not loop.available:
        pytest.skip("no gcc here")
    m = bent(bits, signed)
    a, b = codes(m.a, (3, 5), 1), codes(m.b, (5, 2), 2)
    a[0, 0], b[0, 0] = 0, 0
    expected = [
        [sum(int(m(int(a[i, q]), int(b[q, j]))) for q in range(5)) for j in range(2)]
        for i in range(3)
    ]
    assert loop.on(a, b, m)().tolist() == expected


def test_no_compiler(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gcc there are no loops and no peaks, and a note says so."""
    monkeypatch.setenv("PATH", "")
    m = bent(8, True)
    a, b = codes(m.a, (3, 5), 1), codes(m.b, (5, 2), 2)
    assert context.loops(m, a, b, context.reference(m, a, b)) == []
    assert all("gcc is missing" in note for note in context.notes)
    assert len(context.notes) == len(LOOPS)
    assert compiled_peak(context.folder, "product", "avx2") is None


@pytest.mark.parametrize(("kernel", "isa"), PEAKS)
def test_peaks_run(context: Context, kernel: str, isa: str) -> None:
    """A loop of one instruction runs where the machine has it, and takes longer for more steps."""
    loop = compiled_peak(context.folder, kernel, isa) if isa in context.isas else None
    if loop is None:
        pytest.skip("no gcc here, or not this instruction set")
    assert loop(1) == loop(1000) > 0


def test_int8_must_be_exact(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that saturates sums of two is found out by extremes, and left out with a note."""

    def saturating(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        pairs = torch.einsum(
            "mpi,pin->mpn", x.double().unflatten(1, (-1, 2)), w.double().unflatten(0, (-1, 2))
        )
        return pairs.clamp(-(2**15), 2**15 - 1).sum(1).to(torch.int32)

    x, w = torch.ones(4, 6, dtype=torch.int8), torch.ones(6, 3, dtype=torch.int8)
    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert torch.equal(torch._int_mm(x, w), torch.full((4, 3), 6, dtype=torch.int32))
    assert int8_is_wrong(x, w) == "it is not exact on this machine"
    assert [e.name for e in context.torch_products(4, 6, 3, 1)] == ["torch fp32"]
    assert any("not exact" in note for note in context.notes)

    def refusing(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not here\nat all")

    monkeypatch.setattr(torch, "_int_mm", refusing)
    assert int8_is_wrong(x, w) == "torch refuses it (not here)"


@pytest.mark.parametrize("rank", [0, 1, 2, 5])
def test_synthetic_ranks(rank: int) -> None:
    """A synthetic table has the rank it is named after, and is not commutative (but for none)."""
    m = of_rank(rank)
    assert (factorize(m).rank_error, m.is_exact) == (rank, rank == 0)
    assert m.is_commutative is (rank == 0)


def test_unstructured() -> None:
    """A random table has no factors that would pay."""
    assert np.linalg.matrix_rank(unstructured(True).table.astype(float)) == 256


@pytest.mark.parametrize("case", [c.tiny() for c in CASES], ids=lambda c: c.name)
def test_products_of_a_convolution(case: ConvCase) -> None:
    """Products are counted as a convolution of ones without padding counts them."""
    bare = replace(case, padding=0, x=(*case.x[:2], *(10 for _ in case.x[2:])))
    run = getattr(F, bare.function)
    out = run(torch.ones(bare.x), torch.ones(bare.w), **bare.options)
    assert bare.products == int(out.sum())


def test_products_with_padding() -> None:
    """Products with padding count: every output has all its taps."""
    case = CASES[0]
    assert case.products == 8 * 64 * 16 * 16 * 64 * 9


def test_networks_have_their_papers_sizes() -> None:
    """Parameters are as many as the published architectures have."""
    counts = [sum(p.numel() for p in n.parameters()) for n in (resnet18(), MobileNetV2())]
    assert counts == [11_689_512, 3_504_872]
    # 0.27 M in the paper, whose shortcuts have no weights; ours have 2,752.
    assert sum(p.numel() for p in resnet20().parameters()) == 269_722 + 2_752


def test_backends_are_taken_back(tmp_path: Path) -> None:
    """What a run offers to the plug-in host binds calls while it is there, and is gone after it."""

    def offered() -> set[str]:
        return {b.name for b in host().all("approxhub_backends", BackendInfo)}

    before, m = offered(), bent(8, True)
    a, b = codes(m.a, (3, 5), 1), codes(m.b, (5, 2), 2)

    def fail() -> None:
        with Context(Settings(), tmp_path) as context:
            bound = context.on_reference(lambda: matmul(a, b, m))
            assert torch.equal(bound(), context.reference(m, a, b))
            assert offered() == {*before, "bench-reference"}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert offered() == before


def test_named_multipliers(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a pattern, what cannot be fetched is a note; of a plain id, an error."""
    ids = ["roba:8s", "lost:a", "exact:16s"]
    monkeypatch.setattr(context_module, "expand", lambda text: ids if "*" in text else [text])

    def fetch(id: str) -> Multiplier:
        if id == "lost:a":
            raise NetworkError("no network")
        return load(id)

    monkeypatch.setattr(context_module, "load", fetch)

    def asked(*patterns: str) -> list[str]:
        made = Context(Settings(multipliers=patterns), context.folder, notes=context.notes)
        return [m.id for m in made.multipliers(["drum:8s/k=4"])]

    assert asked() == ["drum:8s/k=4"]
    assert asked("some*", "roba:8s") == ["roba:8s"]
    assert [n.partition(" ")[0] for n in context.notes] == ["lost:a", "exact:16s"]
    with pytest.raises(NetworkError):
        asked("roba:8s", "lost:a")
    ids[:] = ["lost:a"]
    with pytest.raises(NetworkError):
        asked("some*")
    monkeypatch.undo()
    with pytest.raises(NotFoundError):
        Context(Settings(multipliers=("nope*",)), context.folder).multipliers([])
