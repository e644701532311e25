"""Output that nobody takes: a pipe whose reader went away, a disk that is full."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PRINTING = [["list"], ["info", "drum:8u/k=4", "--json"], ["--help"], ["info", "--help"]]


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_a_reader_that_went_away(words: list[str], tmp_path: Path) -> None:
    """Nothing is said, and the exit code is that of a program that SIGPIPE ended."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        ran = approxhub(words, pipe, tmp_path)
    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_output_that_cannot_be_written(words: list[str], tmp_path: Path) -> None:
    """One line says so, with exit code 1; what fitted is there."""
    with (tmp_path / "out").open("w") as file:
        ran = approxhub(words, file, tmp_path, largest=100)
    said = ran.stderr.splitlines()
    assert (ran.returncode, said[-1]) == (1, "error: output cannot be written: File too large")
    assert all(line.startswith("warning: ") for line in said[:-1])  # the cache is full as well
    assert (tmp_path / "out").stat().st_size == 100


def approxhub(
    words: list[str], out: object, folder: Path, largest: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command whose files, its output among them, may have so many bytes."""

    def limit() -> None:
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    return subprocess.run(
        [sys.executable, "-B", "-m", "approxhub.cli", *words],
        stdout=out,  # type: ignore[call-overload]
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,  # not in the source tree, which Python would import from
        preexec_fn=limit,
        # Of an unbuffered stream, Python loses what did not fit into one call.
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        timeout=60,
    )


def test_an_error_of_something_else_is_not_one_of_output(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect that lets the system's error of some file through is shown as what it is."""

    def broken(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("approxhub.cli.selecting.select", broken)
    with pytest.raises(OSError, match="No space left"):
        run("list")
