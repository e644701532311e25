"""The audit: whether what lies in the cache is what it should be.

Imports the store and the catalogue; h5py through what it calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from approxhub.errors import ApproxHubError, NotFoundError, VerificationError
from approxhub.ids import MultiplierId
from approxhub.registry.catalogue import (
    LOCAL,
    entries,
    entry_of,
    not_found,
    resolve_id,
    source_of,
)
from approxhub.registry.client import peek
from approxhub.registry.refs import Ref
from approxhub.registry.store import Store

__all__ = ["VerifyResult", "verify"]


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What the audit found of one id, or of one object that no id stands for.

    Parameters
    ----------
    name : str
        The id or the identity.
    error : ApproxHubError or None
        What is wrong.
    computed : bool
        Whether it is made of a formula: it is never in the cache, so nothing can be wrong there.
    """

    name: str
    error: ApproxHubError | None = None
    computed: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.error is None


def verify(ids: Iterable[str] | None = None) -> list[VerifyResult]:
    """Hash what the cache holds again, and compare it with what the index says.

    Parameters
    ----------
    ids : iterable of str, optional
        What to look at; the whole cache when not given, objects without an id too.

    Returns
    -------
    list of VerifyResult

    Examples
    --------
    >>> all(r.ok for r in verify())
    True
    """
    store = Store()
    if ids is not None:
        return [_named(store, id) for id in ids]
    expected = {e.id: e.table_sha256 for e in entries()}
    results = []
    seen: set[str] = set()
    for id in store.ids():
        try:
            seen.add(_check(store, id, expected.get(id)))
            results.append(VerifyResult(id))
        except ApproxHubError as error:
            results.append(VerifyResult(id, error))
    for identity in store.identities():
        if identity not in seen:
            results.append(_object(store, identity))
    return results


def _named(store: Store, text: str) -> VerifyResult:
    name = text
    try:
        id = resolve_id(MultiplierId.parse(text)).base
        name = str(id)
        if id.source not in (None, LOCAL) and not source_of(id.source or "").cache:
            peek(id)  # refuses what the formula does not take
            return VerifyResult(name, computed=True)
        entry = entry_of(id)
        _check(store, name, entry.table_sha256 if entry else None)
    except ApproxHubError as error:
        return VerifyResult(name, error)
    return VerifyResult(name)


def _check(store: Store, id: str, expected: str | None) -> str:
    """Check what an id stands for, and return the identity of its object."""
    ref = store.read_ref(id)
    if ref is None and MultiplierId.parse(id).source == LOCAL:
        raise not_found(MultiplierId.parse(id))
    if ref is None:
        raise NotFoundError(f"{id} is not in the cache; `approxhub fetch {id}` brings it there")
    found = store.open(ref)
    if found is None:
        raise VerificationError(f"{id}: its object {ref.object} is missing; fetch it again")
    if expected not in (None, found.table_sha256):
        raise VerificationError(
            f"{id}: its table is {found.table_sha256}, the index says {expected}; fetch it again"
        )
    return ref.object


def _object(store: Store, identity: str) -> VerifyResult:
    """Check an object that no sound ref has led to."""
    try:
        store.open(Ref(f"local:{identity}", identity))
    except ApproxHubError as error:
        return VerifyResult(identity, error)
    return VerifyResult(identity)
