"""Fetching: the happy path, and every way in which it can go wrong with the cache untouched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import approxhub as ah
from approxhub import errors
from approxhub.multiplier import Multiplier
from approxhub.plugins import MultiplierSource, hookimpl, host
from approxhub.registry import Entry, Store, fetch, find_by_identity, load

Snapshot = Callable[[], dict[str, str]]


def test_load_fetches_once(lab: Any) -> None:
    """The first load downloads and verifies, the second is the same object without a request."""
    first = load("lab:r1/mul4u_CUT")
    assert (first(15, 3), first(3, 15)) == (36, 0)
    assert load("lab:r1/mul4u_CUT") is first
    assert len(lab.server.asked) == 1
    p = first.provenance
    assert (p.source, p.release, p.commit, p.licence, p.doi) == (
        *("lab", "r1", "1" * 40, "MIT", "10.1/us"),
    )
    assert p.url == f"{lab.server.url}/{'1' * 40}/multipliers/mul4u_CUT.c"
    assert first.hardware.power_mw == 0.25
    assert first.hardware.technology == "LAB1"


def test_load_from_cache_is_equal(lab: Any) -> None:
    """What comes out of the cache is what went in, in every part."""
    made = load("mul4s_NEG")
    again = Store().get("lab:r1/mul4s_NEG")
    assert again is not None
    assert again == made
    assert again is not made
    assert (again.table == made.table).all()
    assert again.metrics == made.metrics
    assert (again.id, again.hardware, again.provenance, again.printed) == (
        *(made.id, made.hardware, made.provenance, made.printed),
    )


def test_modifiers_apply_to_cached_base(lab: Any) -> None:
    """A modified id loads the base once and changes it; the cache holds the base alone."""
    swapped = load("mul4u_CUT+swap")
    assert swapped.id == "lab:r1/mul4u_CUT+swap"
    assert swapped(3, 15) == load("mul4u_CUT")(15, 3)
    assert load("mul4u_CUT+signmag(both,5)+zerogate")(-15, -3) == 36
    assert Store().ids() == ["lab:r1/mul4u_CUT"]


def test_wide_circuit_is_stored_as_source(lab: Any) -> None:
    """A circuit too wide for a table keeps its C text in the cache and evaluates from there."""
    made = load("mul16u_WIDE")
    assert made.metrics.method == "sampled"
    again = Store().get(made.id)
    assert again is not None
    assert again == made
    assert again(65535, 31) == 65535 * 16
    assert again.metrics == made.metrics


def test_mirror_folder_comes_first(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder named as a mirror serves the file, offline too, and no request is made."""
    monkeypatch.setenv("APPROXHUB_MIRROR", str(lab.tree))
    assert load("mul4u_CUT", offline=True)(15, 3) == 36
    assert lab.server.asked == []


