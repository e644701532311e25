"""What the conformance kits share: how a broken clause is told, tables to try, plug-ins on offer.

Imports numpy, the multiplier, the plug-in host and pytest; never torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NoReturn, TypeVar

import numpy as np

from approxhub.errors import ApproxHubError
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat
from approxhub.plugins import hookimpl, host

try:
    import pytest
except ImportError as error:
    raise ApproxHubError(
        "approxhub.testing needs pytest; install it with: pip install 'approxhub[test]'"
    ) from error

__all__ = ["CORNER", "at_once", "broken", "lopsided", "offered", "pytest"]

T = TypeVar("T")

CORNER = 64
"""``T[0][0]`` of every table here: what stands for nothing must not reach the table."""


def broken(clause: str, found: str) -> NoReturn:
    """Fail the running test with the clause of the contract that does not hold.

    Parameters
    ----------
    clause : str
        What the contract says.
    found : str
        What the plug-in does instead.
    """
    pytest.fail(f"The contract says: {clause}.\nThis plug-in: {found}", pytrace=False)


def lopsided(a: str, b: str, seed: int = 0) -> Multiplier:
    """Make a multiplier whose table no exchange, transposition or offset leaves alone.

    Parameters
    ----------
    a, b : str
        Formats of activation and weight, e.g. ``'8s'``.
    seed : int
        Another one gives another table.

    Returns
    -------
    Multiplier
        Near the exact product; with :data:`CORNER` for two zeros, and negative entries only where
        an operand is signed.

    Examples
    --------
    >>> m = lopsided("4u", "3s")
    >>> m.a.bits, m.b.signed, int(m.table[0, 0])
    (4, True, 64)
    """
    x, w = OperandFormat.parse(a), OperandFormat.parse(b)
    rng = np.random.default_rng([seed, x.bits, w.bits, x.signed, w.signed])
    noise = rng.integers(0, 9, (x.size, w.size))
    table = x.values()[:, None] * w.values()[None, :] + noise
    table[0, 0] = CORNER
    return Multiplier.from_table(table, name="lopsided", a_signed=x.signed, b_signed=w.signed)


def at_once(work: Callable[[], T], workers: int = 4, times: int = 4) -> list[T]:
    """Do the same work in several threads, which begin together, several times each.

    Parameters
    ----------
    work : callable
    workers, times : int

    Returns
    -------
    list
        All that it returned.

    Examples
    --------
    >>> at_once(lambda: 2, workers=2, times=2)
    [2, 2, 2, 2]
    """
    barrier = threading.Barrier(workers)

    def several(_: int) -> list[T]:
        barrier.wait(60)
        return [work() for _ in range(times)]

    with ThreadPoolExecutor(workers) as pool:
        return [result for results in pool.map(several, range(workers)) for result in results]


@contextmanager
def offered(hook: str, record: Any) -> Iterator[None]:
    """Offer one record through a hook, as an installed plug-in would.

    Parameters
    ----------
    hook : str
        E.g. ``'approxhub_formats'``.
    record : record of that hook
        Its name must not be taken, also not by an installed twin.
    """
    plugin = f"approxhub.testing {hook}"
    host().register(SimpleNamespace(**{hook: hookimpl(lambda: [record])}), plugin)
    try:
        yield
    finally:
        host().unregister(plugin)
