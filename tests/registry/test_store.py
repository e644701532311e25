"""The store: the right table or none, whatever happens to its files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import approxhub as ah
from approxhub import errors
from approxhub.multiplier import Multiplier
from approxhub.registry import Store, client, fetch, load, objects, refs, verify

Snapshot = Callable[[], dict[str, str]]


def files(home: Path) -> dict[Path, bytes]:
    """All files of a cache."""
    return {p: p.read_bytes() for p in home.rglob("*") if p.is_file()}


@pytest.fixture
def odd() -> Multiplier:
    """A multiplier without symmetry, of operands that differ."""
    table = np.random.default_rng(7).integers(-900, 900, (16, 32))
    return Multiplier.from_table(table, name="odd/one.v2", b_signed=True)


# --- writing and reading -----------------------------------------------------------


def test_round_trip(odd: Multiplier) -> None:
    """What is put is what is got, under an id with dots and slashes too."""
    store = Store()
    assert store.get(odd.id) is None
    store.put(odd)
    again = store.get(odd.id)
    assert again is not None
    assert again == odd
    assert again.metrics == odd.metrics
    assert store.ids() == [odd.id]
    assert store.identities() == [odd.identity]


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 255, "u1"), (-128, 127, "i1"), (0, 65535, "u2"), (-1, 255, "i2"), (-1, 65535, "i4")],
)
def test_smallest_type(low: int, high: int, dtype: str) -> None:
    """A table lies in the smallest integer type that holds it, shuffled, packed and summed."""
    table = np.zeros((4, 4), int)
    table[1, 2], table[3, 0] = low, high
    made = Multiplier.from_table(table, name="t")
    data = objects.encode(objects.StoredObject.of(made))
    with h5py.File(io.BytesIO(data), "r") as file:
        stored = file["table"]
        assert stored.dtype == np.dtype(dtype)
        assert (stored.compression, stored.shuffle, stored.fletcher32) == ("gzip", True, True)
        assert file.attrs["a"] == "2u"
    got = objects.decode(data).table
    assert got is not None
    assert (got == table).all()


def test_hdf5_tools_can_open_an_object(odd: Multiplier) -> None:
    """Behind its user block an object is an ordinary HDF5 file."""
    store = Store()
    store.put(odd)
    with h5py.File(store.object_path(odd.identity), "r") as file:
        assert file.userblock_size == 512
        assert (file["table"][()] == odd.table).all()


def test_bytes_are_deterministic(odd: Multiplier, tmp_path: Path) -> None:
    """The same multiplier gives the same bytes, a second later and in another process."""
    data = objects.encode(objects.StoredObject.of(odd))
    time.sleep(1.1)  # HDF5 counts time in seconds
    assert objects.encode(objects.StoredObject.of(odd)) == data
    other = subprocess.run(
        [
            sys.executable,
            "-c",
            "import hashlib, numpy as np\n"
            "from approxhub.multiplier import Multiplier\n"
            "from approxhub.registry import objects\n"
            "t = np.random.default_rng(7).integers(-900, 900, (16, 32))\n"
            "m = Multiplier.from_table(t, name='x', b_signed=True)\n"
            "print(hashlib.sha256(objects.encode(objects.StoredObject.of(m))).hexdigest())",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert other.stdout.strip() == hashlib.sha256(data).hexdigest()


def test_two_ids_share_an_object(lab: Any) -> None:
    """Two ids with one table are two refs and one object."""
    for result in fetch(["lab:r1/mul4u_SAME", "lab:r2/mul4u_SAME"]):
        assert result.state == "fetched"
    store = Store()
    assert len(store.ids()) == 2
    assert len(store.identities()) == 1


def test_put_again_changes_nothing(odd: Multiplier, home: Path) -> None:
    """Putting what is there already does not touch the files."""
    Store().put(odd)
    before = {p: p.stat().st_mtime_ns for p in files(home)}
    Store().put(odd)
    assert {p: p.stat().st_mtime_ns for p in files(home)} == before


def test_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``APPROXHUB_HOME`` comes first, then an absolute XDG folder, then ``~/.cache``."""
    monkeypatch.setenv("APPROXHUB_HOME", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.setenv("HOME", str(tmp_path / "h"))
    assert Store().root == tmp_path / "a"
    monkeypatch.delenv("APPROXHUB_HOME")
    assert Store().root == tmp_path / "x" / "approxhub"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert Store().root == tmp_path / "h" / ".cache" / "approxhub"


# --- damage ---------------------------------------------------------------------------


def test_flipped_bits_never_give_a_wrong_table(odd: Multiplier, home: Path) -> None:
    """One flipped bit anywhere in an object or a ref is noticed."""
    store = Store()
    store.put(odd)
    rng = random.Random(3)
    for path, data in files(home).items():
        places = [*range(0, 96, 7), 300, 511, 512, len(data) - 1]
        places = [p for p in places if p < len(data)] + rng.choices(range(len(data)), k=60)
        for place in places:
            broken = bytearray(data)
            broken[place] ^= 1 << rng.randrange(8)
            path.write_bytes(broken)
            with pytest.raises(errors.VerificationError, match="damaged"):
                store.get(odd.id)
        path.write_bytes(data)
    assert store.get(odd.id) == odd


@pytest.mark.parametrize("keep", [0, 1, 80, 511, 512, 600, -1])
def test_truncated_object(odd: Multiplier, keep: int) -> None:
    """An object that is cut, to nothing even, is noticed."""
    store = Store()
    store.put(odd)
    path = store.object_path(odd.identity)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(errors.VerificationError, match="damaged"):
        store.get(odd.id)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"ref": {}, "sha256": 1}', "\0"])
