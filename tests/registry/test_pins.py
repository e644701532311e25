"""Indexes of others: pinned when first seen, and never changed behind anybody's back."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import approxhub as ah
from approxhub import errors
from approxhub.formats import write_table
from approxhub.plugins import MultiplierSource, hookimpl, host
from approxhub.registry import Entry, Store, entries, fetch, resolve, verify
from approxhub.registry.pins import add_index, read_pin, remove_index, update_index
from approxhub.registry.publishing import build_index, write_index

A = np.arange(16).reshape(-1, 1)
TABLE = A * A.T + 64 + A  # not commutative, and 64 where both are zero


@pytest.fixture
def folder(lab: Any) -> Path:
    """A folder that is published: a table, a C model and an index; the lab's server has it too."""
    made: Path = lab.tree / "mine"
    made.mkdir()
    np.save(made / "odd.npy", TABLE)
    (made / "sub").mkdir()
    (made / "sub" / "cut.c").write_bytes(lab.file("mul4u_CUT").read_bytes())
    metadata = {
        "source": "mylab",
        "release": "v1",
        "licence": "CC-BY-4.0",
        "citation": {"text": "Us, 2026", "doi": "10.1/us"},
        "technology": "P28",
        "operands": "4u",
        "multipliers": {"odd.npy": {"power_mw": 0.25, "operand_order": "ab"}},
    }
    (made / "metadata.json").write_text(json.dumps(metadata))
    publish(made)
    return made


def publish(folder: Path, **changes: Any) -> None:
    """Make the index of the folder, whatever was there before."""
    path = folder / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    (folder / "index.json").unlink(missing_ok=True)
    write_index(build_index(folder), folder / "index.json")


def edit(folder: Path, change: Callable[[Any], None]) -> None:
    """Change the index as somebody would who does not build it."""
    path = folder / "index.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.fixture(params=["folder", "file", "address of a folder", "address of a file"])
def place(request: pytest.FixtureRequest, folder: Path, lab: Any) -> str:
    """What one can add, all the same index."""
    return {
        "folder": str(folder),
        "file": str(folder / "index.json"),
        "address of a folder": f"{lab.server.url}/mine/",
        "address of a file": f"{lab.server.url}/mine/index.json",
    }[str(request.param)]


def test_add_fetch_load_verify(place: str) -> None:
    """A second user adds an index, and loads from it by id: the table, its cost, its origin."""
    add_index("mylab", place)
    assert [e.id for e in entries() if e.source == "mylab"] == ["mylab:v1/cut", "mylab:v1/odd"]
    (result,) = fetch("mylab:v1/odd")
    assert (result.state, result.error) == ("fetched", None)
    m = ah.load("mylab:v1/odd")
    assert np.array_equal(m.table, TABLE)
    assert (m.hardware.power_mw, m.hardware.technology) == (0.25, "P28")
    p = m.provenance
    assert (p.source, p.release, p.commit, p.path) == ("mylab", "v1", None, "odd.npy")
    assert (p.licence, p.doi, p.notes) == ("CC-BY-4.0", "10.1/us", ())
    assert ah.load("cut")(13, 3) == 36
    assert [r.name for r in verify() if r.ok][:2] == ["mylab:v1/cut", "mylab:v1/odd"]


@pytest.mark.parametrize("format", ["npy", "text", "csv", "raw", "c-array"])
def test_orders_go_with_the_index(format: str, tmp_path: Path) -> None:
    """Index order and operand order of a file are as published: the second user gets the table."""
    a, b = np.arange(-128, 128)[:, None], np.arange(-128, 128)
    table = np.roll(a * (b & ~1) + 64 + (a > 5), (128, 128), (0, 1))
    made = ah.Multiplier.from_table(table, name="odd", a_signed=True, b_signed=True)
    folder = tmp_path / "published"
    folder.mkdir()
    orders = {"index_order": "offset", "operand_order": "ba"}
    path = folder / f"odd.{format}"
    write_table(made, path, format=format, **orders)
    reading = {"operands": "8s", "format": format, **orders}
    head = {"source": "mylab", "release": "v1", "licence": "CC0-1.0"}
    metadata = {**head, "multipliers": {path.name: reading}}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    write_index(build_index(folder), folder / "index.json")
    add_index("mylab", str(folder))
    found = ah.load("mylab:v1/odd")
    assert found.table_sha256 == made.table_sha256
    assert (found(6, -127), found(-127, 6)) == (6 * -128 + 65, -127 * 6 + 64)


