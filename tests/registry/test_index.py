"""Index files: what follows the schema is read, everything else is refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from approxhub import errors
from approxhub.multiplier import Hardware
from approxhub.registry import index_source
from approxhub.registry.index import read_index

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


@pytest.fixture
def data() -> dict[str, Any]:
    """A good index."""
    return copy.deepcopy(
        {
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
            "multipliers": [ENTRY, {**ENTRY, "name": "mul4u_TWO"}],
        }
    )


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
        ("schema_version", 2, r"reads version 1, got 2; upgrade"),
        ("schema_version", "1", "reads version 1"),
        ("schema_version", True, "reads version 1"),
        ("source", "a:b", "the name of a source"),
        ("source", "other", "expected 'lab', got 'other'"),
        ("release", "..", "letters, digits"),
        ("release", "a/b", "letters, digits"),
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


def test_name_that_stands_twice(data: dict[str, Any], tmp_path: Path) -> None:
    """Two entries of one name are refused."""
    data["multipliers"].append(data["multipliers"][0])
    with pytest.raises(errors.IndexFormatError, match="stands once"):
        read(data, tmp_path)


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
