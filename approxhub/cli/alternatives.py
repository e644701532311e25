"""What a query that nothing fits could ask instead: the condition to drop, and what is near it.

Imports the selection; no torch and no h5py.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from approxhub.multiplier import format_pair
from approxhub.operands import OperandFormat
from approxhub.registry.selection import COLUMNS, Query, Row, select

__all__ = ["alternatives"]

_SHOWN = 3  # of what is near
_CLOSE = 0.5  # as difflib has it

Said = Callable[[tuple[Row, ...]], str]


def alternatives(query: Query) -> list[str]:
    """Say what to drop of a query that nothing fits.

    Parameters
    ----------
    query : Query

    Returns
    -------
    list of str
        A line for each condition without which something fits, with what is nearest to it; one
        line where there is no such condition.

    Examples
    --------
    >>> alternatives(Query(source="kulkarni", width=(9, 9)))
    ['without --width 9, 4 would; nearest: 8, 16']
    """
    asked = dataclasses.replace(query, pareto=(), limit=None, sort=None)
    fitting = len(select(asked).rows)
    if fitting:
        return [f"{fitting:,} would, but none has all of {', '.join(query.pareto)}"]
    found = []
    for condition, without, near in _conditions(asked):
        rows = select(without).rows
        if rows:
            nearest = near(rows)
            hint = f"; {nearest}" if nearest else ""
            found.append(f"without {condition}, {len(rows):,} would{hint}")
    return found or ["no condition alone is to blame: drop several; `approxhub list` shows all"]


def _conditions(query: Query) -> Iterator[tuple[str, Query, Said]]:
    """Each condition as a command line has it, the query without it, and what says what is near."""

    def without(**fields: Any) -> Query:
        return dataclasses.replace(query, **fields)

    for name in ("source", "release", "technology"):
        value = getattr(query, name)
        if value is not None:
            yield f"--{name} {value}", without(**{name: None}), _names(name, value)
    if query.a is not None and query.b is not None:
        pair = (query.a, query.b)
        yield f"--format {format_pair(*pair)}", without(a=None, b=None), _formats(pair)
    if query.width is not None:
        yield f"--width {_width(query.width)}", without(width=None), _widths(query.width)
    if query.signed is not None:
        yield "--signed" if query.signed else "--unsigned", without(signed=None), _nothing
    if query.exact is not None:
        yield "--exact" if query.exact else "--approximate", without(exact=None), _nothing
    if query.cached:
        yield "--cached", without(cached=False), _nothing
    if query.patterns:
        named = " ".join(repr(p) for p in query.patterns)
        yield named, without(patterns=()), _ids(query.patterns)
    for word in query.words:
        yield f"the word {word!r}", without(words=tuple(w for w in query.words if w != word)), \
            _nothing  # fmt: skip
    for end, field, best in (("max", "at_most", min), ("min", "at_least", max)):
        bounds = getattr(query, field)
        for name, bound in bounds.items():
            rest = {n: b for n, b in bounds.items() if n != name}
            yield f"--{end}-{name} {bound:g}", without(**{field: rest}), _figures(name, best)


def _nothing(rows: tuple[Row, ...]) -> str:
    return ""


def _nearest(values: Iterable[str]) -> str:
    shown = ", ".join(list(dict.fromkeys(values))[:_SHOWN])
    return f"nearest: {shown}" if shown else ""


def _names(field: str, value: str) -> Said:
    """Names that look like one, or else some."""

    def said(rows: tuple[Row, ...]) -> str:
        owners = (r.entry.hardware if field == "technology" else r.entry for r in rows)
        known = sorted({n for o in owners if (n := getattr(o, field)) is not None})
        return _nearest([*difflib.get_close_matches(value, known, _SHOWN, _CLOSE), *known])

    return said


def _ids(patterns: tuple[str, ...]) -> Said:
    """Ids whose name looks like a pattern, and all of a source that is called like one."""

    def said(rows: tuple[Row, ...]) -> str:
        ids = {n: r.entry.id for r in rows for n in (r.entry.id, r.entry.path, r.entry.name)}
        ids.update((r.entry.source, f"'{r.entry.source}:*'") for r in rows)
        texts = [p.strip("*?") for p in patterns]
        close = [n for t in texts for n in difflib.get_close_matches(t, ids, _SHOWN, _CLOSE)]
        return _nearest(ids[n] for n in close)

    return said


def _formats(wanted: tuple[OperandFormat, OperandFormat]) -> Said:
    def distance(pair: tuple[OperandFormat, OperandFormat]) -> tuple[int, int]:
        both = list(zip(pair, wanted, strict=True))
        return sum(abs(f.bits - w.bits) for f, w in both), sum(
            f.signed != w.signed for f, w in both
        )

    def said(rows: tuple[Row, ...]) -> str:
        pairs = dict.fromkeys((r.entry.a, r.entry.b) for r in rows)
        return _nearest(format_pair(*p) for p in sorted(pairs, key=distance))

    return said


def _width(bits: tuple[int, int]) -> str:
    return f"{bits[0]}" if bits[0] == bits[1] else f"{bits[0]}x{bits[1]}"


def _widths(wanted: tuple[int, int]) -> Said:
    def said(rows: tuple[Row, ...]) -> str:
        widths = dict.fromkeys((r.entry.a.bits, r.entry.b.bits) for r in rows)
        return _nearest(
            _width(w)
            for w in sorted(widths, key=lambda w: abs(w[0] - wanted[0]) + abs(w[1] - wanted[1]))
        )

    return said


def _figures(name: str, best: Callable[[Iterable[float]], float]) -> Said:
    """The figure that comes nearest to a bound."""

    def said(rows: tuple[Row, ...]) -> str:
        known = {r.entry.id: v for r in rows if (v := r.figures[name]) is not None}
        if not known:
            return f"none has a {name}"
        value = best(known.values())
        id = next(i for i, v in known.items() if v == value)
        return f"nearest: {value:g} {COLUMNS[name].unit}".rstrip() + f" ({id})"

    return said
