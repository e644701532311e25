"""Selections: which multipliers fit what is asked, in which order, and which of them are best.

Asks the catalogue, and the refs of the cache. Reads cached tables and factors (and so h5py) only
for figures that no source prints, and only when they are asked for.
"""

from __future__ import annotations

import contextlib
import fnmatch
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from approxhub.errors import (
    AmbiguousMultiplierError,
    ApproxHubError,
    InputError,
    NotFoundError,
    UnknownMultiplierError,
)
from approxhub.ids import LOCAL, MultiplierId
from approxhub.operands import OperandFormat
from approxhub.registry.catalogue import entries, not_found, source_of
from approxhub.registry.entries import Entry
from approxhub.registry.objects import parse_identity
from approxhub.registry.store import Store

__all__ = [
    "COLUMNS",
    "Column",
    "Query",
    "Row",
    "Selection",
    "cached_ids",
    "expand",
    "is_pattern",
    "known_entries",
    "pareto_front",
    "select",
]


@dataclass(frozen=True, slots=True)
class Column:
    """One figure that multipliers are filtered and sorted by; the smaller the better.

    Parameters
    ----------
    name : str
        As in ``--max-<name>`` and ``--sort <name>``.
    key : str
        Its key in :meth:`approxhub.metrics.Metrics.to_json`, on
        :class:`~approxhub.multiplier.Hardware` or in ``approxhub info --json``.
    unit : str
        Empty for a count.
    meaning : str
        For help.
    """

    name: str
    key: str
    unit: str
    meaning: str

    @property
    def is_hardware(self) -> bool:
        """Whether it is a cost, which compares within one technology only."""
        return self.key in _HARDWARE

    @property
    def is_rank(self) -> bool:
        """Whether only the factors in the cache tell it."""
        return self.key in ("rank", "error_rank")


_HARDWARE = ("power_mw", "area_um2", "delay_ns", "luts")
_COLUMNS = (
    Column("mae", "mae_pct", "%", "mean absolute error"),
    Column("wce", "wce_pct", "%", "worst-case absolute error"),
    Column("mre", "mre_pct", "%", "mean relative error"),
    Column("ep", "ep_pct", "%", "error probability"),
    Column("power", "power_mw", "mW", "power"),
    Column("area", "area_um2", "um2", "area"),
    Column("delay", "delay_ns", "ns", "delay"),
    Column("luts", "luts", "", "lookup tables of an FPGA"),
    Column("rank", "rank", "", "rank of the table"),
    Column("error-rank", "error_rank", "", "rank of the table's error"),
    Column("bits", "bits", "", "bits of both operands"),
)

COLUMNS: Mapping[str, Column] = {c.name: c for c in _COLUMNS}
"""Every column by its name."""

_GLOB = frozenset("*?[")


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{what} must be a finite number, got {value!r}")
    return float(value)


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for; all conditions must hold.

    Parameters
    ----------
    patterns : tuple of str
        Globs of which one must fit the name, the path or the id, e.g. ``'mul8s_*'``; any if empty.
    words : tuple of str
        Texts that must all occur in id, summary, citation, DOI, licence or technology, whatever
        their case.
    source, release, technology : str, optional
    a, b : OperandFormat, optional
        Formats of the operands.
    width : tuple of int, optional
        Bits of the activation and of the weight operand, whatever their signs.
    signed : bool, optional
        Sign of both operands.
    cached : bool
        Only what is in the cache.
    exact : bool, optional
        Only exact ones, or only those that are not.
    at_least, at_most : mapping of str to float
        Inclusive bounds by the name of a column, in its unit.
    computed : bool
        Whether to compute error figures that no source prints, of what is in the cache and of
        formulas; this may take seconds.
    sort : str, optional
        Name of a column, or ``'id'``; what lacks the figure comes last.
    reverse : bool
    pareto : tuple of str
        Columns of whose values only the non-dominated are kept.
    limit : int, optional
        How many to keep, of the first.

    Raises
    ------
    InputError
        If a column is not known, a bound is no number or negative, or `limit` is negative.

    Examples
    --------
    >>> Query(sort="colour")
    Traceback (most recent call last):
        ...
    approxhub.errors.InputError: 'colour' is not a column; known are mae, wce, mre, ep, power, \
