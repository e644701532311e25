"""The script that makes the index, on a small repository of our own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from approxhub.multiplier import table_sha256
from approxhub.registry.index import render_index
from multipliers_index import build
from multipliers_index.libraries import LIBRARIES, Library

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


def at(commit: str) -> Library:
    """EvoApproxLib with one release, ``x``, at a commit."""
    return dataclasses.replace(LIBRARIES[0], releases={"x": commit})


def index_of(library: Repository, commit: str) -> dict[str, Any]:
    """Index of a commit of a repository."""
    return build.build_index(library.folder, at(commit), "x")


class Repository:
    """A repository laid out like the library."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        git(folder, "init", "-q")

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode())

    def commit(self) -> str:
        """Commit everything; returns the commit."""
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "-q", "-m", "state")
        return git(self.folder, "rev-parse", "HEAD")


@pytest.fixture
def library(tmp_path: Path) -> Repository:
    """Three circuits, one of them in three folders."""
    made = Repository(tmp_path / "library")
    for folder in ("ep", "wce", "mse"):
        path = f"multiplers/3x2_unsigned/pareto_pwr_{folder}/mul3x2u_AB.c"
        made.write(path, c_text("mul3x2u_AB", "return B - A;", folder))
    made.write(
        "multiplers/4x4_signed/pareto_pwr_mae/mul4s_Z.c",
        c_text("mul4s_Z", "return B * 2 + A;", "mae").replace("\n", "\r\n"),
    )
    made.write(
        "multiplers/9x9_unsigned/pareto_pwr_mre/mul9u_W.c",
        c_text("mul9u_W", "return B * A;", "mre", "C. Third, Untitled. In: Somewhere 2022."),
    )
    made.write("multiplers/4x4_signed/readme.txt", "not a circuit")
    return made


def test_entries(library: Repository) -> None:
    """Hashes, formats, printed strings, hardware, citations and the path of the index are right."""
    commit = library.commit()
    index = index_of(library, commit)
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
    wide = np.arange(512)
    assert third["table_sha256"] == table_sha256(np.multiply.outer(wide, wide))
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


def test_pinned_commit_counts(library: Repository) -> None:
    """The commit is read, not what is checked out; and the bytes are the same each time."""
    commit = library.commit()
    before = render_index(index_of(library, commit))
    library.write("multiplers/4x4_signed/pareto_pwr_mae/mul4s_Z.c", "changed")
    library.commit()
    assert render_index(index_of(library, commit)) == before
    assert json.loads(before)["commit"] == commit


def test_rendering_is_one_line_per_multiplier(library: Repository) -> None:
    """A changed entry changes one line of the file."""
    text = render_index(index_of(library, library.commit()))
    lines = [line for line in text.splitlines() if line.startswith('{"name"')]
    assert len(lines) == 3
    assert text.endswith("]\n}\n")


