"""Tables without any symmetry, and the formats that can be written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

Lopsided = Callable[..., Multiplier]


@pytest.fixture(scope="session")
def lopsided() -> Lopsided:
    """Makes a multiplier that no exchange, transposition or offset leaves alone; T[0][0] = 64."""

    def make(a: str, b: str, seed: int = 0, bound: int = 120) -> Multiplier:
        x, w = OperandFormat.parse(a), OperandFormat.parse(b)
        low = -bound if x.signed or w.signed else 0
        rng = np.random.default_rng(seed)
        table = rng.integers(low, bound, (x.size, w.size), endpoint=True)
        table[0, 0] = 64
        return Multiplier.from_table(table, name="lopsided", a_signed=x.signed, b_signed=w.signed)

    return make


@pytest.fixture
def signed(lopsided: Lopsided) -> Multiplier:
    """Four signed bits by three."""
    return lopsided("4s", "3s")
