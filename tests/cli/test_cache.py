"""`cache`, `remove` and `verify`: looking after what was fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from approxhub.registry import Store, load


def test_dir_and_du(lab: Any, run: Any, home: Path) -> None:
    """The folder is the one that is used, and what is in it is counted."""
    assert run("cache", "dir").out == f"{home}\n"
    assert run("cache", "dir", "--json").json == {"path": str(home), "exists": False}
    assert run("cache", "du", "--json").json["total"] == {"files": 0, "bytes": 0}
    load("mul4u_CUT")
    found = run("cache", "du", "--json").json
    assert {k: v["files"] for k, v in found.items()} == {
        **{"refs": 1, "objects": 1, "factors": 0, "other": 0, "total": 2}
    }
    assert found["total"]["bytes"] == found["refs"]["bytes"] + found["objects"]["bytes"]
    assert [x.split()[0] for x in run("cache", "du").out.splitlines()] == ["kind", *found]


def test_remove(lab: Any, run: Any) -> None:
    """Without --yes nobody is asked by a program: refused; a dry run shows, --yes removes."""
    load("mul4u_CUT")
    ran = run("remove", "mul4u_CUT")
    assert ran.code == 2
    assert "--yes" in ran.err
    ran = run("remove", "*_CUT", "--dry-run")
    assert ran.code == 0
    assert ran.out.count("would remove") == 2
    assert Store().ids() == ["lab:r1/mul4u_CUT"]
    ran = run("remove", "lab:r1/*", "--yes", "--json")
    assert (ran.code, ran.json["dry_run"], len(ran.json["files"])) == (0, False, 2)
    assert ran.json["bytes"] == sum(f["bytes"] for f in ran.json["files"])
    assert Store().ids() == Store().identities() == []
    assert run("remove", "mul4u_CUT", "--yes").code == 3


def test_remove_asks(lab: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal it asks, and no is no."""
    load("mul4u_CUT")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, left in ((False, 1), (True, 0)):
        monkeypatch.setattr(
            "click.termui.visible_prompt_func", lambda _, a=answer: "y" if a else "n"
        )
        ran = run("remove", "mul4u_CUT")
        assert (ran.code, len(Store().ids())) == (int(not answer), left)


def test_remove_nothing_if_one_is_not_there(lab: Any, run: Any) -> None:
    """One id that is not cached stops the whole command before anything is removed."""
    load("mul4u_CUT")
    assert run("remove", "mul4u_CUT", "mul4s_NEG", "--yes").code == 3
    assert Store().ids() == ["lab:r1/mul4u_CUT"]


def test_prune(lab: Any, run: Any) -> None:
    """Prune prints what it removes, and a dry run what it would."""
    path = Store().object_path(load("mul4u_CUT").identity)
    assert run("cache", "prune").out == ""
    Store().ref_path("lab:r1/mul4u_CUT").unlink()
    ran = run("cache", "prune", "--dry-run", "--json")
    assert [f["path"] for f in ran.json["files"]] == [str(path)]
    assert path.exists()
    ran = run("cache", "prune")
    assert str(path) in ran.out
    assert not path.exists()


def test_damage_from_end_to_end(lab: Any, run: Any) -> None:
    """Verify names the file and what heals it; what it names does heal it."""
    made = load("mul4u_CUT")
    path = Store().object_path(made.identity)
    whole = path.read_bytes()
    for words in (["fetch", "lab:r1/mul4u_CUT"], ["cache", "prune", "--damaged"]):
        path.write_bytes(whole[:-3])
        ran = run("verify", "--json")
        assert (ran.code, ran.json[0]["path"]) == (1, str(path))
        assert "`approxhub fetch lab:r1/mul4u_CUT`" in ran.err
        assert run(*words).code == 0
        assert run("verify").code == 0
    assert Store().ids() == []


def test_verify_deep(lab: Any, run: Any) -> None:
    """Deep asks the sources again; offline that is told, and is no failure."""
    load("mul4u_CUT")
    asked = len(lab.server.asked)
    assert run("verify", "--deep", "*_CUT").code == 0
    assert len(lab.server.asked) == asked + 1
    ran = run("verify", "--deep", "--offline", "--json")
    assert ran.code == 0
    assert "not read from its source again" in ran.json[0]["note"]
    assert "warning: lab:r1/mul4u_CUT: not read" in ran.err
    assert run("verify", "nope*").code == 3
