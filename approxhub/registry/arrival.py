"""Arrival: what a table that comes from outside is, against all that is known.

A table may equal a known one under another name, carry the name of one and differ from it, or be
nearly one. Imports the comparison; the client where a claimed multiplier has to be fetched.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from approxhub.errors import ApproxHubError, NetworkError
from approxhub.formats.assembly import INDEX_ORDERS, assemble
from approxhub.formats.data import Operands, TableData
from approxhub.ids import LOCAL
from approxhub.multiplier import Multiplier, exact, format_pair, table_sha256
from approxhub.operands import OperandFormat
from approxhub.registry.comparison import Comparison, compare, known_tables
from approxhub.registry.entries import Entry

__all__ = ["Arrival", "Claim", "other_readings", "recognise"]

_COMPARED_BITS = 16  # operands up to which all of the cache is compared with
_FAR = 1.0  # per cent of the range that the error of a table read right rarely has on average
_NEARER = 10  # how many times closer to a product a reading has to be to be offered
_TELLING = 6  # letters of a name that mean it even inside a longer one


@dataclass(frozen=True, slots=True)
class Claim:
    """A known multiplier whose name a table carries.

    Parameters
    ----------
    id : str
        The known multiplier.
    holds : bool or None
        Whether the table is its table; None where that cannot be told.
    comparison : Comparison or None
        In what they differ, where both are at hand.
    why : str
        The finding in words, to follow the id of the table.
    unreachable : bool
        Whether the differences are not counted because the known one cannot be downloaded.
    """

    id: str
    holds: bool | None
    comparison: Comparison | None
    why: str
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is found of a table that comes from outside.

    Parameters
    ----------
    multiplier : Multiplier
        The table.
    equal : tuple of str
        Ids of known multipliers with this table, with ``+swap`` where the operands are exchanged.
    claims : tuple of Claim
        What its names claim.
    closest : Comparison or None
        Against the nearest one of the cache and the exact product; None if it equals one.
    hint : str or None
        How its file makes more sense, e.g. ``'with --index-order offset it would equal exact:8s'``.
    """

    multiplier: Multiplier
    equal: tuple[str, ...]
    claims: tuple[Claim, ...]
    closest: Comparison | None
    hint: str | None = None

    @property
    def contradicted(self) -> tuple[Claim, ...]:
        """The claims that do not hold, unless another multiplier of that name is this one."""
        if any(c.holds for c in self.claims):
            return ()
        return tuple(c for c in self.claims if c.holds is False)


def recognise(
    multiplier: Multiplier,
    names: Iterable[str] = (),
    *,
    offline: bool | None = None,
    readings: Iterable[tuple[str, Multiplier]] = (),
) -> Arrival:
    """Compare a table from outside with all that is known.

    Parameters
    ----------
    multiplier : Multiplier
        The table.
    names : iterable of str
        Names that it carries: of the file, of the array or function in it.
    offline : bool, optional
        Whether the network is forbidden for what is claimed; ``APPROXHUB_OFFLINE`` when not given.
    readings : iterable of (str, Multiplier)
        What else its file may mean, as :func:`other_readings` gives it; looked at only when the
        table is far from a product and equals nothing.

    Returns
    -------
    Arrival

    Examples
    --------
    >>> found = recognise(Multiplier.from_table(exact(4, False).table, name="mine"))
    >>> found.equal, found.closest
    (('exact:4u',), None)
    """
    equal = tuple(known_tables(multiplier))
    claims = tuple(_claim(multiplier, e, offline) for e in _named(list(names)))
    closest = hint = None
    # Equal with the operands exchanged is not equal, but closer than anything else could be.
    if not equal:
        others = (compare(multiplier, other) for other in _near(multiplier))
        closest = min(others, key=lambda c: (c.differing, c.second), default=None)
        hint = _misread(multiplier, readings)
    return Arrival(multiplier, equal, claims, closest, hint)


def other_readings(
    data: TableData,
    *,
    operands: Operands,
    index_order: str | None = None,
    operand_order: str | None = None,
) -> Iterator[tuple[str, Multiplier]]:
    """What a file would be in the other index order or with other signs, where it leaves that open.

    Parameters
    ----------
    data : TableData
        What the file says.
    operands : pair of OperandFormat
        The formats, activation first, that it was read with.
    index_order, operand_order : str, optional
        What the caller said besides.

    Yields
    ------
    words : str
        What to say to read it so, e.g. ``'--index-order offset'``.
    multiplier : Multiplier
    """
    if data.circuit is not None:
        return
    for signs in itertools.product((False, True), repeat=2):
        a, b = (OperandFormat(f.bits, s) for f, s in zip(operands, signs, strict=True))
        for order in INDEX_ORDERS if any(signs) else (None,):
            words = [] if (a, b) == operands else [f"--operands {format_pair(a, b)}"]
            words += [] if order in (None, index_order) else [f"--index-order {order}"]
            if not words:
                continue
            # A file that says otherwise refuses.
            with contextlib.suppress(ApproxHubError):
                both, table, _ = assemble(
                    data, operands=(a, b), index_order=order, operand_order=operand_order
                )
                yield " ".join(words), Multiplier(f"{LOCAL}:other", *both, table=table)


