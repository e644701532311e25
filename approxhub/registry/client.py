"""The client: from an id to a multiplier, through the cache.

Imports the catalogue and the store; whatever is heavy is imported by the steps that need it.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from approxhub.errors import (
    ApproxHubError,
    InputError,
    PluginError,
    StoreError,
    UnknownMultiplierError,
    VerificationError,
)
from approxhub.ids import LOCAL, Modifier, MultiplierId
from approxhub.multiplier import Hardware, Multiplier
from approxhub.plugins.descriptors import MultiplierSource
from approxhub.registry.catalogue import (
    close_ids,
    entry_of,
    hidden,
    not_found,
    resolve_id,
    source_of,
)
from approxhub.registry.context import FetchContext
from approxhub.registry.entries import Entry
from approxhub.registry.store import Store

__all__ = ["FetchResult", "ask_source", "fetch", "fetch_each", "find_by_identity", "load", "peek"]

_loaded: weakref.WeakValueDictionary[tuple[str, str], Multiplier] = weakref.WeakValueDictionary()
_loaded_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What became of one id that was to be fetched.

    Parameters
    ----------
    id : str
        The full id, or the one that was asked for where it could not be resolved.
    state : {'fetched', 'cached', 'computed', 'failed'}
        Downloaded now, there before, made of a formula, or neither.
    multiplier : Multiplier or None
    error : ApproxHubError or None
    """

    id: str
    state: str
    multiplier: Multiplier | None = None
    error: ApproxHubError | None = None


def load(id: str, *, offline: bool | None = None) -> Multiplier:
    """Return a multiplier by id: from the cache, or fetched once and verified.

    Parameters
    ----------
    id : str
        E.g. ``'mul8s_1KV9'``, ``'evoapproxlib:v1.1/mul8u_1JFF+swap'`` or ``'drum:8u/k=4'``.
    offline : bool, optional
        Whether the network is forbidden; ``APPROXHUB_OFFLINE`` when not given.

    Returns
    -------
    Multiplier
        The same object as long as somebody holds it.

    Raises
    ------
    MultiplierIdError, UnknownMultiplierError, AmbiguousMultiplierError
        If the id does not name one multiplier.
    NetworkError, VerificationError, CModelError
        If fetching fails; the cache is then as it was.

    Examples
    --------
    >>> load("exact:8s")
    <Multiplier exact:8s: 8s x 8s, exact>
    >>> load("exact:4u+signmag(both,5)")(-15, 15)
    -225
    """
    full = resolve_id(MultiplierId.parse(id))
    store = Store()
    found = _remembered(store, full)
    if found is None:
        base = _remembered(store, full.base)
        if base is None:
            base, _ = _obtain(store, full.base, offline, force=False, must_keep=False)
            base = _remember(store, full.base, base)
        found = _remember(store, full, _modified(base, full.modifiers))
    return found


def fetch(
    ids: str | Iterable[str],
    *,
    force: bool = False,
    offline: bool | None = None,
    jobs: int = 1,
    progress: Callable[[FetchResult], None] | None = None,
) -> list[FetchResult]:
    """Bring multipliers into the cache; goes on after one that fails.

    Parameters
    ----------
    ids : str or iterable of str
        What to fetch.
    force : bool
        Fetch even what is in the cache.
    offline : bool, optional
        Whether the network is forbidden; ``APPROXHUB_OFFLINE`` when not given.
    jobs : int
        How many to fetch at a time, in threads: downloads overlap.
    progress : callable, optional
        Called with each result, in the order of `ids`.

    Returns
    -------
    list of FetchResult
        In the order of `ids`. A failure is in its `error`, not raised.

    Raises
    ------
    InputError
        If `jobs` is not positive.

    Examples
    --------
    >>> [(r.id, r.state) for r in fetch(["exact:8s", "exact:8t"])]
    [('exact:8s', 'computed'), ('exact:8t', 'failed')]
    """
    results = []
    for result in fetch_each(ids, force=force, offline=offline, jobs=jobs):
        results.append(result)
        if progress is not None:
            progress(result)
    return results


