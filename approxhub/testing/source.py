"""The contract of a multiplier source, clause by clause, as a pytest class to subclass.

Imports numpy, the registry's records and pytest; never torch.
"""

from __future__ import annotations

import functools
import re
import socket
from typing import Any, ClassVar

import numpy as np

from approxhub.errors import (
    ApproxHubError,
    MultiplierIdError,
    NetworkError,
    UnknownMultiplierError,
)
from approxhub.ids import LOCAL, MultiplierId, is_source_name
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat
from approxhub.plugins import MultiplierSource, builtin
from approxhub.registry import Entry, FetchContext
from approxhub.testing.contract import at_once, broken, pytest

__all__ = ["SourceConformance"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NETWORK = "list() knows what there is without the network"
_FETCHED = "fetch() gives what its entry says"
_UNKNOWN = "fetch() of what the source does not have raises UnknownMultiplierError"


class SourceConformance:
    """All that a multiplier source must hold, as tests.

    Subclass it in a test module, and say how the source is made. A source that downloads is
    skipped where it needs the network, unless `make_context` allows it: serve your files from the
    loopback interface then, or name a folder as a mirror.

    Examples
    --------
    >>> from approxhub.families import family_sources
    >>> class TestDrum(SourceConformance):
    ...     def make_source(self):
    ...         return {s.name: s for s in family_sources()}["drum"]
    """

    unknown: ClassVar[tuple[str, ...]] = ("no-such-multiplier", "no/such=multiplier", "8u/no=1")
    """Paths that the source does not have."""

    most: ClassVar[int] = 24
    """How many entries are fetched; of a longer list the first, the last and some between."""

    def make_source(self) -> MultiplierSource:
        """Return the source to test."""
        raise NotImplementedError(
            f"{type(self).__name__} must say how its source is made: def make_source(self)"
        )

    def make_context(self) -> FetchContext:
        """Return the rules that it fetches with; offline unless you say otherwise."""
        return FetchContext(offline=True)

    # --- tools of the tests -----------------------------------------------------------

    def _entries(self) -> list[Entry]:
        return list(self.make_source().list())

    def _some(self) -> list[Entry]:
        """Entries from all over the list."""
        entries = self._entries()
        if len(entries) <= self.most:
            return entries
        places = np.linspace(0, len(entries) - 1, self.most).astype(int)
        return [entries[i] for i in places]

    def _fetch(self, path: str) -> Multiplier:
        """Fetch, or skip where the network is needed and forbidden."""
        try:
            return self.make_source().fetch(path, self.make_context())
        except NetworkError as error:
            pytest.skip(f"needs the network, see make_context(): {error}")

    # --- what it says of itself ---------------------------------------------------------

    def test_its_record(self) -> None:
        """A source is a MultiplierSource whose name can stand before the colon of an id."""
        source = self.make_source()
        clause = self.test_its_record.__doc__ or ""
        if not isinstance(source, MultiplierSource):
            broken(clause, f"is {source!r}")
        if not is_source_name(source.name) or source.name == LOCAL:
            broken(clause, f"is called {source.name!r}; use letters, digits, - and _")
        if not callable(source.list) or not callable(source.fetch):
            broken(clause, "has a list or fetch that cannot be called")

    # --- listing ------------------------------------------------------------------------

    def test_listing_needs_no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Entries are listed without the network: every listing command asks for them."""

        def refuse(*_: Any, **__: Any) -> Any:
            broken(_NETWORK, "opened a connection, or looked up a name, while it listed")

        for name in ("connect", "connect_ex"):
            monkeypatch.setattr(socket.socket, name, refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        try:
            self._entries()
        except ApproxHubError as error:
            broken(_NETWORK, f"raised {type(error).__name__}: {error}")

    def test_entries_are_well_formed(self) -> None:
        """Entries are Entry records: ids of this source without modifiers, formats, hashes."""
        source = self.make_source()
        for entry in self._entries():
            if not isinstance(entry, Entry):
                broken("list() gives Entry records", f"gave {entry!r}")
            try:
                id = MultiplierId.parse(entry.id)
            except MultiplierIdError as error:
                broken("an entry's id is well-formed", str(error))
            if id.source != source.name:
                broken(f"ids of this source begin with {source.name}:", f"listed {entry.id!r}")
            if id.modifiers:
                broken("an entry's id has no modifiers; the core adds them", entry.id)
            for operand, f in (("a", entry.a), ("b", entry.b)):
                if not isinstance(f, OperandFormat):
                    broken("a and b are OperandFormat records", f"{entry.id}: {operand} is {f!r}")
            for name in ("table_sha256", "source_sha256"):
                value = getattr(entry, name)
                if value is not None and not (isinstance(value, str) and _SHA256.fullmatch(value)):
                    broken(f"{name} is None, or 64 small hexadecimal digits", f"gave {value!r}")

    def test_ids_stand_once(self) -> None:
        """Each id is listed once."""
        ids = [entry.id for entry in self._entries()]
        twice = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
        if twice:
            broken("each id is listed once", f"lists {', '.join(twice)} more than once")

    def test_listing_is_deterministic(self) -> None:
        """Two listings are equal, in their order too."""
        if self._entries() != self._entries():
            broken("two listings are equal, in their order too", "gave two different ones")

    def test_bare_names(self) -> None:
        """Where names may stand alone, none is that of a built-in table, unless it is the same."""
        source = self.make_source()
        if not source.bare_names:
            pytest.skip("bare_names is False: its multipliers need the source's name")
        built_in = {s.name: s for s in builtin.approxhub_multiplier_sources() if s.bare_names}
        if source.name in built_in:
            pytest.skip("it is built in: its names came first")
        others = {e.name: e for s in built_in.values() for e in s.list()}
        for entry in self._entries():
            other = others.get(entry.name)
            known = None if other is None else other.table_sha256
            if other is not None and known is not None and entry.table_sha256 != known:
                broken(
                    "a bare name that a built-in source has stands for its table",
                    f"lists {entry.id}, which makes {other.id} ambiguous: call it otherwise, say "
                    "its table_sha256 where that is the same, or set bare_names=False",
                )

    # --- fetching -----------------------------------------------------------------------

    def test_fetch_gives_what_the_entry_says(self) -> None:
        """What is fetched has the id, the operand formats and the table hash of its entry."""
        for entry in self._some():
            m = self._fetch(entry.path)
            if not isinstance(m, Multiplier):
                broken("fetch() returns a Multiplier", f"returned {m!r} for {entry.path!r}")
            if m.id != entry.id:
                broken(_FETCHED, f"returned the id {m.id!r} for {entry.id!r}")
            if (m.a, m.b) != (entry.a, entry.b):
                broken(
                    _FETCHED,
                    f"lists {entry.id} as {entry.a} x {entry.b}, and fetched {m.a} x {m.b}; the "
                    "activation comes first",
                )
            if entry.table_sha256 is not None and m.table_sha256 != entry.table_sha256:
                broken(
                    _FETCHED,
                    f"fetched {entry.id} with the table hash {m.table_sha256}, not "
                    f"{entry.table_sha256}; tables are hashed as T[a, b] by bit patterns",
                )

    def test_two_fetches_are_equal(self) -> None:
        """The same path gives the same circuit, each time."""
        for entry in self._some()[: max(2, self.most // 4)]:
            first, second = self._fetch(entry.path), self._fetch(entry.path)
            if first.identity != second.identity or first.id != second.id:
                broken(
                    "the same path gives the same circuit, each time",
                    f"gave two circuits for {entry.path!r}",
                )

    def test_several_threads(self) -> None:
        """Several threads fetch at a time, as ``approxhub fetch`` does, and get the same."""
        source, context = self.make_source(), self.make_context()
        clause = "fetch() may be called from any thread, several at a time"

        def identity(path: str) -> str:
            return source.fetch(path, context).identity

        for path in [entry.path for entry in self._some()[:2]]:
            want = self._fetch(path).identity
            try:
                found = at_once(functools.partial(identity, path))
            except Exception as error:
                broken(clause, f"raised {type(error).__name__} for {path!r}: {error}")
            if set(found) != {want}:
                broken(clause, f"gave other circuits for {path!r} than alone")

    def test_unknown_multipliers(self) -> None:
        """What the source does not have raises UnknownMultiplierError, and says what it was."""
        for path in self.unknown:
            try:
                found = self._fetch(path)
            except UnknownMultiplierError as error:
                if path not in str(error) and path.rpartition("/")[2] not in str(error):
                    broken(f"{_UNKNOWN}, which names it", f"said of {path!r}: {error}")
            except Exception as error:
                broken(_UNKNOWN, f"raised {type(error).__name__} for {path!r}: {error}")
            else:
                broken(_UNKNOWN, f"returned {found!r} for {path!r}")
