"""The audit: whether what lies in the cache is what it should be.

Imports the store and the catalogue; h5py through what it calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from approxhub.errors import (
    ApproxHubError,
    NetworkError,
    NotFoundError,
    UnknownMultiplierError,
    VerificationError,
)
from approxhub.ids import LOCAL, MultiplierId
from approxhub.metrics import Metrics
from approxhub.multiplier import Multiplier
from approxhub.registry.catalogue import entries, entry_of, not_found, resolve_id, source_of
from approxhub.registry.client import ask_source, peek
from approxhub.registry.refs import Ref
from approxhub.registry.store import Store, healing

__all__ = ["VerifyResult", "verify"]

_RELATIVE = 1e-9  # sums of floats: their last digits depend on the processor


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What the audit found of one id, of one table that no id stands for, or of one's factors.

    Parameters
    ----------
    name : str
        The id, the identity, or ``factors/<identity>``.
    error : ApproxHubError or None
        What is wrong.
    computed : bool
        Whether it is made of a formula: it is never in the cache, so nothing can be wrong there.
    kind : {'id', 'object', 'factors'}
    path : Path or None
        The file that is wrong.
    note : str or None
        What could not be looked at.
    """

    name: str
    error: ApproxHubError | None = None
    computed: bool = False
    kind: str = "id"
    path: Path | None = None
    note: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.error is None


def verify(
    ids: Iterable[str] | None = None,
    *,
    deep: bool = False,
    offline: bool | None = None,
    progress: Callable[[VerifyResult], None] | None = None,
) -> list[VerifyResult]:
    """Hash what the cache holds again, and compare it with what the index says.

    Parameters
    ----------
    ids : iterable of str, optional
        What to look at; the whole cache when not given, tables and factors without an id too.
    deep : bool
        Whether to get tables from their sources again, to recompute metrics, and to multiply
        factors out. A source that cannot be reached is a note, not an error.
    offline : bool, optional
        For `deep`: whether the network is forbidden; ``APPROXHUB_OFFLINE`` when not given.
    progress : callable, optional
        Called with each result as it comes.

    Returns
    -------
    list of VerifyResult

    Examples
    --------
    >>> all(r.ok for r in verify())
    True
    """
    audit = _Audit(deep, offline, progress)
    if ids is None:
        audit.whole_cache()
    else:
        for id in ids:
            audit.named(id)
    return audit.results