def fetch_each(
    ids: str | Iterable[str],
    *,
    force: bool = False,
    offline: bool | None = None,
    jobs: int = 1,
) -> Iterator[FetchResult]:
    """Like :func:`fetch`, a result at a time: of many multipliers few are in memory.

    Yields
    ------
    FetchResult
        In the order of `ids`.

    Raises
    ------
    InputError
        If `jobs` is not positive.

    Examples
    --------
    >>> [r.state for r in fetch_each(["exact:8s", "exact:8u"], jobs=2)]
    ['computed', 'computed']
    """
    if jobs < 1:
        raise InputError(f"jobs must be 1 or more, got {jobs}")
    store = Store()

    def one(id: str) -> FetchResult:
        return _fetched(store, id, offline, force=force)

    wanted = [ids] if isinstance(ids, str) else ids
    return map(one, wanted) if jobs == 1 else _in_threads(one, wanted, jobs)


def _in_threads(
    one: Callable[[str], FetchResult], ids: Iterable[str], jobs: int
) -> Iterator[FetchResult]:
    """Results in order, with no more than twice `jobs` of them begun or waiting to be taken."""
    waiting: deque[Future[FetchResult]] = deque()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for id in ids:
                waiting.append(pool.submit(one, id))
                if len(waiting) >= 2 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # nobody waits for the rest any more
            for future in waiting:
                future.cancel()


def _fetched(store: Store, id: str, offline: bool | None, *, force: bool) -> FetchResult:
    name = id
    try:
        full = resolve_id(MultiplierId.parse(id))
        name = str(full.base)
        made, state = _obtain(store, full.base, offline, force=force, must_keep=True)
        _modified(made, full.modifiers)  # refuse here what load would refuse
        return FetchResult(name, state, made)
    except ApproxHubError as error:
        return FetchResult(name, "failed", error=error)


def peek(id: MultiplierId) -> Multiplier | None:
    """Return a multiplier by its full id if that needs no download, else None.

    None too if the cache has another table under the id than its source lists now.

    Raises
    ------
    VerificationError, StoreError
        If the cache has it, but damaged.
    """
    if id.source != LOCAL:
        source = source_of(id.source or "")
        if not source.cache:
            return _modified(_ask(source, id.base, FetchContext(offline=True)), id.modifiers)
    base = Store().get(str(id.base))
    if base is not None and id.source != LOCAL:
        base = _as_listed(base, entry_of(id))
    return None if base is None else _modified(base, id.modifiers)


def ask_source(id: MultiplierId, *, offline: bool | None = None) -> Multiplier:
    """Return what the source of a full id without modifiers gives now, past the cache.

    Raises
    ------
    UnknownMultiplierError, PluginError
        If the source does not know it, or fails.
    NetworkError, VerificationError, CModelError
        If fetching fails.
    """
    return _ask(source_of(id.source or ""), id, FetchContext.from_environment(offline))


def find_by_identity(identity: str) -> Multiplier | None:
    """Return a multiplier by its content hash: one loaded in this process, or in the cache.

    Parameters
    ----------
    identity : str
        As :attr:`approxhub.Multiplier.identity`.

    Returns
    -------
    Multiplier or None
        Under an id that stands for it, ``local:<identity>`` if none does.

    Raises
    ------
    VerificationError
        If the cache has it, but damaged.
    """
    with _loaded_lock:
        living = list(_loaded.values())
    # Only what has been hashed already: hashing may mean tabulating.
    for m in living:
        if m.__dict__.get("identity") == identity:
            return m
    return Store().find(identity)


def _modified(base: Multiplier, modifiers: Iterable[Modifier]) -> Multiplier:
    for modifier in modifiers:
        if modifier.kind == "swap":
            base = base.swap()
        elif modifier.kind == "zerogate":
            base = base.zerogate()
        else:
            base = base.signmag(modifier.target or "", modifier.bits)
    return base


def _remembered(store: Store, id: MultiplierId) -> Multiplier | None:
    with _loaded_lock:
        return _loaded.get((str(store.root), str(id)))


