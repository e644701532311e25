"""``approxhub index``: from a folder of tables to a second user, over a loopback server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from approxhub import load

A = np.arange(16).reshape(-1, 1)
TABLE = A * A.T + 64 + A


@pytest.fixture
def folder(lab: Any) -> Path:
    """A folder with one table and what is to be said of it, on the lab's server."""
    made: Path = lab.tree / "mine"
    made.mkdir()
    np.save(made / "odd.npy", TABLE)
    metadata = {"source": "mylab", "release": "v1", "licence": "CC0-1.0", "operands": "4u"}
    (made / "metadata.json").write_text(json.dumps(metadata))
    return made


def test_from_build_to_load(folder: Path, lab: Any, run: Any) -> None:
    """Build, serve, add, list, fetch, verify; then the server's file changes and is refused."""
    built = run("index", "build", str(folder))
    assert (built.code, built.out) == (0, "mylab:v1/odd\n")
    assert "index.json: 1 multipliers" in built.err
    added = run("index", "add", "mylab", f"{lab.server.url}/mine/", "--json")
    assert added.json == [
        {
            "name": "mylab",
            "origin": f"{lab.server.url}/mine/index.json",
            "releases": [
                {"release": "v1", "revision": 1, "multipliers": 1, "licences": ["CC0-1.0"]}
            ],
        }
    ]
    assert run("index", "list", "--json").json == added.json
    assert "mylab:v1/odd" in run("list", "--source", "mylab").out
    assert run("fetch", "mylab:v1/odd").code == 0
    info = run("info", "mylab:v1/odd", "--json").json
    assert info["metrics"]["wce"] == 79
    assert info["licence"] == "CC0-1.0"
    assert run("verify", "mylab:v1/odd").code == 0
    np.save(folder / "odd.npy", TABLE + 1)
    refused = run("fetch", "mylab:v1/odd", "--force")
    assert (refused.code, "SHA-256 is" in refused.err) == (1, True)
    assert run("verify", "mylab:v1/odd").code == 0


def test_update(folder: Path, run: Any) -> None:
    """New multipliers come in; a changed one is exit code 1 until it is accepted."""
    run("index", "build", str(folder))
    run("index", "add", "mylab", str(folder))
    same = run("index", "update", "mylab")
    assert (same.code, same.out, same.err) == (0, "", "mylab is as it was\n")
    np.save(folder / "new.npy", TABLE)
    run("index", "build", str(folder))
    assert run("index", "update", "mylab").out == "mylab:v1/new added\n"
    index = json.loads((folder / "index.json").read_text())
    index["multipliers"][0]["hardware"]["power_mw"] = 7
    (folder / "index.json").write_text(json.dumps(index))
    refused = run("index", "update", "mylab")
    assert (refused.code, refused.out) == (1, "")
    assert "mylab:v1/new changed (power_mw none -> 7.0)" in refused.err
    accepted = run("index", "update", "mylab", "--accept", "--json").json
    assert accepted["changes"] == [
        {"id": "mylab:v1/new", "kind": "changed", "details": ["power_mw none -> 7.0"]}
    ]