def _misread(multiplier: Multiplier, readings: Iterable[tuple[str, Multiplier]]) -> str | None:
    """How a table that is far from a product would be nearly one, or one that is known."""
    bits = multiplier.a.bits + multiplier.b.bits
    if bits > _COMPARED_BITS or multiplier.metrics.mae_pct < _FAR:
        return None
    words, other = min(readings, key=lambda r: r[1].metrics.mae, default=("", multiplier))
    mae = other.metrics.mae
    if mae * _NEARER > multiplier.metrics.mae:
        return None
    known = known_tables(other)
    if known:
        preferred = [id for id in known if id.startswith("exact:")] or known
        return f"with {words} it would equal {preferred[0]}"
    return f"with {words} its MAE would be {mae:.4g}, not {multiplier.metrics.mae:.4g}"


def _named(names: list[str]) -> list[Entry]:
    """Entries whose name is one of some names, or stands in it as a word of its own."""
    from approxhub.registry.catalogue import entries, source_of

    return [
        e
        for e in entries()
        if any(_carries(name, e.name) for name in names) and source_of(e.source).bare_names
    ]


def _carries(name: str, known: str) -> bool:
    """Whether a name is a known one, or has it as a part.

    Examples
    --------
    >>> _carries("lut_mul8s_1L2H", "mul8s_1L2H"), _carries("mul8s_1L2HX", "mul8s_1L2H")
    (True, False)
    """
    if name == known or len(known) < _TELLING or known not in name:
        return name == known
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(known)}(?![A-Za-z0-9])", name) is not None


def _claim(multiplier: Multiplier, entry: Entry, offline: bool | None) -> Claim:
    """Whether a table is that of a known multiplier, and in what it differs."""
    if (entry.a, entry.b) != (multiplier.a, multiplier.b):
        why = (
            f"carries the name of {entry.id}, which is {entry.a} x {entry.b}, and is itself "
            f"{multiplier.a} x {multiplier.b}"
        )
        return Claim(entry.id, False, None, why)
    if entry.table_sha256 is not None and entry.table_sha256 == multiplier.table_sha256:
        return Claim(entry.id, True, None, f"is {entry.id}, whose name it carries")
    from approxhub.registry.client import load

    known = entry.table_sha256 is not None
    try:
        found = compare(multiplier, load(entry.id, offline=offline))
    except ApproxHubError as error:
        if known:
            why = f"carries the name of {entry.id}, and its table has another hash"
        else:
            why = f"carries the name of {entry.id}, which cannot be checked"
        unreachable = isinstance(error, NetworkError)
        why = why if unreachable else f"{why} ({error})"
        return Claim(entry.id, False if known else None, None, why, unreachable)
    # A sample that agrees proves nothing.
    holds = None if found.equal and not found.exhaustive else found.equal
    why = f"carries the name of {entry.id}, and {found.describe()}"
    if known and entry.table_sha256 == _reordered_sha256(multiplier):
        why += "; read in the other index order (pattern or offset), it is that table"
    return Claim(entry.id, holds, found, why)


def _reordered_sha256(multiplier: Multiplier) -> str:
    """Hash of the table, were its file read in the other index order.

    The two orders differ in the highest bit of a signed operand's index.
    """
    halves = [f.size // 2 if f.signed else 0 for f in (multiplier.a, multiplier.b)]
    return table_sha256(np.roll(multiplier.table, halves, axis=(0, 1)))


def _near(multiplier: Multiplier) -> Iterator[Multiplier]:
    """The exact product, and what the cache has of the same operand formats."""
    from approxhub.registry.store import Store

    a, b = multiplier.a, multiplier.b
    yield exact(a.bits, a.signed, b_bits=b.bits, b_signed=b.signed)
    if a.bits + b.bits > _COMPARED_BITS:
        return
    store = Store()
    for id in store.ids():
        with contextlib.suppress(ApproxHubError):  # `approxhub verify` says what is damaged
            ref = store.read_ref(id)
            if ref is not None and id != multiplier.id and ref.object.startswith(f"{a}x{b}-"):
                found = store.open(ref)
                if found is not None:
                    yield found
