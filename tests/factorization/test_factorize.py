"""Factors: exact on every entry, of proven rank, never dearer than they need to be known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import approxhub as ah
from approxhub.errors import ApproxHubError, TableError, VerificationError
from approxhub.factorization import (
    Factorization,
    FactorizationError,
    NoFactorizableTableError,
    TooCostlyError,
    factorize,
    lattice,
    ranks,
    search,
)
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

OfRank = Callable[..., Multiplier]


def check(m: Multiplier, f: Factorization) -> None:
    """Compare every entry in Python's own integers, of the factors and of their digits."""
    u, v = f.u.tolist(), f.v.tolist()
    columns = list(zip(*v, strict=True)) if v else [()] * m.b.size
    planes = [(p.left.tolist(), p.right.tolist(), p.weight) for p in f.digits()]
    va, vb = m.a.values().tolist(), m.b.values().tolist()
    by_planes = [[0] * m.b.size for _ in range(m.a.size)]
    for left, right, weight in planes:
        for x, row in zip(left, by_planes, strict=True):
            if x:
                row[:] = [r + weight * x * y for r, y in zip(row, right, strict=True)]
    for i, row in enumerate(m.table.tolist()):
        for j, entry in enumerate(row):
            rest = entry - va[i] * vb[j] if f.with_exact else entry
            assert sum(x * y for x, y in zip(u[i], columns[j], strict=True) if x) == rest
            assert by_planes[i][j] == rest
    for p in f.digits():
        assert p.left.dtype == p.right.dtype == np.int8
        assert (p.left.shape, p.right.shape) == ((m.a.size,), (m.b.size,))


