"""Reports on disk, and in the documentation."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from approxhub.bench import SCHEMA_VERSION, SUITES, Report, Row
from approxhub.bench.charts import draw_charts
from approxhub.bench.names import C_LOOP, FP32
from approxhub.bench.present import Table, tables_of
from approxhub.errors import BenchmarkError

ROOT = Path(__file__).parents[2]


def report(*rows: Row) -> Report:
    """A report with rows."""
    return Report(
        {"cpu": "a processor", "cores": 2, "isas": ["scalar"], "isa": "scalar"},
        {"torch": "2", "gcc": "none"},
        {"rounds": 3, "command": "approxhub bench tables"},
        ("no loop",),
        rows,
    )


ROWS = (
    Row(
        "tables", "2 x 2 x 2", "roba:8s", 0.004, (0.003, 0.005), 8_000_000, {C_LOOP: 12.345},
        {"way": "factored", "int8_products": 2, "threads": 1, "multiplier": "roba:8s"},
    ),
    Row(
        "scaling", "M, M x 3 x 5, threads: 1", "roba:8s", 0.5, None, 10**9, {},
        {"sweep": "M", "value": 4},
    ),
    Row(
        "scaling", "M, M x 3 x 5, threads: 1", FP32, 0.25, None, 10**9, {},
        {"sweep": "M", "value": 4},
    ),
    Row(
        "scaling", "M, M x 3 x 5, threads: 1", FP32, 1.0, None, 10**9, {},
        {"sweep": "M", "value": 8},
    ),
)  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    """What is written is read, and says its version."""
    path = tmp_path / "r.json"
    report(*ROWS).write(path)
    assert json.loads(path.read_text())["schema_version"] == SCHEMA_VERSION
    assert Report.read(path) == report(*ROWS)
    assert Report.read(path).of("tables") == [ROWS[0]]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "no benchmark report|not a benchmark report"),
        ([], "not a benchmark report"),
        ({"schema_version": SCHEMA_VERSION + 1}, "reads 1"),
        ({**report().to_json(), "rows": [{"suite": "x"}]}, "not a benchmark report"),
    ],
)
def test_no_report(tmp_path: Path, value: Any, said: str) -> None:
    """What is no report, or of another version, is refused by name."""
    path = tmp_path / "r.json"
    path.write_text(json.dumps(value))
    with pytest.raises(BenchmarkError, match=said):
        Report.read(path)


def test_files_that_cannot_be(tmp_path: Path) -> None:
    """A file that is not there, is no JSON, or cannot be written, is an error that names it."""
    with pytest.raises(BenchmarkError, match=r"no\.json cannot be read"):
        Report.read(tmp_path / "no.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BenchmarkError, match=r"bad\.json cannot be read"):
        Report.read(tmp_path / "bad.json")
    with pytest.raises(BenchmarkError, match="cannot be written"):
        report().write(tmp_path / "no" / "r.json")


def test_tables() -> None:
    """Rates and ratios have three digits, and a sweep has a line for each value."""
    assert tables_of(report(*ROWS), "tables")[0].rows == (
        ("roba:8s", "factored", "2", "2.00", "12.3", "-", "-", "-"),
    )
    assert tables_of(report(*ROWS), "scaling") == [
        Table(
            "G products/s against M, M x 3 x 5, threads: 1",
            ("M", "roba:8s", FP32),
            (("4", "2.00", "4.00"), ("8", "-", "1.00")),
        )
    ]
    assert all(tables_of(report(), suite) == [] for suite in SUITES)


def test_charts_repeat(tmp_path: Path) -> None:
    """A chart is drawn for each suite that has one, and is the same bytes each time."""
    pytest.importorskip("matplotlib")
    first = draw_charts(report(*ROWS), tmp_path)
    assert [p.name for p in first] == ["tables.svg", "scaling.svg"]
    before = [p.read_bytes() for p in first]
    assert [p.read_bytes() for p in draw_charts(report(*ROWS), tmp_path)] == before


@pytest.fixture
def render() -> ModuleType:
    """The script that writes the documentation's tables."""
    spec = importlib.util.spec_from_file_location("render", ROOT / "benchmarks" / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_documentation_is_what_was_measured(render: ModuleType) -> None:
    """The tables of the page are those of the committed reports, to the last character."""
    page = render.PAGE.read_text(encoding="utf-8")
    assert render.rendered(page, render.reports()) == page


def test_rendering_replaces(render: ModuleType) -> None:
    """A report's tables replace what stood there; another report's stand below them."""
    page = render.PAGE.read_text(encoding="utf-8")
    first = render.rendered(page, {"one": report(ROWS[0])})
    assert first != page
    assert first.count("| roba:8s | factored | 2 | 2.00 | 12.3 | - | - | - |") == 1
    assert first.count("a processor") == 1
    both = render.rendered(first, {"one": report(ROWS[0]), "two": report(ROWS[0])})
    assert both.count("a processor") == 2
    assert render.rendered(both, {}) == render.rendered(page, {})


def test_a_place_that_is_missing(render: ModuleType) -> None:
    """A page without the place of a suite is an error, not a page without its tables."""
    with pytest.raises(SystemExit, match="'gemm'"):
        render.rendered("nothing", {})
