"""Factors in the store: the right ones or none, and made once."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import approxhub as ah
from approxhub import errors
from approxhub.factorization import (
    Factorization,
    TooCostlyError,
    cache,
    factorize,
    factorize_cached,
    from_bytes,
    known_factors,
    stored,
    to_bytes,
)
from approxhub.multiplier import Multiplier
from approxhub.registry import Store, objects

OfRank = Callable[..., Multiplier]


def sealed(data: bytes, version: int = 1, magic: bytes = b"APPROXHUB-FACTOR") -> bytes:
    """Bytes with a header that holds for them."""
    body = data[512:]
    head = struct.pack("<16sIQ32s", magic, version, len(body), hashlib.sha256(body).digest())
    return (head + hashlib.sha256(head).digest()).ljust(512, b"\0") + body


def rebuilt(data: bytes, change: Callable[[Any], None]) -> bytes:
    """A factors object with something else in it, and seals that hold."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        change(file)
    return sealed(buffer.getvalue())


@pytest.fixture
def m(of_rank: OfRank) -> Multiplier:
    """A multiplier of error rank 5."""
    return of_rank(5, "6s", "5u")


@pytest.fixture
def no_search(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make every search for factors a failure from now on."""

    def forbid(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("factorised again")

    return lambda: monkeypatch.setattr(cache, "factorize", forbid)


# --- bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1, 5])
def test_round_trip(of_rank: OfRank, rank: int) -> None:
    """What is written is what is read, and the same bytes every time."""
    f = factorize(of_rank(rank, "6s", "5u"))
    data = to_bytes(f)
    again = from_bytes(data)
    assert again == f
    assert (again.a, again.b, again.cost) == (f.a, f.b, f.cost)
    assert (again.u.dtype, again.v.dtype) == (f.u.dtype, f.v.dtype)
    assert to_bytes(again) == data
    with h5py.File(io.BytesIO(data), "r") as file:
        assert file.userblock_size == 512
        assert file["u"].dtype == np.int8


def test_large_factors_round_trip() -> None:
    """Factors beyond 32 bits survive."""
    m = Multiplier.from_table([[0, 0], [0, 0]], name="zero")
    u, v = np.array([[2**40], [0]]), np.array([[0, 0]])
    f = Factorization(m.identity, m.a, m.b, u, v, False, 0, 1)
    assert from_bytes(to_bytes(f)).u.tolist() == [[2**40], [0]]


def test_flipped_bits_are_noticed(m: Multiplier) -> None:
    """A flipped bit anywhere is noticed before libhdf5 sees it."""
    data = to_bytes(factorize(m))
    rng = random.Random(1)
    for at in [*range(0, 600, 7), *(rng.randrange(len(data)) for _ in range(200))]:
        wrong = bytearray(data)
        wrong[at] ^= 1 << rng.randrange(8)
        with pytest.raises(errors.VerificationError):
            from_bytes(bytes(wrong))


@pytest.mark.parametrize("keep", [0, 91, 92, 511, 512, 600, -1])
def test_cut_bytes_are_noticed(m: Multiplier, keep: int) -> None:
    """So are bytes that are missing at the end, or too many."""
    data = to_bytes(factorize(m))
    with pytest.raises(errors.VerificationError):
        from_bytes(data[:keep])
    with pytest.raises(errors.VerificationError):
        from_bytes(data + b"\0")


def test_other_objects_are_refused(m: Multiplier) -> None:
    """The object of a table is not one of factors, nor the other way round."""
    table = objects.encode(objects.StoredObject.of(m))
    with pytest.raises(errors.VerificationError, match="not a factors object"):
        from_bytes(table)
    with pytest.raises(errors.VerificationError):
        objects.decode(to_bytes(factorize(m)))


def test_sealed_nonsense_is_refused(m: Multiplier) -> None:
    """What is sealed and yet no factors is refused by what is wrong with it."""
    data = to_bytes(factorize(m))

    def replace(name: str, value: Any) -> Callable[[Any], None]:
        def change(file: Any) -> None:
            del file[name]
            file[name] = value

        return change

    changes: list[Callable[[Any], None]] = [
        replace("u", np.zeros((3, 3), int)),
        replace("u", np.zeros((64, 5))),
        replace("v", np.zeros(32, int)),
        lambda file: file.attrs.__delitem__("rank_error"),
        lambda file: file.attrs.__setitem__("identity", "../../etc"),
        lambda file: file.attrs.__setitem__("a", "99s"),
    ]
    for change in changes:
        with pytest.raises((errors.VerificationError, errors.InputError)):
            from_bytes(rebuilt(data, change))
    with pytest.raises(errors.VerificationError):
        from_bytes(sealed(data[:512] + b"not HDF5"))


def test_schema_versions(m: Multiplier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer schema is refused, an older one lifted by its migrations."""
    data = to_bytes(factorize(m))
    with pytest.raises(errors.StoreError, match="newer ApproxHub"):
        from_bytes(sealed(data, version=2))
    monkeypatch.setattr(stored, "SCHEMA_VERSION", 2)
    with pytest.raises(errors.StoreError, match="no longer read"):
        from_bytes(data)
    assert from_bytes(data, {1: lambda c: {**c, "rank_error": 3}}).rank_error == 3


# --- the store -------------------------------------------------------------------------------


def test_made_once(m: Multiplier, no_search: Callable[[], None], home: Path) -> None:
    """The second time, factors come from memory; in another process from the store."""
    assert known_factors(m) is None
    f = factorize_cached(m)
    path = Store().factors_path(m.identity)
    assert path == home / "factors" / f"{m.identity}.h5"
    assert path.exists()
    no_search()
    assert factorize_cached(m) is f
    cache.forget()
    assert factorize_cached(m) == f
    assert known_factors(m) is known_factors(m)


def test_one_table_has_one_file(m: Multiplier, home: Path) -> None:
    """Two names of one table share their factors, and the refs know nothing of it."""
    other = Multiplier("local:other", m.a, m.b, table=m.table)
    assert factorize_cached(m) is factorize_cached(other)
    assert len(list(home.rglob("*.h5"))) == 1
    assert Store().identities() == Store().ids() == []


def test_putting_again_changes_nothing(m: Multiplier) -> None:
    """Equal factors are not written twice."""
    store, data = Store(), to_bytes(factorize(m))
    store.put_factors(m.identity, data)
    path = store.factors_path(m.identity)
    before = path.stat().st_mtime_ns
    store.put_factors(m.identity, data)
    assert path.stat().st_mtime_ns == before
    assert store.get_factors(m.identity) == data
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(errors.VerificationError):
        store.put_factors("../../x", data)


def test_damaged_file_is_made_anew(m: Multiplier) -> None:
    """Damage is a warning; the factors are computed again, and the file is whole again."""
    f = factorize_cached(m)
    path = Store().factors_path(m.identity)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    cache.forget()
    with pytest.warns(UserWarning, match="stored factors of local:made are not used"):
        assert factorize_cached(m) == f
    assert path.read_bytes() == data


def test_wrong_factors_are_not_believed(of_rank: OfRank, m: Multiplier) -> None:
    """Well-sealed factors of another table, or false ones of this, are not used."""
    other = factorize(of_rank(5, "6s", "5u", seed=9))
    false = Factorization(m.identity, m.a, m.b, other.u, other.v, other.with_exact, 5, 5)
    for wrong, why in ((other, "they are those of"), (false, "they differ at")):
        Store().put_factors(m.identity, to_bytes(wrong))
        cache.forget()
        with pytest.warns(UserWarning, match=why):
            f = factorize_cached(m)
        f.verify(m)


@pytest.mark.parametrize("error", [errors.StoreReadOnlyError, errors.StoreFullError])
def test_store_that_cannot_be_written(
    m: Multiplier, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """A full or read-only store is a warning, and the factors are there all the same."""

    def refuse(*args: Any) -> None:
        raise error("no")

    monkeypatch.setattr(Store, "put_factors", refuse)
    with pytest.warns(UserWarning, match="were not kept: no"):
        f = factorize_cached(m)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert factorize_cached(m) is f


def test_home_that_is_a_file(m: Multiplier, home: Path) -> None:
    """So is a cache folder that cannot be one."""
    home.parent.mkdir(parents=True, exist_ok=True)
    home.write_text("in the way")
    with pytest.warns(UserWarning, match="were not kept"):
        factorize_cached(m).verify(m)


def test_costly_is_remembered(m: Multiplier, no_search: Callable[[], None]) -> None:
    """What was too costly once is refused at once, but only at that price."""
    with pytest.raises(TooCostlyError):
        factorize_cached(m, max_cost=2)
    assert not Store().factors_path(m.identity).exists()
    factorize_cached(m, max_cost=20)
    cache.forget()
    with pytest.raises(TooCostlyError, match="cheapest"):
        factorize_cached(m, max_cost=2)
    Store().factors_path(m.identity).unlink()
    cache.forget()
    with pytest.raises(TooCostlyError):
        factorize_cached(m, max_cost=3)
    no_search()
    with pytest.raises(TooCostlyError, match="at least"):
        factorize_cached(m, max_cost=2)


def test_memory_is_bounded(of_rank: OfRank, monkeypatch: pytest.MonkeyPatch) -> None:
    """The factors used least recently are dropped from memory."""
    monkeypatch.setattr(cache, "_KEPT", 2)
    made = [of_rank(1, "3u", "3u", seed=s) for s in range(4)]
    for one in made:
        factorize_cached(one)
    assert len(cache._known) == 2
    assert made[3].identity in cache._known


def test_threads_get_the_same(m: Multiplier) -> None:
    """Threads that ask at once all get one object."""
    found: list[Factorization] = []
    threads = [threading.Thread(target=lambda: found.append(factorize_cached(m))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len({id(f) for f in found}) == 1


# --- the command line ------------------------------------------------------------------------


def test_info_shows_ranks(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """`approxhub info` computes ranks and cost up to 8x8, and keeps them."""
    from click.testing import CliRunner

    from approxhub.cli.info import _record, command

    record = _record("roba:8u")
    assert (record["rank"], record["error_rank"]) == (2, 1)
    assert record["factor_cost"] == factorize(ah.load("roba:8u")).cost
    assert len(list((home / "factors").iterdir())) == 1
    text = CliRunner().invoke(command, ["roba:8u"]).output
    assert "2, of the error 1" in text
    assert "int8 products per product" in text


def test_info_without_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are null where they would take long, cannot be had, or python-flint is missing."""
    import sys

    from approxhub.cli.info import _record

    def figures(id: str) -> list[Any]:
        record = _record(id)
        return [record[k] for k in ("rank", "error_rank", "factor_cost")]

    assert figures("drum:9u/k=4") == [None] * 3
    assert figures("exact:16s") == [None] * 3
    factorize_cached(ah.load("drum:9u/k=4"))
    assert figures("drum:9u/k=4")[:2] == [1, 2]
    monkeypatch.setitem(sys.modules, "flint", None)
    assert figures("drum:8u/k=4") == [None] * 3
