"""The libraries whole, fetched from checkouts of them as a user would.

``APPROXHUB_TEST_EVO``, ``APPROXHUB_TEST_EVO8B`` and ``APPROXHUB_TEST_FPGAS`` name the checkouts of
EvoApproxLib, evoapprox8b and approx-fpgas.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

import multipliers_index
from approxhub.registry import entries, fetch, verify
from approxhub.registry.index import read_index

CHECKOUTS = {
    "evoapproxlib": os.environ.get("APPROXHUB_TEST_EVO"),
    "evoapprox8b": os.environ.get("APPROXHUB_TEST_EVO8B"),
    "approx-fpgas": os.environ.get("APPROXHUB_TEST_FPGAS"),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not any(CHECKOUTS.values()), reason="no checkout of a library is named"),
]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the libraries' C files at all pinned commits."""
    folder = tmp_path_factory.mktemp("mirror")
    for source, checkout in CHECKOUTS.items():
        for path in multipliers_index.index_paths(source) if checkout else ():
            index = read_index(Path(str(path)))
            commit = str(index.commit)
            packed = subprocess.run(
                ["git", "-C", str(checkout), "archive", commit], capture_output=True, check=True
            )
            with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
                archive.extractall(folder / commit, filter="data")
    return folder


@pytest.mark.parametrize(
    ("source", "release", "text"),
    [
        *(("evoapproxlib", r, t) for r in ("v1.0", "v1.1", "v2022") for t in ("8u", "8s")),
        ("evoapprox8b", "2017", "8u"),
        ("approx-fpgas", "2020", "8u"),
    ],
)
def test_every_8x8_circuit(
    mirror: Path, source: str, release: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 8x8 circuit is fetched with the table hash of the index and its printed metrics."""
    if not CHECKOUTS[source]:
        pytest.skip(f"no checkout of {source} is named")
    monkeypatch.setenv("APPROXHUB_MIRROR", str(mirror))
    wanted = [
        e
        for e in entries()
        if (e.source, e.release, str(e.a), str(e.b)) == (source, release, text, text)
    ]
    assert wanted
    noted = 0
    for entry, result in zip(wanted, fetch([e.id for e in wanted], offline=True), strict=True):
        assert result.error is None, result.error
        assert result.multiplier is not None
        assert result.multiplier.table_sha256 == entry.table_sha256 is not None
        noted += bool(result.multiplier.provenance.notes)
    assert noted == (6 if source == "evoapprox8b" else 0)  # percentages that are misprinted
    assert all(r.ok for r in verify())
