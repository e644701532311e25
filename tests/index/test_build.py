"""The script that makes the index, on a small repository of our own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from approxhub.multiplier import table_sha256
from multipliers_index import build

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

HEADER = """/***
* This code was written for tests. When used, please cite the following article(s): \
{cite}
* This file belongs to the folder {folder}
***/
// MAE% = 0.0180 %
// MAE = 12
// WCE% = 0.29 %
// WCE = 192
// WCRE% = 28.57 %
// EP% = 9.38 %
// MRE% = 0.13 %
// MSE = 17.92e2
// PDK45_PWR = 0.380 mW
// PDK45_AREA = 683.3 um2
// PDK45_DELAY = 1.35 ns
#include <stdint.h>
"""
CITE = 'A. Author and B. Other, "Some Title" in Journal, Nov. 2018. doi: 10.1/xy.2019'


def c_text(name: str, body: str, folder: str, cite: str = CITE) -> str:
    """A C file with its comment."""
    head = HEADER.format(cite=cite, folder=folder)
    return f"{head}uint64_t {name}(uint64_t B, uint64_t A) {{ {body} }}\n"


def git(folder: Path, *arguments: str) -> str:
    """What git prints, run without the configuration of this account."""
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org",
    }  # fmt: skip
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], env=environment, check=True, capture_output=True
    )
    return done.stdout.decode().strip()


class Library:
    """A repository laid out like the library."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        git(folder, "init", "-q")

    def write(self, path: str, text: str) -> None:
        """Write a file below the folder of the multipliers."""
        target = self.folder / "multiplers" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode())

    def commit(self) -> str:
        """Commit everything; returns the commit."""
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "-q", "-m", "state")
        return git(self.folder, "rev-parse", "HEAD")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Three circuits, one of them in three folders."""
    made = Library(tmp_path / "library")
    for folder in ("ep", "wce", "mse"):
        path = f"3x2_unsigned/pareto_pwr_{folder}/mul3x2u_AB.c"
        made.write(path, c_text("mul3x2u_AB", "return B - A;", folder))
    made.write(
        "4x4_signed/pareto_pwr_mae/mul4s_Z.c",
        c_text("mul4s_Z", "return B * 2 + A;", "mae").replace("\n", "\r\n"),
    )
    made.write(
        "9x9_unsigned/pareto_pwr_mre/mul9u_W.c",
        c_text("mul9u_W", "return B * A;", "mre", "C. Third, Untitled. In: Somewhere 2022."),
    )
    made.write("4x4_signed/readme.txt", "not a circuit")
    return made


def test_entries(library: Library) -> None:
    """Hashes, formats, printed strings, hardware, citations and the path of the index are right."""
    commit = library.commit()
    index = build.build_index(library.folder, "x", commit)
    assert (index["release"], index["commit"], index["technology"]) == ("x", commit, "PDK45")
    assert [m["name"] for m in index["multipliers"]] == ["mul3x2u_AB", "mul4s_Z", "mul9u_W"]
    first, second, third = index["multipliers"]
    # Of the folders ep, wce and mse, wce comes first.
    assert first["path"] == "multiplers/3x2_unsigned/pareto_pwr_wce/mul3x2u_AB.c"
    assert (first["a"], first["b"], second["a"], third["b"]) == ("3u", "2u", "4s", "9u")
    raw = (library.folder / first["path"]).read_bytes()
    assert first["source_sha256"] == hashlib.sha256(raw).hexdigest()
    # The first C argument, B, is operand a.
    expected = (np.arange(8).reshape(-1, 1) - np.arange(4)) % 32
    assert first["table_sha256"] == table_sha256(expected)
    values = np.array([*range(8), *range(-8, 0)])
    assert second["table_sha256"] == table_sha256(values.reshape(-1, 1) * 2 + values)
    assert third["table_sha256"] is None
    assert first["printed"]["mae_pct"] == "0.0180"
    assert first["printed"]["mse"] == "17.92e2"
    assert first["hardware"] == {"power_mw": 0.38, "area_um2": 683.3, "delay_ns": 1.35}
    assert index["citations"] == {
        "author2018some": {"text": CITE, "doi": "10.1/xy.2019"},
        "third2022": {"text": "C. Third, Untitled. In: Somewhere 2022.", "doi": None},
    }
    assert [m["citation"] for m in index["multipliers"]] == [
        "author2018some", "author2018some", "third2022"
    ]  # fmt: skip


def test_pinned_commit_counts(library: Library) -> None:
    """The commit is read, not what is checked out; and the bytes are the same each time."""
    commit = library.commit()
    before = build.render(build.build_index(library.folder, "x", commit))
    library.write("4x4_signed/pareto_pwr_mae/mul4s_Z.c", "changed")
    library.commit()
    assert build.render(build.build_index(library.folder, "x", commit)) == before
    assert json.loads(before)["commit"] == commit


def test_rendering_is_one_line_per_multiplier(library: Library) -> None:
    """A changed entry changes one line of the file."""
    text = build.render(build.build_index(library.folder, "x", library.commit()))
    lines = [line for line in text.splitlines() if line.startswith('{"name"')]
    assert len(lines) == 3
    assert text.endswith("]\n}\n")


def test_command_writes_and_checks(
    library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command writes files; --check exits with 0, and with 1 after a change or a loss."""
    monkeypatch.setattr(build, "RELEASES", {"x": library.commit()})
    arguments = ["--checkout", str(library.folder), "--output", str(tmp_path / "out")]
    assert build.main([*arguments, "--check"]) == 1
    assert build.main(arguments) == 0
    path = tmp_path / "out" / "evoapproxlib-x.json"
    assert build.main([*arguments, "--check"]) == 0
    text = path.read_text()
    path.write_text(text.replace("0.0180", "0.018"))
    assert build.main([*arguments, "--check", "--release", "x"]) == 1
    assert build.main(arguments) == 0
    assert path.read_text() == text


