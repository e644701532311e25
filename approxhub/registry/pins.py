"""Pins: other people's indexes, kept in the cache as they were when they were first seen.

``indexes/<source>.json`` holds where an index came from and, for every release seen, all that it
said. What is pinned changes only when it is told to. Imports the index reader and the store;
requests only when an address is asked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from approxhub.errors import (
    ApproxHubError,
    IndexFormatError,
    InputError,
    NotFoundError,
    PinnedIndexError,
    StoreError,
    VerificationError,
)
from approxhub.ids import LOCAL
from approxhub.plugins.descriptors import MultiplierSource
from approxhub.registry.context import FetchContext
from approxhub.registry.index import (
    MAX_INDEX_BYTES,
    Circuit,
    Index,
    decode_json,
    parse_index,
    read_file,
)
from approxhub.registry.sources import Releases, index_sources, release_source
from approxhub.registry.store import Store

__all__ = [
    "INDEX_NAME",
    "Change",
    "Pin",
    "add_index",
    "built_in_names",
    "differences",
    "pin_sources",
    "read_pin",
    "remove_index",
    "update_index",
]

INDEX_NAME = "index.json"
"""What an index file is called where only its folder is named."""

_SCHEMA_VERSION = 1
_SHOWN = 5  # changes in the text of an error; `index update` prints them all


@dataclass(frozen=True, slots=True)
class Pin:
    """An index as it was seen.

    Parameters
    ----------
    name : str
        Name of the source.
    origin : str
        The index file that it came from: an absolute path, or an http(s) address.
    contents : mapping of str to object
        Release to the content of its index file, the newest first.
    """

    name: str
    origin: str
    contents: Mapping[str, Any]

    @property
    def beside(self) -> str:
        """Folder or address that the index file lies in."""
        if _is_address(self.origin):
            return self.origin.rpartition("/")[0]
        return str(Path(self.origin).parent)

    def index(self, release: str) -> Index:
        """Check one release, and return it."""
        return parse_index(self.contents[release], f"{self.name} {release}", self.name)

    def releases(self) -> Releases:
        """All releases, each with the place that its files lie beside."""
        return [(self.index(release), self.beside) for release in self.contents]


@dataclass(frozen=True, slots=True)
class Change:
    """One multiplier that is not in two versions of an index as it was.

    Parameters
    ----------
    id : str
        Its full id, or that of the release.
    kind : {'added', 'removed', 'changed'}
        What became of it.
    details : tuple of str
        For each field that changed: its name, the old and the new value.
    """

    id: str
    kind: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.id} {self.kind}" + (f" ({', '.join(self.details)})" if self.details else "")


def differences(old: Index, new: Index) -> list[Change]:
    """What a new version of a release does to the old one, by id.

    Examples
    --------
    >>> one = Index("lab", "v1", None, (), {}, revision=2)
    >>> [str(c) for c in differences(one, dataclasses.replace(one, revision=1))]
    ['lab:v1 changed (revision 2 -> 1)']
    """
    found = []
    if new.revision < old.revision:
        detail = f"revision {old.revision} -> {new.revision}"
        found.append(Change(f"{old.source}:{old.release}", "changed", (detail,)))
    for key in sorted({*old.circuits, *new.circuits}):
        id = f"{old.source}:{key}"
        if key not in new.circuits:
            found.append(Change(id, "removed"))
        elif key not in old.circuits:
            found.append(Change(id, "added"))
        elif old.circuits[key] != new.circuits[key]:
            details = _details(_facts(old.circuits[key]), _facts(new.circuits[key]))
            found.append(Change(id, "changed", details))
    return found


def _facts(circuit: Circuit) -> dict[str, object]:
    facts = {f.name: getattr(circuit, f.name) for f in dataclasses.fields(circuit)}
    entry = facts.pop("entry")
    facts.update({f.name: getattr(entry, f.name) for f in dataclasses.fields(entry)})
    for group in ("hardware", "printed"):
        value = facts.pop(group)
        facts.update(value if group == "printed" else dataclasses.asdict(value))
    return facts


def _details(old: Mapping[str, object], new: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(
        f"{key} {_short(old.get(key))} -> {_short(new.get(key))}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    )


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."


# --- changing -----------------------------------------------------------------


def add_index(name: str, place: str, *, offline: bool | None = None) -> Pin:
    """Use somebody's index from now on, as it is now.

    Parameters
    ----------
    name : str
        The source that the index is of, which stands before the colon of its ids.
    place : str
        A folder with an ``index.json``, an index file, or the http(s) address of either (of a
        folder: with a slash at its end).
    offline : bool, optional
        Whether the network is forbidden; ``APPROXHUB_OFFLINE`` when not given.

    Raises
    ------
    InputError
        If `place` is none of these, or `name` is taken.
    PinnedIndexError
        If another place, or another content, is pinned under `name` already.
    IndexFormatError, NetworkError
        If there is no sound index.
    StoreError
        If the cache cannot be written; it is then as it was.
    """
    _check_free(name)
    origin = _origin(place)
    content, index = _seen(name, origin, FetchContext.from_environment(offline))
    store = Store()
    with store.lock(f"index {name}"):
        old = read_pin(store, name)
        if old is not None:
            if old.origin != origin:
                raise PinnedIndexError(
                    f"{name} comes from {old.origin}; `approxhub index remove {name}` lets go of "
                    "it, if you mean another index"
                )
            return _update(store, old, content, index, accept=False)[0]
        return _keep(store, Pin(name, origin, {index.release: content}))


def update_index(
    name: str, *, accept: bool = False, offline: bool | None = None
) -> tuple[Pin, list[Change]]:
    """Look at an index again where it came from, and take what is new.

    Parameters
    ----------
    name : str
        The source.
    accept : bool
        Take it even if something that is pinned has changed or is gone.
    offline : bool, optional
        Whether the network is forbidden; ``APPROXHUB_OFFLINE`` when not given.

    Returns
    -------
    pin : Pin
        What is pinned now.
    changes : list of Change
        What is not as it was.

    Raises
    ------
    NotFoundError
        If no index of this name was added.
    PinnedIndexError
        If something that is pinned has changed, and `accept` is not given: nothing is taken.
    IndexFormatError, NetworkError, StoreError
        As for :func:`add_index`.
    """
    store = Store()
    old = _known(store, name)
    content, index = _seen(name, old.origin, FetchContext.from_environment(offline))
    with store.lock(f"index {name}"):
        return _update(store, _known(store, name), content, index, accept=accept)


def remove_index(name: str) -> None:
    """Forget an index that was added; what was fetched from it stays in the cache.

    Raises
    ------
    NotFoundError
        If no index of this name was added.
    StoreError
        If the cache cannot be written.
    """
    store = Store()
    if name not in store.index_names():
        raise _not_added(store, name)
    with store.lock(f"index {name}"):
        store.discard([store.index_path(name)])
    _announce()


def _update(
    store: Store, old: Pin, content: Any, index: Index, *, accept: bool
) -> tuple[Pin, list[Change]]:
    if index.release in old.contents:
        changes = differences(old.index(index.release), index)
    else:
        changes = [Change(e.entry.id, "added") for e in index.circuits.values()]
    broken = [c for c in changes if c.kind != "added"]
    if broken and not accept:
        more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise PinnedIndexError(
            f"{old.origin} is not what was pinned: {'; '.join(map(str, broken[:_SHOWN]))}{more}. "
            "A published release never changes: ask its author. Nothing was taken; if you trust "
            f"the change, `approxhub index update {old.name} --accept` takes it"
        )
    rest = {r: c for r, c in old.contents.items() if r != index.release}
    return _keep(store, Pin(old.name, old.origin, {index.release: content, **rest})), changes


def _keep(store: Store, pin: Pin) -> Pin:
    body = {"schema_version": _SCHEMA_VERSION, **dataclasses.asdict(pin)}
    sealed = {"sha256": _checksum(body), "pin": body}
    store.put_index(pin.name, (json.dumps(sealed, ensure_ascii=False, indent=0) + "\n").encode())
    _announce()
    return pin


def _announce() -> None:
    """Let this process see the change too."""
    from approxhub.plugins import host

    host().refresh()


def _checksum(body: Any) -> str:
    text = json.dumps(body, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# --- looking ------------------------------------------------------------------


def read_pin(store: Store, name: str) -> Pin | None:
    """Read what is pinned under a name, if anything.

    Raises
    ------
    VerificationError
        If the file is damaged.
    StoreError
        If it cannot be read, or is of a newer ApproxHub.
    """
    data = store.get_index(name)
    if data is None:
        return None
    path = store.index_path(name)
    try:
        sealed = decode_json(data, str(path))
        body = sealed["pin"]
        if _checksum(body) != sealed["sha256"]:
            raise IndexFormatError(f"{path}: its SHA-256 is not the one written in it")
        version = body["schema_version"]
        if version > _SCHEMA_VERSION:
            raise StoreError(f"{path} is of a newer ApproxHub; upgrade")
        if body["name"] != name:
            raise IndexFormatError(f"{path} pins {body['name']!r}")
        return Pin(name, body["origin"], body["contents"])
    except StoreError:
        raise
    except Exception as error:
        what = str(error) if isinstance(error, ApproxHubError) else f"{path}: {error!r}"
        raise VerificationError(
            f"the pinned index is damaged: {what}; `approxhub index remove {name}` and add it again"
        ) from error


def _known(store: Store, name: str) -> Pin:
    pin = read_pin(store, name)
    if pin is None:
        raise _not_added(store, name)
    return pin


def _not_added(store: Store, name: str) -> NotFoundError:
    added = ", ".join(store.index_names()) or "none"
    return NotFoundError(f"no index {name!r} was added; added are: {added}")


def pin_sources() -> list[MultiplierSource]:
    """Sources of the indexes that were added, by the names of the files alone."""
    store = Store()
    built_in = built_in_names()
    found = []
    for name in store.index_names():
        if name in built_in:
            warnings.warn(
                f"{store.index_path(name)} is not used: {name!r} is built in", stacklevel=1
            )
        else:
            found.append(_source(store, name))
    return found


def built_in_names() -> set[str]:
    """Names that no index may have: of what ApproxHub ships, and of tables of one's own."""
    from approxhub.families import family_sources

    return {LOCAL, *(s.name for s in (*index_sources(), *family_sources()))}


