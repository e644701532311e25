"""Tables of chosen rank, and a memory that is empty at the start of each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from approxhub.factorization import cache
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat


@pytest.fixture(autouse=True)
def _empty_memory() -> Iterator[None]:
    cache.forget()
    yield
    cache.forget()


@pytest.fixture
def of_rank() -> Callable[..., Multiplier]:
    """Make a multiplier whose error (or table, without `exact`) has a rank by construction."""

    def make(
        rank: int,
        a: str = "8s",
        b: str = "8s",
        *,
        size: int = 40,
        exact: bool = True,
        seed: int = 1,
    ) -> Multiplier:
        fa, fb = OperandFormat.parse(a), OperandFormat.parse(b)
        rng = np.random.default_rng(seed)
        # An identity inside u and a triangle inside v: the rank needs no arithmetic to be known.
        u = rng.integers(-1, 2, (fa.size, rank)) * (rng.random((fa.size, rank)) < 4 / (rank + 4))
        v = rng.integers(-size, size + 1, (rank, fb.size))
        u[rng.permutation(fa.size)[:rank]] = np.eye(rank, dtype=int)
        columns = rng.permutation(fb.size)[:rank]
        v[:, columns] = np.triu(v[:, columns], 1) + size * np.eye(rank, dtype=int)
        table = u @ v
        if exact:
            table = table + fa.values()[:, None] * fb.values()
        return Multiplier.from_table(table, name="made", a_signed=fa.signed, b_signed=fb.signed)

    return make
