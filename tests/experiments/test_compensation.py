"""What compensation brings on the digits network, and that the committed figures are these."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """The committed figures of five seeds."""
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "compensation.json").read_text())
    return found


def _sums(row: dict[str, Any]) -> tuple[int, int, int]:
    return sum(row["exact"]), sum(row["approximate"]), sum(row["compensated"])


def test_the_page_shows_the_committed_figures(report: dict[str, Any]) -> None:
    """Every row of the how-to's table is one of the report, and none is missing."""
    page = (ROOT / "docs" / "how-to" / "compensate.md").read_text(encoding="utf-8")
    shown = re.findall(
        r"^\| `(.+?)` \| .+? \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) % \|", page, re.MULTILINE
    )
    assert len(shown) == 15
    every = report["total"] * report["seeds"]
    assert shown == [
        (row["multiplier"], *(f"{100 * value / every:.1f}" for value in _sums(row)))
        for row in report["rows"]
    ]


def test_at_least_five_of_ten_biased_multipliers_improve(report: dict[str, Any]) -> None:
    """Of ten biased circuits, over five seeds; exact ones do not change at all."""
    biased = [row for row in report["rows"] if row["biased"]]
    assert (len(biased), report["seeds"]) == (10, 5)
    assert sum(_sums(row)[2] > _sums(row)[1] for row in biased) >= 5
    for row in report["rows"]:
        if row["multiplier"].startswith("exact:"):
            assert row["approximate"] == row["compensated"] == row["exact"]


@pytest.mark.slow
def test_the_figures_are_measured_again(report: dict[str, Any]) -> None:
    """One seed of the script: at least five of ten improve, and exact products do not change."""
    path = ROOT / "benchmarks" / "compensation.py"
    spec = importlib.util.spec_from_file_location("compensation", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = script.run(1)
    assert [row["multiplier"] for row in rows] == [row["multiplier"] for row in report["rows"]]
    assert sum(_sums(row)[2] > _sums(row)[1] for row in rows if row["biased"]) >= 5
    for row in rows:
        if row["multiplier"].startswith("exact:"):
            assert row["approximate"] == row["compensated"] == row["exact"]