def slow_rank(matrix: Any) -> int:
    """Rank by Gaussian elimination in fractions."""
    rows = [[Fraction(int(x)) for x in row] for row in matrix]
    rank = 0
    for column in range(len(rows[0])):
        pivot = next((r for r in range(rank, len(rows)) if rows[r][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for r in range(rank + 1, len(rows)):
            if rows[r][column]:
                q = rows[r][column] / rows[rank][column]
                rows[r] = [x - q * y for x, y in zip(rows[r], rows[rank], strict=True)]
        rank += 1
    return rank


# --- exact, and of the right rank ------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1, 2, 5, 17, 64, 200])
def test_error_of_every_rank(of_rank: OfRank, rank: int) -> None:
    """An error of a chosen rank is factorised exactly, and costs no less than its rank allows."""
    m = of_rank(rank)
    f = factorize(m)
    check(m, f)
    assert f.rank_error == rank
    assert abs(f.rank_table - rank) <= 1
    assert f.cost >= min(f.rank_table, 1 + rank)
    assert f.cost <= 1 + rank  # by its very making: entries of 40 and less


@pytest.mark.parametrize("rank", [1, 17])
@pytest.mark.parametrize(
    ("a", "b"), [("4u", "4u"), ("8u", "8u"), ("8u", "8s"), ("8s", "5u"), ("2s", "9u"), ("7s", "6s")]
)
def test_widths_and_signs(of_rank: OfRank, a: str, b: str, rank: int) -> None:
    """Operands may differ in width and sign."""
    m = of_rank(min(rank, 2 ** min(int(a[0]), int(b[0]))), a, b)
    f = factorize(m)
    check(m, f)
    assert (f.rank_table, f.rank_error) == ranks(m)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_random_tables(bits: int) -> None:
    """Tables without any structure, and their ranks by elimination in fractions."""
    rng = np.random.default_rng(bits)
    for high in (1, 3, 2**31 - 1):
        for _ in range(4):
            table = rng.integers(-high - 1, high + 1, (2**bits, 2 ** (5 - bits)))
            m = Multiplier.from_table(table, name="random", a_signed=True)
            f = factorize(m)
            check(m, f)
            error = table - m.a.values()[:, None] * m.b.values()
            assert (f.rank_table, f.rank_error) == (slow_rank(table), slow_rank(error))


def test_largest_entries() -> None:
    """Entries at both ends of int32 are factorised without any overflow."""
    table = np.full((256, 256), -(2**31))
    table[::3] = 2**31 - 1
    table[5, 7] = 2**31 - 2
    m = Multiplier.from_table(table, name="large")
    f = factorize(m)
    check(m, f)
    assert f.rank_table == 2


def test_repeated_rows_and_columns(of_rank: OfRank) -> None:
    """A table with few distinct rows and columns, scaled by large numbers, in any order."""
    rng = np.random.default_rng(3)
    rows, columns = rng.integers(0, 7, 256), rng.integers(0, 5, 256)
    m = Multiplier.from_table(rng.integers(-99, 99, (7, 5))[rows][:, columns], name="few")
    f = factorize(m)
    check(m, f)
    assert f.rank_table <= 5
    check(m.swap(), factorize(m.swap()))


def test_order_of_operands() -> None:
    """The left factor belongs to the activation: a table without symmetry, T[0][0] = 64."""
    a, b = np.arange(256)[:, None], np.arange(256)
    m = Multiplier.from_table((a & 0xF0) * b + 64 + (a > 200), name="lopsided")
    f = factorize(m)
    check(m, f)
    assert f.u.shape[0] == m.a.size
    with pytest.raises(VerificationError):
        f.verify(m.swap())


@pytest.mark.parametrize("a", ["8s", "8u", "12s"])
def test_exact_and_zero(a: str) -> None:
    """The exact product has no components; a table of zeros nothing at all."""
    fa = OperandFormat.parse(a)
    m = ah.exact(fa.bits, fa.signed, b_bits=4)
    f = factorize(m)
    assert (f.rank_table, f.rank_error) == (1, 0)
    if a != "12s":
        assert (f.rank, f.with_exact, f.cost, f.digits()) == (0, True, 1, ())
    zero = Multiplier.from_table(np.zeros((16, 16), int), name="zero")
    f = factorize(zero)
    check(zero, f)
    assert (f.rank_table, f.rank_error, f.cost, f.with_exact) == (0, 1, 0, False)


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("truncation:8s/a=2,b=2", {(1, 2)}),
        ("truncation:8u/a=0,b=3", {(1, 1)}),
        ("drum:8u/k=4", {(1, 2)}),
        ("drum:8s/k=3", {(1, 2)}),
        ("roba:8u", {(2, 1)}),
        ("roba:8s", {(2, 1)}),
        ("mitchell:8u", {(128, 127)}),
    ],
)
def test_ranks_of_families(id: str, expected: set[tuple[int, int]]) -> None:
    """What is known of the families: truncation and DRUM have rank 1, the error of ROBA too."""
    m = ah.load(id)
    assert ranks(m) in expected
    f = factorize(m)
    f.verify(m)
    assert f.cost >= min(f.rank_table, 1 + f.rank_error)


@pytest.mark.parametrize("cut", [4, 5, 6, 7, 8])
def test_rank_of_broken_arrays(cut: int) -> None:
    """A broken array has an error rank of 3 to 8: one for each row of dots that it cuts."""
    rank, error = ranks(ah.load(f"bam:8u/h=0,v={cut}"))
    assert 3 <= error <= 8
    assert abs(rank - error) <= 1


@pytest.mark.parametrize(
    ("id", "rank"), [("roba:11s", 1), ("drum:12ux4s/k=3", 2), ("drum:6ux13s/k=3", 2)]
)
def test_wide_tables(id: str, rank: int) -> None:
    """Tables of up to 24 bits are factorised where the rank is small."""
    m = ah.load(id)
    f = factorize(m)
    f.verify(m)
    assert f.rank_error == rank


# --- what is returned ------------------------------------------------------------------------


def test_cost_counts_the_planes(of_rank: OfRank) -> None:
    """The cost is the number of int8 products, which are as many as the digits say."""
    for m in (of_rank(5, size=30_000), of_rank(3, size=1000, exact=False), of_rank(4, "12s", "4u")):
        f = factorize(m)
        exact = -(-m.a.bits // 8) * -(-m.b.bits // 8) if f.with_exact else 0
        assert f.cost == exact + len(f.digits())
        assert len(f.digits_u) == len(f.digits_v) == f.rank == f.u.shape[1]
        weights = [p.weight for p in f.digits()]
        assert weights == sorted(weights)
        assert set(weights) <= {256**k for k in range(8)}


def test_cheap_factors_are_found() -> None:
    """Powers of two, signs and common divisors are put where they cost least."""
    a, b = OperandFormat(8, True).values()[:, None], OperandFormat(8, True).values()
    for table in (
        (a >> 3 << 3) * (b >> 1 << 1),
        (a >> 1) * -(b >> 1 << 1),
        4096 * (a >> 2) * (b >> 2),
        9 * (a & 7) * b,
    ):
        m = Multiplier.from_table(table, name="cheap", a_signed=True, b_signed=True)
        assert factorize(m).cost == 1


def test_result_is_frozen(of_rank: OfRank) -> None:
    """Nobody can change factors that were verified."""
    f = factorize(of_rank(2))
    for array in (f.u, f.v):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    with pytest.raises(AttributeError):
        f.with_exact = False  # type: ignore[misc]
    with pytest.raises(TableError):
        Factorization(f.identity, f.a, f.b, f.v.T, f.v[:1], True, 1, 1)


@pytest.mark.parametrize("name", ["u", "v"])
def test_verify_sees_one_wrong_entry(of_rank: OfRank, name: str) -> None:
    """One factor entry changed anywhere is noticed, and so is the missing exact product."""
    m = of_rank(3)
    f = factorize(m)
    rng = np.random.default_rng(0)
    for _ in range(20):
        wrong = {"u": f.u.copy(), "v": f.v.copy()}
        at = tuple(int(rng.integers(n)) for n in wrong[name].shape)
        wrong[name][at] += 1
        with pytest.raises(VerificationError, match=r"made: they differ at -?\d+ \* -?\d+"):
            Factorization(
                f.identity, f.a, f.b, **wrong, with_exact=f.with_exact, rank_table=1, rank_error=1
            ).verify(m)
    other = Factorization(f.identity, f.a, f.b, f.u, f.v, not f.with_exact, 1, 1)
    with pytest.raises(VerificationError):
        other.verify(m)
    with pytest.raises(VerificationError, match="8s x 8s, not of"):
        f.verify(ah.exact(8, False))


def test_products_that_overflow_are_not_equal() -> None:
    """Factors that are right only modulo 2**64 are wrong."""
    zero = Multiplier.from_table(np.zeros((2, 2), int), name="zero")
    big = np.full((2, 1), 2**62), np.full((1, 2), 4)
    f = Factorization(zero.identity, zero.a, zero.b, *big, False, 0, 0)
    with pytest.raises(VerificationError):
        f.verify(zero)


def test_equal_and_repr(of_rank: OfRank) -> None:
    """Factorisations are equal by content, and say what they cost."""
    m = of_rank(2)
    f, g = factorize(m), factorize(m)
    assert f == g
    assert hash(f) == hash(g)
    assert f != factorize(of_rank(2, seed=2))
    assert f != 1
    assert "3 products" in repr(f)
    assert "error rank 2" in repr(f)


def test_same_in_another_process(of_rank: OfRank, tmp_path: Path) -> None:
    """Another process finds the same factors, whatever its hash seed."""
    code = (
        "import hashlib, approxhub as ah\n"
        "from approxhub.factorization import factorize, to_bytes\n"
        "f = factorize(ah.load('bam:8u/h=1,v=6'))\n"
        "print(hashlib.sha256(to_bytes(f)).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout
        for _ in range(2)
    }
    assert len(seen) == 1


# --- what is refused -------------------------------------------------------------------------


def test_wide_circuit_is_refused() -> None:
    """Without a table nothing could be verified, so nothing is made."""
    for function in (factorize, ranks):
        with pytest.raises(NoFactorizableTableError, match="too wide for a table") as caught:
            function(ah.exact(16))
        assert isinstance(caught.value, ApproxHubError)


def test_too_costly_is_refused(of_rank: OfRank, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cost or rank above what is of use is refused, if possible before the work."""
    m = of_rank(20)
    assert factorize(m, max_cost=21).cost == 21
    monkeypatch.setattr(search, "reduce_factors", None)
    with pytest.raises(TooCostlyError, match=r"at least 2[01]") as caught:
        factorize(m, max_cost=19)
    assert caught.value.cost in (20, 21)
    monkeypatch.setattr(search, "MAX_RANK", 10)
    with pytest.raises(TooCostlyError, match="above 10"):
        ranks(m)


def test_found_but_too_costly(of_rank: OfRank) -> None:
    """Factors that turn out dearer than their rank are refused too."""
    m = of_rank(2, size=30_000)
    cost = factorize(m).cost
    assert cost > 3
    with pytest.raises(TooCostlyError, match="cheapest factors found"):
        factorize(m, max_cost=cost - 1)


@pytest.mark.slow
def test_high_rank_of_a_large_table_is_refused_quickly() -> None:
    """A large table of high rank gives an error, not an hour of work."""
    with pytest.raises(TooCostlyError, match="1024 x 1024"):
        factorize(ah.load("mitchell:10u"))


def test_python_flint_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without python-flint the error says what to install."""
    monkeypatch.setitem(sys.modules, "flint", None)
    with pytest.raises(FactorizationError, match="pip install python-flint"):
        factorize(ah.load("drum:4s/k=2"))


def test_generators_are_added_where_rows_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of rows that does not span all of them is completed until it does."""
    monkeypatch.setattr(lattice, "_SAMPLE", 2)
    monkeypatch.setattr(lattice, "_STEP", 1)
    rng = np.random.default_rng(4)
    matrix = 6 * rng.integers(-3, 4, (40, 4)) @ rng.integers(-9, 9, (4, 50))
    matrix[37] //= 6
    u, v = lattice.row_factors(matrix, 10)
    assert (u @ v == matrix).all()
    assert len(v) == slow_rank(matrix)


def test_import_is_light(tmp_path: Path) -> None:
    """The package imports neither torch nor python-flint or h5py."""
    code = (
        "import sys, approxhub.factorization\n"
        "print(sorted({'torch', 'flint', 'h5py', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"
