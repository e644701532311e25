"""Building an index of a folder: what it says is computed, checked, and the same every time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multipliers_index
from approxhub import errors
from approxhub.multiplier import table_sha256
from approxhub.registry.index import render_index
from approxhub.registry.publishing import build_index, write_index

A = np.arange(16).reshape(-1, 1)
SIGNED = np.array([*range(8), *range(-8, 0)])
ODD = A * A.T + 64 + A
METADATA = {"source": "mylab", "release": "v1", "licence": "CC0-1.0"}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of files: text is written, an array saved as .npy."""

    def made(metadata: Any = METADATA, **files: Any) -> Path:
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        if metadata is not None:
            (folder / "metadata.json").write_text(json.dumps(metadata))
        for name, content in files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            if isinstance(content, str):
                path.with_suffix(".c").write_text(content)
            else:
                np.save(path.with_suffix(".npy"), content)
        return folder

    return made


def rows(folder: Path) -> dict[str, Any]:
    """Rows of the folder's index by name."""
    return {row["name"]: row for row in build_index(folder)["multipliers"]}


C = "#include <stdint.h>\nint16_t cut(int8_t A, int8_t B) { return (A & ~1) * B; }\n"


def test_rows(make: Any) -> None:
    """Names, formats, paths, both hashes and all metrics are those of the files."""
    m = {
        "odd.npy": {"operands": "4u", "power_mw": 0.5, "luts": 3},
        "sub/cut.c": {"operands": "4s", "name": "cut-1", "citation": "them"},
    }
    articles = {"citation": "Us, 2026", "citations": {"them": {"text": "They", "doi": "10.1/x"}}}
    folder = make({**METADATA, **articles, "multipliers": m}, odd=ODD, sub__cut=C)
    index = build_index(folder)
    assert [row["name"] for row in index["multipliers"]] == ["cut-1", "odd"]
    cut, odd = index["multipliers"]
    assert (odd["a"], odd["b"], odd["path"], odd["format"]) == ("4u", "4u", "odd.npy", "npy")
    assert (cut["path"], cut["format"], cut["function"]) == ("sub/cut.c", "c-model", "cut")
    raw = (folder / "odd.npy").read_bytes()
    assert odd["source_sha256"] == hashlib.sha256(raw).hexdigest()
    assert odd["table_sha256"] == table_sha256(ODD)
    assert cut["table_sha256"] == table_sha256((SIGNED & ~1)[:, None] * SIGNED)
    error = np.abs(ODD - A * A.T)
    exact = A * A.T
    assert {k: float(v) for k, v in odd["printed"].items()} == pytest.approx(
        {
            "mae": error.mean(), "mae_pct": error.mean() / 2.56, "wce": error.max(),
            "wce_pct": error.max() / 2.56, "mse": (error**2).mean(), "ep_pct": 100.0,
            "bias": error.mean(), "mre_pct": 100 * (error[1:, 1:] / exact[1:, 1:]).mean(),
            "wcre_pct": 100 * (error[1:, 1:] / exact[1:, 1:]).max(),
        },
        rel=1e-5,
    )  # fmt: skip
    assert odd["printed"]["wce"] == "79"
    assert odd["hardware"] == {"power_mw": 0.5, "luts": 3}
    assert (odd["citation"], cut["citation"]) == ("default", "them")
    assert index["licence"] == {"spdx": "CC0-1.0", "holder": None}


def test_same_bytes_every_time(make: Any) -> None:
    """Two builds give the same bytes, whatever the files' dates and order."""
    folder = make({**METADATA, "operands": "4u"}, b=ODD, a=ODD.T.copy(), sub__c=C)
    (folder / "sub" / "c.c").write_text(C)
    one = render_index(build_index(folder))
    for path in folder.glob("*.npy"):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    assert render_index(build_index(folder)) == one


