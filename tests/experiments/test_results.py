"""Tables and charts of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from approxhub.errors import ExperimentError, InputError
from approxhub.experiments import Result, Results


def _row(multiplier: str, value: float, **more: Any) -> Result:
    formats = "8ux8u" if multiplier.endswith("u") else "8sx8s"
    given: dict[str, Any] = {
        "multiplier": multiplier, "layer": None, "mapping": "symmetric", "datapath": "", "seed": 0,
        "compensated": False, "batch_norm_reestimated": False, "metrics": {"accuracy": value},
        "relative_energy": None, "identities": {multiplier: f"{formats}-{hash(multiplier):x}"},
        "versions": {"torch": "2"},
    }  # fmt: skip
    return Result(**{**given, **more})


def test_what_is_lost_is_against_exact_products_of_the_same_codes() -> None:
    """The baseline has the same formats, mapping, seed and preparation, and is of all layers."""
    exact = _row("exact:8s", 0.9)
    rows = [
        _row("float", 0.95, identities={}, mapping=""),
        _row("exact:8u", 0.8),
        _row("exact:8s", 0.7, seed=1),
        _row("exact:8s", 0.7, compensated=True),
        _row("exact:8s", 0.7, layer="0"),
        exact,
        _row("drum", 0.85),
    ]
    results = Results(rows)
    assert results.baseline(rows[-1]) is exact
    assert results.baseline(rows[0]) is None
    assert results.table()[0] == (
        "multiplier", "layer", "mapping", "accuracy", "accuracy lost", "energy",
    )  # fmt: skip
    assert results.table()[-1] == ("drum", "-", "symmetric", "0.8500", "+0.0500", "-")
    assert "accuracy lost" not in str(Results(rows[:1]))


def test_each_chart_is_drawn(tmp_path: Path) -> None:
    """Over energy where it is known, as a map where there are layers, else as bars."""
    plain = Results([_row("float", 0.95), _row("exact:8s", 0.9), _row("drum", 0.85)])
    costly = Results(
        [_row("float", 0.95), _row("a", 0.9, relative_energy=1.0),
         _row("b", 0.85, relative_energy=0.5), _row("c", 0.8, relative_energy=0.7)]
    )  # fmt: skip
    layered = Results([_row(m, 0.5, layer=la) for m in ("a", "b") for la in ("0", "1")])
    for results, words in (
        (plain, ["drum", "0.85"]),
        (costly, ["Pareto front", "others", "float"]),
        (layered, ["0.5"]),
    ):
        results.plot(tmp_path / "a.svg")
        text = (tmp_path / "a.svg").read_text()
        for word in words:
            assert f"<!-- {word} -->" in text, word
    assert "<!-- c -->" not in _drawn(costly, tmp_path)  # b is better, and cheaper
    layered.plot(tmp_path / "bars.png", kind="bars")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def _drawn(results: Results, folder: Path) -> str:
    results.plot(folder / "a.svg", kind="energy")
    return (folder / "a.svg").read_text()


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    """Each reason has its own words."""
    rows = Results([_row("a", 0.9)])
    for results, kind, metric, said in (
        (Results([]), None, None, "no results"),
        (rows, "energy", None, "fewer than two rows have a relative energy"),
        (rows, "layers", None, "see approxhub.sensitivity"),
        (rows, "pie", None, "must be one of"),
        (rows, None, "loss", "no metric 'loss'; there are accuracy"),
    ):
        with pytest.raises(InputError, match=said):
            results.plot(tmp_path / "a.svg", kind=kind, metric=metric)


def test_rows_survive_json() -> None:
    """A row is read as it was written; what is no row is refused."""
    row = _row("a", 0.9)
    assert Result.from_json(row.to_json()) == row
    for change in ({"metrics": {}}, {"metrics": {"a": float("nan")}}, {"metrics": 3}, {"new": 1}):
        with pytest.raises(ExperimentError, match="not a row of results"):
            Result.from_json({**row.to_json(), **change})


def test_results_are_a_sequence() -> None:
    """Length, index, slice, iteration; nothing is a table of its own."""
    rows = [_row("a", 0.9), _row("b", 0.8)]
    results = Results(rows)
    assert len(results) == 2
    assert results[1] is rows[1]
    assert results[:1] == rows[:1]
    assert list(results) == rows
    assert str(Results([])) == "no results"
    assert Results([]).to_csv() == ""
    assert results.to_csv().splitlines()[2].startswith("1,b,")
