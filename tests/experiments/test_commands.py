"""`approxhub evaluate` and `approxhub sweep`: an experiment given as functions of a module."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from approxhub.cli import cli
from approxhub.errors import InputError, TargetNotFoundError
from approxhub.experiments import Results, targets

MODULE = """
import torch

torch.manual_seed(2)
X = torch.randn(32, 6)


def model():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))


def calibration():
    return [X[:16], X[16:]]


def evaluate(net):
    with torch.no_grad():
        return {"size": net(X).square().mean()}


def nan(net):
    return float("nan")


def fails(net):
    raise ValueError("labels are missing")


def interrupted(net):
    global number
    number += 1
    if number == 5:
        raise KeyboardInterrupt
    return number


def broken():
    raise OSError("no weights here")


def empty():
    return torch.nn.ReLU()


def elsewhere():
    return torch.nn.Linear(6, 4, device="meta")


def narrow():
    return [X[:16, :5]]


def torn():
    yield X[:16]
    raise OSError("the disk is gone")


def keywords():
    return [{"nosuch": X}]


number = 3
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Run a command in a folder with the module `experiment`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "experiment.py").write_text(textwrap.dedent(MODULE))
    (tmp_path / "bad.py").write_text("import nosuchpackage\n")
    (tmp_path / "worse.py").write_text("1 / 0\n")
    yield lambda *words: CliRunner().invoke(cli, [str(w) for w in words])
    for name in ("experiment", "bad", "worse"):
        sys.modules.pop(name, None)


def _json(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)["rows"]
    return rows


def test_evaluate_prints_one_row(run: Any) -> None:
    """The row of one multiplier, as a table or as JSON; progress goes to stderr."""
    (row,) = _json(run("evaluate", "experiment:model", "drum:8s/k=3", "--json"))
    assert row["multiplier"] == "drum:8s/k=3"
    assert set(row["metrics"]) == {"size"}
    shown = run("evaluate", "experiment:model", "drum:8s/k=3", "--mapping", "affine-signed")
    assert shown.stdout.splitlines()[0].split() == ["multiplier", "mapping", "size", "energy"]
    assert "affine-signed" in shown.stdout
    assert "calibrating" in shown.stderr


def test_evaluate_takes_a_multiplier_for_each_layer(run: Any) -> None:
    """`--layer` names circuits by layer; it stands in place of an id."""
    (row,) = _json(
        run("evaluate", "experiment:model", "--layer", "0=drum:8s/k=3", "--layer", "2=exact:8s",
            "--json")
    )  # fmt: skip
    assert row["multiplier"] == "0=drum:8s/k=3, 2=exact:8s"
    for words in ([], ["exact:8s", "--layer", "0=exact:8s"], ["--layer", "exact"]):
        assert run("evaluate", "experiment:model", *words).exit_code == 2


def test_sweep_gives_the_rows_of_evaluate(run: Any, tmp_path: Path) -> None:
    """A row for each id, globs expanded; the same numbers as one by one; kept in files."""
    rows = _json(
        run("sweep", "experiment:model", "float", "exact:8?", "drum:8s/k=3", "--path", "rows",
            "--json")
    )  # fmt: skip
    assert [r["multiplier"] for r in rows] == ["float", "exact:8u", "exact:8s", "drum:8s/k=3"]
    for row in rows:
        assert [row] == _json(run("evaluate", "experiment:model", row["multiplier"], "--json"))
    assert [r.to_json() for r in Results.read(tmp_path / "rows")] == rows
    assert (tmp_path / "rows.csv").is_file()


def test_options_reach_the_sweep(run: Any) -> None:
    """`--compensate`, `--mapping` and `--seed` stand in the row."""
    words = ("--compensate", "--mapping", "affine-signed", "--seed", "3", "--json")
    for command in ("evaluate", "sweep"):
        (row,) = _json(run(command, "experiment:model", "drum:8s/k=3", *words))
        assert (row["compensated"], row["mapping"], row["seed"]) == (True, "affine-signed", 3)
    result = run("evaluate", "experiment:model", "drum:8s/k=3", "--reestimate-batch-norm")
    assert result.exit_code == 2
    assert "no batch normalisation" in result.stderr


