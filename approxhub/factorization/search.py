"""From a multiplier to its cheapest factors known, verified on all entries.

Tries the table and its error, by rows and by columns, and keeps the cheapest. Imports
python-flint where it is needed (through :mod:`.lattice`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from approxhub.factorization.errors import (
    FactorizationError,
    NoFactorizableTableError,
    TooCostlyError,
)
from approxhub.factorization.factors import Factorization, exact_cost
from approxhub.factorization.lattice import (
    Matrix,
    column_factors,
    full_rank,
    least_rank,
    row_factors,
)
from approxhub.factorization.reduction import component_costs, reduce_factors, share_divisors
from approxhub.multiplier import Multiplier

__all__ = ["MAX_RANK", "factorize", "ranks"]

MAX_RANK = 256
"""Rank above which factors are not looked for: no table of up to 8 bits has a higher one."""

_MAX_RANK_LONG = 64  # the same where lattice vectors are long, and reducing them takes minutes
_SHORT = 1024  # a longer side is not used as the length of lattice vectors if there is a shorter
_LARGE = 64  # rank from which unpromising starts are not followed


@dataclass
class _Start:
    """Factors to begin with, of the table (`exact` = 0) or of its error."""

    exact: int
    with_exact: bool
    u: Matrix
    v: Matrix

    @property
    def rank(self) -> int:
        return len(self.v)

    @property
    def cost(self) -> int:
        return self.exact + sum(component_costs(self.u, self.v))


class _Distinct:
    """A matrix without its repeated rows and columns."""

    def __init__(self, matrix: Matrix) -> None:
        first, self._rows = np.unique(matrix, axis=0, return_inverse=True)
        self.core, self._columns = np.unique(first, axis=1, return_inverse=True)

    def expand(self, u: Matrix, v: Matrix) -> tuple[Matrix, Matrix]:
        """Factors of the whole matrix from those of its core."""
        return u[self._rows.ravel()], v[:, self._columns.ravel()]

    def proven(self) -> tuple[Matrix, Matrix]:
        """Factors of the core, whose inner length is proven to be its rank."""
        m, n = self.core.shape
        max_rank = _MAX_RANK_LONG if min(m, n) > _SHORT else MAX_RANK
        if n > m and n > _SHORT:
            v, u = row_factors(np.ascontiguousarray(self.core.T), max_rank)
            u, v = np.ascontiguousarray(u.T), np.ascontiguousarray(v.T)
        else:
            u, v = row_factors(self.core, max_rank)
        # core == u @ v: its rank is at most the inner length, and exactly that where both factors
        # have full rank. Full rank modulo a prime is full rank.
        if not (full_rank(u) and full_rank(v)):
            raise FactorizationError("a rank is not proven modulo 2**61 - 1; please report this")
        return u, v


def _checked_table(multiplier: Multiplier) -> tuple[Matrix, Matrix]:
    if not multiplier.has_table:
        raise NoFactorizableTableError(
            f"{multiplier.id} ({multiplier.a} x {multiplier.b}) is too wide for a table: factors "
            "found from a sample of its products could be wrong elsewhere, so none are made"
        )
    table = multiplier.table.astype(np.int64)
    return table, table - multiplier.a.values()[:, None] * multiplier.b.values()


def ranks(multiplier: Multiplier) -> tuple[int, int]:
    """Ranks of a multiplier's table and of its error, proven.

    The factors that are computed on the way prove both bounds: their product, checked on all
    entries, cannot have a higher rank than their inner length, and as both have full rank modulo
    a prime it cannot have a lower one.

    Parameters
    ----------
    multiplier : Multiplier

    Returns
    -------
    rank, error_rank : int

    Raises
    ------
    NoFactorizableTableError
        If it has no table.
    TooCostlyError
        If a rank is above `MAX_RANK`, or 64 where both operands are wider than 10 bits.

    Examples
    --------
    >>> import approxhub as ah
    >>> ranks(ah.exact(8)), ranks(ah.load("drum:8u/k=4"))
    ((1, 0), (1, 2))
    """
    table, error = (_Distinct(x) for x in _checked_table(multiplier))
    return len(table.proven()[1]), len(error.proven()[1])


def factorize(multiplier: Multiplier, *, max_cost: int | None = None) -> Factorization:
    """Write a multiplier's table as integer factors, exactly and as cheaply as is known.

    Parameters
    ----------
    multiplier : Multiplier
        With a table.
    max_cost : int, optional
        Highest cost that is of use, in int8 products per product.

    Returns
    -------
    Factorization
        Verified on all entries.

    Raises
    ------
    NoFactorizableTableError
        If it has no table.
    TooCostlyError
        If no factors of that cost were found, or a rank is too high, as in :func:`ranks`.
    FactorizationError
        If python-flint cannot be imported.

    Examples
    --------
    >>> import approxhub as ah
    >>> f = factorize(ah.load("roba:8u"))
    >>> f.rank_table, f.rank_error, f.with_exact
    (2, 1, True)
    """
    table, error = (_Distinct(x) for x in _checked_table(multiplier))
    exact = exact_cost(multiplier.a, multiplier.b)
    if max_cost is not None:
        # Each unit of rank costs a product. Modulo a prime that takes milliseconds to know, where
        # the factors of a table of full rank take minutes.
        bound = min(least_rank(table.core), exact + least_rank(error.core))
        if bound > max_cost:
            raise TooCostlyError(
                f"{multiplier.id}: factors cost at least {bound} int8 products per product, not "
                f"{max_cost}",
                bound,
            )
    table_factors, error_factors = table.proven(), error.proven()
    rank_table, rank_error = len(table_factors[1]), len(error_factors[1])
    least = min(rank_table, exact + rank_error)
    starts = []
    for distinct, price, factors in ((error, exact, error_factors), (table, 0, table_factors)):
        ways = [factors]
        if max(distinct.core.shape) <= _SHORT:
            ways.append(column_factors(distinct.core, *factors, MAX_RANK))
        for u, v in ways:
            starts.append(_Start(price, distinct is error, *share_divisors(u, v)))
    best = _cheapest(starts, least)
    u, v = (error if best.with_exact else table).expand(best.u, best.v)
    made = Factorization(
        multiplier.identity,
        multiplier.a,
        multiplier.b,
        u,
        v,
        with_exact=best.with_exact,
        rank_table=rank_table,
        rank_error=rank_error,
    )
    made.verify(multiplier)
    if max_cost is not None and made.cost > max_cost:
        raise TooCostlyError(
            f"{multiplier.id}: the cheapest factors found cost {made.cost} int8 products per "
            f"product, not {max_cost}",
            made.cost,
        )
    return made


def _cheapest(starts: list[_Start], least: int) -> _Start:
    """Reduce the starts, the most promising first, until none can be better."""
    best = None
    for start in sorted(starts, key=lambda s: s.cost):  # stable: error before table, rows first
        if best is not None:
            if start.exact + start.rank >= best.cost:
                continue
            if start.rank > _LARGE and 4 * start.cost > 5 * best.cost:
                continue
        u, v = reduce_factors(start.u, start.v)
        reduced = _Start(start.exact, start.with_exact, u, v)
        if best is None or reduced.cost < best.cost:
            best = reduced
        if best.cost == least:
            break
    assert best is not None
    return best