def test_command_writes_and_checks(
    library: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command writes files; --check exits with 0, and with 1 after a change or a loss."""
    monkeypatch.setattr(build, "LIBRARIES", (at(library.commit()),))
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


def test_copies_must_agree(library: Repository) -> None:
    """Two circuits of one name in two folders are an error; other comments are none."""
    library.write(
        "multiplers/3x2_unsigned/pareto_pwr_mse/mul3x2u_AB.c",
        c_text("mul3x2u_AB", "return A - B;", "mse"),
    )
    with pytest.raises(build.BuildError, match="different circuits of one name"):
        index_of(library, library.commit())


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
def test_bad_file_is_named(library: Repository, old: str, new: str, message: str) -> None:
    """A file that cannot be read is an error with its path."""
    path = "multiplers/9x9_unsigned/pareto_pwr_mre/mul9u_W.c"
    text = c_text("mul9u_W", "return B * A;", "mre")
    assert old in text
    library.write(path, text.replace(old, new))
    with pytest.raises(build.BuildError, match=f"{path}: .*{message}"):
        index_of(library, library.commit())


def test_missing_commit_and_empty_library(
    library: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkout without the commit, or a commit without multipliers, is an error."""
    library.commit()
    with pytest.raises(build.BuildError, match="git ls-tree failed"):
        index_of(library, "0" * 40)
    empty = Repository(tmp_path / "empty")
    empty.write("readme", "x")
    with pytest.raises(build.BuildError, match="has no multipliers"):
        index_of(empty, empty.commit())
    assert build.main(["--checkout", str(empty.folder)]) == 1
    assert "error: git" in capsys.readouterr().err


def library_called(source: str, commit: str) -> Library:
    """One of the libraries with one release, ``x``, at a commit."""
    (found,) = (known for known in LIBRARIES if known.source == source)
    return dataclasses.replace(found, releases={"x": commit})


def test_too_wide_for_a_table(library: Repository) -> None:
    """Above 24 bits in both operands together there is no table, and no hash of it."""
    path = "multiplers/13x13_unsigned/pareto_pwr_mae/mul13u_W.c"
    library.write(path, c_text("mul13u_W", "return B * A;", "mae"))
    rows = {m["name"]: m for m in index_of(library, library.commit())["multipliers"]}
    assert rows["mul13u_W"]["table_sha256"] is None


def test_new_folder_is_an_error(library: Repository) -> None:
    """A folder that has no rank yet is named: which of the copies is taken would be chance."""
    path = "multiplers/4x4_signed/pareto_pwr_new/mul4s_Z.c"
    library.write(path, c_text("mul4s_Z", "return B * 2 + A;", "new"))
    with pytest.raises(build.BuildError, match=f"{path}: the folder of 'new' is new"):
        index_of(library, library.commit())


def fpga_text(name: str) -> str:
    """A file in the dialect of approx-fpgas."""
    text = c_text(name, "return B * A;", "x").replace("PDK45_PWR = 0.380 mW", "FPGA_POWER = 1.3")
    return text.replace("PDK45_AREA = 683.3 um2", "FPGA_LUT = 74").replace(
        "PDK45_DELAY = 1.35 ns", "FPGA_DELAY = 12"
    )


def test_fpgas(tmp_path: Path) -> None:
    """On an FPGA a circuit takes LUTs and no area, and its power is printed in watts."""
    made = Repository(tmp_path / "fpgas")
    for folder in ("lut_mae", "power_wce"):
        made.write(f"mul3x3/fpga_{folder}/mul3u_A.c", fpga_text("mul3u_A"))
    index = build.build_index(made.folder, library_called("approx-fpgas", made.commit()), "x")
    (row,) = index["multipliers"]
    assert row["path"] == "mul3x3/fpga_power_wce/mul3u_A.c"
    assert row["hardware"] == {"power_mw": 1300.0, "luts": 74, "delay_ns": 12.0}
    assert index["technology"] == "FPGA"


META = [
    {
        "datasets": [
            {
                "instances": [
                    {
                        "name": "mul8_001",
                        "params": {
                            "mae%": "0.50", "wce%": "3.35", "ep%": "98.48", "mre%": "6.75",
                            "wcre%": "700.00", "pwr": "0.186", "area": "391.4", "delay": "0.84",
                        },
                    }
                ]
            }
        ]
    }
]  # fmt: skip


def test_evoapprox8b(tmp_path: Path) -> None:
    """Percentages and cost come from meta.json, the rest from the file; MRE not from the file."""
    made = Repository(tmp_path / "8b")
    text = (
        f"/***\n* please cite the following article(s): {CITE}\n***/\n#include <stdint.h>\n"
        "///  Power  (45) = 218.30\n///  MAE = 329.88147\n///  MSE = 207883.35278\n"
        "///  MRE = 6.70 %\n///  WCE = 2193\n///  WCRE = 700 %\n///  EP = 98.5 %\n"
        "uint16_t mul8_001(uint8_t a, uint8_t b) { return a * b; }\n"
    )
    made.write("multipliers_8/source_c/mul8_001.c", text)
    made.write("meta.json", json.dumps(META))
    library = library_called("evoapprox8b", made.commit())
    (row,) = build.build_index(made.folder, library, "x")["multipliers"]
    assert row["printed"] == {
        "mae": "329.88147", "mse": "207883.35278", "wce": "2193",
        "mae_pct": "0.50", "wce_pct": "3.35", "ep_pct": "98.48", "mre_pct": "6.75",
    }  # fmt: skip
    assert row["hardware"] == {"power_mw": 0.186, "area_um2": 391.4, "delay_ns": 0.84}
    made.write("meta.json", "[]")
    library = library_called("evoapprox8b", made.commit())
    with pytest.raises(build.BuildError, match=r"meta\.json has nothing of mul8_001"):
        build.build_index(made.folder, library, "x")


def test_command_knows_its_releases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A release that a library does not have is refused with those that it has."""
    with pytest.raises(SystemExit):
        build.main(["--checkout", str(tmp_path), "--source", "evoapprox8b", "--release", "v1.0"])
    assert "evoapprox8b has the releases 2017" in capsys.readouterr().err
