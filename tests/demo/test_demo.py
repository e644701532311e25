"""The demonstration: what the README's first command shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from approxhub import demo
from approxhub.cli import cli
from approxhub.errors import DemoError, UnknownMultiplierError

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """The whole demonstration once, as a user runs it: JSON, folder, stderr."""
    out = tmp_path_factory.mktemp("demo")
    result = CliRunner().invoke(cli, ["demo", "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), out, result.stderr


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demonstration of few images that trains too little, for what needs no accuracy."""
    data = demo._digits()
    few = demo._Digits(data.train_x[:200], data.train_y[:200], data.test_x[:100], data.test_y[:100])
    monkeypatch.setattr(demo, "_digits", lambda: few)
    monkeypatch.setattr(demo, "_EPOCHS", 1)
    monkeypatch.setattr(demo, "_RETRAIN_EPOCHS", 1)


def test_rows_have_the_fields_that_other_tools_rely_on(shown: Any) -> None:
    """Every row has multiplier, mapping, stage, accuracy, correct, total, relative_energy."""
    for row in shown[0]["rows"]:
        assert {"multiplier", "mapping", "stage", "accuracy", "correct", "total"} <= set(row)
        assert "relative_energy" in row
        assert row["accuracy"] == row["correct"] / row["total"]
        assert row["stage"] in ("float", "exact", "approximate", "retrained")


def test_six_multipliers_of_three_families_are_shown(shown: Any) -> None:
    """At least six approximate rows, from at least three families; two are retrained."""
    rows = shown[0]["rows"]
    tried = {(r["multiplier"], r["mapping"]) for r in rows if r["stage"] == "approximate"}
    assert len({m for m, _ in tried}) >= 6
    assert len({m.split(":")[0] for m, _ in tried}) >= 3
    retrained = [r["multiplier"] for r in rows if r["stage"] == "retrained"]
    assert sum(not name.startswith("exact:") for name in retrained) == 2


def test_the_table_teaches_something(shown: Any) -> None:
    """The float network is good, exact codes cost little, and three multipliers cost 5 points."""
    rows = shown[0]["rows"]
    (float_row,) = (r for r in rows if r["stage"] == "float")
    exact = {r["mapping"]: r["accuracy"] for r in rows if r["stage"] == "exact"}
    assert float_row["accuracy"] > 0.93
    assert all(abs(a - float_row["accuracy"]) < 0.02 for a in exact.values())
    lost = {
        r["multiplier"]: 100 * (exact[r["mapping"]] - r["accuracy"])
        for r in rows
        if r["stage"] == "approximate"
    }
    assert sum(points > 5 for points in lost.values()) >= 3


def test_retraining_wins_back_half_of_a_large_loss(shown: Any) -> None:
    """Where more than ten points were lost, retraining recovers at least half of them."""
    rows = shown[0]["rows"]
    lost = {(r["multiplier"], r["mapping"], r["stage"]): r["loss_points"] for r in rows}
    retrained = [k for k in lost if k[2] == "retrained" and not k[0].startswith("exact:")]
    large = [key for key in retrained if lost[(*key[:2], "approximate")] > 10]
    assert large, "the two worst should lose more than ten points"
    for key in large:
        assert lost[key] <= lost[(*key[:2], "approximate")] / 2


def test_points_are_lost_against_exact_arithmetic(shown: Any) -> None:
    """loss_points is against exact arithmetic of the same mapping, trained for as long."""
    rows = shown[0]["rows"]
    exact = [r for r in rows if (r["multiplier"] or "").startswith("exact:")]
    against = {(r["mapping"], r["stage"] == "retrained"): r["correct"] for r in exact}
    for row in rows:
        if row["stage"] != "float":
            best = against[row["mapping"], row["stage"] == "retrained"]
            assert row["loss_points"] == pytest.approx(100 * (best - row["correct"]) / row["total"])
    assert {r["relative_energy"] for r in exact} == {1.0}


