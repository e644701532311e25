"""Which of the engine's ways is the quickest for a table and a shape, and why.

The rates are fitted to measurements (``benchmarks/cpu_engine.py``); they decide speed only:
every way gives the same integers.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WAYS", "Plan", "Rates", "plan"]

WAYS = ("exact", "factored", "lookup")

_CALL = 5e-6  # seconds that any call takes


@dataclass(frozen=True, slots=True)
class Rates:
    """Speed of one instruction set on one thread.

    Parameters
    ----------
    lookup : float
        Table entries a second, in the inner loop.
    product : float
        Int8 products a second.
    pack : float
        Operand bytes recoded and packed a second.
    """

    lookup: float
    product: float
    pack: float


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
    """

    way: str
    seconds: float
    estimates: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        others = ", ".join(f"{w} {1e3 * s:.3g} ms" for w, s in self.estimates)
        return f"{self.way}: the quickest of {others}"


def lookup_shape(m: int, n: int) -> tuple[int, int]:
    """Operands that lie along the lanes, and those that pick table rows: (m, n) or swapped."""
    return (m, n) if _lanes(m) * n <= _lanes(n) * m else (n, m)


def _lanes(count: int) -> int:
    return -(-count // 64) * 64


def plan(
    rates: Rates,
    m: int,
    k: int,
    n: int,
    threads: int,
    *,
    planes: int | None,
    exact: bool,
    lookup: bool,
    forced: str | None = None,
) -> Plan:
    """Choose a way for ``(m, k) x (k, n)``.

    Parameters
    ----------
    rates : Rates
        Of the instruction set in use.
    m, k, n, threads : int
        The size, and the threads it may use.
    planes : int or None
        Int8 products for one product of the factored form; None if there is none.
    exact : bool
        Whether the multiplier is exact.
    lookup : bool
        Whether the table fits the lookup kernel.
    forced : str, optional
        A way to take whenever it can be done.
    """
    ways: dict[str, float] = {}
    if planes is not None:
        width = -(-n // 32) * 32
        inner = m * k * width * planes / (rates.product * threads)
        packing = planes * k * (m + width) / (rates.pack * threads)
        ways["exact" if exact else "factored"] = _CALL + inner + packing
    if lookup:
        lanes, rows = lookup_shape(m, n)
        inner = _lanes(lanes) * rows * k / (rates.lookup * threads)
        ways["lookup"] = _CALL + inner + k * (lanes + rows) / (rates.pack * threads)
    if forced == "factored" and exact:
        forced = "exact"  # the factored form of an exact table is the plain product
    way = forced if forced in ways else min(ways, key=lambda w: (ways[w], w))
    return Plan(way, ways[way], tuple(sorted(ways.items())))
