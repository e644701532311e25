"""Housekeeping: how much the cache holds, and clearing it of what nothing needs.

Imports the store; the audit, and with it h5py, only to find what is damaged.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from approxhub.errors import ApproxHubError, StoreError, VerificationError
from approxhub.registry.store import STALE_SECONDS, TEMPORARY, Store

__all__ = ["Removal", "Usage", "prune", "remove", "usage"]

_KINDS = ("refs", "objects", "factors")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one kind of file takes.

    Parameters
    ----------
    files : int
    bytes : int
        Sum of their lengths.
    """

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Removal:
    """One file that is removed from the cache, or would be.

    Parameters
    ----------
    path : Path
    bytes : int
        Its length.
    reason : str
    """

    path: Path
    bytes: int
    reason: str


def usage() -> dict[str, Usage]:
    """Files and bytes of the cache: of refs, objects, factors, and all else.

    Examples
    --------
    >>> sorted(usage())
    ['factors', 'objects', 'other', 'refs']
    """
    root = Store().root
    sizes: dict[str, list[int]] = {kind: [] for kind in (*_KINDS, "other")}
    for path in root.rglob("*"):
        if path.is_file():
            kind = path.relative_to(root).parts[0]
            whole = kind in _KINDS and not path.name.startswith(TEMPORARY)
            sizes[kind if whole else "other"].append(_length(path))
    return {kind: Usage(len(found), sum(found)) for kind, found in sizes.items()}


def remove(ids: Iterable[str], *, dry_run: bool = False) -> list[Removal]:
    """Remove ids from the cache, and the tables and factors that no other id stands for.

    Parameters
    ----------
    ids : iterable of str
        Full ids without modifiers, as :func:`approxhub.registry.selection.cached_ids` gives them.
    dry_run : bool
        Whether to remove nothing, and only say what would be.

    Returns
    -------
    list of Removal
        Refs before what they stand for. Where another ref is damaged, nobody knows what it stands
        for, and tables and factors stay: :func:`prune` is for those.

    Raises
    ------
    StoreReadOnlyError, StoreError
        If a file cannot be removed.
    """
    store = Store()

    def plan() -> Iterator[Removal]:
        going = {store.ref_path(id): id for id in ids}
        named, unknown = _references(store, without=set(going))
        lost: dict[str, None] = {}
        for path, id in going.items():
            yield from _removal(path, f"{id} is removed")
            with contextlib.suppress(ApproxHubError):  # a damaged ref can be removed like any
                ref = store.read_ref(id)
                if ref is not None:
                    lost[ref.object] = None
        for identity in lost:
            if identity not in named and not unknown:
                yield from _removal(store.object_path(identity), "no id stands for it any more")
                yield from _removal(store.factors_path(identity), "its table is removed")

    return _carry_out(store, plan, dry_run)


def prune(*, damaged: bool = False, dry_run: bool = False) -> list[Removal]:
    """Remove what nothing needs: tables and factors without an id, and what was left half-done.

    Parameters
    ----------
    damaged : bool
        Whether to remove damaged files too, with the ids that stand for a damaged table. What
        a newer ApproxHub wrote is not damaged.
    dry_run : bool
        Whether to remove nothing, and only say what would be.

    Returns
    -------
    list of Removal

    Raises
    ------
    StoreError
        If a ref is damaged and `damaged` is not given: nobody knows which table it stands for.
    """
    store = Store()

    def plan() -> Iterator[Removal]:
        bad = _damaged(store) if damaged else {}
        named, unknown = _references(store, without=set(bad))
        if unknown:
            raise StoreError(
                f"{unknown[0]} is damaged or of a newer ApproxHub, so that nobody knows which "
                "table it stands for; fetch it again, or remove it with --damaged"
            )
        for path, reason in bad.items():
            yield from _removal(path, reason)
        # Objects before factors: whatever happens between, no ref is left without its table.
        for kind in ("objects", "factors"):
            for path in sorted((store.root / kind).glob("*.h5")):
                if path.stem not in named and path not in bad:
                    yield from _removal(path, "no id stands for it")
        for path in sorted(store.root.rglob(f"{TEMPORARY}*")):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                yield from _removal(path, "left by a process that was killed")

    return _carry_out(store, plan, dry_run)


def _carry_out(store: Store, plan: Callable[[], Iterator[Removal]], dry_run: bool) -> list[Removal]:
    """Make a plan and follow it, while nobody can add a ref in between."""
    if dry_run or not store.root.is_dir():
        return list(plan())
    with store.exclusive():
        removals = list(plan())
        store.discard(r.path for r in removals)
    return removals


def _references(store: Store, without: set[Path]) -> tuple[set[str], list[Path]]:
    """Identities that refs stand for, and the refs that cannot be read; `without` some of them."""
    named: set[str] = set()
    unknown = []
    for id in store.ids():
        path = store.ref_path(id)
        if path not in without:
            try:
                ref = store.read_ref(id)
            except ApproxHubError:
                unknown.append(path)
            else:
                named.update([ref.object] if ref else [])
    return named, unknown


def _damaged(store: Store) -> dict[Path, str]:
    """Damaged files, and the refs of damaged tables, with what is wrong."""
    from approxhub.registry.audit import verify

    bad: dict[Path, str] = {}
    for result in verify():
        if isinstance(result.error, VerificationError) and result.path is not None:
            if result.kind == "id":
                bad[store.ref_path(result.name)] = "damaged, or its table is"
            bad.setdefault(result.path, "damaged")
    return bad


def _removal(path: Path, reason: str) -> Iterator[Removal]:
    if path.is_file():
        yield Removal(path, _length(path), reason)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # gone meanwhile
        return 0