def test_works_offline(folder: Path, lab: Any) -> None:
    """From a folder everything is had without a network; an address is not even asked."""
    with pytest.raises(errors.OfflineError):
        add_index("mylab", f"{lab.server.url}/mine/", offline=True)
    add_index("mylab", str(folder), offline=True)
    assert fetch("mylab:v1/cut", offline=True)[0].state == "fetched"
    assert lab.server.asked == []


def test_a_folder_that_is_gone(folder: Path, tmp_path: Path) -> None:
    """It is named, and nothing is said of the network; what is only moved is told from it."""
    add_index("mylab", str(folder))
    fetch("mylab:v1/cut")
    folder.rename(tmp_path / "elsewhere")
    (kept,) = verify(["mylab:v1/cut"], deep=True)
    assert kept.ok  # what is in the cache is sound, and that nobody can ask is a note
    assert f"{folder}, where the files of the index are, is gone" in str(kept.note)
    with pytest.raises(errors.NotFoundError) as caught:
        ah.load("mylab:v1/odd")
    assert str(caught.value) == (
        f"fetch mylab:v1/odd: the folder {folder}, where the files of the index are, is gone; put "
        "it back, or `approxhub index remove mylab` and add it from where it is now"
    )
    (tmp_path / "elsewhere").rename(folder)
    (folder / "odd.npy").unlink()
    with pytest.raises(errors.NetworkError, match=r"odd\.npy: no such file") as missing:
        ah.load("mylab:v1/odd")
    assert "proxy" not in str(missing.value)


def test_addresses_of_the_index_come_last(folder: Path, lab: Any) -> None:
    """An index that lies elsewhere says where its files are."""
    publish(folder, urls=[f"{lab.server.url}/mine/{{path}}"])
    index = folder.parent / "alone" / "index.json"
    index.parent.mkdir()
    index.write_bytes((folder / "index.json").read_bytes())
    add_index("mylab", str(index))
    assert fetch("mylab:v1/cut")[0].multiplier.provenance.url.endswith("/mine/sub/cut.c")


def test_changed_file_is_refused(folder: Path, lab: Any, snapshot: Any) -> None:
    """A server whose file is no longer what was pinned gives nothing, and leaves no trace."""
    add_index("mylab", f"{lab.server.url}/mine/")
    np.save(folder / "odd.npy", TABLE + 1)
    before = snapshot()
    (result,) = fetch("mylab:v1/odd")
    assert isinstance(result.error, errors.VerificationError)
    assert "source hash" in str(result.error)
    assert snapshot() == before