def test_ref_that_is_none(odd: Multiplier, text: str) -> None:
    """A file that is no ref is noticed."""
    store = Store()
    store.put(odd)
    store.ref_path(odd.id).write_text(text)
    with pytest.raises(errors.VerificationError, match="damaged"):
        store.get(odd.id)


def test_object_under_another_name(odd: Multiplier) -> None:
    """An object must be the one that its name says, though it be whole."""
    store = Store()
    store.put(odd)
    other = ah.exact(4)
    data = objects.encode(objects.StoredObject.of(other))
    store.object_path(odd.identity).write_bytes(data)
    with pytest.raises(errors.VerificationError, match=str(other.table_sha256)):
        store.get(odd.id)


def test_ref_of_another_id(odd: Multiplier, home: Path) -> None:
    """A ref copied to another name does not stand for it."""
    store = Store()
    store.put(odd)
    shutil.copy(store.ref_path(odd.id), home / "refs" / "local" / "even.json")
    with pytest.raises(errors.VerificationError, match="odd/one"):
        store.get("local:even")


def test_ref_cannot_lead_out_of_the_cache(odd: Multiplier) -> None:
    """A sealed ref whose object is a path elsewhere is refused."""
    store = Store()
    store.put(odd)
    evil = refs.Ref(odd.id, "../../../etc/passwd")
    store.ref_path(odd.id).write_bytes(refs.encode_ref(evil))
    with pytest.raises(errors.VerificationError, match="not the identity"):
        store.get(odd.id)


@pytest.mark.parametrize("id", ["local:../x", "local:a/../../x", "/etc/x", "x", "a:b+swap"])
def test_id_cannot_lead_out_of_the_cache(id: str) -> None:
    """An id with a path, without a source or with modifiers names no file."""
    with pytest.raises((errors.MultiplierIdError, errors.StoreError)):
        Store().ref_path(id)


def test_sealed_nonsense() -> None:
    """Bytes with the right seal and nonsense inside are a verification error, no crash."""
    good = objects.encode(objects.StoredObject.of(ah.exact(2)))
    for body in (b"", b"nonsense" * 100, good[512:600]):
        fields = (b"APPROXHUB-OBJECT", 1, len(body), hashlib.sha256(body).digest())
        head = struct.pack("<16sIQ32s", *fields)  # written out: files on disk have this layout
        head += hashlib.sha256(head).digest()
        with pytest.raises(errors.VerificationError):
            objects.decode(head.ljust(512, b"\0") + body)


