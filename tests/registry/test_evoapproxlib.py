"""The whole of EvoApproxLib, against a checkout named by ``APPROXHUB_TEST_EVO``."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from approxhub.registry import entries, fetch, verify
from approxhub.registry.index import read_index

CHECKOUT = os.environ.get("APPROXHUB_TEST_EVO")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKOUT, reason="APPROXHUB_TEST_EVO names no checkout of EvoApproxLib"),
]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library's files at both pinned commits."""
    import multipliers_index

    folder = tmp_path_factory.mktemp("mirror")
    for path in multipliers_index.index_paths():
        commit = read_index(Path(path)).commit
        packed = subprocess.run(
            ["git", "-C", str(CHECKOUT), "archive", commit], capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(folder / commit, filter="data")
    return folder


@pytest.mark.parametrize("release", ["v1.1", "v2022"])
@pytest.mark.parametrize("text", ["8u", "8s"])
def test_every_8x8_circuit(
    mirror: Path, release: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 8x8 circuit is fetched with the table hash of the index and its printed metrics."""
    monkeypatch.setenv("APPROXHUB_MIRROR", str(mirror))
    wanted = [
        e
        for e in entries()
        if (e.source, e.release, str(e.a), str(e.b)) == ("evoapproxlib", release, text, text)
    ]
    assert wanted
    for entry, result in zip(wanted, fetch([e.id for e in wanted], offline=True), strict=True):
        assert result.error is None, result.error
        assert result.multiplier is not None
        assert result.multiplier.table_sha256 == entry.table_sha256 is not None
        assert result.multiplier.provenance.notes == ()
    assert all(r.ok for r in verify())
