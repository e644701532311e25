"""The audit: every kind of damage is found, named, and comes with how to heal it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from approxhub.errors import VerificationError
from approxhub.factorization import factorize_cached, from_bytes, to_bytes
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat
from approxhub.registry import Store, load, objects, verify


def broken(results: Any) -> dict[str, str]:
    """What was found wrong, by name."""
    return {r.name: str(r.error) for r in results if r.error is not None}


def test_factors_are_looked_at(lab: Any) -> None:
    """A factors file is a row; damaged it fails alone, by name of its file, and can be healed."""
    made = load("mul4u_CUT")
    factorize_cached(made)
    name = f"factors/{made.identity}"
    assert [r.name for r in verify()] == ["lab:r1/mul4u_CUT", name]
    assert [r.name for r in verify(["mul4u_CUT"])] == ["lab:r1/mul4u_CUT", name]
    path = Store().factors_path(made.identity)
    path.write_bytes(path.read_bytes()[:-1])
    results = verify()
    assert list(broken(results)) == [name]
    assert "approxhub cache prune --damaged" in broken(results)[name]
    assert next(r.path for r in results if r.error) == path


def test_swapped_factors_files(lab: Any) -> None:
    """A sound factors file under another table's name is wrong."""
    store = Store()
    for id in ("mul4u_CUT", "mul4u_SAME"):
        factorize_cached(load(id))
    one, other = (store.factors_path(load(i).identity) for i in ("mul4u_CUT", "mul4u_SAME"))
    one.write_bytes(other.read_bytes())
    assert list(broken(verify())) == [f"factors/{load('mul4u_CUT').identity}"]


def test_deep_multiplies_factors_out(lab: Any) -> None:
    """Sealed factors of another product pass the hash, and only the deep audit sees it."""
    made = load("mul4u_CUT")
    factorize_cached(made)
    store = Store()
    found = from_bytes(store.get_factors(made.identity) or b"")
    u = found.u.copy()
    u[3, 0] += 1
    store.put_factors(made.identity, to_bytes(replace(found, u=u)))
    assert broken(verify()) == {}
    assert list(broken(verify(deep=True))) == [f"factors/{made.identity}"]


def test_deep_recomputes_metrics(lab: Any) -> None:
    """Sealed metrics that are not the table's pass the hash, and only the deep audit sees it."""
    made = load("mul4s_NEG")
    store = Store()
    wrong = replace(objects.StoredObject.of(made), metrics=replace(made.metrics, mae=0.5))
    store.object_path(made.identity).write_bytes(objects.encode(wrong))
    assert broken(verify()) == {}
    found = broken(verify(deep=True))
    assert list(found) == ["lab:r1/mul4s_NEG"]
    assert "metrics" in found["lab:r1/mul4s_NEG"]
    assert "approxhub fetch lab:r1/mul4s_NEG" in found["lab:r1/mul4s_NEG"]


def test_deep_asks_the_source(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that gives another table is an error, one that cannot be reached a note."""
    load("mul16u_WIDE")
    load("mul4s_NEG")
    asked = len(lab.server.asked)
    assert all(r.ok and r.note is None for r in verify(deep=True))
    assert len(lab.server.asked) == asked + 2
    (wide, neg) = verify(deep=True, offline=True)
    assert wide.ok
    assert neg.ok
    assert "not read from its source again" in str(neg.note)
    signed = OperandFormat(4, True)
    other = Multiplier("lab:r1/mul4s_NEG", signed, signed, table=np.zeros((16, 16), int))
    monkeypatch.setattr("approxhub.registry.audit.ask_source", lambda id, offline: other)
    assert "its source gives" in broken(verify(["mul4s_NEG"], deep=True))["lab:r1/mul4s_NEG"]


def test_own_ones_say_how_to_heal() -> None:
    """Of a damaged table of one's own the advice is to import it again: no source has it."""
    mine = Multiplier.from_table([[9, 0], [0, 1]], name="mine")
    Store().put(mine)
    assert all(r.ok for r in verify(deep=True))
    path = Store().object_path(mine.identity)
    path.write_bytes(path.read_bytes()[:-1])
    (result,) = verify()
    assert isinstance(result.error, VerificationError)
    assert "import it again, or `approxhub remove local:mine`" in str(result.error)
    assert result.path == path


def test_an_object_without_an_id_says_how_to_heal() -> None:
    """Nobody can fetch a table without an id: a damaged one is to be pruned."""
    mine = Multiplier.from_table([[9, 0], [0, 1]], name="mine")
    Store().put(mine)
    Store().ref_path(mine.id).unlink()
    path = Store().object_path(mine.identity)
    path.write_bytes(path.read_bytes()[:-1])
    (result,) = verify()
    assert (result.name, result.kind) == (mine.identity, "object")
    assert "approxhub cache prune --damaged" in str(result.error)


def test_progress(lab: Any) -> None:
    """Each result is told as it comes."""
    load("mul4u_CUT")
    seen: list[Any] = []
    assert verify(progress=seen.append) == seen
    assert len(seen) == 1