CHANGES: dict[str, Any] = {
    "table": lambda d: d["multipliers"][1].update(table_sha256="0" * 64),
    "source": lambda d: d["multipliers"][1].update(source_sha256="0" * 64),
    "operands": lambda d: d["multipliers"][1].update(a="4s"),
    "path": lambda d: d["multipliers"][1].update(path="other.npy"),
    "power": lambda d: d["multipliers"][1]["hardware"].update(power_mw=0.2),
    "metric": lambda d: d["multipliers"][1]["printed"].update(mae="1"),
    "order": lambda d: d["multipliers"][1].update(operand_order="ba"),
    "licence": lambda d: d["licence"].update(spdx="MIT"),
    "citation": lambda d: d["citations"]["default"].update(text="Them, 2026"),
    "technology": lambda d: d.update(technology="P7"),
    "gone": lambda d: d["multipliers"].pop(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_pinned_entries_do_not_change(folder: Path, what: str, snapshot: Any) -> None:
    """Whatever changes of a known id is refused by add and update, and said; or accepted."""
    add_index("mylab", str(folder))
    before = snapshot()
    edit(folder, CHANGES[what])
    for again in (lambda: add_index("mylab", str(folder)), lambda: update_index("mylab")):
        with pytest.raises(errors.PinnedIndexError, match=r"mylab:v1/odd (changed \(|removed)"):
            again()
    assert snapshot() == before
    _, changes = update_index("mylab", accept=True)
    kind = "removed" if what == "gone" else "changed"
    assert ("mylab:v1/odd", kind) in [(c.id, c.kind) for c in changes]
    assert update_index("mylab")[1] == []


def test_changes_are_said(folder: Path) -> None:
    """The old and the new value stand in the message."""
    add_index("mylab", str(folder))
    edit(folder, CHANGES["power"])
    with pytest.raises(errors.PinnedIndexError, match=r"power_mw 0\.25 -> 0\.2\)") as caught:
        update_index("mylab")
    assert "--accept" in str(caught.value)
    assert caught.value.exit_code == 1


def test_no_downgrade(folder: Path) -> None:
    """A lower revision of a known release is refused; a higher one is taken."""
    publish(folder, revision=5)
    add_index("mylab", str(folder))
    edit(folder, lambda d: d.update(revision=4))
    with pytest.raises(errors.PinnedIndexError, match="revision 5 -> 4"):
        update_index("mylab")
    edit(folder, lambda d: d.update(revision=6))
    assert update_index("mylab")[1] == []
    edit(folder, lambda d: d.update(revision=5))
    with pytest.raises(errors.PinnedIndexError, match="revision 6 -> 5"):
        update_index("mylab")


def test_additions_and_new_releases_are_taken(folder: Path) -> None:
    """What is new comes in by itself, and the old release stays beside it."""
    add_index("mylab", str(folder))
    np.save(folder / "new.npy", A * A.T)
    publish(folder)
    _, changes = update_index("mylab")
    assert [(c.id, c.kind) for c in changes] == [("mylab:v1/new", "added")]
    assert resolve("mylab:v1/new") == "mylab:v1/new"
    publish(folder, release="v2")
    _, changes = update_index("mylab")
    assert {c.kind for c in changes} == {"added"}
    assert ah.load("mylab:v2/odd").table_sha256 == ah.load("mylab:v1/odd").table_sha256
    publish(folder, release="v1")
    edit(folder, CHANGES["table"])
    with pytest.raises(errors.PinnedIndexError):  # the older release is still what it was
        update_index("mylab")


@pytest.mark.parametrize("name", ["evoapproxlib", "approx-fpgas", "drum", "exact", "lab", "local"])
def test_taken_names(folder: Path, name: str) -> None:
    """A name that is built in, or that a plug-in brings, is refused."""
    edit(folder, lambda d: d.update(source=name))
    with pytest.raises(errors.InputError, match=f"{name}.*exists already"):
        add_index(name, str(folder))


def test_a_plugin_of_the_name_of_an_added_index(folder: Path) -> None:
    """The index is used; what the plug-in has is not there, with an error that says why."""
    add_index("mylab", str(folder))
    four = ah.OperandFormat(4, signed=False)
    for plugin in ("their-plugin", "another"):
        source = MultiplierSource("mylab", lambda: [Entry("mylab:or1", four, four)], lambda *_: 1)
        hook = hookimpl(lambda source=source: [source])
        host().register(SimpleNamespace(approxhub_multiplier_sources=hook), plugin)
    why = (
        "'mylab' is an index that was added, which is used, and is offered by another and "
        "their-plugin too; `approxhub index remove mylab` makes room for the plug-in's"
    )
    assert {row.name: row.error for row in host().status() if row.error} == dict.fromkeys(
        ("another", "their-plugin"), f"approxhub_multiplier_sources: {why}"
    )
    assert ah.load("mylab:v1/odd")(1, 1) == TABLE[1, 1]
    with pytest.raises(errors.UnknownMultiplierError) as caught:
        ah.load("mylab:or1")
    assert str(caught.value).endswith(why)
    host().unregister("another")
    remove_index("mylab")
    assert resolve("mylab:or1") == "mylab:or1"
    assert {row.error for row in host().status()} == {None}


def test_name_must_be_its_own(folder: Path) -> None:
    """An id means the same to everybody: an index is added under the name it gives itself."""
    with pytest.raises(errors.IndexFormatError, match="is an index of 'mylab'"):
        add_index("other", str(folder))


def test_other_place_is_refused(folder: Path, lab: Any) -> None:
    """A second place of one name is refused until the first is let go."""
    add_index("mylab", str(folder))
    with pytest.raises(errors.PinnedIndexError, match="index remove mylab"):
        add_index("mylab", f"{lab.server.url}/mine/")
    remove_index("mylab")
    add_index("mylab", f"{lab.server.url}/mine/")


def test_removed(folder: Path) -> None:
    """After a removal the source is gone; doing it twice is an error with what there is."""
    add_index("mylab", str(folder))
    remove_index("mylab")
    with pytest.raises(errors.UnknownMultiplierError, match="no source is called 'mylab'"):
        ah.load("mylab:v1/odd")
    for call in (remove_index, update_index):
        with pytest.raises(errors.NotFoundError, match="added are: none"):
            call("mylab")


def test_bare_names(folder: Path, lab: Any) -> None:
    """A bare name works if the tables agree, and then means the built-in or plug-in's circuit."""
    (folder / "mul4u_CUT.c").write_bytes(lab.file("mul4u_CUT").read_bytes())
    np.save(folder / "mul4u_SAME.npy", A * A.T + 1)
    publish(folder)
    add_index("mylab", str(folder))
    assert resolve("mul4u_CUT") == "lab:r1/mul4u_CUT"
    with pytest.raises(errors.AmbiguousMultiplierError, match="mylab:v1/mul4u_SAME"):
        resolve("mul4u_SAME")


@pytest.mark.parametrize(
    "place",
    [
        "ftp://example.org/index.json",
        "file:///etc/passwd",
        "http://user:secret@127.0.0.1/index.json",
        "http://127.0.0.1/index.json?key=secret",
        "http:///index.json",
    ],
)
def test_places_that_are_none(place: str) -> None:
    """Other schemes, passwords and queries in an address are refused, and not repeated."""
    with pytest.raises(errors.InputError) as caught:
        add_index("mylab", place)
    assert "secret" not in str(caught.value)


def test_nothing_there(tmp_path: Path, lab: Any) -> None:
    """A folder without an index, and an address without one, say so."""
    with pytest.raises(errors.NotFoundError, match="index build"):
        add_index("mylab", str(tmp_path))
    with pytest.raises(errors.NetworkError, match="404"):
        add_index("mylab", f"{lab.server.url}/nowhere/")


def test_hostile_index(folder: Path, lab: Any, misbehave: Any, monkeypatch: Any) -> None:
    """A path out of the folder, an endless answer, a detour to a file: refused, nothing kept."""
    url = f"{lab.server.url}/mine/"
    edit(folder, lambda d: d["multipliers"][0].update(path="../../secret.c"))
    with pytest.raises(errors.IndexFormatError, match="a relative path"):
        add_index("mylab", url)
    monkeypatch.setattr("approxhub.registry.pins.MAX_INDEX_BYTES", 1 << 20)
    lab.server.behave["index.json"] = misbehave.endless
    with pytest.raises(errors.NetworkError, match="more than 1048576 bytes"):
        add_index("mylab", url)
    lab.server.behave["index.json"] = misbehave.redirect("file:///etc/passwd")
    with pytest.raises(errors.NetworkError, match=r"not an http\(s\) address"):
        add_index("mylab", url)
    lab.server.behave["index.json"] = misbehave.body(b"<html>not found</html>")
    with pytest.raises(errors.IndexFormatError, match="not JSON"):
        add_index("mylab", url)
    assert Store().index_names() == []


def damaged(path: Path) -> list[bytes]:
    """What may become of a pinned index."""
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    return [b"", data[: len(data) // 2], bytes(flipped), b"{}", b"[]", b'{"pin": 1, "sha256": ""}']


def test_damaged_pin_stops_nobody_else(folder: Path, home: Path) -> None:
    """A damaged pinned index is named, and everything else is still listed and loaded."""
    add_index("mylab", str(folder))
    path = home / "indexes" / "mylab.json"
    count = len(entries())
    for content in damaged(path):
        path.write_bytes(content)
        add_anew()
        with pytest.warns(UserWarning, match="mylab.*damaged"):
            assert len(entries()) == count - 2
        with pytest.raises(errors.VerificationError, match="index remove mylab"):
            read_pin(Store(), "mylab")
        assert ah.load("exact:4u")(3, 5) == 15
        with pytest.raises(errors.ApproxHubError):
            update_index("mylab")
    remove_index("mylab")
    add_index("mylab", str(folder))
    assert len(entries()) == count


def test_any_flipped_bit_is_noticed(folder: Path, home: Path) -> None:
    """One flipped bit anywhere gives what was pinned, or an error; never another content."""
    pin = add_index("mylab", str(folder))
    path = home / "indexes" / "mylab.json"
    data = path.read_bytes()
    refused = 0
    for bit in range(0, 8 * len(data), 101):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert read_pin(Store(), "mylab") == pin  # e.g. of one white space made another
        except errors.VerificationError:
            refused += 1
    assert refused > 100


def test_many_at_once(folder: Path) -> None:
    """Several that add one index at the same time all have it, whole."""
    with ThreadPoolExecutor(4) as pool:
        pins = list(pool.map(lambda _: add_index("mylab", str(folder)), range(8)))
    assert all(p == read_pin(Store(), "mylab") for p in pins)


def add_anew() -> None:
    """Let the sources be read again, as a new process would."""
    from approxhub.plugins import host

    host().refresh()


def test_file_of_a_built_in_name_is_not_used(home: Path) -> None:
    """A file put among the pinned indexes does not replace what is built in."""
    (home / "indexes").mkdir(parents=True)
    (home / "indexes" / "evoapproxlib.json").write_text("{}")
    (home / "indexes" / "..odd name.json").write_text("{}")
    with pytest.warns(UserWarning, match="'evoapproxlib' is built in"):
        assert resolve("mul8s_1KV9") == "evoapproxlib:v2022/mul8s_1KV9"


def test_newer_pin(folder: Path, home: Path) -> None:
    """A pin of a newer ApproxHub is not called damaged."""
    from approxhub.registry import pins

    add_index("mylab", str(folder))
    path = home / "indexes" / "mylab.json"
    body = {**json.loads(path.read_text())["pin"], "schema_version": 99}
    path.write_text(json.dumps({"sha256": pins._checksum(body), "pin": body}))
    with pytest.raises(errors.StoreError, match="newer ApproxHub"):
        read_pin(Store(), "mylab")


def test_full_disk_leaves_the_pin(
    folder: Path, snapshot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update that cannot be written leaves what was pinned."""
    add_index("mylab", str(folder))
    before = snapshot()
    np.save(folder / "new.npy", A * A.T)
    publish(folder)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(errors.StoreFullError):
        update_index("mylab")
    assert snapshot() == before


def test_wide_circuit_that_was_accepted_replaces_the_old_one(folder: Path) -> None:
    """A circuit too wide for a table is known by its source: a changed one is fetched again."""
    text = "#include <stdint.h>\nuint64_t f(uint64_t a, uint64_t b) { return a * b * %d; }\n"
    (folder / "wide.c").write_text(text % 1)
    cost = {"wide.c": {"operands": "16u"}}
    publish(folder, multipliers=cost)
    add_index("mylab", str(folder))
    assert ah.load("mylab:v1/wide")(3, 5) == 15
    (folder / "wide.c").write_text(text % 2)
    publish(folder)
    update_index("mylab", accept=True)
    fetch("mylab:v1/wide")
    assert ah.load("mylab:v1/wide").identity.endswith(
        json.loads((folder / "index.json").read_text())["multipliers"][2]["source_sha256"]
    )