def test_copies_must_agree(library: Library) -> None:
    """Two circuits of one name in two folders are an error; other comments are none."""
    library.write(
        "3x2_unsigned/pareto_pwr_mse/mul3x2u_AB.c",
        c_text("mul3x2u_AB", "return A - B;", "mse"),
    )
    with pytest.raises(build.BuildError, match="different circuits of one name"):
        build.build_index(library.folder, "x", library.commit())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("// WCE = 192\n", "", "lacks WCE"),
        ("MAE = 12", "MAE = twelve", "line 6: MAE = twelve"),
        ("0.380 mW", "0.380 W", "PDK45_PWR = 0.380 W"),
        ("// MSE", "// MAE = 13\n// MSE", "MAE is printed twice"),
        ("return B * A;", "goto x;", "goto"),
        ("mul9u_W(", "mul9u_V(", "no function 'mul9u_W'"),
    ],
)
def test_bad_file_is_named(library: Library, old: str, new: str, message: str) -> None:
    """A file that cannot be read is an error with its path."""
    path = "9x9_unsigned/pareto_pwr_mre/mul9u_W.c"
    text = c_text("mul9u_W", "return B * A;", "mre")
    assert old in text
    library.write(path, text.replace(old, new))
    with pytest.raises(build.BuildError, match=f"{path}: .*{message}"):
        build.build_index(library.folder, "x", library.commit())


def test_missing_commit_and_empty_library(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkout without the commit, or a commit without multipliers, is an error."""
    library.commit()
    with pytest.raises(build.BuildError, match="git ls-tree failed"):
        build.build_index(library.folder, "x", "0" * 40)
    empty = Library(tmp_path / "empty")
    empty.write("readme", "x")
    with pytest.raises(build.BuildError, match="has no multipliers"):
        build.build_index(empty.folder, "x", empty.commit())
    assert build.main(["--checkout", str(empty.folder)]) == 1
    assert "error: git" in capsys.readouterr().err
