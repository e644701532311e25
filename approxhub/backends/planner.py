"""Which of the engine's ways is the quickest for a table and a shape, and why.

The rates are fitted to measurements (``approxhub bench``); they decide speed only: every way gives
the same integers.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WAYS", "Plan", "Rates", "Work", "plan"]

WAYS = ("exact", "factored", "lookup")

_CALL = 8e-6  # seconds that any call takes
_SCATTERED = 4  # times as long takes a sum that does not lie beside the one before
_MANY_LANES = 1024  # that share what was spread


@dataclass(frozen=True, slots=True)
class Rates:
    """Speed of one instruction set on one thread.

    Parameters
    ----------
    lookup : float
        Table entries a second, in the inner loop.
    product : float
        Int8 products a second.
    lay : float
        Operand bytes turned, recoded and laid a second.
    emit : float
        Sums written a second.
    load : int
        Lanes that take as long as the entries of a row, which are loaded for 256 lanes.
    spread, many : float, optional
        Table entries a second in the loop for many rows, if there is one: those that are made
        neighbours, 256 for each row of the table, and those that are added.
    """

    lookup: float
    product: float
    lay: float
    emit: float
    load: int = 0
    spread: float | None = None
    many: float | None = None

    def lookups(self, lanes: int, rows: int, k: int) -> float:
        """Seconds that looking up takes: the quicker one of two loops, as in ``csrc/lookup.c``."""
        few = (-(-lanes // 64) * 64 + -(-lanes // 256) * self.load) * rows / self.lookup
        if self.spread is None or self.many is None:
            return few * k
        padded = rows // 32 * 32 + -(-(rows % 32) // 16) * 16
        tiles = -(-lanes // _MANY_LANES)
        return k * min(few, padded * (256 * tiles / self.spread + lanes / self.many))


@dataclass(frozen=True, slots=True)
class Work:
    """What one way of running a product has to do.

    Parameters
    ----------
    lanes : int
        Lanes that are computed, those that are thrown away included.
    rows : int
        Rows that meet them.
    k : int
        Products in one sum, those with padding included.
    laid : int
        Codes that are laid or packed anew at every call.
    scattered : bool
        Whether sums of neighbouring lanes lie apart in the result.
    """

    lanes: int
    rows: int
    k: int
    laid: int
    scattered: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A choice, with what it was made of.

    Parameters
    ----------
    way : {'exact', 'factored', 'lookup'}
        A plain integer product; one over recoded operands; or table rows in registers.
    seconds : float
        The estimate for it.
    estimates : tuple of (str, float)
        All ways that could do it, with their estimates.
    planes : int or None
        Int8 products for one product of the factored form, if there is one.
    """

    way: str
    seconds: float
    estimates: tuple[tuple[str, float], ...]
    planes: int | None = None

    def __str__(self) -> str:
        def told(way: str) -> str:
            if way == "factored":
                return f"factored ({self.planes} int8 products for one)"
            return way

        others = ", ".join(f"{told(w)} {1e3 * s:.3g} ms" for w, s in self.estimates)
        return f"{self.way}: the quickest of {others}" if len(self.estimates) > 1 else others


def plan(
    rates: Rates,
    threads: int,
    *,
    product: Work | None,
    lookup: Work,
    planes: int | None,
    exact: bool,
    forced: str | None = None,
) -> Plan:
    """Choose a way.

    Parameters
    ----------
    rates : Rates
        Of the instruction set in use.
    threads : int
        The threads it may use.
    product, lookup : Work
        What either has to do; no `product` where the table has no factored form.
    planes : int or None
        Int8 products for one product of the factored form.
    exact : bool
        Whether the multiplier is exact.
    forced : str, optional
        A way to take whenever it can be done.
    """
    ways: dict[str, float] = {}
    if product is not None and planes is not None:
        ways["exact" if exact else "factored"] = (
            _CALL
            + (
                product.lanes * product.rows * (product.k * planes / rates.product + 1 / rates.emit)
                + planes * product.laid / rates.lay
            )
            / threads
        )
    ways["lookup"] = (
        _CALL
        + (
            rates.lookups(lookup.lanes, lookup.rows, lookup.k)
            + lookup.lanes * lookup.rows * (_SCATTERED if lookup.scattered else 1) / rates.emit
            + lookup.laid / rates.lay
        )
        / threads
    )
    if forced == "factored" and exact:
        forced = "exact"  # the factored form of an exact table is the plain product
    way = forced if forced in ways else min(ways, key=lambda w: (ways[w], w))
    return Plan(way, ways[way], tuple(sorted(ways.items())), planes)