@pytest.mark.parametrize("layout", ["{source}/{commit}", "{commit}", ""])
def test_mirror_layouts(
    lab: Any, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror may keep files under source and commit, under the commit, or flat."""
    folder = tmp_path / "mirror" / layout.format(source="lab", commit="1" * 40)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "multipliers").symlink_to(lab.file("mul4u_CUT").parent)
    monkeypatch.setenv("APPROXHUB_MIRROR", (tmp_path / "mirror").as_uri())
    assert load("mul4u_CUT", offline=True)(15, 3) == 36


def test_hash_decides_between_mirrors(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror with another file is passed over for the next place, whatever its order."""
    wrong = tmp_path / "wrong" / "multipliers"
    wrong.mkdir(parents=True)
    (wrong / "mul4u_CUT.c").write_text("int mul4u_CUT(int A, int B) { return 7; }")
    monkeypatch.setenv("APPROXHUB_MIRROR", f"{wrong.parent},{lab.server.url}")
    assert load("mul4u_CUT")(15, 3) == 36


def test_wrong_printed_metric_is_a_note(lab: Any) -> None:
    """A printed metric that does not hold is noted on the multiplier, and kept in the cache."""
    made = load("mul4u_PRINT")
    assert made.provenance.notes == ("printed wce 9, computed 4",)
    again = Store().get(made.id)
    assert again is not None
    assert again.provenance.notes == made.provenance.notes


def test_fetch_goes_on_after_failure(lab: Any) -> None:
    """Of several ids one fails and the others arrive."""
    results = fetch(["mul4u_CUT", "mul4u_NOPE", "mul4s_NEG", "exact:8u", "not an id"])
    assert [r.state for r in results] == ["fetched", "failed", "fetched", "computed", "failed"]
    assert isinstance(results[1].error, errors.UnknownMultiplierError)
    assert isinstance(results[4].error, errors.MultiplierIdError)
    assert [r.state for r in fetch("mul4u_CUT")] == ["cached"]
    assert [r.state for r in fetch("mul4u_CUT", force=True)] == ["fetched"]


# --- bad input, each with its error and an untouched cache ---------------------------


@pytest.fixture
def untouched(lab: Any, snapshot: Snapshot) -> Any:
    """Run what must fail, with something in the cache that must stay as it is."""
    load("mul4s_NEG")
    before = snapshot()
    assert len(before) == 2
    yield
    assert snapshot() == before
    assert not list(Path(os.environ["APPROXHUB_HOME"]).rglob(".tmp-*"))


@pytest.mark.usefixtures("untouched")
class TestBadInput:
    """Issue A's list; `untouched` compares the cache afterwards."""

    def test_unknown_id(self) -> None:
        """An unknown name is refused with names that look like it."""
        with pytest.raises(errors.UnknownMultiplierError, match="did you mean") as caught:
            load("mul4u_CUTE")
        assert "lab:r1/mul4u_CUT" in caught.value.close

    def test_without_a_colon(self) -> None:
        """An id that lacks nothing but its colon is suggested with it."""
        with pytest.raises(errors.UnknownMultiplierError, match="did you mean exact:8u"):
            load("exact8u")

    def test_unknown_full_id(self) -> None:
        """An unknown name in a known source is refused by that source, with close names."""
        with pytest.raises(errors.UnknownMultiplierError, match="r2/mul4u_CUT") as caught:
            load("lab:r2/mul4u_CUT")
        assert caught.value.close[0] == "lab:r1/mul4u_CUT"

    def test_unknown_source(self) -> None:
        """A source that nobody brought is named together with those that exist."""
        with pytest.raises(errors.UnknownMultiplierError, match=r"'labb'.*known are.*lab") as e:
            load("labb:r1/mul4u_CUT")
        assert e.value.close == ("lab",)
        assert str(e.value).endswith("; did you mean lab?")

    def test_unknown_source_in_another_case(self) -> None:
        """Sources are suggested whatever the case of the one that was asked for."""
        with pytest.raises(errors.UnknownMultiplierError, match=r"did you mean drum\?") as e:
            load("DRUM:8u/k=3")
        assert e.value.close == ("drum",)

    def test_unknown_member_of_a_family(self) -> None:
        """A family's own suggestions are said once."""
        with pytest.raises(errors.UnknownMultiplierError) as e:
            load("drum:8u/q=3")
        assert e.value.close
        assert "did you mean" not in str(e.value)
        assert str(e.value).count(e.value.close[0]) == 1

    def test_ambiguous_id(self) -> None:
        """A bare name of two circuits is refused with both."""
        with pytest.raises(errors.AmbiguousMultiplierError, match="tables differ") as caught:
            load("mul4u_TWO")
        assert caught.value.candidates == ("lab:r1/mul4u_TWO", "lab:r2/mul4u_TWO")

    def test_local_id(self) -> None:
        """An id of one's own that is not in the cache says what puts it there."""
        with pytest.raises(
            errors.UnknownMultiplierError, match="`approxhub import FILE --name mine`"
        ):
            load("local:mine")

    def test_source_differs_from_hash(self, lab: Any) -> None:
        """A file that is not the one in the index is refused, with both hashes and the place."""
        lab.file("mul4u_CUT").write_text("int mul4u_CUT(int A, int B) { return 7; }")
        with pytest.raises(errors.VerificationError, match="source hash") as caught:
            load("mul4u_CUT")
        assert str(caught.value).startswith("fetch lab:r1/mul4u_CUT: ")
        assert lab.server.url in str(caught.value)

    def test_table_differs_from_hash(self) -> None:
        """A circuit whose table is not the one in the index is refused."""
        with pytest.raises(errors.VerificationError, match="mul4u_LIE: table hash"):
            load("mul4u_LIE")

    def test_c_text_outside_grammar(self) -> None:
        """C that is not read is refused with its line."""
        with pytest.raises(errors.CModelError, match=r"mul4u_GOTO: C model: .*goto") as caught:
            load("mul4u_GOTO")
        assert caught.value.line == 5

    def test_no_network(self, lab: Any) -> None:
        """Without a connection the error names the address and what to do."""
        lab.server.close()
        with pytest.raises(errors.NetworkError, match=r"refused.*APPROXHUB_MIRROR") as caught:
            load("mul4u_CUT")
        assert not isinstance(caught.value, errors.OfflineError)
        assert lab.server.url in str(caught.value)

    def test_offline(self, lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Offline nothing is asked, mirrors with an address included."""
        monkeypatch.setenv("APPROXHUB_OFFLINE", "1")
        monkeypatch.setenv("APPROXHUB_MIRROR", lab.server.url)
        asked = len(lab.server.asked)
        with pytest.raises(errors.OfflineError, match="offline"):
            load("mul4u_CUT")
        assert len(lab.server.asked) == asked
        assert load("mul4s_NEG")(1, 1) == 0  # what is cached loads

    def test_no_such_file(self, lab: Any) -> None:
        """A status other than 200 is a network error with that status."""
        lab.file("mul4u_CUT").unlink()
        with pytest.raises(errors.NetworkError, match="status 404"):
            load("mul4u_CUT")

    def test_bad_timeout_setting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A setting that is no number is refused, not guessed."""
        monkeypatch.setenv("APPROXHUB_TIMEOUT", "soon")
        with pytest.raises(errors.InputError, match="APPROXHUB_TIMEOUT"):
            load("mul4u_CUT")

    def test_bad_mirror_setting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A mirror with a scheme that is not served is refused."""
        monkeypatch.setenv("APPROXHUB_MIRROR", "ftp://example.org")
        with pytest.raises(errors.InputError, match=r"ftp://example.org"):
            load("mul4u_CUT")


# --- sources that fail -----------------------------------------------------------------


def _source(name: str, **parts: Any) -> Any:
    class Plugin:
        @staticmethod
        @hookimpl
        def approxhub_multiplier_sources() -> list[MultiplierSource]:
            return [MultiplierSource(name, **parts)]

    host().register(Plugin, name)


def _raise(*args: Any) -> Any:
    raise ZeroDivisionError("oops")


def test_bare_name_of_ones_own() -> None:
    """A table of one's own has no bare name, and the error says how it is called."""
    Store().put(Multiplier.from_table([[9, 0], [0, 1]], name="mine"))
    with pytest.raises(errors.UnknownMultiplierError, match="did you mean local:mine"):
        load("mine")


def test_source_that_cannot_be_listed(lab: Any) -> None:
    """A source whose list raises is passed over with a warning, and fails only by name."""
    _source("broken", list=_raise, fetch=_raise)
    with pytest.warns(UserWarning, match="'broken' cannot be listed: ZeroDivisionError: oops"):
        assert load("mul4u_CUT")(15, 3) == 36
    with (
        pytest.warns(UserWarning, match="broken"),
        pytest.raises(errors.PluginError, match=r"'broken' failed to fetch.*oops"),
    ):
        load("broken:x")


def test_source_that_returns_another_id(lab: Any) -> None:
    """A source cannot slip a multiplier of another name into the cache."""
    other = Multiplier.from_table(np.zeros((4, 4), int), name="other")
    _source("odd", list=list, fetch=lambda path, context: other)
    with pytest.raises(errors.PluginError, match="local:other"):
        load("odd:x")
    assert Store().ids() == []


def test_source_that_lists_nonsense(lab: Any) -> None:
    """Entries of another source, or no entries at all, are a failure of the plug-in."""
    f = ah.exact(4).a
    _source("thief", list=lambda: [Entry(id="lab:r1/mul4u_CUT", a=f, b=f)], fetch=_raise)
    _source("words", list=lambda: ["mul"], fetch=_raise)
    with pytest.warns(UserWarning, match="cannot be listed") as caught:
        assert load("mul4u_CUT")(15, 3) == 36
    assert sorted(str(w.message).split("'")[1] for w in caught) == ["thief", "words"]


def test_wide_function_is_not_kept(lab: Any) -> None:
    """A wide circuit that is not C loads with a warning, and `fetch` says it cannot be kept."""

    def make(path: str, context: Any) -> Multiplier:
        inner = ah.exact(16)
        return Multiplier("w:x", inner.a, inner.b, circuit=inner)

    _source("w", list=list, fetch=make)
    with pytest.warns(UserWarning, match="not kept"):
        assert load("w:x")(3, 5) == 15
    assert isinstance(fetch("w:x")[0].error, errors.StoreError)


# --- by identity ----------------------------------------------------------------------


def test_find_by_identity(lab: Any) -> None:
    """A content hash finds its multiplier in the process, in a fresh one, and else nothing."""
    made = load("mul4u_CUT")
    assert find_by_identity(made.identity) is made
    found = lab.run(f"""
        from approxhub.registry import find_by_identity
        m = find_by_identity({made.identity!r})
        print(m.id, m(15, 3))
        """)
    assert found.stdout.split() == ["lab:r1/mul4u_CUT", "36"], found.stderr
    assert find_by_identity("4ux4u-" + "0" * 64) is None
    assert find_by_identity("../../etc/passwd") is None


def test_object_without_ref_is_found(lab: Any) -> None:
    """An object that no id stands for any more is found under a local id."""
    made = load("mul4u_CUT")
    Store().ref_path(made.id).unlink()
    found = Store().find(made.identity)
    assert found is not None
    assert found.id == f"local:{made.identity}"


def test_index_change_refetches(lab: Any) -> None:
    """When the index pins another table under an id, the cached one is not handed out."""
    load("mul4u_CUT")
    row = lab.index("r1")["multipliers"][0]
    row["table_sha256"] = "0" * 64
    lab.install()
    from approxhub.registry import client

    client._loaded.clear()
    with pytest.raises(errors.VerificationError, match="table hash"):
        load("lab:r1/mul4u_CUT")


def test_refs_are_plain_json(lab: Any) -> None:
    """A ref is JSON that a person can read, sealed by a checksum."""
    made = load("mul4u_CUT")
    ref = json.loads(Store().ref_path(made.id).read_text())
    assert ref["ref"]["object"] == made.identity
    assert len(ref["sha256"]) == 64
