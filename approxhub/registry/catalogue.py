"""The catalogue: what all sources offer, and which multiplier a name stands for.

Asks the plug-in host for sources; one that fails is passed over with a warning. Downloads
nothing. Imports the ids and the entries; the plug-in host at the first question.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

from approxhub.errors import (
    AmbiguousMultiplierError,
    NotFoundError,
    PluginError,
    UnknownMultiplierError,
)
from approxhub.ids import LOCAL, MultiplierId
from approxhub.plugins.descriptors import MultiplierSource
from approxhub.registry.entries import Entry

__all__ = [
    "bare_entries",
    "close_ids",
    "entries",
    "entry_of",
    "hidden",
    "not_found",
    "resolve",
    "resolve_id",
    "source_of",
]

_CLOSE = 5
_HOOK = "approxhub_multiplier_sources"


def _sources() -> list[MultiplierSource]:
    from approxhub.plugins import host

    return host().all(_HOOK, MultiplierSource)


def source_of(name: str) -> MultiplierSource:
    """Return the source called `name`.

    Raises
    ------
    UnknownMultiplierError
        If there is none.
    PluginError
        If the plug-in that may have brought it has failed.
    """
    from approxhub.plugins import host

    try:
        return host().get(_HOOK, MultiplierSource, name)
    except NotFoundError:
        known = [s.name for s in _sources()]
        lower = {n.lower(): n for n in known}
        close = [lower[n] for n in _close(name.lower(), lower)]
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise UnknownMultiplierError(
            f"no source is called {name!r}; known are {', '.join(known)}{hint}", close
        ) from None


def hidden(name: str) -> str:
    """What to add to an error if other plug-ins offer a source of this name that is not used."""
    from approxhub.plugins import host

    clash = host().clash(_HOOK, name)
    return "" if clash is None else f"; {clash}"


def _listed(source: MultiplierSource) -> list[Entry]:
    """Entries of one source; whatever goes wrong in it becomes a PluginError."""
    try:
        found = list(source.list())
        for entry in found:
            if not isinstance(entry, Entry):
                raise TypeError(f"list() must give Entry records, got {entry!r}")
            if entry.source != source.name:
                raise ValueError(f"list() gave the entry {entry.id!r} of another source")
    except Exception as error:
        raise PluginError(
            f"source {source.name!r} cannot be listed: {type(error).__name__}: {error}"
        ) from error
    return found


def _listed_or_warn(source: MultiplierSource) -> list[Entry]:
    try:
        return _listed(source)
    except PluginError as error:
        warnings.warn(str(error), stacklevel=1)  # one place, so said once
        return []


def entries() -> list[Entry]:
    """Everything that the sources list, sorted by source; families list examples.

    A source that fails is left out with a warning.

    Examples
    --------
    >>> sorted({e.source for e in entries()})[:2]
    ['approx-fpgas', 'bam']
    """
    return [entry for source in _sources() for entry in _listed_or_warn(source)]


def bare_entries() -> list[Entry]:
    """Like :func:`entries`, but only what may be asked for by its name alone."""
    return [e for s in _sources() if s.bare_names for e in _listed_or_warn(s)]


def entry_of(id: MultiplierId) -> Entry | None:
    """What its source lists under a full id (modifiers are ignored), if anything."""
    if id.source is None or id.source == LOCAL:
        return None
    wanted = str(id.base)
    return next((e for e in _listed_or_warn(source_of(id.source)) if e.id == wanted), None)


def resolve(id: str) -> str:
    """Full id of whatever `id` stands for.

    A name without its source (or its release) stands for the multipliers called so. If they are
    more than one, they must provably be the same table: then the one is meant whose source has
    the highest priority (the first by name, of several) and lists it first.

    Raises
    ------
    MultiplierIdError
        If `id` is not well-formed.
    UnknownMultiplierError
        If no source has it.
    AmbiguousMultiplierError
        If it may stand for more than one circuit.

    Examples
    --------
    >>> resolve("exact:8s+swap")
    'exact:8s+swap'
    """
    return str(resolve_id(MultiplierId.parse(id)))


def resolve_id(id: MultiplierId) -> MultiplierId:
    """Like :func:`resolve`, on an id in its parts."""
    if id.source == LOCAL:
        return id
    if id.source is None:
        preferred = sorted(_sources(), key=lambda s: -s.priority)
        pool = [e for s in preferred if s.bare_names for e in _listed_or_warn(s)]
    else:
        pool = _listed_or_warn(source_of(id.source))
    found = [e for e in pool if id.path in (e.name, e.path)]
    if id.source is not None and any(e.path == id.path for e in found):
        return id
    if not found:
        if id.source is None:
            raise not_found(id)
        return id  # a family takes parameters that it does not list
    base = MultiplierId.parse(_agreed(id, found).id)
    return MultiplierId(base.source, base.path, id.modifiers)


def _agreed(id: MultiplierId, found: Sequence[Entry]) -> Entry:
    tables = {(e.a, e.b, e.table_sha256) for e in found}
    if len(found) == 1 or (len(tables) == 1 and (found[0].table_sha256 or _one_source(found))):
        return found[0]
    ids = sorted(e.id for e in found)
    why = (
        "their tables differ"
        if len({t for *_, t in tables} - {None}) > 1
        else "nothing proves that their tables are the same"
    )
    raise AmbiguousMultiplierError(
        f"{str(id.base)!r} stands for {len(ids)} circuits, and {why}; name one of {', '.join(ids)}",
        ids,
    )


def _one_source(found: Sequence[Entry]) -> bool:
    """Whether circuits without a table are provably one: the same function of the same file."""
    sources = {(e.source_sha256, e.function) for e in found}
    return len(sources) == 1 and all(e.source_sha256 and e.function for e in found)


def not_found(id: MultiplierId) -> UnknownMultiplierError:
    """Make the error for an id that nobody knows, with the known ids that look like it."""
    if id.source == LOCAL:
        return UnknownMultiplierError(
            f"{id.base} is not in the cache; `approxhub import FILE --name {id.path}` puts a table "
            "of one's own there"
        )
    if id.source is not None:
        _listed(source_of(id.source))  # if that is what fails, then this is the thing to say
        close = close_ids(id)
    else:
        close = list(dict.fromkeys([*_own(id.path), *_without_colon(id.path), *close_ids(id)]))
    hint = f"did you mean {', '.join(close)}?" if close else "`approxhub list` shows what there is"
    hint += hidden(id.source or "")
    return UnknownMultiplierError(f"no source has the multiplier {str(id.base)!r}; {hint}", close)


def _own(path: str) -> list[str]:
    """The id of a table of one's own that is called so, which has no bare name."""
    from approxhub.registry.store import Store

    own = f"{LOCAL}:{path}"
    return [own] if own in Store().ids() else []


def _without_colon(path: str) -> list[str]:
    """A known id that lacks nothing but its colon."""
    return [
        e.id
        for s in _sources()
        if path.startswith(s.name)
        for e in _listed_or_warn(s)
        if e.id == f"{s.name}:{path[len(s.name) :]}"
    ]


def close_ids(id: MultiplierId) -> list[str]:
    """Known ids that look like one that is not known, those of its own source if it has one."""
    pool = [e for s in _sources() for e in _listed_or_warn(s)]
    if id.source is not None:
        pool = [e for e in pool if e.source == id.source]
    same = [e.id for e in pool if e.name == id.name]  # e.g. in another release
    by_name: dict[str, list[str]] = {}
    for entry in pool:
        by_name.setdefault(entry.name.lower(), []).append(entry.id)
    near = _close(id.name.lower(), by_name)
    return list(dict.fromkeys(same + [i for n in near for i in by_name[n]]))[:_CLOSE]


def _close(word: str, known: Iterable[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(word, list(known), n=_CLOSE)