def test_sweep_over_layers_and_its_chart(run: Any, tmp_path: Path) -> None:
    """`--per-layer` is a sensitivity analysis, `--layers` chooses, `--plot` draws."""
    rows = _json(
        run("sweep", "experiment:model", "drum:8s/k=3", "--per-layer", "--json", "--plot", "a.svg")
    )
    assert [r["layer"] for r in rows] == ["0", "2"]
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    rows = _json(
        run("sweep", "experiment:model", "drum:8s/k=3", "--per-layer", "--layers", "2", "--json")
    )
    assert [r["layer"] for r in rows] == ["2"]
    assert run("sweep", "experiment:model", "exact:8s", "--layers", "2").exit_code == 2
    assert run("sweep", "experiment:model", "exact:8s", "--plot", "a.pdf").exit_code == 2


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        ("experiment", 2, "not of the form package.module:function"),
        ("experiment.py:model", 2, "name a module as Python imports it, not a file"),
        ("nosuchmodule:model", 3, "there is no module 'nosuchmodule'"),
        ("experiment.part:model", 3, "there is no module"),
        ("experiment:modle", 3, "experiment has no 'modle'"),
        ("experiment:number", 2, "is no function, but a int"),
        ("bad:model", 1, "importing bad raised ModuleNotFoundError: No module named 'nosuchp"),
        ("worse:model", 1, "importing worse raised ZeroDivisionError"),
        ("experiment:broken", 1, "raised OSError: no weights here"),
        ("experiment:empty", 1, "no layer that could be converted"),
        ("experiment:elsewhere", 2, "is on the meta device"),
        ("experiment:calibration", 2, "a torch.nn.Module is needed, got list"),
    ],
)
def test_a_wrong_model_is_said(run: Any, target: str, code: int, said: str) -> None:
    """Each has its own exit code and message, without a traceback."""
    for command in ("evaluate", "sweep"):
        result = run(command, target, "exact:8s")
        assert result.exit_code == code, result.output
        assert said in result.stderr
        assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("evaluator", "said"),
    [("nan", "returned nan as score with exact:8s"), ("fails", "labels are missing")],
)
def test_a_failing_evaluator_has_exit_code_1(run: Any, evaluator: str, said: str) -> None:
    """NaN and exceptions stop it with code 1; with --keep-going the others are tried first."""
    words = ("sweep", "experiment:model", "exact:8s", "roba:8s", "--evaluate")
    result = run(*words, f"experiment:{evaluator}")
    assert result.exit_code == 1
    assert said in result.stderr
    result = run(*words, f"experiment:{evaluator}", "--keep-going", "--json")
    assert result.exit_code == 1
    assert [f["multiplier"] for f in json.loads(result.stdout)["failed"]] == [
        "exact:8s", "roba:8s",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        ("narrow", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        ("narrow", "; the first batch has the shape (16, 5)\n"),
        ("torn", "OSError: the disk is gone ({folder}/experiment.py, line "),
        ("keywords", "TypeError: Sequential.forward() got an unexpected keyword argument 'nosuch'"),
    ],
)
def test_calibration_that_fails_has_exit_code_1(
    run: Any, tmp_path: Path, calibration: str, said: str
) -> None:
    """Batches that do not fit the model, or raise, are one line that says what was raised."""
    for command in ("evaluate", "sweep"):
        result = run(command, "experiment:model", "exact:8s", "--calibration",
                     f"experiment:{calibration}")  # fmt: skip
        assert result.exit_code == 1, result.output
        (line,) = (s for s in result.stderr.splitlines(True) if s.startswith("error: "))
        assert line.startswith("error: running the model on the calibration batches raised ")
        assert said.format(folder=tmp_path) in line
        assert result.stderr.endswith(line)


def test_a_multiplier_that_is_not_there_has_exit_code_3(run: Any, tmp_path: Path) -> None:
    """Before anything is evaluated; with --keep-going the others are, and the code is the same."""
    result = run("sweep", "experiment:model", "exact:8s", "nosuch", "--path", "rows")
    assert result.exit_code == 3
    assert not (tmp_path / "rows.json").exists()
    result = run("sweep", "experiment:model", "exact:8s", "nosuch", "--path", "rows",
                 "--keep-going")  # fmt: skip
    assert result.exit_code == 3
    assert "left out nosuch" in result.stderr
    assert len(Results.read(tmp_path / "rows")) == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nosuch"], 3),
        (["exact:16s", "--compensate"], 2),
        (["exact:8s", "--evaluate", "experiment:nosuch"], 3),
        (["exact:8s", "--calibration", "experiment:nosuch"], 3),
        (["exact:8s", "--mapping", "nosuch"], 2),
        (["exact:8s", "--path", "bad.py/rows"], 1),
    ],
)
def test_typing_errors_are_found_before_the_model_is_called(
    run: Any, words: list[str], code: int
) -> None:
    """Ids, functions, mapping and path are looked at first; then the functions called are named."""
    result = run("sweep", "experiment:broken", *words)
    assert result.exit_code == code, result.output
    assert "calling" not in result.stderr
    assert "no weights here" not in result.stderr
    said = run("sweep", "experiment:model", "exact:8s").stderr
    assert said.startswith("calling experiment:model\ncalling experiment:calibration\n")


def test_where_an_evaluator_failed_is_said(run: Any, tmp_path: Path) -> None:
    """File and line of what it raised stand in the message."""
    line = MODULE.splitlines().index('    raise ValueError("labels are missing")') + 1
    result = run("evaluate", "experiment:model", "exact:8s", "--evaluate", "experiment:fails")
    assert f"labels are missing ({tmp_path / 'experiment.py'}, line {line})" in result.stderr


def test_interrupted_it_says_what_is_kept(run: Any) -> None:
    """After Ctrl-C: how many rows, where, and that the command goes on; then it does."""
    words = ["sweep", "experiment:model", "exact:8s", "roba:8s", "--evaluate",
             "experiment:interrupted", "--path", "rows.csv"]  # fmt: skip
    result = run(*words)
    assert result.exit_code == 1
    assert "\n1 row is kept in rows.json; the same command goes on from there\n" in result.stderr
    result = run(*words)
    assert result.exit_code == 0
    assert "1 row kept from rows.json" in result.stderr
    assert "[1/2] roba:8s" in result.stderr
    assert "exact:8s" not in result.stderr


def test_targets() -> None:
    """Dotted names within a module are followed; what is not there is said with what is."""
    assert targets.find("json:JSONDecoder.decode") is json.JSONDecoder.decode
    with pytest.raises(TargetNotFoundError, match="it has JSONDecoder"):
        targets.find("json:nosuch")
    for text in ("", ":", "a:", ":b", "a b:c", "a:b:c", "a..b:c"):
        with pytest.raises(InputError, match="not of the form"):
            targets.split(text)