def test_follows_the_schema(make: Any) -> None:
    """What is built is valid against the published JSON Schema."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(multipliers_index.schema_path().read_text(encoding="utf-8"))
    metadata = {**METADATA, "operands": "4s", "index_order": "offset", "operand_order": "ba"}
    folder = make(metadata, odd=ODD.astype(np.int16))
    index = json.loads(render_index(build_index(folder, url="https://example.org/tables/")))
    jsonschema.Draft202012Validator(schema).validate(index)
    assert index["urls"] == ["https://example.org/tables/{path}"]
    assert index["multipliers"][0]["index_order"] == "offset"


def test_orders_are_applied(make: Any) -> None:
    """A table whose rows are weights, from the smallest value on, is the same after both turns."""
    table = (SIGNED[:, None] & ~1) * SIGNED + 64 + SIGNED[:, None]
    turned = np.roll(table, (8, 8), (0, 1)).T
    plain = rows(make({**METADATA, "operands": "4s", "index_order": "pattern"}, t=table))
    other = {**METADATA, "operands": "4s", "index_order": "offset", "operand_order": "ba"}
    assert rows(make(other, t=turned))["t"]["table_sha256"] == plain["t"]["table_sha256"]
    assert plain["t"]["table_sha256"] == table_sha256(table)


def test_wide_circuits_have_no_metrics(make: Any) -> None:
    """Above 24 bits there is no table hash, and a sample's metrics are not printed as facts."""
    text = "#include <stdint.h>\nuint64_t f(uint64_t a, uint64_t b) { return a * b; }\n"
    (row,) = rows(make({**METADATA, "operands": "16u"}, wide=text)).values()
    assert (row["table_sha256"], row["printed"]) == (None, {})


def test_what_is_left_out(make: Any) -> None:
    """Hidden files, the index, files of no format and ignored ones are no multipliers."""
    folder = make({**METADATA, "operands": "4u", "ignore": ["old/*"]}, a=ODD, old__b=ODD)
    (folder / ".hidden.npy").write_bytes(b"x")
    (folder / "README.md").write_text("# Tables")
    write_index(build_index(folder), folder / "index.json")
    assert list(rows(folder)) == ["a"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source": ""}, "source must be there"),
        ({"licence": None}, "licence must be there"),
        ({"source": "a:b"}, "the name of a source"),
        ({"release": "a/b"}, "letters, digits"),
        ({"revision": 0}, "an integer of 1 or more"),
        ({"speed": 1}, "speed means nothing here; known are"),
        ({"multipliers": []}, None),
        ({"multipliers": ["a.npy"]}, "'multipliers' must be an object"),
        ({"multipliers": {"a.npy": {"watts": 1}}}, "multiplier a.npy: watts means nothing"),
        ({"multipliers": {"a.npy": {"power_mw": "1"}}}, "a number of 0 or more"),
        ({"multipliers": {"a.npy": {"citation": "us"}}}, "'us', which is not in 'citations'"),
        ({"multipliers": {"a.npy": {"name": "../a"}}}, "letters, digits"),
        ({"citation": {"doi": "10.1/x"}}, "citation default: field 'text'"),
        ({"urls": ["file:///x/{path}"]}, r"http\(s\) addresses"),
        ({"commit": "HEAD"}, "a commit hash"),
        ({"operands": 4}, "'operands' must be a text, got 4"),
        ({"format": ["npy"]}, "'format' must be a text"),
        ({"multipliers": {"a.npy": {"citation": ["us"]}}}, "a.npy: 'citation' must be a text"),
        ({"multipliers": {"a.npy": {"name": 5}}}, "a.npy: 'name' must be a text"),
    ],
)
def test_bad_metadata(make: Any, change: Any, says: str | None) -> None:
    """What metadata.json says wrong is named, with the file."""
    folder = make({**METADATA, "operands": "4u", **change}, a=ODD)
    if says is None:
        assert list(rows(folder)) == ["a"]
        return
    with pytest.raises(errors.IndexFormatError, match=says) as caught:
        build_index(folder)
    assert "metadata.json" in str(caught.value)


