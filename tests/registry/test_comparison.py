"""Comparison: counts and places of differences, against slow loops; which known ones are equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from approxhub import errors
from approxhub.multiplier import Multiplier, exact
from approxhub.registry import Store, load
from approxhub.registry.arrival import recognise
from approxhub.registry.comparison import compare, known_tables


def lopsided(a_signed: bool, b_signed: bool, seed: int = 3) -> Multiplier:
    """Three bits by four, nothing symmetric, T[0][0] = 64."""
    table = np.random.default_rng(seed).integers(-50, 50, (8, 16))
    table[0, 0] = 64
    return Multiplier.from_table(table, name="m", a_signed=a_signed, b_signed=b_signed)


@pytest.mark.parametrize("a_signed", [False, True])
@pytest.mark.parametrize("b_signed", [False, True])
def test_against_a_slow_loop(a_signed: bool, b_signed: bool) -> None:
    """Counts, places, quadrants and the largest difference are those of a loop over values."""
    first = lopsided(a_signed, b_signed)
    table = first.table.copy()
    rng = np.random.default_rng(5)
    table[rng.random(table.shape) < 0.3] += 7
    table[5, 11] -= 500
    second = Multiplier.from_table(table, name="n", a_signed=a_signed, b_signed=b_signed)
    found = compare(first, second, positions=4)

    places: list[tuple[int, int, int, int]] = []
    quadrants: dict[tuple[bool, bool], list[int]] = {}
    for x in [*range(8 // (1 + a_signed)), *range(-4 if a_signed else 0, 0)]:
        for w in [*range(16 // (1 + b_signed)), *range(-8 if b_signed else 0, 0)]:
            p, q = first(x, w), second(x, w)
            counts = quadrants.setdefault((x < 0, w < 0), [0, 0])
            counts[1] += 1
            if p != q:
                counts[0] += 1
                places.append((x, w, p, q))
    assert (found.differing, found.pairs, found.exhaustive) == (len(places), 128, True)
    assert [(d.a, d.b, d.first, d.second) for d in found.positions] == places[:4]
    worst = max(places, key=lambda d: abs(d[2] - d[3]))
    assert found.largest is not None
    assert (found.largest.a, found.largest.b) == worst[:2]
    assert found.max_abs == abs(worst[2] - worst[3]) >= 493
    assert {
        (q.a_negative, q.b_negative): [q.differing, q.pairs] for q in found.quadrants
    } == quadrants
    assert not found.equal
    assert found.to_json()["description"] == found.describe()


def test_equal_and_exchanged() -> None:
    """A multiplier equals itself; its transposed table is said to be itself exchanged."""
    table = lopsided(False, False).table[:, :8]
    m = Multiplier.from_table(table, name="m")
    turned = Multiplier.from_table(table.T, name="turned")
    assert compare(m, m).describe() == "equals it in all 64 entries"
    assert compare(m, m).max_abs == 0
    assert not compare(m, m).swapped_equal
    found = compare(m, turned)
    assert found.swapped_equal
    assert "in none once the operands are exchanged (+swap)" in found.describe()


def test_other_formats_are_refused() -> None:
    """Only like is compared with like; exchanged formats are hinted at."""
    m = lopsided(False, False)
    with pytest.raises(errors.InputError, match=r"same operand formats can be compared$"):
        compare(m, exact(8))
    with pytest.raises(errors.InputError, match=r"exchange the operands of one: .*\+swap"):
        compare(m, exact(4, False, b_bits=3))


def test_wide_ones_are_sampled() -> None:
    """Without tables a sample is compared, the same each time, and is called one."""

    def wrong(a: Any, b: Any) -> Any:
        return a * b + ((a < 0) & (b < 0))

    m = Multiplier.from_function(wrong, name="w", a="16s", b="16s", fingerprint="w")
    found = compare(m, exact(16))
    assert found == compare(m, exact(16))
    assert not found.exhaustive
    assert found.pairs == 1 << 20
    assert found.differing == next(q.pairs for q in found.quadrants if q.a_negative & q.b_negative)
    assert abs(found.differing / found.pairs - 0.25) < 0.01
    assert "sampled pairs, all of them where both operands are negative" in found.describe()


def test_where_in_words() -> None:
    """Differences in two quadrants are counted one by one."""
    table = exact(3).table.copy()
    table[5, 1] += 2  # a = -3, b = 1
    table[1, 6] += 1  # a = 1, b = -2
    table[1, 7] += 1
    m = Multiplier.from_table(table, name="m", a_signed=True, b_signed=True)
    words = compare(m, exact(3)).describe()
    assert (
        "2 where a is not negative and b is negative; 1 where a is negative and b is not" in words
    )
    assert "first at a=1, b=-2 (-1, not -2), by at most 2" in words


# --- known tables ----------------------------------------------------------------------------


def test_known_under_another_name(lab: Any) -> None:
    """Indexes are asked by hash, nothing is downloaded; exchanged operands are seen."""
    cut = Multiplier.from_table(load("lab:r1/mul4u_CUT").table, name="mine")
    lab.server.asked.clear()
    assert known_tables(cut) == ["lab:r1/mul4u_CUT"]
    assert known_tables(Multiplier.from_table(cut.table.T, name="mine")) == [
        "lab:r1/mul4u_CUT+swap"
    ]
    plain = Multiplier.from_table(exact(4, signed=False).table, name="mine")
    assert known_tables(plain) == [
        "exact:4u",
        "lab:r1/mul4u_LIE",  # by what the index says of it
        "lab:r1/mul4u_SAME",
        "lab:r1/mul4u_WHO",
        "lab:r2/mul4u_SAME",
    ]
    # The same table of other operands is another multiplier.
    other = Multiplier.from_table(cut.table, name="mine", a_signed=True, b_signed=True)
    assert known_tables(other) == []
    assert lab.server.asked == []


def test_known_in_the_cache_and_in_families() -> None:
    """What was imported before, and a family's member, are known too."""
    m = lopsided(True, False)
    Store().put(m)
    same = Multiplier.from_table(m.table, name="same", a_signed=True)
    assert known_tables(same) == ["local:m"]
    assert known_tables(m) == []
    turned = Multiplier.from_table(m.table.T, name="turned", b_signed=True)
    assert known_tables(turned) == ["local:m+swap"]
    drum = Multiplier.from_table(load("drum:8u/k=4").table, name="mine")
    assert "drum:8u/k=4" in known_tables(drum)


