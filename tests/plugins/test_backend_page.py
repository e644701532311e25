"""The page on backends shows a whole one: its very text is installed, and holds the contract."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from approxhub.cli import cli

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-backend.md"


def block(language: str) -> str:
    """First block of a language on the page."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def gather(site):
    """The page's module and metadata, installed."""
    entry_points = re.search(r"^\[project\.entry-points\.approxhub\]\n(.*)", block("toml"), re.M)
    assert entry_points is not None
    site.add(
        "gather",
        module="gather_backend",
        entry_points="[approxhub]\n" + entry_points[1].replace('"', ""),
    )
    (site.folder / "gather_backend.py").write_text(block("python"))
    return site


def test_it_is_short() -> None:
    """A working backend takes less than 60 lines."""
    assert len(block("python").splitlines()) < 60


def test_it_takes_part(gather) -> None:
    """Installed as the page says, it is available."""
    done = CliRunner().invoke(cli, ["backends", "--json"])
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["gather"]["available"], rows["gather"]["reason"]


@pytest.mark.slow
def test_it_holds_the_contract(gather) -> None:
    """The kit passes on it, as the page says: by name, from the command line."""
    done = gather.python("-m", "approxhub.cli", "conformance", "gather", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] > 300
    assert report["failed"] == 0
