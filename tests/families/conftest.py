"""What the tests of several families need."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import product

import pytest

from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

Reference = Callable[[int, int], int]


@pytest.fixture
def assert_everywhere() -> Callable[[Multiplier, Reference], None]:
    """Compare a multiplier with a reference on every pair of operand values."""

    def check(m: Multiplier, reference: Reference) -> None:
        for a in range(m.a.min, m.a.max + 1):
            row = m([a] * m.b.size, list(range(m.b.min, m.b.max + 1)))
            expected = [reference(a, b) for b in range(m.b.min, m.b.max + 1)]
            assert row.tolist() == expected, f"{m.id}, a = {a}"

    return check


@pytest.fixture
def assert_sampled() -> Callable[[Multiplier, Reference], None]:
    """Compare a wide multiplier with a reference on corners and on seeded random pairs."""

    def check(m: Multiplier, reference: Reference, count: int = 4000) -> None:
        rng = random.Random(m.id)

        def some(f: OperandFormat) -> Iterable[int]:
            corners = {0, 1, 2, 3, f.max, f.max - 1, f.min, f.min + 1, -1, -2, -3}
            return [v for v in sorted(corners) if f.min <= v <= f.max]

        def any_width(f: OperandFormat) -> int:  # small magnitudes as often as large ones
            v = rng.getrandbits(rng.randint(1, f.bits))
            return max(f.min, min(f.max, rng.choice((v, -v))))

        pairs = list(product(some(m.a), some(m.b)))
        pairs += [(any_width(m.a), any_width(m.b)) for _ in range(count)]
        a, b = zip(*pairs, strict=True)
        assert m(a, b).tolist() == [reference(x, y) for x, y in pairs]

    return check


@pytest.fixture
def by_magnitude() -> Callable[[Reference], Reference]:
    """Turn a reference for magnitudes into one for signed values."""

    def signed(reference: Reference) -> Reference:
        def wrapped(a: int, b: int) -> int:
            magnitude = reference(a if a >= 0 else -a, b if b >= 0 else -b)
            return -magnitude if (a < 0 < b) or (b < 0 < a) else magnitude

        return wrapped

    return signed