def test_info_after_an_accepted_change(folder: Path, run: Any) -> None:
    """Of another table it shows what the index says, until it is fetched; figures at once."""

    def publish(table: Any, power: float, wce: str) -> str:
        np.save(folder / "odd.npy", table)
        (folder / "index.json").unlink(missing_ok=True)
        run("index", "build", str(folder))
        index = json.loads((folder / "index.json").read_text())
        row = index["multipliers"][0]
        row["printed"], row["hardware"]["power_mw"] = {"wce": wce}, power
        (folder / "index.json").write_text(json.dumps(index))
        return str(row["table_sha256"])

    def info() -> dict[str, Any]:
        return dict(run("info", "mylab:v1/odd", "--json").json)

    first = publish(TABLE, 1, "79")
    run("index", "add", "mylab", str(folder))
    run("fetch", "mylab:v1/odd")
    assert (info()["table_sha256"], info()["outdated"]) == (first, False)

    second = publish(TABLE + 1, 2, "80")
    run("index", "update", "mylab", "--accept")
    found = info()
    assert (found["table_sha256"], found["metrics"], found["printed"]) == (
        second, None, {"wce": "80"},
    )  # fmt: skip
    assert (found["hardware"]["power_mw"], found["cached"], found["outdated"]) == (2, False, True)
    assert run("info", "mylab:v1/odd").out.endswith(
        "another table, of before; `approxhub fetch mylab:v1/odd` brings this one\n"
    )
    listed = run("list", "mylab:*", "--computed", "--json").json[0]
    assert listed["figures"]["mae_pct"] is None  # not that of the table of before
    run("fetch", "mylab:v1/odd")
    assert (info()["metrics"]["wce"], info()["cached"], info()["outdated"]) == (80, True, False)

    assert publish(TABLE + 1, 3, "7") == second
    run("index", "update", "mylab", "--accept")
    found = info()
    assert (found["printed"], found["hardware"]["power_mw"]) == ({"wce": "7"}, 3)
    assert (found["metrics"]["wce"], found["cached"]) == (80, True)
    assert found["provenance"]["notes"] == ["printed wce 7, computed 80"]
    assert load("mylab:v1/odd").hardware.power_mw == 3


def test_remove(folder: Path, run: Any) -> None:
    """A removed index is no source any more; what was fetched stays in the cache."""
    run("index", "build", str(folder))
    run("index", "add", "mylab", str(folder))
    run("fetch", "mylab:v1/odd")
    assert run("index", "remove", "mylab").code == 0
    assert run("list", "--source", "mylab").code == 3
    assert run("index", "remove", "mylab").code == 3
    assert run("index", "list").err == "no index was added\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["add", "evoapproxlib", "{folder}"], 2),
        (["add", "mylab", "file:///etc/passwd"], 2),
        (["add", "other", "{folder}"], 1),
        (["add", "mylab", "{folder}/nowhere"], 3),
        (["add", "mylab", "{url}/nowhere/"], 4),
        (["add", "mylab", "{url}/mine/", "--offline"], 4),
        (["update", "mylab"], 3),
        (["build", "{folder}/nowhere"], 3),
        (["build", "{folder}", "-o", "{folder}/../elsewhere.json"], 2),
    ],
)
def test_exit_codes(folder: Path, lab: Any, run: Any, words: list[str], code: int) -> None:
    """What goes wrong has the exit code of its kind, and says so on stderr only."""
    run("index", "build", str(folder))
    done = run("index", *(w.format(folder=folder, url=lab.server.url) for w in words))
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("error: ")


def test_built_elsewhere(folder: Path, run: Any) -> None:
    """With --url an index may lie anywhere; source and release may be given there and then."""
    path = folder.parent / "elsewhere.json"
    words = ["--url", "https://example.org/t", "--source", "ours", "--release", "2026"]
    built = run("index", "build", str(folder), "-o", str(path), *words, "--json")
    assert built.json == {"file": str(path), "ids": ["ours:2026/odd"]}
    assert json.loads(path.read_text())["urls"] == ["https://example.org/t/{path}"]


def test_damaged_index_does_not_stop_a_listing(folder: Path, run: Any, home: Path) -> None:
    """`list` goes on with a warning, `index list` with an error and exit code 1."""
    run("index", "build", str(folder))
    run("index", "add", "mylab", str(folder))
    path = home / "indexes" / "mylab.json"
    path.write_bytes(path.read_bytes()[:-9])
    from approxhub.plugins import host

    host().refresh()
    listed = run("list", "mul8s_1KV9")
    assert (listed.code, "mul8s_1KV9" in listed.out) == (0, True)
    assert "warning: source 'mylab' cannot be listed" in listed.err
    assert "index remove mylab" in listed.err
    assert run("index", "list").code == 1
