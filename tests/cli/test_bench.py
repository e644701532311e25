"""``approxhub bench``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from approxhub.backends.native import load_library
from approxhub.bench import SCHEMA_VERSION, context
from approxhub.errors import BackendUnavailableError

QUICK = ("--quick", "--rounds", "1", "-m", "roba:8s")


@pytest.fixture
def engine() -> None:
    """The engine, without which there is nothing to time."""
    try:
        load_library()
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("engine")
def test_json(run: Any) -> None:
    """JSON on stdout is a report, and nothing else is there."""
    ran = run("bench", "gemm", *QUICK, "--threads", "1", "2", "--json")
    assert ran.code == 0
    assert set(ran.json) == {
        "schema_version", "machine", "versions", "settings", "notes", "rows",
    }  # fmt: skip
    assert ran.json["schema_version"] == SCHEMA_VERSION
    assert set(ran.json["machine"]) == {"cpu", "cores", "architecture", "system", "isas", "isa"}
    assert ran.json["settings"]["threads"] == [1, 2]
    assert {r["details"]["threads"] for r in ran.json["rows"] if "isa" in r["details"]} == {1, 2}
    assert "[1/2] gemm, 2 thread(s)" in ran.err


@pytest.mark.usefixtures("engine")
def test_tables_files_and_charts(run: Any, tmp_path: Path) -> None:
    """Tables go to stdout; a file of JSON and charts go where they are told to."""
    pytest.importorskip("matplotlib")
    file, folder = tmp_path / "r.json", tmp_path / "charts"
    ran = run("bench", "tables", *QUICK, "exact:8s", "--json", str(file), "--plot", str(folder))
    assert ran.code == 0
    assert "tables: 5 x 19 x 7, threads: 1" in ran.out
    names = [r["name"] for r in json.loads(file.read_text())["rows"]]
    assert names == ["roba:8s", "exact:8s"]
    assert all(f"\n{name}  " in ran.out for name in names)
    assert [p.name for p in folder.iterdir()] == ["tables.svg"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nope"], 2, "'nope'"),
        (["--json", "gemm"], 2, "does not end in .json"),
        (["--threads", "1", "gemm"], 2, "'gemm' is not a valid"),
        (["--threads", "0"], 2, "0 is not in the range"),
        (["--rounds", "0"], 2, "0 is not in the range"),
        (["gemm", "--quick", "-m", "mul8s_NOPE"], 3, "mul8s_NOPE"),
    ],
)
def test_refusals(run: Any, words: list[str], code: int, said: str) -> None:
    """Wrong usage is refused before anything runs."""
    ran = run("bench", *words)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err


@pytest.mark.parametrize("place", ["file/r.json", "gone/r.json", "/proc/dg/r.json", "pipe.json"])
def test_a_file_that_cannot_be_written(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """It is refused before anything is timed."""
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe.json")
    monkeypatch.setattr("approxhub.bench.run", None)  # it may not be called
    ran = run("bench", "gemm", *QUICK, "--json", str(tmp_path / place))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"error: {tmp_path / place} cannot be written: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "pipe.json"]


@pytest.mark.usefixtures("engine")
def test_instruction_set(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forced instruction set is the one that is timed; one that is not there is refused."""
    monkeypatch.setenv("APPROXHUB_CPU_ISA", "scalar")
    ran = run("bench", "tables", *QUICK, "--json")
    assert ran.json["machine"]["isa"] == "scalar"
    assert {r["details"]["isa"] for r in ran.json["rows"]} == {"scalar"}
    monkeypatch.setenv("APPROXHUB_CPU_ISA", "abacus")
    ran = run("bench", *QUICK)
    assert (ran.code, ran.out) == (1, "")
    assert "'abacus' cannot be used here" in ran.err


def test_no_engine(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the engine there is nothing to time, and the error says what to do."""

    def missing() -> None:
        raise BackendUnavailableError("install a C compiler")

    monkeypatch.setattr(context, "load_library", missing)
    ran = run("bench", "--quick")
    assert (ran.code, ran.err) == (1, "error: install a C compiler\n")


@pytest.mark.parametrize("words", [["bench", "--help"], ["bench", "nope"]])
def test_help_needs_no_torch(words: list[str], tmp_path: Path) -> None:
    """Help, and a refusal, import neither torch nor h5py."""
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from approxhub.cli import cli\n"
        f"try: cli.main({words!r})\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'h5py'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path)
    assert done.returncode == 0
