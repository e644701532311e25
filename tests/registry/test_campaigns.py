"""The campaigns of ``tests/campaigns``, at small counts, through the same functions."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import approxhub
from approxhub.registry import Store

FOLDER = Path(__file__).parents[1] / "campaigns"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks, signals and limits of POSIX")


def campaign(name: str) -> Any:
    """A campaign as a module."""
    path = list(sys.path)
    try:
        return importlib.import_module(f"campaigns.{name}")
    finally:
        sys.path[:] = path


@pytest.fixture(scope="module")
def store() -> Any:
    """The campaigns against the store."""
    return campaign("store")


@pytest.fixture
def bench(store: Any) -> Iterator[Any]:
    """A complete cache, and at the end nothing that was wrong."""
    with tempfile.TemporaryDirectory(prefix="approxhub-test-") as folder:
        Path(folder).chmod(0o755)  # pytest's own are closed to other users
        made = store.Bench(Path(folder), seed=3)
        yield made
        made.close()
    assert not made.failures


@pytest.fixture
def forks(store: Any, tmp_path: Path) -> Iterator[Any]:
    """A process that forks for each command."""
    made = store.Forks(tmp_path / "forks")
    yield made
    made.close()


def test_kills(store: Any, bench: Any, forks: Any) -> None:
    """Killed at any moment, a fetch leaves whole files, and the next one heals."""
    found = store.kills(bench, (forks,), 9, 1)
    assert found["killed, a process"] == 1
    assert found["killed, a fork"] == 8


def test_flips(store: Any, bench: Any) -> None:
    """One bit anywhere in any kind of file is found, or changes nothing."""
    found = store.flips(bench, 100)
    kinds = ("objects", "refs", "factors", "indexes")
    assert sum(found[f"{kind} damaged"] for kind in kinds) == 100
    assert found["objects: VerificationError"] == 40
    assert all(found[f"{kind}: VerificationError"] > 4 for kind in kinds)


@pytest.mark.slow
def test_truncations(store: Any, bench: Any) -> None:
    """Cut off anywhere, and empty, files are found out."""
    found = store.truncations(bench, 10_000)
    assert found["empty files"] == len(bench.golden)
    assert found["objects: VerificationError"] == found["objects damaged"]


@pytest.mark.slow
def test_crowd(store: Any, bench: Any, forks: Any, tmp_path: Path) -> None:
    """Processes that fetch the same and different ids at once all get the right tables."""
    crew = [forks, *(store.Forks(tmp_path / f"forks{i}") for i in range(2))]
    assert store.crowd(bench, crew, 4)["processes"] == 12
    for other in crew[1:]:
        other.close()


def test_full_disk(store: Any, bench: Any, forks: Any) -> None:
    """A disk that is full is said to be, and with room again the same fetch succeeds."""
    found = store.full_disk(bench, forks, 4)
    assert found["StoreFullError"] > 0


def test_read_only(store: Any, bench: Any, forks: Any) -> None:
    """A cache that an ordinary user may not write, or read, is said to be."""
    found = store.read_only(bench, forks)
    assert found[". is read-only: StoreReadOnlyError"] == 1 or any("skipped" in k for k in found)


def test_a_wrong_table_would_be_seen(store: Any, bench: Any, monkeypatch: Any) -> None:
    """The campaign itself can fail: a wrong table, and half a file, are caught."""
    other = bench.multipliers["lab:r1/mul8u_BIG"]
    with monkeypatch.context() as patch:
        patch.setattr(Store, "get", lambda *_: other)
        store.flips(bench, 20)
    assert any("it was read as something else" in f for f in bench.failures)
    bench.failures.clear()
    path = Store().object_path(other.identity)
    path.write_bytes(path.read_bytes()[:-1])
    bench.check("here")
    assert [f"here: objects/{path.name} is wrong" in f for f in bench.failures] == [True]
    bench.failures.clear()


@pytest.mark.slow
def test_servers(bench: Any) -> None:
    """A server that misbehaves gets a named error, and harms nothing."""
    servers = campaign("servers")
    assert servers.campaign(bench, 1.0, ["endless body", "announces nonsense"])["cases"] == 2


def test_fuzzing(tmp_path: Path) -> None:
    """Sound files with a few changes get a result or an error of ours from every reader."""
    done = subprocess.run(
        [sys.executable, FOLDER / "fuzz.py", "--all", "--blind", "--inputs=40", "--keep", tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(approxhub.__file__).parents[1])},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert {s["inputs"] for s in summary.values()} == {40}
    assert len(summary) > 15


def test_fuzzing_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and findings are there to the last input, however the process ends."""
    fuzz = campaign("fuzz")

    def crash(data: bytes) -> None:
        if data == b"bad":
            raise ValueError("not one of ours")

    monkeypatch.setitem(fuzz.TARGETS, "crash", fuzz.Target(crash, lambda: [b"seed"]))
    pid = os.fork()
    if pid == 0:  # an audit hook stays for ever: not in this process
        oracle = fuzz.Oracle("crash", tmp_path)
        for data in (b"good", b"good", b"bad"):
            oracle.check(data)
        os.kill(os.getpid(), 9)
    assert os.waitpid(pid, 0)[1] == 9
    path = fuzz.tally_path("crash", tmp_path)
    outcomes, findings = fuzz.Tally.take(path)
    assert outcomes == {"read": 2, "FINDING": 1}
    assert "ValueError at test_campaigns.py" in findings[0]
    assert fuzz.Tally.take(path) == ({}, [])