class _Audit:
    """One run over the cache; looks at each object's factors once."""

    def __init__(
        self,
        deep: bool,
        offline: bool | None,
        progress: Callable[[VerifyResult], None] | None,
    ) -> None:
        self.results: list[VerifyResult] = []
        self._store = Store()
        self._deep = deep
        self._offline = offline
        self._progress = progress
        self._objects: set[str] = set()  # that a sound ref stands for
        self._factors: set[str] = set()

    def whole_cache(self) -> None:
        expected = {e.id: e.table_sha256 for e in entries()}
        for id in self._store.ids():
            self._id(id, expected.get(id))
        for identity in self._store.identities():
            if identity not in self._objects:
                self._object(identity)
        for identity in self._store.factored():
            self._factors_of(identity, None)

    def named(self, text: str) -> None:
        name = text
        try:
            id = resolve_id(MultiplierId.parse(text)).base
            name = str(id)
            if id.source not in (None, LOCAL) and not source_of(id.source or "").cache:
                peek(id)  # refuses what the formula does not take
                self._add(VerifyResult(name, computed=True))
                return
            entry = entry_of(id)
        except ApproxHubError as error:
            self._add(VerifyResult(name, error))
        else:
            self._id(name, entry.table_sha256 if entry else None)

    def _add(self, result: VerifyResult) -> None:
        self.results.append(result)
        if self._progress is not None:
            self._progress(result)

    def _id(self, id: str, expected: str | None) -> None:
        """Check what an id stands for."""
        store, path = self._store, self._store.ref_path(id)
        found = note = None
        try:
            ref = store.read_ref(id)
            if ref is None and MultiplierId.parse(id).source == LOCAL:
                raise not_found(MultiplierId.parse(id))
            if ref is None:
                raise NotFoundError(
                    f"{id} is not in the cache; `approxhub fetch {id}` brings it there"
                )
            self._objects.add(ref.object)
            path = store.object_path(ref.object)
            found = store.open(ref)
            if found is None:
                raise VerificationError(f"{id}: its object {ref.object} is missing; {healing(id)}")
            if self._deep:
                _check_metrics(found)
            path = store.ref_path(id)
            if expected not in (None, found.table_sha256):
                raise VerificationError(
                    f"{id}: its table is {found.table_sha256}, the index says {expected}; "
                    f"{healing(id)}"
                )
            if self._deep:
                note = self._check_source(found)
        except ApproxHubError as error:
            self._add(VerifyResult(id, error, path=path))
        else:
            self._add(VerifyResult(id, note=note))
        if found is not None:
            self._factors_of(found.identity, found)

    def _object(self, identity: str) -> None:
        """Check an object that no sound ref has led to."""
        path = self._store.object_path(identity)
        result = VerifyResult(identity, kind="object")
        found = None
        try:
            found = self._store.open(Ref(f"{LOCAL}:{identity}", identity))
            if found is not None and self._deep:
                _check_metrics(found)
        except ApproxHubError as error:
            result = replace(result, error=error, path=path)
        self._add(result)
        self._factors_of(identity, found)

    def _factors_of(self, identity: str, multiplier: Multiplier | None) -> None:
        """Check the factors of an object, if there are any and they were not checked yet."""
        if identity in self._factors:
            return
        self._factors.add(identity)
        path = self._store.factors_path(identity)
        result = VerifyResult(f"factors/{identity}", kind="factors")
        try:
            data = self._store.get_factors(identity)
            if data is None:
                return
            result = replace(result, note=self._check_factors(data, identity, multiplier))
        except ApproxHubError as error:
            advice = "`approxhub cache prune --damaged` removes it, and it is made again"
            wrong = VerificationError(f"{path} is damaged: {error}; {advice}")
            # What a newer ApproxHub wrote is not damaged.
            damaged = isinstance(error, VerificationError)
            result = replace(result, error=wrong if damaged else error, path=path)
        self._add(result)

    def _check_factors(
        self, data: bytes, identity: str, multiplier: Multiplier | None
    ) -> str | None:
        from approxhub.factorization import from_bytes

        found = from_bytes(data)
        if found.identity != identity:
            raise VerificationError(f"they are those of {found.identity}")
        if not self._deep:
            return None
        if multiplier is None:
            return "not multiplied out: its table is not in the cache, or damaged"
        found.verify(multiplier)
        return None

    def _check_source(self, found: Multiplier) -> str | None:
        """Compare with what the source gives now; why it gives nothing, if so."""
        id = MultiplierId.parse(found.id)
        if id.source == LOCAL:
            return None
        try:
            again = ask_source(id, offline=self._offline)
        except UnknownMultiplierError:
            raise
        except (NetworkError, NotFoundError) as error:  # out of reach, or its folder is gone
            return f"not read from its source again: {error}"
        if again.identity != found.identity:
            raise VerificationError(
                f"{id}: the cache has {found.identity}, its source gives {again.identity}; "
                f"{healing(found.id)}"
            )
        return None


def _check_metrics(found: Multiplier) -> None:
    """Compare the metrics in the cache with those computed anew.

    Raises
    ------
    VerificationError
        If one differs.
    """
    table = found.table if found.has_table else None
    fresh = Multiplier(found.id, found.a, found.b, table=table, circuit=found.circuit).metrics
    if _same(found.metrics, fresh):
        return
    raise VerificationError(
        f"{found.id}: the metrics in the cache are not those of its table; {healing(found.id)}"
    )


def _same(stored: Metrics, fresh: Metrics) -> bool:
    if (stored.method, stored.samples) != (fresh.method, fresh.samples):
        return False
    other = fresh.to_json()
    return all(math.isclose(v, other[k], rel_tol=_RELATIVE) for k, v in stored.to_json().items())