area, delay, luts, rank, error-rank, bits, id
    """

    patterns: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    source: str | None = None
    release: str | None = None
    technology: str | None = None
    a: OperandFormat | None = None
    b: OperandFormat | None = None
    width: tuple[int, int] | None = None
    signed: bool | None = None
    cached: bool = False
    exact: bool | None = None
    at_least: Mapping[str, float] = field(default_factory=dict)
    at_most: Mapping[str, float] = field(default_factory=dict)
    computed: bool = False
    sort: str | None = None
    reverse: bool = False
    pareto: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in (*self.at_least, *self.at_most, *self.pareto):
            if name not in COLUMNS:
                raise InputError(f"{name!r} is not a column; known are {', '.join(COLUMNS)}")
        if self.sort not in (None, "id", *COLUMNS):
            raise InputError(f"{self.sort!r} is not a column; known are {', '.join(COLUMNS)}, id")
        for name, value in (*self.at_least.items(), *self.at_most.items()):
            if _number(value, f"the bound on {name}") < 0:
                raise InputError(f"the bound on {name} must be 0 or more, got {value:g}")
        if self.limit is not None and self.limit < 0:
            raise InputError(f"limit must be 0 or more, got {self.limit}")

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns that it names, each once."""
        named = [*self.pareto, *self.at_least, *self.at_most, *([self.sort] if self.sort else [])]
        return tuple(COLUMNS[n] for n in dict.fromkeys(named) if n in COLUMNS)


@dataclass(frozen=True, slots=True)
class Row:
    """One multiplier of a selection.

    Parameters
    ----------
    entry : Entry
        What is known without fetching.
    cached : bool
        Whether it is in the cache.
    figures : mapping of str to float or None
        By the name of the column, in its unit; None where it is not known.
    """

    entry: Entry
    cached: bool
    figures: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Selection:
    """What fits a query.

    Parameters
    ----------
    rows : tuple of Row
    lacking : mapping of str to int
        How many were left out for want of a figure, by the name of the column, or ``'exact'``.
    mixed : tuple of str
        Technologies among the rows, if they are sorted or bounded by a cost and it is of more
        than one.
    """

    rows: tuple[Row, ...]
    lacking: Mapping[str, int]
    mixed: tuple[str, ...] = ()


# --- what there is ----------------------------------------------------------------


def known_entries(store: Store | None = None) -> list[Entry]:
    """All that has a name: what the sources list, and what only the cache has.

    Examples
    --------
    >>> any(e.id == "exact:8s" for e in known_entries())
    True
    """
    store = Store() if store is None else store
    listed = entries()
    known = {e.id for e in listed}
    own = (_entry_of_ref(store, id) for id in store.ids() if id not in known)
    return [*listed, *(e for e in own if e is not None)]


def _entry_of_ref(store: Store, id: str) -> Entry | None:
    try:
        ref = store.read_ref(id)
        if ref is None:  # removed meanwhile
            return None
        a, b, table = parse_identity(ref.object)
    except ApproxHubError as error:
        warnings.warn(f"{id} cannot be listed: {error}", stacklevel=1)
        return None
    said = ref.provenance
    return Entry(
        id,
        a,
        b,
        table_sha256=table,
        hardware=ref.hardware,
        printed=ref.printed,
        licence=said.licence,
        citation=said.citation,
        doi=said.doi,
    )


def is_pattern(text: str) -> bool:
    """Whether a text is a glob rather than an id: no id has ``*``, ``?`` or ``[``."""
    return not _GLOB.isdisjoint(text)


def _fits(entry: Entry, patterns: Sequence[str]) -> bool:
    names = (entry.name, entry.path, entry.id)
    return not patterns or any(fnmatch.fnmatchcase(n, p) for p in patterns for n in names)


def expand(text: str) -> list[str]:
    """Ids that a glob fits, or the text itself if it is none.

    Raises
    ------
    UnknownMultiplierError
        If nothing fits.

    Examples
    --------
    >>> expand("exact:8?"), expand("mul8s_1KV9")
    (['exact:8u', 'exact:8s'], ['mul8s_1KV9'])
    """
    if not is_pattern(text):
        return [text]
    found = [e.id for e in known_entries() if _fits(e, [text])]
    if not found:
        raise UnknownMultiplierError(f"no multiplier fits {text!r}; `approxhub list` shows them")
    return found


