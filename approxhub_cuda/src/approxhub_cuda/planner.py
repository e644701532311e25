"""What each kernel would take on a card, for the core's planner to choose from.

The rates are guesses from what the kernels' inner loops do in a cycle; none was measured. They
decide speed only: every way gives the same integers.
"""

from __future__ import annotations

from dataclasses import dataclass

from approxhub.backends.planner import Plan, Rates, Work, plan
from approxhub_cuda.native import CACHED, PLAIN, SHARED, STAGED, Card

__all__ = ["LOOKUPS", "Lookups", "Shape", "choose"]

_BANDWIDTH = 8.0  # bytes to and from memory, in a cycle of one processor
_RECODED = 64.0  # bytes recoded in a cycle of one processor: up to four planes a lookup
_PRODUCT_ROWS = 128  # of the tile of a block


@dataclass(frozen=True, slots=True)
class Lookups:
    """One way to look products up.

    Parameters
    ----------
    number : int
        What the library calls it.
    rows, columns : int
        Of the tile of a block: what is beyond the sums is computed all the same.
    rate : float
        Entries that one processor adds in a cycle.
    """

    number: int
    rows: int
    columns: int
    rate: float


LOOKUPS = {
    "staged": Lookups(STAGED, 256, 8, 14.0),
    "column": Lookups(STAGED, 1024, 1, 6.0),  # the same with one column to a block
    "shared": Lookups(SHARED, 128, 64, 8.0),
    "cached": Lookups(CACHED, 128, 32, 4.0),
    "plain": Lookups(PLAIN, 16, 16, 0.5),  # only where it is asked for
}
_WHOLE = 150 * 1024  # bytes of a table of 256 x 256 and of the codes beside it


@dataclass(frozen=True, slots=True)
class Shape:
    """Sums to make: `groups` products ``(m, k) x (k, n)``."""

    m: int
    k: int
    n: int
    groups: int = 1


def _waves(shape: Shape, rows: int, columns: int, card: Card) -> int:
    """Sums that the card computes, counting processors that have nothing to do."""
    tiles = -(-shape.m // rows) * -(-shape.n // columns) * shape.groups
    processors = int(card.processors)
    parts = max(1, min(processors // tiles, shape.k // 128))
    return -(-tiles * parts // processors) * processors * rows * columns // parts


def lookup_ways(card: Card, *, by_bytes: bool, narrow: bool, n: int) -> tuple[str, ...]:
    """Ways to look up that a table and a card allow."""
    if not (by_bytes and narrow):
        return ("cached",)
    whole = ("shared",) if card.shared_bytes >= _WHOLE else ()
    return ("column" if n == 1 else "staged", *whole, "cached", "plain")


def choose(
    card: Card,
    shape: Shape,
    lookups: tuple[str, ...],
    *,
    planes: int | None,
    exact: bool,
    forced: str | None = None,
) -> tuple[Plan, str]:
    """Choose a way, and a way to look up should it be that.

    Parameters
    ----------
    card : Card
    shape : Shape
    lookups : tuple of str
        What :func:`lookup_ways` allows.
    planes : int or None
        Int8 products for one product of the factored form, if there is one.
    exact : bool
        Whether the multiplier is exact.
    forced : str, optional
        A way to take whenever it can be done: 'factored', 'lookup', or one of `LOOKUPS`.

    Returns
    -------
    plan : Plan
    lookup : str
    """
    cycles = card.processors * card.clock_khz * 1e3
    found = {
        name: _waves(shape, way.rows, way.columns, card) * shape.k / (way.rate * cycles)
        for name, way in LOOKUPS.items()
        if name in lookups
    }
    best = min(found, key=lambda name: (name == "plain", found[name]))
    if forced == "staged" and "column" in found:
        forced = "column"
    if forced in LOOKUPS:
        best = forced if forced in found else best
        forced = "lookup"
    way = LOOKUPS[best]
    rates = Rates(
        lookup=way.rate * cycles, product=_product_rate(card) * cycles,
        lay=_RECODED * cycles, emit=_BANDWIDTH / 8 * cycles,
    )  # fmt: skip
    sums = Work(_waves(shape, way.rows, way.columns, card), 1, shape.k, 0)
    columns = 128 if shape.n > 64 else 64
    recoded = shape.groups * (
        shape.m * -(-shape.n // columns) + shape.n * -(-shape.m // _PRODUCT_ROWS)
    )
    product = Work(
        _waves(shape, _PRODUCT_ROWS, columns, card), 1, -(-shape.k // 32) * 32, recoded * shape.k
    )
    chosen = plan(
        rates, 1, product=None if planes is None else product, lookup=sums, planes=planes,
        exact=exact, forced=forced,
    )  # fmt: skip
    return chosen, best


def _product_rate(card: Card) -> float:
    """Byte products of one processor's matrix units in a cycle, at part of their peak."""
    capability = (int(card.major), int(card.minor))
    if capability >= (12, 0) or capability < (8, 0) or (8, 0) < capability < (9, 0):
        return 512.0
    return 1024.0 if capability == (8, 0) else 1600.0