def test_claims(lab: Any) -> None:
    """A name is held against its multiplier: it holds, it does not, it cannot be told."""
    cut = load("lab:r1/mul4u_CUT")
    mine = Multiplier.from_table(cut.table, name="mine")
    found = recognise(mine, ["lut_mul4u_CUT"])
    assert [(c.id, c.holds) for c in found.claims] == [("lab:r1/mul4u_CUT", True)]
    assert found.contradicted == ()
    assert recognise(mine, ["mul4u_CUTTER", "xmul4u_CUT"]).claims == ()
    wrong = Multiplier.from_table(cut.table + 1, name="mine")
    claim = recognise(wrong, ["mul4u_CUT"]).contradicted[0]
    assert claim.comparison is not None
    assert claim.comparison.differing == 256
    # Of other operands it is another circuit, whatever the entries.
    other = Multiplier.from_table(cut.table, name="mine", a_signed=True, b_signed=True)
    assert "which is 4u x 4u" in recognise(other, ["mul4u_CUT"]).contradicted[0].why
    # Two circuits of one name: one of them is enough.
    two = Multiplier.from_table(load("lab:r2/mul4u_TWO").table, name="mine")
    found = recognise(two, ["mul4u_TWO"])
    assert [c.holds for c in found.claims] == [False, True]
    assert found.contradicted == ()
    # A wide circuit that agrees on a sample is not proved.
    wide = Multiplier.from_function(
        lambda a, b: a * (b & 0xFFF0), name="mul16u_WIDE", a="16u", b="16u", fingerprint="x"
    )
    assert [c.holds for c in recognise(wide, ["mul16u_WIDE"]).claims] == [None]


def test_claims_offline(lab: Any) -> None:
    """Without the network the hash alone tells that a claim is false."""
    wrong = Multiplier.from_table(exact(4, signed=False).table + 1, name="mine")
    claim = recognise(wrong, ["mul4u_CUT"], offline=True).contradicted[0]
    assert (claim.holds, claim.comparison) == (False, None)
    assert claim.why.endswith("its table has another hash")
    assert claim.unreachable
    unknown = recognise(wrong, ["mul4u_GOTO"]).claims[0]
    assert unknown.holds is None
    assert "cannot be checked" in unknown.why


def test_closest(lab: Any) -> None:
    """Of the exact product and the cache the nearest is named."""
    cut = load("lab:r1/mul4u_CUT")
    table = cut.table.copy()
    table[9, 3] += 1
    near = Multiplier.from_table(table, name="mine")
    closest = recognise(near).closest
    assert closest is not None
    assert (closest.second, closest.differing) == ("lab:r1/mul4u_CUT", 1)
    table = exact(4, signed=False).table.copy()
    table[9, 3] += 1
    closest = recognise(Multiplier.from_table(table, name="mine")).closest
    assert closest is not None
    assert (closest.second, closest.differing) == ("exact:4u", 1)