def cached_ids(text: str) -> list[str]:
    """Ids in the cache that a text names: a glob, a full id, or a name that only one of them has.

    Raises
    ------
    MultiplierIdError
        If it is neither a glob nor a well-formed id.
    InputError
        If it has modifiers, which the cache does not keep.
    NotFoundError, AmbiguousMultiplierError
        If it names none, or is the name of several.
    """
    here = Store().ids()
    if is_pattern(text):
        parsed = [MultiplierId.parse(i) for i in here]
        found = [
            str(i)
            for i in parsed
            if any(fnmatch.fnmatchcase(n, text) for n in (i.name, i.path, str(i)))
        ]
        if not found:
            raise NotFoundError(f"nothing in the cache fits {text!r}")
        return found
    id = MultiplierId.parse(text)
    if id.modifiers:
        raise InputError(f"{id}: modifiers are not kept in the cache; name {id.base}")
    if str(id) in here:
        return [str(id)]
    if id.source == LOCAL:
        raise not_found(id)
    found = [
        i
        for i in here
        for known in [MultiplierId.parse(i)]
        if id.path in (known.name, known.path) and id.source in (None, known.source)
    ]
    if not found:
        raise NotFoundError(f"{id} is not in the cache")
    if len(found) > 1:
        raise AmbiguousMultiplierError(
            f"{text!r} stands for {len(found)} in the cache; name one of {', '.join(found)}", found
        )
    return found


# --- selecting --------------------------------------------------------------------


def select(query: Query) -> Selection:
    """Find what fits a query.

    Parameters
    ----------
    query : Query

    Returns
    -------
    Selection

    Raises
    ------
    InputError
        If a Pareto front of costs would mix technologies.
    NotFoundError
        If the query names a source that nobody brought.

    Examples
    --------
    >>> found = select(Query(source="exact", sort="bits", reverse=True, limit=1))
    >>> [r.entry.id for r in found.rows]
    ['exact:16s']
    """
    if query.source is not None and query.source != LOCAL:
        source_of(query.source)  # refuses one that nobody brought
    store = Store()
    here = set(store.ids())
    lacking: dict[str, int] = {}
    fitting = [e for e in known_entries(store) if _named(e, query, here)]
    if query.exact is not None:
        lacking["exact"] = sum(e.exact is None for e in fitting)
        fitting = [e for e in fitting if e.exact is query.exact]
    figures = _Figures(store, query)
    rows = [Row(e, e.id in here, figures.of(e, e.id in here)) for e in fitting]
    for name in dict.fromkeys([*query.at_least, *query.at_most, *query.pareto]):
        lacking[name] = sum(r.figures[name] is None for r in rows)
    rows = [r for r in rows if _within(r, query)]
    mixed = _technologies(rows, query)
    if query.pareto:
        if len(mixed) > 1 and any(COLUMNS[n].is_hardware for n in query.pareto):
            raise InputError(
                f"costs in different technologies ({', '.join(mixed)}) do not compare; choose "
                "one with --technology, or narrow the selection with --source"
            )
        points = [[_value(r, n) for n in query.pareto] for r in rows]
        rows = [r for r, best in zip(rows, pareto_front(points), strict=True) if best]
    rows = _ordered(rows, query)
    return Selection(
        tuple(rows[: query.limit]),
        {name: n for name, n in lacking.items() if n},
        mixed if len(mixed) > 1 else (),
    )


def pareto_front(points: Sequence[Sequence[float]]) -> npt.NDArray[np.bool_]:
    """Which points no other dominates: none is as small in every column and smaller in one.

    Parameters
    ----------
    points : sequence of sequences of float, shape (n, columns)

    Returns
    -------
    ndarray of bool, shape (n,)
        Of equal points all are in, or none.

    Examples
    --------
    >>> pareto_front([(1, 3), (2, 2), (2, 2), (2, 3), (3, 1)]).tolist()
    [True, True, True, False, True]
    """
    if not len(points):
        return np.zeros(0, dtype=np.bool_)
    # In ascending order what dominates a point comes before it, and something on the front does.
    unique, inverse = np.unique(np.asarray(points, dtype=np.float64), axis=0, return_inverse=True)
    best = np.zeros(len(unique), dtype=np.bool_)
    for i, point in enumerate(unique):
        best[i] = not (unique[best] <= point).all(axis=1).any()
    return np.asarray(best[inverse.reshape(-1)])