@pytest.mark.parametrize("name", ["exact", "drum", "evoapproxlib", "local"])
def test_built_in_names(make: Any, name: str) -> None:
    """A name that nobody could add is refused, wherever it stands."""
    folder = make({**METADATA, "operands": "4u", "source": name}, a=ODD)
    with pytest.raises(
        errors.InputError, match=rf"metadata\.json: the source '{name}' is built in"
    ):
        build_index(folder)
    assert build_index(folder, source="mylab")["source"] == "mylab"
    make({**METADATA, "operands": "4u"})
    with pytest.raises(errors.InputError, match=f"--source: the source '{name}' is built in"):
        build_index(folder, source=name)


def test_missing_things(make: Any, tmp_path: Path) -> None:
    """No folder, no metadata, no tables, a table that is named but not there: each is said."""
    with pytest.raises(errors.NotFoundError, match="no such folder"):
        build_index(tmp_path / "nowhere")
    with pytest.raises(errors.IndexFormatError, match=r'metadata.json is missing.*"licence"'):
        build_index(make(None))
    with pytest.raises(errors.NotFoundError, match="no file of a known table format"):
        build_index(make())
    with pytest.raises(errors.NotFoundError, match=r"has no file b\.npy"):
        build_index(make({**METADATA, "operands": "4u", "multipliers": {"b.npy": {}}}, a=ODD))


def test_files_that_cannot_be_read_are_named(make: Any) -> None:
    """A broken table stops the build, and the file is named; so do operands that nobody says."""
    folder = make({**METADATA, "operands": "4u"}, a=ODD)
    (folder / "bad.npy").write_bytes(b"\x93NUMPY garbage")
    with pytest.raises(errors.ApproxHubError, match=r"bad\.npy"):
        build_index(folder)
    (folder / "bad.npy").unlink()
    (folder / "metadata.json").write_text(json.dumps(METADATA))
    with pytest.raises(errors.InputError, match=r"a\.npy.*operands"):
        build_index(folder)


def test_name_that_stands_twice(make: Any) -> None:
    """Two files of one name in two folders need names of their own."""
    folder = make({**METADATA, "operands": "4u"}, a=ODD, sub__a=ODD)
    with pytest.raises(errors.IndexFormatError, match="a name that stands once"):
        build_index(folder)


def test_links_out_of_the_folder(make: Any, tmp_path: Path) -> None:
    """A link to a file elsewhere is refused: who fetches from the folder would not find it."""
    folder = make({**METADATA, "operands": "4u"}, a=ODD)
    np.save(tmp_path / "outside.npy", ODD)
    (folder / "link.npy").symlink_to(tmp_path / "outside.npy")
    with pytest.raises(errors.InputError, match="leads out of the folder"):
        build_index(folder)


def test_published_release_does_not_change(make: Any) -> None:
    """Writing over an index of the same release with other content needs a higher revision."""
    folder = make({**METADATA, "operands": "4u"}, a=ODD)
    path = folder / "index.json"
    write_index(build_index(folder), path)
    write_index(build_index(folder), path)  # the same again is fine
    before = path.read_bytes()
    make({**METADATA, "operands": "4u"}, a=ODD + 1)
    with pytest.raises(errors.PinnedIndexError, match=r"mylab:v1/a changed .*table_sha256"):
        write_index(build_index(folder), path)
    assert path.read_bytes() == before
    make({**METADATA, "operands": "4u", "revision": 2})
    write_index(build_index(folder), path)
    make({**METADATA, "operands": "4u", "release": "v2"}, a=ODD)
    write_index(build_index(folder), path)


def test_full_disk(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that cannot be written leaves no half of it."""
    folder = make({**METADATA, "operands": "4u"}, a=ODD)
    index = build_index(folder)
    before = sorted(folder.iterdir())

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(errors.InputError, match="No space left"):
        write_index(index, folder / "index.json")
    assert sorted(folder.iterdir()) == before