@pytest.mark.parametrize("kind", ["objects", "refs"])
def test_damage_heals(lab: Any, home: Path, kind: str) -> None:
    """A damaged file is reported by verify, fetched again by load, and whole afterwards."""
    made = load("mul4u_CUT")
    client._loaded.clear()
    path = next(p for p in files(home) if kind in p.parts)
    path.write_bytes(path.read_bytes()[:-9])
    assert any(isinstance(r.error, errors.VerificationError) for r in verify())
    with pytest.warns(UserWarning, match="damaged"):
        assert load("mul4u_CUT") == made
    assert all(r.ok for r in verify())
    assert len(lab.server.asked) == 2


@pytest.mark.parametrize("get", [load, fetch])
def test_warning_of_damage_points_at_the_caller(lab: Any, get: Any) -> None:
    """The warning names this file, and says that the object is being fetched, not to fetch it."""
    path = Store().object_path(load("mul4u_CUT").identity)
    client._loaded.clear()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="damaged: .*; it is being fetched again$") as caught:
        get("mul4u_CUT")
    assert {w.filename for w in caught} == {__file__}
    assert "approxhub fetch" not in str(caught[0].message)


def test_computed_ones_have_nothing_to_verify() -> None:
    """A formula is never in the cache: it is sound; one that is none is not."""
    good, bad = verify(["exact:8s+swap", "exact:8t"])
    assert (good.ok, good.computed) == (True, True)
    assert (bad.ok, bad.computed) == (False, False)


def test_missing_object_heals(lab: Any) -> None:
    """A ref whose object is gone is reported by verify, and a miss for load."""
    made = load("mul4u_CUT")
    client._loaded.clear()
    Store().object_path(made.identity).unlink()
    assert [type(r.error) for r in verify(["mul4u_CUT"])] == [errors.VerificationError]
    assert load("mul4u_CUT") == made
    assert verify()[0].ok


def test_verify_names() -> None:
    """What is not cached is not found, what has no name neither."""
    found = verify(["mul8u_NOPE", "mul8u_1JFF"])
    assert [type(r.error) for r in found] == [errors.UnknownMultiplierError, errors.NotFoundError]


def test_verify_compares_with_the_index(lab: Any) -> None:
    """A whole object with another table than the index pins is reported."""
    load("mul4u_CUT")
    lab.index("r1")["multipliers"][0]["table_sha256"] = "0" * 64
    lab.install()
    assert "the index says 0000" in str(verify()[0].error)


def test_orphan_object_is_verified(odd: Multiplier) -> None:
    """Objects that no id stands for are verified too."""
    store = Store()
    store.put(odd)
    store.ref_path(odd.id).unlink()
    assert [(r.name, r.ok) for r in verify()] == [(odd.identity, True)]
    store.object_path(odd.identity).write_bytes(b"x")
    assert [r.ok for r in verify()] == [False]


# --- schema versions ---------------------------------------------------------------------