def _named(entry: Entry, query: Query, here: set[str]) -> bool:
    """Whether all holds that needs no figure."""
    return (
        query.source in (None, entry.source)
        and query.release in (None, entry.release)
        and query.technology in (None, entry.hardware.technology)
        and query.a in (None, entry.a)
        and query.b in (None, entry.b)
        and query.width in (None, (entry.a.bits, entry.b.bits))
        and (query.signed is None or entry.a.signed == entry.b.signed == query.signed)
        and (not query.cached or entry.id in here)
        and _fits(entry, query.patterns)
        and _says(entry, query.words)
    )


def _says(entry: Entry, words: Iterable[str]) -> bool:
    said = (entry.summary, entry.citation, entry.doi, entry.licence, entry.hardware.technology)
    text = " ".join([entry.id, *filter(None, said)]).casefold()
    return all(w.casefold() in text for w in words)


def _within(row: Row, query: Query) -> bool:
    figures = row.figures
    return (
        all(figures[n] is not None for n in query.pareto)
        and all((v := figures[n]) is not None and v >= x for n, x in query.at_least.items())
        and all((v := figures[n]) is not None and v <= x for n, x in query.at_most.items())
    )


def _value(row: Row, name: str) -> float:
    value = row.figures[name]
    return math.inf if value is None else value


def _technologies(rows: Iterable[Row], query: Query) -> tuple[str, ...]:
    """Technologies of the costs that the query compares."""
    keys = [c.key for c in query.columns if c.is_hardware]
    costs = [r.entry.hardware for r in rows]
    names = {h.technology for h in costs if any(getattr(h, k) is not None for k in keys)}
    return tuple(sorted(str(n) for n in names))


def _ordered(rows: list[Row], query: Query) -> list[Row]:
    name = query.sort or (query.pareto[0] if query.pareto else None)
    if name is None:
        return rows[::-1] if query.reverse else rows
    if name == "id":
        return sorted(rows, key=lambda r: r.entry.id, reverse=query.reverse)
    sign = -1.0 if query.reverse else 1.0

    def key(row: Row) -> tuple[bool, float, str]:
        value = row.figures[name]
        return value is None, 0.0 if value is None else sign * value, row.entry.id

    return sorted(rows, key=key)


class _Figures:
    """Looks figures up: printed ones, and where asked for computed ones and ranks."""

    def __init__(self, store: Store, query: Query) -> None:
        self._store = store
        self._computed = query.computed
        self._ranks = query.computed or any(c.is_rank for c in query.columns)

    def of(self, entry: Entry, cached: bool) -> dict[str, float | None]:
        """All figures of an entry, by the names of the columns."""
        values: dict[str, float | None] = {k: float(v) for k, v in entry.printed.items()}
        values.update((k, getattr(entry.hardware, k)) for k in _HARDWARE)
        values["bits"] = entry.a.bits + entry.b.bits
        if self._computed and any(c.key not in values for c in _COLUMNS if not c.is_rank):
            values = {**self._metrics(entry), **values}
        if self._ranks:
            values.update(self._factors(entry, cached))
        return {c.name: values.get(c.key) for c in _COLUMNS}

    def _metrics(self, entry: Entry) -> dict[str, float]:
        from approxhub.registry.client import peek

        try:
            found = peek(MultiplierId.parse(entry.id))
        except ApproxHubError as error:
            warnings.warn(f"{entry.id} cannot be computed: {error}", stacklevel=1)
            return {}
        return {} if found is None else found.metrics.to_json()

    def _factors(self, entry: Entry, cached: bool) -> dict[str, float]:
        from approxhub.factorization import from_bytes

        with contextlib.suppress(ApproxHubError):  # `approxhub verify` says what is damaged
            identity = f"{entry.a}x{entry.b}-{entry.table_sha256}"
            if entry.table_sha256 is None:
                ref = self._store.read_ref(entry.id) if cached else None
                if ref is None:
                    return {}
                identity = ref.object
            data = self._store.get_factors(identity)
            if data is not None:
                found = from_bytes(data)
                if found.identity == identity:
                    return {"rank": found.rank_table, "error_rank": found.rank_error}
        return {}