def _remember(store: Store, id: MultiplierId, multiplier: Multiplier) -> Multiplier:
    with _loaded_lock:
        return _loaded.setdefault((str(store.root), str(id)), multiplier)


def _obtain(
    store: Store, id: MultiplierId, offline: bool | None, *, force: bool, must_keep: bool
) -> tuple[Multiplier, str]:
    """Return a multiplier without modifiers, and how it was come by."""
    if id.source == LOCAL:
        found = store.get(str(id))
        if found is None:
            raise not_found(id)
        return found, "cached"
    source = source_of(id.source or "")
    context = FetchContext.from_environment(offline)
    if not source.cache:
        return _ask(source, id, context), "computed"
    if not force:
        found = _cached(store, id)
        if found is not None:
            return found, "cached"
    fetched: Multiplier | None = None
    try:
        with store.lock(str(id)):
            if not force:  # another process may have fetched it while this one waited
                found = _cached(store, id)
                if found is not None:
                    return found, "cached"
            fetched = _ask(source, id, context)
            store.put(fetched)
            return fetched, "fetched"
    except StoreError as error:
        if must_keep:
            error.args = (f"fetch {id}: cache: {error}", *error.args[1:])
            raise
        if fetched is None:
            fetched = _ask(source, id, context)
        _warn(f"{id} was not kept: {error}")
        return fetched, "fetched"


def _cached(store: Store, id: MultiplierId) -> Multiplier | None:
    """What the cache has under an id, unless it is damaged or no longer what the index says."""
    try:
        found = store.get(str(id))
    except VerificationError as error:
        # The store advises to fetch, which is what is being done.
        what = str(error).partition("; `approxhub fetch")[0]
        _warn(f"{what}; it is being fetched again")
        return None
    return None if found is None else _as_listed(found, entry_of(id))


def _as_listed(found: Multiplier, entry: Entry | None) -> Multiplier | None:
    """What the cache has, with the figures that its source lists now; None if it is another one.

    What the source does not say stays as it was when it was fetched.
    """
    if entry is None:
        return found
    if not _is_current(found, entry):
        return None
    was = found.provenance
    texts = {k: getattr(entry, k) or getattr(was, k) for k in ("licence", "citation", "doi")}
    hardware = entry.hardware if entry.hardware != Hardware() else found.hardware
    printed = dict(entry.printed or found.printed)
    notes = was.notes
    if printed != found.printed and found.has_table:
        from approxhub.registry.acquisition import notes_on

        old = notes_on(found, found.printed)
        notes = (*(n for n in notes if n not in old), *notes_on(found, printed))
    provenance = dataclasses.replace(was, **texts, notes=notes)
    if (hardware, printed, provenance) == (found.hardware, found.printed, was):
        return found
    return found.described(hardware=hardware, printed=printed, provenance=provenance)


def _is_current(found: Multiplier, entry: Entry) -> bool:
    """Whether it is what the index says: by its table, or by its source if it has no table."""
    if entry.table_sha256 is None:
        return entry.source_sha256 in (None, found.provenance.source_sha256)
    return entry.table_sha256 == found.table_sha256


def _ask(source: MultiplierSource, id: MultiplierId, context: FetchContext) -> Multiplier:
    """Let a source fetch; whatever else than our own errors comes out of it is its failure."""
    try:
        made = source.fetch(id.path, context)
        if not isinstance(made, Multiplier):
            raise TypeError(f"fetch() must return a Multiplier, got {type(made).__name__}")
        if source.cache and made.id != str(id):
            raise ValueError(f"fetch() returned {made.id!r}")
        return made
    except UnknownMultiplierError as error:
        close = error.close or close_ids(id)
        named = all(c in str(error) for c in close)  # none, or its source names them already
        hint = "" if named else f"; did you mean {', '.join(close)}?"
        hint += hidden(source.name)
        if not hint:
            raise
        raise UnknownMultiplierError(f"{error}{hint}", close) from error
    except ApproxHubError:
        raise
    except Exception as error:
        raise PluginError(
            f"source {source.name!r} failed to fetch {id}: {type(error).__name__}: {error}"
        ) from error


def _warn(message: str) -> None:
    """Warn at the line that called into this module."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
