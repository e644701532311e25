"""The kit for multiplier sources: right ones pass, and each way to be wrong is caught."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from approxhub.errors import OfflineError, UnknownMultiplierError
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat
from approxhub.plugins import MultiplierSource, host
from approxhub.registry import Entry, FetchContext
from approxhub.testing import SourceConformance
from approxhub.testing.contract import lopsided

A, B = OperandFormat.parse("4u"), OperandFormat.parse("3s")
TABLE = lopsided("4u", "3s")
ONE = Entry("mine:r1/one", A, B, table_sha256=TABLE.table_sha256)
TWO = Entry("mine:r1/two", A, B)


def named(id: str) -> Multiplier:
    """The table under an id."""
    return Multiplier(id, A, B, table=TABLE.table)


def entries() -> list[Entry]:
    """What a right source lists."""
    return [ONE, TWO]


def fetch(path: str, context: FetchContext) -> Multiplier:
    """What a right source fetches."""
    if path not in (ONE.path, TWO.path):
        raise UnknownMultiplierError(f"mine has no {path!r}")
    return named(f"mine:{path}")


RIGHT = MultiplierSource("mine", entries, fetch)
_busy = threading.Lock()


def kit_of(source: Any) -> type[SourceConformance]:
    """The kit on a source."""

    class Kit(SourceConformance):
        def make_source(self) -> MultiplierSource:
            return source

    return Kit


def _always(multiplier: Any) -> Callable[..., Any]:
    def found(path: str, context: FetchContext) -> Any:
        return multiplier if path in (ONE.path, TWO.path) else fetch(path, context)

    return found


def _lists(*found: Any) -> MultiplierSource:
    return replace(RIGHT, list=lambda: list(found))


def _raises(error: Exception) -> Callable[..., Any]:
    def raises(*_: Any) -> Any:
        raise error

    return raises


def _connects() -> list[Entry]:
    socket.create_connection(("127.0.0.1", 9))
    return entries()


_turn = iter(range(10**6))


def _unstable(path: str, context: FetchContext) -> Multiplier:
    return Multiplier(f"mine:{path}", A, B, table=lopsided("4u", "3s", seed=next(_turn)).table)


def _one_at_a_time(path: str, context: FetchContext) -> Multiplier:
    """Cannot be called while it is called."""
    if not _busy.acquire(blocking=False):
        raise OSError("the folder is open already")
    time.sleep(0.01)
    _busy.release()
    return fetch(path, context)


# Each fault: the source, the clause that it breaks, and words of the message.
WRONG: dict[str, tuple[Any, str, str]] = {
    "no record": (object(), "test_its_record", "MultiplierSource"),
    "odd name": (replace(RIGHT, name="../mine"), "test_its_record", "letters, digits"),
    "our name": (replace(RIGHT, name="local"), "test_its_record", "called 'local'"),
    "needs the network": (
        replace(RIGHT, list=_connects), "test_listing_needs_no_network", "without the network",
    ),
    "offline error": (
        replace(RIGHT, list=_raises(OfflineError("no network"))),
        "test_listing_needs_no_network", "raised OfflineError",
    ),
    "strings": (_lists("one"), "test_entries_are_well_formed", "Entry records"),
    "another's": (
        _lists(replace(ONE, id="yours:one")), "test_entries_are_well_formed", "begin with mine:",
    ),
    "modifier": (
        _lists(replace(ONE, id="mine:one+swap")), "test_entries_are_well_formed", "no modifiers",
    ),
    "malformed id": (
        _lists(replace(ONE, id="mine:o ne")), "test_entries_are_well_formed", "well-formed",
    ),
    "formats as text": (
        _lists(replace(ONE, a="4u")), "test_entries_are_well_formed", "OperandFormat",
    ),
    "odd hash": (
        _lists(replace(ONE, table_sha256="beef")), "test_entries_are_well_formed", "64 small",
    ),
    "twice": (_lists(ONE, ONE), "test_ids_stand_once", "mine:r1/one"),
    "unstable list": (
        replace(RIGHT, list=lambda: [replace(ONE, summary=str(next(_turn)))]),
        "test_listing_is_deterministic", "two listings",
    ),
    "takes a name": (
        _lists(Entry("mine:mul8s_1KV9", A, B)), "test_bare_names", "makes evoapproxlib:",
    ),
    "another id": (
        replace(RIGHT, fetch=_always(named("mine:other"))),
        "test_fetch_gives_what_the_entry_says", "the id 'mine:other'",
    ),
    "nothing": (
        replace(RIGHT, fetch=_always(None)), "test_fetch_gives_what_the_entry_says",
        "returned None",
    ),
    "operands exchanged": (
        replace(RIGHT, fetch=lambda p, c: Multiplier(
            fetch(p, c).id, B, A, table=TABLE.table.T)),
        "test_fetch_gives_what_the_entry_says", "activation comes first",
    ),
    "another table": (
        replace(RIGHT, fetch=lambda p, c: Multiplier(
            fetch(p, c).id, A, B, table=TABLE.table + 1)),
        "test_fetch_gives_what_the_entry_says", "table hash",
    ),
    "unstable": (
        replace(RIGHT, fetch=_unstable), "test_two_fetches_are_equal", "two circuits",
    ),
    "one at a time": (
        replace(RIGHT, fetch=_one_at_a_time), "test_several_threads", "the folder is open",
    ),
    "makes things up": (
        replace(RIGHT, fetch=lambda p, c: named("mine:x")), "test_unknown_multipliers", "returned",
    ),
    "KeyError": (
        replace(RIGHT, fetch=_raises(KeyError("x"))), "test_unknown_multipliers", "KeyError",
    ),
    "mute": (
        replace(RIGHT, fetch=_raises(UnknownMultiplierError("no"))),
        "test_unknown_multipliers", "which names it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_source_is_caught(name, run_kit):
    """Each fault breaks its clause, and the message says what the contract is."""
    source, clause, words = WRONG[name]
    failed = run_kit(kit_of(source), clause)
    assert words in failed[clause]
    assert "The contract says: " in failed[clause]


def test_a_right_source_passes(run_kit):
    """Nothing fails of a source that does all that is asked."""
    assert run_kit(kit_of(RIGHT)) == {}


@pytest.mark.parametrize("name", ["exact", "drum", "mbm", "evoapproxlib", "evoapprox8b"])
def test_our_own_pass(name, run_kit):
    """Families and shipped indexes hold the contract."""
    source = host().get("approxhub_multiplier_sources", MultiplierSource, name)
    assert run_kit(kit_of(source)) == {}


def test_a_source_that_downloads(lab, run_kit):
    """With a context that allows it, what is downloaded is checked too."""
    source = host().get("approxhub_multiplier_sources", MultiplierSource, "lab")

    class Kit(SourceConformance):
        def make_source(self) -> MultiplierSource:
            return replace(source, list=lambda: [e for e in source.list() if "CUT" in e.id])

        def make_context(self) -> FetchContext:
            return FetchContext()

    assert run_kit(Kit) == {}
    assert any("CUT" in path for path in lab.server.asked)


def test_every_clause_is_broken_by_something():
    """No clause of the kit is there that nothing can fail."""
    clauses = {name for name in dir(SourceConformance) if name.startswith("test_")}
    assert clauses == {clause for _, clause, _ in WRONG.values()}
