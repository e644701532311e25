"""The slow loops that products and convolutions are held against, and tables worth trying."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import approxhub as ah


def _table(a_bits: int, b_bits: int, a_signed: bool, b_signed: bool, limit: int = 2**20):
    rng = np.random.default_rng(a_bits * 40 + b_bits * 4 + a_signed * 2 + b_signed)
    table = rng.integers(-limit, limit, (2**a_bits, 2**b_bits), endpoint=True)
    table[0, 0] = 64
    return ah.Multiplier.from_table(
        table, name=f"t{a_bits}x{b_bits}", a_signed=a_signed, b_signed=b_signed
    )


@pytest.fixture
def random_multiplier() -> Callable[..., ah.Multiplier]:
    """A table of large random entries, not commutative, 64 for two zeros."""
    return _table


def _values(f: ah.OperandFormat, *shape: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(f.min, f.max, shape, endpoint=True))


@pytest.fixture
def values() -> Callable[..., torch.Tensor]:
    """Random values of an operand format, int64."""
    return _values


def _slow(m: ah.Multiplier, a: torch.Tensor, b: torch.Tensor) -> list:
    if a.dim() > 2:
        return [_slow(m, x, b) for x in a]
    return [[sum(m(x, w) for x, w in zip(row, col, strict=True)) for col in b.t().tolist()]
            for row in a.tolist()]  # fmt: skip


@pytest.fixture
def slow_matmul() -> Callable[..., list]:
    """Sums of products of values, one by one in Python."""
    return _slow