def _source(store: Store, name: str) -> MultiplierSource:
    # Below what is built in: a stranger's figures never replace those of a known circuit.
    return release_source(name, lambda: _known(store, name).releases(), priority=-1)


# --- places -------------------------------------------------------------------


def _check_free(name: str) -> None:
    from approxhub.plugins import host

    known = {s.name for s in host().all("approxhub_multiplier_sources", MultiplierSource)}
    if name in built_in_names() or name in known - set(Store().index_names()):
        raise InputError(
            f"the source {name!r} exists already; an index of this name cannot be added"
        )


def _is_address(place: str) -> bool:
    return place.lower().startswith(("http://", "https://"))


def _origin(place: str) -> str:
    """The index file that a folder, a file or an address stands for."""
    if _is_address(place):
        parts = urlsplit(place)
        if not parts.hostname or parts.username is not None or parts.query or parts.fragment:
            raise InputError(
                f"{parts.hostname or place!r}: give an address without a password, ? or #; "
                "passwords belong into ~/.netrc"
            )
        address = parts._replace(path=parts.path or "/")
        return urlunsplit(address) + (INDEX_NAME if address.path.endswith("/") else "")
    if "://" in place:
        raise InputError(f"{place!r} is neither a folder, a file nor an http(s) address")
    path = Path(place).expanduser().absolute()
    found = path / INDEX_NAME if path.is_dir() else path
    if not found.is_file():
        raise NotFoundError(
            f"{found}: no such file; `approxhub index build {place}` makes an index of a folder"
        )
    return str(found)


def _seen(name: str, origin: str, context: FetchContext) -> tuple[Any, Index]:
    """Content of an index file, and the index that it is."""
    if _is_address(origin):
        from approxhub.registry.download import retrieve

        raw = retrieve(context, origin, MAX_INDEX_BYTES)
    else:
        raw = read_file(Path(origin))
    content = decode_json(raw, origin)
    index = parse_index(content, origin)
    if index.source != name:
        raise IndexFormatError(
            f"{origin} is an index of {index.source!r}: ids mean the same to everybody, so add it "
            f"under that name"
        )
    return content, index