@pytest.mark.parametrize("module", [objects, refs])
def test_newer_schema(odd: Multiplier, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a newer version wrote is a clear error and is not overwritten."""
    store = Store()
    with monkeypatch.context() as newer:
        newer.setattr(module, "SCHEMA_VERSION", module.SCHEMA_VERSION + 1)
        store.put(odd)
    with pytest.raises(errors.StoreError, match=r"schema version \d .* newer .*APPROXHUB_HOME"):
        store.get(odd.id)


def test_object_migration(odd: Multiplier, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object of an older schema is lifted through every version between."""
    data = objects.encode(objects.StoredObject.of(odd))
    monkeypatch.setattr(objects, "SCHEMA_VERSION", 3)
    steps = {1: lambda c: {**c, "x": c.pop("a")}, 2: lambda c: {**c, "a": c.pop("x")}}
    assert objects.decode(data, steps).a == odd.a
    with pytest.raises(errors.StoreError, match="no longer read"):
        objects.decode(data, {1: steps[1]})


def test_ref_migration(odd: Multiplier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ref of an older schema is lifted too."""
    data = refs.encode_ref(refs.Ref.of(odd))
    monkeypatch.setattr(refs, "SCHEMA_VERSION", 3)
    assert refs.decode_ref(data, {2: lambda c: {**c, "printed": {"mae": "1"}}}).printed == {
        "mae": "1"
    }


def test_ref_of_version_1(odd: Multiplier) -> None:
    """A ref from before there were LUTs is read: it has none."""
    content = json.loads(refs.encode_ref(refs.Ref.of(odd)))["ref"]
    content["schema_version"] = 1
    del content["hardware"]["luts"]
    data = json.dumps({"sha256": refs._checksum(content), "ref": content}).encode()
    assert refs.decode_ref(data) == refs.Ref.of(odd)


# --- a disk that is full, a folder that is read-only ---------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace", "mkdir"])
@pytest.mark.parametrize("at", [1, 2])
def test_full_disk(
    lab: Any, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, code: int, call: str, at: int
) -> None:
    """A disk that is full at any step gives a named error and leaves no file behind."""
    load("mul4s_NEG")
    before = snapshot()
    times = 0
    real = getattr(os, call)

    def full(*args: Any, **kwargs: Any) -> Any:
        nonlocal times
        times += 1
        if times >= at:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        error = fetch("mul4u_CUT")[0].error
    if call == "replace" and at == 2:  # the object is there, whole; no id stands for it
        assert isinstance(error, errors.StoreFullError)
        assert verify()[-1].ok
        assert not list(Path(os.environ["APPROXHUB_HOME"]).rglob(".tmp-*"))
    elif error is not None or call != "mkdir":
        assert isinstance(error, errors.StoreFullError)
        assert str(error).startswith("fetch lab:r1/mul4u_CUT: cache: ")
        assert "APPROXHUB_HOME" in str(error)
        assert snapshot() == before
    assert load("mul4s_NEG")(1, 1) == 0


def test_full_disk_still_loads(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full disk `load` hands out the verified multiplier, and warns."""

    def full(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="not kept.*full") as caught:
        assert load("mul4u_CUT")(15, 3) == 36
    assert {w.filename for w in caught} == {__file__}
    assert len(lab.server.asked) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_file_size_limit_of_the_system(lab: Any, snapshot: Snapshot) -> None:
    """A write that the system itself cuts short is a named error and leaves no file."""
    load("mul4s_NEG")
    before = snapshot()
    done = lab.run("""
        import h5py, requests, pycparser, approxhub.cmodel, resource
        from approxhub.registry import fetch
        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        error = fetch("mul8u_BIG")[0].error
        print(type(error).__name__)
        """)
    assert done.stdout.split() == ["StoreFullError"], done.stderr
    assert snapshot() == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
def test_read_only_cache(lab: Any) -> None:
    """A cache that cannot be written serves what it has; fetch refuses, load warns."""
    base = Path(tempfile.mkdtemp(prefix="approxhub-test-"))  # pytest's own are closed to others
    home = base / "cache"
    body = """
        import os, warnings
        from approxhub.registry import Store, client, fetch, load, verify

        # Import and read everything first: another user may not be able to.
        assert not fetch("mul8u_BIG")[0].error
        assert Store().get("lab:r1/mul8u_BIG") and verify()[0].ok
        if os.geteuid() == 0:  # root may write everywhere
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        os.environ["APPROXHUB_HOME"] = sys.argv[1]
        print("started", os.access(sys.argv[1], os.W_OK))
        print(load("mul4s_NEG")(1, 1), verify()[0].ok)
        print(type(fetch("mul4u_CUT")[0].error).__name__)
        with warnings.catch_warnings(record=True) as w:
            warnings.simplefilter("always")
            print(load("mul4u_CUT")(15, 3), "not kept" in str(w[-1].message))
        """
    try:
        Store(home).put(load("mul4s_NEG"))
        base.chmod(0o755)
        for path in [home, *home.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = lab.run(body, str(home))
        if not done.stdout.startswith("started False"):
            pytest.skip(f"cannot become a user without rights here: {done.stderr[-200:]}")
        assert done.stdout.splitlines()[1:] == ["0 True", "StoreReadOnlyError", "36 True"], (
            done.stderr
        )
        assert len(files(home)) == 2
    finally:
        for path in [home, *home.rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(base)


def test_cache_that_is_a_file(lab: Any, home: Path) -> None:
    """A file where the cache should be is a store error that says what to set."""
    home.parent.mkdir(parents=True, exist_ok=True)
    home.write_text("not a folder")
    error = fetch("mul4u_CUT")[0].error
    assert isinstance(error, errors.StoreError)
    assert "APPROXHUB_HOME" in str(error)


# --- processes -----------------------------------------------------------------------------


def test_kill_leaves_no_partial_file(lab: Any, home: Path) -> None:
    """Killed at any moment of a fetch, the cache holds whole files, and the next run heals."""
    rng = random.Random(5)
    body = """
        import h5py, requests, approxhub.cmodel, os
        from approxhub.registry import Store, fetch
        ids = ["mul8u_BIG", "mul4u_CUT", "mul4s_NEG"]
        print("ready", flush=True)
        while True:
            for r in fetch(ids, force=True):
                assert r.error is None, r.error
            for i in Store().identities():
                Store().object_path(i).unlink()
        """
    for _ in range(4):
        process = lab.start(body)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        _, err = process.communicate(timeout=10)
        assert "Error" not in err
        store = Store()
        for identity in store.identities():
            found = store.find(identity)
            assert found is not None
            assert found.identity == identity
        for id in store.ids():
            assert store.read_ref(id) is not None
        assert all(r.error is None for r in fetch(["mul8u_BIG", "mul4u_CUT", "mul4s_NEG"]))
        assert all(r.ok for r in verify())


def test_processes_fetch_the_same_id(lab: Any, misbehave: Any) -> None:
    """Processes that want one id at once all get it, and it is downloaded once."""
    content = lab.file("mul8u_BIG").read_bytes()

    def slowly(request: Any) -> None:
        time.sleep(0.3)
        misbehave.body(content)(request)

    lab.server.behave["mul8u_BIG.c"] = slowly
    body = """
        from approxhub.registry import fetch
        result, = fetch("mul8u_BIG")
        print(result.state, result.error)
        """
    started = [lab.start(body) for _ in range(3)]
    said = sorted(p.communicate(timeout=30)[0].strip() for p in started)
    assert said == ["cached None", "cached None", "fetched None"]
    assert len(lab.server.asked) == 1
    assert verify()[0].ok


def test_locks_are_cleared_away(lab: Any, home: Path) -> None:
    """After a fetch only objects and refs are left."""
    load("mul4u_CUT")
    assert sorted(p.name for p in home.iterdir()) == ["objects", "refs"]


def test_waiting_for_a_lock_ends(home: Path) -> None:
    """A lock that is held for too long is an error that names the id."""
    with (
        Store().lock("a:b"),
        pytest.raises(errors.StoreError, match="a:b"),
        Store().lock("a:b", seconds=0.1),
    ):
        pass


def test_old_leftovers_are_swept(odd: Multiplier, home: Path) -> None:
    """What a killed process left long ago goes, what is being written now stays."""
    folder = home / "objects"
    folder.mkdir(parents=True)
    old, new = folder / ".tmp-old", folder / ".tmp-new"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    Store().put(odd)
    assert not old.exists()
    assert new.exists()
    with contextlib.suppress(FileNotFoundError):
        new.unlink()


def test_metrics_survive(lab: Any) -> None:
    """Stored metrics are the computed ones to the last bit, intervals of a sample included."""
    made = load("mul16u_WIDE")
    text = objects._metrics_text(made.metrics)
    assert objects._metrics(json.loads(text)) == made.metrics
    assert made.metrics.interval
