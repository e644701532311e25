"""Removing and pruning: what goes, and above all what stays."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from approxhub.errors import StoreError, UnknownMultiplierError
from approxhub.factorization import factorize_cached
from approxhub.multiplier import Multiplier
from approxhub.registry import Store, client, load
from approxhub.registry.housekeeping import prune, remove, usage

Snapshot = Callable[[], dict[str, str]]


def damage(path: Path) -> None:
    """Flip the last bit of a file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_remove(lab: Any, snapshot: Snapshot) -> None:
    """The ref, the object and its factors go, and nothing of another id."""
    load("mul4s_NEG")
    before = snapshot()
    made = load("mul4u_CUT")
    factorize_cached(made)
    gone = remove(["lab:r1/mul4u_CUT"])
    assert [r.path.parent.name for r in gone] == ["r1", "objects", "factors"]
    assert snapshot() == before
    client._loaded.clear()
    assert load("mul4u_CUT") == made


def test_remove_keeps_a_shared_object(lab: Any) -> None:
    """A table that another id stands for stays with its factors, until that id goes too."""
    made = load("lab:r1/mul4u_SAME")
    load("lab:r2/mul4u_SAME")
    factorize_cached(made)
    assert len(remove(["lab:r1/mul4u_SAME"])) == 1
    store = Store()
    assert store.get("lab:r2/mul4u_SAME") == made
    assert store.get_factors(made.identity) is not None
    assert len(remove(["lab:r2/mul4u_SAME"])) == 3
    assert (store.identities(), store.factored()) == ([], [])


def test_remove_both_owners_at_once(lab: Any) -> None:
    """Ids that share a table take it with them when they go together."""
    load("lab:r1/mul4u_SAME")
    load("lab:r2/mul4u_SAME")
    assert len(remove(["lab:r1/mul4u_SAME", "lab:r2/mul4u_SAME"])) == 3
    assert Store().identities() == []


def test_remove_dry_run(lab: Any, snapshot: Snapshot) -> None:
    """A dry run says the same and touches nothing."""
    load("mul4u_CUT")
    before = snapshot()
    said = remove(["lab:r1/mul4u_CUT"], dry_run=True)
    assert snapshot() == before
    assert remove(["lab:r1/mul4u_CUT"]) == said


def test_remove_a_damaged_ref(lab: Any) -> None:
    """A damaged ref can be removed; what it stood for is left to prune."""
    load("mul4u_CUT")
    store = Store()
    damage(store.ref_path("lab:r1/mul4u_CUT"))
    assert len(remove(["lab:r1/mul4u_CUT"])) == 1
    assert len(store.identities()) == 1
    assert [r.path.parent.name for r in prune()] == ["objects"]


def test_remove_beside_a_damaged_ref(lab: Any) -> None:
    """Where another ref is damaged, it may stand for the same table: that stays."""
    made = load("lab:r1/mul4u_SAME")
    load("lab:r2/mul4u_SAME")
    path = Store().ref_path("lab:r2/mul4u_SAME")
    whole = path.read_bytes()
    damage(path)
    assert len(remove(["lab:r1/mul4u_SAME"])) == 1
    path.write_bytes(whole)
    assert Store().get("lab:r2/mul4u_SAME") == made


def test_prune_keeps_what_a_ref_names(lab: Any, snapshot: Snapshot) -> None:
    """Only objects and factors without an id go; a second run finds nothing."""
    factorize_cached(load("mul4s_NEG"))
    before = snapshot()
    factorize_cached(load("mul4u_CUT"))
    Store().ref_path("lab:r1/mul4u_CUT").unlink()
    assert [r.path.parent.name for r in prune(dry_run=True)] == ["objects", "factors"]
    assert [r.path.parent.name for r in prune()] == ["objects", "factors"]
    assert snapshot() == before
    assert prune() == []


def test_prune_of_leftovers(lab: Any, home: Path) -> None:
    """A temporary file goes when it is an hour old, not while somebody may be writing it."""
    load("mul4u_CUT")
    old, new = (home / "objects" / f".tmp-{n}" for n in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    past = time.time() - 3601
    os.utime(old, (past, past))
    assert [r.path for r in prune()] == [old]
    assert new.exists()


def test_prune_of_damage(lab: Any, snapshot: Snapshot) -> None:
    """Damaged objects go with the ids that stand for them, damaged factors alone."""
    load("mul4s_NEG")
    bad = load("mul4u_CUT")
    good = load("lab:r1/mul4u_SAME")
    before = snapshot()
    factorize_cached(good)
    store = Store()
    damage(store.object_path(bad.identity))
    damage(store.factors_path(good.identity))
    assert prune() == []
    gone = {r.path for r in prune(damaged=True)}
    assert gone == {
        store.ref_path("lab:r1/mul4u_CUT"),
        store.object_path(bad.identity),
        store.factors_path(good.identity),
    }
    left = {name: digest for name, digest in before.items() if bad.identity not in name}
    del left["refs/lab/r1/mul4u_CUT.json"]
    assert snapshot() == left


def test_prune_beside_a_damaged_ref(lab: Any) -> None:
    """With a damaged ref nobody knows which tables are named: refused, unless it goes as well."""
    load("mul4u_CUT")
    path = Store().ref_path("lab:r1/mul4u_CUT")
    damage(path)
    with pytest.raises(StoreError, match=f"{path.name}.*--damaged"):
        prune()
    assert len(Store().identities()) == 1
    assert {r.path.parent.name for r in prune(damaged=True)} == {"r1", "objects"}


def test_prune_leaves_what_is_newer(lab: Any) -> None:
    """What a newer ApproxHub wrote is not damaged: it stays."""
    load("mul4u_CUT")
    path = Store().ref_path("lab:r1/mul4u_CUT")
    content = json.loads(path.read_bytes())["ref"]
    content["schema_version"] = 99
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps({"sha256": digest, "ref": content}))
    with pytest.raises(StoreError, match="newer"):
        prune(damaged=True)
    assert path.exists()


def test_a_ref_cannot_come_while_pruning(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A put waits for the end of a prune: its object is not taken from under its ref."""
    made = load("mul4u_CUT")
    again = Multiplier.from_table(made.table, name="again")
    store = Store()
    store.ref_path("lab:r1/mul4u_CUT").unlink()
    discard, putting = Store.discard, threading.Thread(target=lambda: Store().put(again))

    def slow(self: Store, paths: Any) -> None:
        found = list(paths)  # decided, and now a put comes
        putting.start()
        time.sleep(0.2)
        discard(self, found)

    monkeypatch.setattr(Store, "discard", slow)
    assert len(prune()) == 1
    putting.join()
    assert store.get("local:again") == made


def test_usage(lab: Any, home: Path) -> None:
    """Bytes and files are counted by kind, and all of them."""
    factorize_cached(load("mul4u_CUT"))
    (home / "objects" / ".tmp-x").write_bytes(b"1234")
    found = usage()
    assert {k: u.files for k, u in found.items()} == {
        **{"refs": 1, "objects": 1, "factors": 1, "other": 1}
    }
    assert found["other"].bytes == 4
    total = sum(p.stat().st_size for p in home.rglob("*") if p.is_file())
    assert sum(u.bytes for u in found.values()) == total


def test_nothing_there() -> None:
    """Without a cache there is nothing to prune, and none is made."""
    assert prune() == []
    assert not Store().root.exists()
    with pytest.raises(UnknownMultiplierError):
        load("local:mine")
