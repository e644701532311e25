"""Index files: what follows the schema is read, everything else is refused by name."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from approxhub import errors
from approxhub.multiplier import Hardware
from approxhub.registry import index_source
from approxhub.registry.index import parse_index, read_index

ENTRY: dict[str, Any] = {
    "name": "mul4u_ONE",
    "a": "4u",
    "b": "4u",
    "path": "multipliers/mul4u_ONE.c",
    "function": "mul4u_ONE",
    "source_sha256": "0" * 64,
    "table_sha256": None,
    "printed": {"mae": "1.50", "mse": "2e3"},
    "hardware": {"power_mw": 0.25, "area_um2": 10, "delay_ns": None},
    "citation": "us",
}

HEAD: dict[str, Any] = {
    "schema_version": 1,
    "source": "lab",
    "release": "r1",
    "repository": "https://example.org",
    "commit": "1" * 40,
    "urls": ["https://example.org/{commit}/{path}"],
    "format": "c-model",
    "licence": {"spdx": "MIT", "holder": "us"},
    "technology": "LAB1",
    "citations": {"us": {"text": "Us, 2024", "doi": "10.1/us"}},
}


@pytest.fixture
def data() -> dict[str, Any]:
    """A good index."""
    return copy.deepcopy({**HEAD, "multipliers": [ENTRY, {**ENTRY, "name": "mul4u_TWO"}]})


def read(data: Any, tmp_path: Path, **options: Any) -> Any:
    """Write an index and read it."""
    path = tmp_path / "some-index.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return read_index(path, **options)


def test_good_index(data: dict[str, Any], tmp_path: Path) -> None:
    """A good index gives entries with all that it says."""
    index = read(data, tmp_path, source="lab")
    circuit = index.circuits["r1/mul4u_ONE"]
    e = circuit.entry
    assert (e.id, str(e.a), str(e.b)) == ("lab:r1/mul4u_ONE", "4u", "4u")
    assert (e.licence, e.citation, e.doi) == ("MIT", "Us, 2024", "10.1/us")
    assert e.hardware == Hardware(0.25, 10.0, None, "LAB1")
    assert index.urls_of(circuit) == (f"https://example.org/{'1' * 40}/multipliers/mul4u_ONE.c",)


def test_address_is_quoted(data: dict[str, Any], tmp_path: Path) -> None:
    """A path with a space makes an address without one."""
    data["multipliers"][0]["path"] = "my multipliers/a+b.c"
    index = read(data, tmp_path)
    (url,) = index.urls_of(index.circuits["r1/mul4u_ONE"])
    assert url.endswith("/my%20multipliers/a%2Bb.c")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("schema_version", 3, r"reads versions 1 to 2, got 3; upgrade"),
        ("schema_version", 0, "reads versions 1 to 2"),
        ("schema_version", "1", "reads versions 1 to 2"),
        ("schema_version", True, "reads versions 1 to 2"),
        ("source", "a:b", "the name of a source"),
        ("source", "other", "expected 'lab', got 'other'"),
        ("release", "..", "letters, digits"),
        ("release", "a/b", "letters, digits"),
        ("commit", None, "a commit hash"),
        ("commit", "HEAD", "a commit hash"),
        ("commit", "../../x", "a commit hash"),
        ("format", "verilog", "'c-model'"),
        ("urls", "http://x/{path}", "a list of"),
        ("urls", ["file:///{path}"], r"http\(s\) addresses"),
        ("urls", ["http://x/"], r"\{path\}"),
        ("licence", "MIT", "expected an object"),
        ("licence", {}, "'spdx' is missing"),
        ("technology", 45, "a name"),
        ("citations", [], "'citations'"),
        ("citations", {"us": {"doi": "x"}}, "citation us: field 'text'"),
        ("urls", ["http://x/{path}"] * 17, "a list of"),
        ("revision", 0, "an integer of 1 or more"),
        ("revision", "2", "an integer of 1 or more"),
        ("revision", True, "an integer of 1 or more"),
        ("multipliers", {}, "a list"),
        ("multipliers", [7], "multiplier #0: expected an object"),
    ],
)
def test_bad_head(data: dict[str, Any], tmp_path: Path, field: str, value: Any, says: str) -> None:
    """A bad field of the head is named, with what was expected and the file."""
    data[field] = value
    with pytest.raises(errors.IndexFormatError, match=says) as caught:
        read(data, tmp_path, source="lab")
    assert "some-index.json" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../x"),
        ("name", ".."),
        ("name", ""),
        ("name", 5),
        ("a", "17u"),
        ("a", "8"),
        ("b", None),
        ("path", "../x.c"),
        ("path", "/etc/passwd"),
        ("path", "a/../../x.c"),
        ("path", "a//b.c"),
        ("path", "a\\b.c"),
        ("path", "C:/x.c"),
        ("path", "./x.c"),
        ("path", ""),
        ("path", "x" * 201),
        ("path", "x/" * 500 + "y"),
        ("name", "x" * 129),
        ("function", "system()"),
        ("function", 5),
        ("source_sha256", "x"),
        ("source_sha256", None),
        ("source_sha256", "A" * 64),
        ("table_sha256", "0" * 63),
        ("printed", []),
        ("printed", {"speed": "1"}),
        ("printed", {"mae": 1}),
        ("printed", {"mae": "NaN"}),
        ("printed", {"mae": "1e9999"}),
        ("hardware", None),
        ("hardware", {"power_mw": "1"}),
        ("hardware", {"power_mw": -1}),
        ("hardware", {"power_mw": True}),
        ("hardware", {"power_mw": 10**400}),
        ("hardware", {"luts": 1.5}),
        ("hardware", {"luts": -1}),
        ("format", "npy"),
        ("index_order", "sideways"),
        ("operand_order", "aa"),
        ("printed", {"mae": "1" * 41}),
        ("printed", {"mae": "\u0663"}),
        ("citation", "nobody"),
    ],
)
def test_bad_entry(data: dict[str, Any], tmp_path: Path, field: str, value: Any) -> None:
    """A bad field of an entry is named together with the entry and the file."""
    data["multipliers"][1][field] = value
    with pytest.raises(errors.IndexFormatError, match=r"some-index.json") as caught:
        read(data, tmp_path)
    assert field in str(caught.value)
    assert "expected" in str(caught.value)
    if field != "name":
        assert data["multipliers"][1]["name"] in str(caught.value)


@pytest.mark.parametrize("field", ["schema_version", "source", "commit", "urls", "multipliers"])
def test_missing_head_field(data: dict[str, Any], tmp_path: Path, field: str) -> None:
    """A missing field is named."""
    del data[field]
    with pytest.raises(errors.IndexFormatError, match=f"'{field}' is missing"):
        read(data, tmp_path)


@pytest.mark.parametrize("field", ["name", "a", "b", "path", "source_sha256", "printed"])
def test_missing_entry_field(data: dict[str, Any], tmp_path: Path, field: str) -> None:
    """A missing field of an entry is named."""
    del data["multipliers"][0][field]
    with pytest.raises(errors.IndexFormatError, match=f"'{field}' is missing"):
        read(data, tmp_path)


def test_version_2_adds_to_version_1(data: dict[str, Any], tmp_path: Path) -> None:
    """What version 1 says, version 2 says too; and it knows tables, LUTs and no commit."""
    old = read(data, tmp_path)
    assert (old.revision, old.circuits["r1/mul4u_ONE"].format) == (1, "c-model")
    assert read({**data, "schema_version": 2}, tmp_path) == old
    table = {**ENTRY, "name": "t", "path": "t.bin", "format": "bin", "function": None}
    table.update(index_order="offset", operand_order="ba", hardware={"power_mw": 1, "luts": 7})
    new = {**data, "schema_version": 2, "commit": None, "urls": [], "revision": 3}
    index = read({**new, "multipliers": [ENTRY, table]}, tmp_path)
    circuit = index.circuits["r1/t"]
    assert (index.commit, index.urls_of(circuit), index.revision) == (None, (), 3)
    assert (circuit.format, circuit.index_order, circuit.operand_order) == ("bin", "offset", "ba")
    assert circuit.entry.hardware == Hardware(1.0, technology="LAB1", luts=7)
    assert index.circuits["r1/mul4u_ONE"].format == "c-model"


def test_commit_in_an_address_needs_a_commit(data: dict[str, Any], tmp_path: Path) -> None:
    """An address with {commit} in an index without a commit is refused."""
    with pytest.raises(errors.IndexFormatError, match=r"no \{commit\} without"):
        read({**data, "schema_version": 2, "commit": None}, tmp_path)


def test_bounded(data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index has at most so many entries, and so many bytes."""
    monkeypatch.setattr("approxhub.registry.index.MAX_ENTRIES", 2)
    read(data, tmp_path)
    data["multipliers"].append({**ENTRY, "name": "three"})
    with pytest.raises(errors.IndexFormatError, match="at most 2 entries, got 3"):
        read(data, tmp_path)
    monkeypatch.setattr("approxhub.registry.index.MAX_INDEX_BYTES", 100)
    with pytest.raises(errors.IndexFormatError, match="at most 100 bytes"):
        read(data, tmp_path)


