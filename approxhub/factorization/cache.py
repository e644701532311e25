"""Factors made once: kept in this process, and beside the table in the store.

Imports the search and, when something is read or written, the store.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from typing import Any

from approxhub.errors import ApproxHubError, StoreError, VerificationError
from approxhub.factorization import stored
from approxhub.factorization.errors import TooCostlyError
from approxhub.factorization.factors import Factorization
from approxhub.factorization.search import factorize
from approxhub.multiplier import Multiplier

__all__ = ["factorize_cached", "forget", "known_factors"]

_KEPT = 64
_lock = threading.Lock()
_known: OrderedDict[str, Factorization] = OrderedDict()
_costly: OrderedDict[str, int] = OrderedDict()


def factorize_cached(multiplier: Multiplier, *, max_cost: int | None = None) -> Factorization:
    """Like :func:`factorize`, but at most once for a table: the store keeps the factors.

    What comes from the store is verified on all entries, as what is made anew. A store that
    cannot be written, or whose file is damaged, is a warning.

    Parameters
    ----------
    multiplier : Multiplier
        With a table.
    max_cost : int, optional
        Highest cost that is of use, in int8 products per product.

    Returns
    -------
    Factorization

    Raises
    ------
    NoFactorizableTableError, TooCostlyError, FactorizationError
        As :func:`factorize`.

    Examples
    --------
    >>> import approxhub as ah
    >>> m = ah.load("drum:8s/k=4")
    >>> factorize_cached(m) is factorize_cached(m)
    True
    """
    found = known_factors(multiplier)
    if found is not None:
        return _within(multiplier, found, max_cost)
    with _lock:
        least = _costly.get(multiplier.identity, 0)
    if max_cost is not None and least > max_cost:
        raise TooCostlyError(
            f"{multiplier.id}: factors cost at least {least} int8 products per product, not "
            f"{max_cost}",
            least,
        )
    try:
        made = factorize(multiplier, max_cost=max_cost)
    except TooCostlyError as error:
        with _lock:
            _keep(_costly, multiplier.identity, error.cost)
        raise
    try:
        from approxhub.registry.store import Store

        Store().put_factors(made.identity, stored.to_bytes(made))
    except StoreError as error:
        warnings.warn(f"the factors of {multiplier.id} were not kept: {error}", stacklevel=2)
    return _remember(made)


def known_factors(multiplier: Multiplier) -> Factorization | None:
    """Factors of a multiplier that were made before, verified, or None.

    Examples
    --------
    >>> import approxhub as ah
    >>> known_factors(ah.exact(16)) is None
    True
    """
    if not multiplier.has_table:
        return None
    with _lock:
        found = _known.get(multiplier.identity)
        if found is not None:
            _known.move_to_end(multiplier.identity)
            return found
    from approxhub.registry.store import Store

    try:
        data = Store().get_factors(multiplier.identity)
        if data is None:
            return None
        found = stored.from_bytes(data)
        if found.identity != multiplier.identity:
            raise VerificationError(f"they are those of {found.identity}")
        found.verify(multiplier)
    except ApproxHubError as error:
        warnings.warn(f"the stored factors of {multiplier.id} are not used: {error}", stacklevel=3)
        return None
    return _remember(found)


def forget() -> None:
    """Drop what this process has kept; the store keeps its own."""
    with _lock:
        _known.clear()
        _costly.clear()


def _remember(factors: Factorization) -> Factorization:
    with _lock:
        if factors.identity in _known:  # another thread was first
            return _known[factors.identity]
        _keep(_known, factors.identity, factors)
        return factors


def _keep(kept: OrderedDict[str, Any], identity: str, value: Any) -> None:
    kept[identity] = value
    while len(kept) > _KEPT:
        kept.popitem(last=False)


def _within(m: Multiplier, factors: Factorization, max_cost: int | None) -> Factorization:
    if max_cost is not None and factors.cost > max_cost:
        raise TooCostlyError(
            f"{m.id}: the cheapest factors found cost {factors.cost} int8 products per product, "
            f"not {max_cost}",
            factors.cost,
        )
    return factors