def test_each_width_has_its_own_exact_row(short: None) -> None:
    """Two widths under one mapping are each measured against their own exact arithmetic."""
    rows = demo.run_demo(["exact:4s", "drum:8s/k=3", "exact:8s"]).rows
    exact = {r.multiplier: r for r in rows if r.stage == "exact"}
    assert set(exact) == {"exact:4s", "exact:8s"}
    assert all(r.loss == 0 for r in exact.values())
    assert all(r.loss == 0 for r in rows if r.stage != "float" and r.multiplier in exact)
    assert all(r.total == exact["exact:8s"].total for r in rows)


def test_chart_and_rows_are_written(shown: Any) -> None:
    """The folder holds a PNG and the very JSON that was printed; progress went to stderr."""
    printed, out, stderr = shown
    assert (out / "demo.png").read_bytes().startswith(PNG)
    assert json.loads((out / "demo.json").read_text()) == printed
    assert "retraining" in stderr


def test_same_seed_same_table(short: None) -> None:
    """The same seed gives the same rows, and the caller's random numbers go on undisturbed."""
    ids = ["drum:8s/k=3", "bam:8u/h=0,v=8"]
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = demo.run_demo(ids, seed=3)
    assert torch.equal(torch.rand(3), expected)
    second = demo.run_demo(ids, seed=3)
    assert first.to_json() == second.to_json()
    assert first.to_json() != demo.run_demo(ids, seed=4).to_json()


def test_several_seeds_give_mean_and_interval(short: None) -> None:
    """Counts add up over the seeds, and the interval holds the mean."""
    one = demo.run_demo(["drum:8s/k=3"], seed=1)
    two = demo.run_demo(["drum:8s/k=3"], seed=0, seeds=2)
    zero = demo.run_demo(["drum:8s/k=3"], seed=0)
    for a, b, both in zip(zero.rows, one.rows, two.rows, strict=True):
        assert both.correct == a.correct + b.correct
        assert both.total == a.total + b.total
        assert both.interval is not None
        assert both.interval[0] <= both.accuracy <= both.interval[1]
        assert a.interval is None


def test_what_cannot_be_fetched_is_said(short: None, tmp_path: Path) -> None:
    """An id that cannot be had is named with its cause; the others are shown; the code is its."""
    args = ["demo", "--json", "--out", str(tmp_path), "--multiplier", "drum:8s/k=3"]
    result = CliRunner().invoke(cli, [*args, "mul8s_nosuch"])
    assert result.exit_code == 3
    assert "left out mul8s_nosuch" in result.stderr
    shown = json.loads(result.stdout)
    assert [f["multiplier"] for f in shown["failed"]] == ["mul8s_nosuch"]
    assert any(r["multiplier"] == "drum:8s/k=3" for r in shown["rows"])


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    """If no multiplier could be had, that is the error, with its cause."""
    with pytest.raises(UnknownMultiplierError, match="nosuch"):
        demo.run_demo(["nosuch"])
    result = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path), "--multiplier", "nosuch"])
    assert result.exit_code == 3


def test_seeds_must_be_positive() -> None:
    """No seeds, no table."""
    with pytest.raises(DemoError, match="at least 1"):
        demo.run_demo(["drum:8s/k=3"], seeds=0)


def test_a_folder_that_cannot_be_made_is_an_error_before_any_work(tmp_path: Path) -> None:
    """--out below a file says so at once."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    result = CliRunner().invoke(cli, ["demo", "--out", str(blocker / "x")])
    assert result.exit_code == 1
    assert "--out" in result.stderr


def test_the_table_is_printed_before_files_are_written(short: None, tmp_path: Path) -> None:
    """Results that took a minute are not lost because a file cannot be written."""
    (tmp_path / "demo.json").mkdir()
    args = ["demo", "--out", str(tmp_path), "--json", "--multiplier", "drum:8s/k=3"]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 1
    assert "demo.json could not be written" in result.stderr
    assert json.loads(result.stdout)["rows"]


def test_a_stray_argument_is_a_usage_error() -> None:
    """An id without --multiplier is not silently ignored."""
    result = CliRunner().invoke(cli, ["demo", "drum:8s/k=3"])
    assert result.exit_code == 2
    assert "--multiplier" in result.stderr
