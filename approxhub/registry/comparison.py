"""Comparison: in which entries two multipliers differ and where, and which known ones are equal.

Downloads nothing. Imports numpy and the catalogue; the store when it is asked.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from approxhub.errors import ApproxHubError, InputError
from approxhub.ids import MultiplierId
from approxhub.multiplier import Multiplier, format_pair, table_sha256
from approxhub.operands import OperandFormat

__all__ = ["Comparison", "Difference", "Quadrant", "compare", "known_tables"]

_POSITIONS = 5
_SAMPLES = 1 << 20  # as many as the metrics of a circuit without a table are taken from
_COMPUTED_BITS = 16  # operands up to which families are tabulated just to look
_SIDE = {False: "not negative", True: "negative"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One operand pair on which two multipliers differ.

    Parameters
    ----------
    a, b : int
        Values of the operands.
    first, second : int
        Product of each multiplier.
    """

    a: int
    b: int
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Quadrant:
    """The pairs whose operands have given signs, and how many of them differ.

    Parameters
    ----------
    a_negative, b_negative : bool
        Signs of the operands; 0 is not negative.
    differing, pairs : int
        How many pairs differ, and how many were compared.
    """

    a_negative: bool
    b_negative: bool
    differing: int
    pairs: int

    def __str__(self) -> str:
        if self.a_negative == self.b_negative:
            number = "both operands are" if self.a_negative else "neither operand is"
            return f"{number} negative"
        return f"a is {_SIDE[self.a_negative]} and b is {_SIDE[self.b_negative]}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """In what two multipliers of the same operand formats differ.

    Parameters
    ----------
    first, second : str
        Their ids.
    a, b : OperandFormat
        The operand formats of both.
    differing, pairs : int
        How many operand pairs differ, of how many compared.
    exhaustive : bool
        Whether all pairs were compared; else a seeded uniform sample.
    positions : tuple of Difference
        The first few, in the order of the table: by bit pattern, `a` first.
    largest : Difference or None
        The first of those with the largest absolute difference.
    quadrants : tuple of Quadrant
        Counts by the signs of the operands; one for each combination that occurs.
    swapped_equal : bool
        Whether the first equals the second with its operands exchanged, on all pairs compared.
    """

    first: str
    second: str
    a: OperandFormat
    b: OperandFormat
    differing: int
    pairs: int
    exhaustive: bool
    positions: tuple[Difference, ...]
    largest: Difference | None
    quadrants: tuple[Quadrant, ...]
    swapped_equal: bool

    @property
    def equal(self) -> bool:
        """Whether no pair differs (of those compared)."""
        return self.differing == 0

    @property
    def max_abs(self) -> int:
        """The largest absolute difference of two products."""
        return 0 if self.largest is None else abs(self.largest.first - self.largest.second)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return {
            **dataclasses.asdict(self),
            "positions": [dataclasses.asdict(p) for p in self.positions],
            "quadrants": [dataclasses.asdict(q) for q in self.quadrants],
            "equal": self.equal,
            "max_abs": self.max_abs,
            "description": self.describe(),
        }

    def describe(self) -> str:
        """Say in a sentence what differs, and where.

        Examples
        --------
        >>> from approxhub.multiplier import exact
        >>> other = Multiplier.from_function(
        ...     lambda a, b: a * b - (a < 0) * (b < 0), name="off", a="2s", b="2s"
        ... )
        >>> compare(other, exact(2)).describe().partition(", first at ")[0]
        'differs in 4 of 16 entries, all of them where both operands are negative'
        """
        noun = "entries" if self.exhaustive else "sampled pairs"
        if self.equal:
            return f"equals it in all {self.pairs:,} {noun}"
        parts = [f"differs in {self.differing:,} of {self.pairs:,} {noun}"]
        where = [q for q in self.quadrants if q.differing]
        if len(self.quadrants) > 1 and len(where) == 1:
            parts.append(f"all of them where {where[0]}")
        elif len(where) > 1:
            parts.append("; ".join(f"{q.differing:,} where {q}" for q in where))
        at = self.positions[0]
        parts.append(f"first at a={at.a}, b={at.b} ({at.first}, not {at.second})")
        parts.append(f"by at most {self.max_abs:,}")
        if self.swapped_equal:
            parts.append("and in none once the operands are exchanged (+swap)")
        return ", ".join(parts)


def compare(
    first: Multiplier, second: Multiplier, *, positions: int = _POSITIONS, seed: int = 0
) -> Comparison:
    """Count and find the operand pairs on which two multipliers differ.

    All pairs are compared where there are tables, else a seeded uniform sample.

    Parameters
    ----------
    first, second : Multiplier
        Of the same operand formats.
    positions : int
        How many differing pairs to name.
    seed : int
        Seed of the sample.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If the operand formats differ.

    Examples
    --------
    >>> from approxhub.multiplier import exact
    >>> table = exact(4, signed=False).table.copy()
    >>> table[3, 5] += 64
    >>> found = compare(Multiplier.from_table(table, name="mine"), exact(4, signed=False))
    >>> found.differing, found.pairs, found.max_abs
    (1, 256, 64)
    >>> found.positions
    (Difference(a=3, b=5, first=79, second=15),)
    """
    if (first.a, first.b) != (second.a, second.b):
        hint = ""
        if (first.a, first.b) == (second.b, second.a):
            hint = f"; exchange the operands of one: {second.id}+swap"
        raise InputError(
            f"{first.id} is {first.a} x {first.b} and {second.id} {second.a} x {second.b}: "
            f"only multipliers of the same operand formats can be compared{hint}"
        )
    a, b = first.a, first.b
    p: npt.NDArray[Any]
    q: npt.NDArray[Any]
    if first.has_table:
        x, w = np.broadcast_arrays(a.values()[:, None], b.values()[None, :])
        p, q = first.table, second.table
        swapped_equal = a == b and bool((p == q.T).all())
    else:
        rng = np.random.default_rng(seed)
        x = rng.integers(a.min, a.max, _SAMPLES, endpoint=True)
        w = rng.integers(b.min, b.max, _SAMPLES, endpoint=True)
        p, q = first.evaluate(x, w), second.evaluate(x, w)
        swapped_equal = a == b and bool((p == second.evaluate(w, x)).all())
    different = p != q
    found = np.flatnonzero(different)

    def at(i: int) -> Difference:
        return Difference(*(int(v.flat[i]) for v in (x, w, p, q)))

    largest = None
    if found.size:
        gaps = np.abs(p[different].astype(np.int64) - q[different])
        largest = at(int(found[gaps.argmax()]))
    return Comparison(
        first=first.id,
        second=second.id,
        a=a,
        b=b,
        differing=int(found.size),
        pairs=int(different.size),
        exhaustive=first.has_table,
        positions=tuple(at(int(i)) for i in found[:positions]),
        largest=largest,
        quadrants=tuple(_quadrants(x < 0, w < 0, different)),
        swapped_equal=swapped_equal,
    )


def _quadrants(
    a_negative: npt.NDArray[np.bool_],
    b_negative: npt.NDArray[np.bool_],
    different: npt.NDArray[np.bool_],
) -> Iterator[Quadrant]:
    for a in (False, True):
        for b in (False, True):
            here = (a_negative == a) & (b_negative == b)
            if here.any():
                yield Quadrant(a, b, int((here & different).sum()), int(here.sum()))


def known_tables(multiplier: Multiplier) -> list[str]:
    """Ids of all known multipliers with the same table, its own id left out.

    Looks into every index (by hash: nothing is downloaded), into the cache, and at the families'
    examples. What equals it only with the operands exchanged is named with ``+swap``.

    Parameters
    ----------
    multiplier : Multiplier

    Returns
    -------
    list of str
        Equal ones before exchanged ones, each sorted.

    Examples
    --------
    >>> from approxhub.multiplier import exact
    >>> known_tables(Multiplier.from_table(exact(4, signed=False).table, name="mine"))
    ['exact:4u']
    """
    identities: dict[str | None, str] = {multiplier.identity: ""}
    if multiplier.has_table:  # a commutative one is no other when swapped
        swapped = _identity(multiplier.b, multiplier.a, table_sha256(multiplier.table.T))
        identities.setdefault(swapped, "+swap")
    found = {
        (suffix, id)
        for id, identity in _known(multiplier)
        if (suffix := identities.get(identity)) is not None and id != multiplier.id
    }
    return [id + suffix for suffix, id in sorted(found)]


def _identity(a: OperandFormat, b: OperandFormat, table: str | None) -> str | None:
    return None if table is None else f"{a}x{b}-{table}"


def _known(like: Multiplier) -> Iterator[tuple[str, str | None]]:
    """Ids with their identities: all that is listed, cached, or computed in the formats of one."""
    from approxhub.registry.catalogue import entries, source_of
    from approxhub.registry.client import peek
    from approxhub.registry.store import Store

    if like.is_exact:
        yield f"exact:{format_pair(like.a, like.b)}", like.identity
    small = like.a.bits + like.b.bits <= _COMPUTED_BITS
    for entry in entries():
        identity = _identity(entry.a, entry.b, entry.table_sha256)
        formula = identity is None and not source_of(entry.source).cache
        if formula and small and {entry.a, entry.b} == {like.a, like.b}:
            with contextlib.suppress(ApproxHubError):  # a plug-in's formula may fail
                made = peek(MultiplierId.parse(entry.id))
                identity = None if made is None else made.identity
        yield entry.id, identity
    store = Store()
    for id in store.ids():
        with contextlib.suppress(ApproxHubError):  # `approxhub verify` says what is damaged
            ref = store.read_ref(id)
            if ref is not None:
                yield id, ref.object
