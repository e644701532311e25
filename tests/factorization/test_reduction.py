"""Cheaper factors of the same product, and the bookkeeping of the search for them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from approxhub.errors import VerificationError
from approxhub.factorization import factorize, search
from approxhub.factorization.digits import digit_count, digit_planes
from approxhub.factorization.lattice import row_factors
from approxhub.factorization.reduction import (
    _Descent,
    component_costs,
    reduce_factors,
    share_divisors,
)
from approxhub.multiplier import Multiplier
from approxhub.registry import load


def scrambled(rank: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors that are single digits but for some steps on the inner index."""
    rng = np.random.default_rng(seed)
    u, v = rng.integers(-9, 10, (60, rank)), rng.integers(-9, 10, (rank, 70))
    for _ in range(steps):
        i, j = rng.choice(rank, 2, replace=False)
        s = int(rng.choice([-3, -2, 2, 3]))
        v[i] += s * v[j]
        u[:, j] -= s * u[:, i]
    return u, v


@pytest.mark.parametrize("seed", range(8))
def test_product_stays_and_cost_falls(seed: int) -> None:
    """Scrambled factors become about as cheap as they were, and give the same product."""
    u, v = scrambled(5, 14, seed)
    x, y = reduce_factors(u, v)
    assert (x @ y == u @ v).all()
    assert sum(component_costs(u, v)) > 7
    assert 5 <= sum(component_costs(x, y)) <= 7


@pytest.mark.parametrize("large", [1, 10**8])
def test_bookkeeping_of_the_descent(large: int) -> None:
    """After each step, what was updated is what a fresh start computes, and gains are gains."""
    u, v = scrambled(6, 20, 1)
    descent = _Descent(u, v * large)
    assert descent.v.dtype == (np.int32 if large == 1 else np.int64)

    def total(d: _Descent) -> int:
        return int((d.weight_u * d.weight_v).min(axis=0).sum())

    for _ in range(12):
        expected = total(descent) + int(descent.gain.min())
        assert descent.step()
        assert total(descent) == expected
        assert (descent.u.T.astype(int) @ descent.v == u @ (v * large)).all()
        fresh = _Descent(descent.u.T, descent.v)
        for name in ("weight_u", "weight_v", "of_u", "of_v", "gain"):
            assert (getattr(descent, name) == getattr(fresh, name)).all(), name


def test_divisors_and_signs() -> None:
    """A divisor goes where it costs least, powers of 256 for nothing, and -128 is one digit."""
    for u, v in (([3, 9], [200, 400]), ([128, 5], [1, -3]), ([0, 256 * 90], [1, 100])):
        x, y = share_divisors(np.array([u]).T, np.array([v]))
        assert (x * y == np.array([u]).T * np.array([v])).all()
        assert component_costs(x, y) == [1]


def test_digits_cover_all_integers() -> None:
    """Digits of every integer near a power of 256, and at the ends of 64 bits, add up to it."""
    near = [
        s * 256**k * m + d
        for s, k, m, d in itertools.product((1, -1), range(7), (1, 127, 128), range(-2, 3))
    ]
    for x in [*near, 2**63 - 1, -(2**63)]:
        planes = digit_planes([x])
        assert sum(256**k * int(p[0]) for k, p in enumerate(planes)) == x
        assert len(planes) == digit_count(min(x, 0), max(x, 0))


def test_cheaper_of_table_and_error() -> None:
    """Where table and error have one rank, the table is cheaper: it needs no exact product."""
    f = factorize(load("truncation:8s/a=2,b=0"))
    assert (f.rank_table, f.rank_error, f.with_exact, f.cost) == (1, 1, False, 1)


def test_wrong_factors_are_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error anywhere in the search is an exception, not a wrong product."""

    def broken(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        v = v.copy()
        v[0, 3] += 1
        return u, v

    monkeypatch.setattr(search, "reduce_factors", broken)
    m = Multiplier.from_table(np.arange(16)[:, None] * (np.arange(16) & 6) + 1, name="m")
    with pytest.raises(VerificationError):
        factorize(m)


def test_small_coordinates_can_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row outside the sample may look like a multiple of a basis vector, and not be one."""
    monkeypatch.setattr("approxhub.factorization.lattice._SAMPLE", 2)
    matrix = np.array([[1, 0]] * 39 + [[1, 1]])
    u, v = row_factors(matrix, 5)
    assert (u @ v == matrix).all()
    assert len(v) == 2
