"""The plug-in as these tests see it: installed, or from the checkout; with kernels on the host."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent))
import emulated

# Not by import: in a checkout an approxhub_cuda that is not installed is an empty namespace.
try:
    metadata.distribution("approxhub_cuda")
except metadata.PackageNotFoundError:
    sys.path.insert(0, str(emulated.PACKAGE / "src"))


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of kernels for the host, built once for all workers."""
    if given := os.environ.get("APPROXHUB_TEST_EMULATED"):
        return Path(given)
    emulated.need()
    base = tmp_path_factory.getbasetemp()
    folder = base if os.environ.get("PYTEST_XDIST_WORKER") is None else base.parent
    path = folder / "emulated" / "kernels.so"
    with FileLock(folder / "emulated.lock"):
        return path if path.is_file() else emulated.build(path)


@pytest.fixture(autouse=True)
def _as_before(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test made of the emulated card is undone behind it."""
    yield
    if "kernels" in request.fixturenames:
        emulated.configure(request.getfixturevalue("kernels"))