def test_name_that_stands_twice(data: dict[str, Any], tmp_path: Path) -> None:
    """Two entries of one name are refused."""
    data["multipliers"].append(data["multipliers"][0])
    with pytest.raises(errors.IndexFormatError, match="stands once"):
        read(data, tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(value=JSON, data=st.data())
@settings(deadline=None, derandomize=True, max_examples=300)
def test_anything_anywhere(value: Any, data: st.DataObject) -> None:
    """Whatever stands wherever in an index: it is read, or refused as an index, never otherwise."""
    index = json.loads(json.dumps({**HEAD, "multipliers": [ENTRY]}))
    index["schema_version"] = data.draw(st.sampled_from([1, 2]))
    place: Any = index
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else [0]))
        if not isinstance(place[key], (dict, list)) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    with contextlib.suppress(errors.IndexFormatError):
        found = parse_index(index, "x")
        for circuit in found.circuits.values():
            assert ".." not in circuit.path.split("/")
            assert not circuit.path.startswith("/")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "\0", "NaN", '{"a": 1, "a": 2}', "[" * 100_000, '{"x": Infinity}', "\ud800"],
)
def test_not_an_index(tmp_path: Path, text: str) -> None:
    """Whatever is not a JSON object of ours is refused, with the file's name."""
    path = tmp_path / "some-index.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(errors.IndexFormatError, match=r"some-index.json"):
        read_index(path)


def test_key_that_stands_twice(data: dict[str, Any], tmp_path: Path) -> None:
    """Of two values for one key neither is taken."""
    text = json.dumps(data).replace('"commit":', '"commit": "2222222", "commit":')
    with pytest.raises(errors.IndexFormatError, match="'commit' stands twice"):
        read(text, tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is an index error too."""
    with pytest.raises(errors.IndexFormatError, match="cannot be read"):
        read_index(tmp_path / "nowhere.json")


def test_release_that_stands_twice(lab: Any, tmp_path: Path) -> None:
    """Two files of one release are refused, with both names."""
    one = lab.paths()[0]
    two = tmp_path / "two.json"
    two.write_bytes(one.read_bytes())
    with pytest.raises(errors.IndexFormatError, match=r"two.json.*lab-r1.json"):
        list(index_source("lab", [one, two]).list())
