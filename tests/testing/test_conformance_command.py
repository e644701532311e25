"""``approxhub conformance``: what it runs, what it prints, and how it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from approxhub.cli import cli
from approxhub.cli.conformance import KINDS, _lines, _tests
from approxhub.plugins.template import TITLES
from approxhub.testing.installed import KITS, installed_kit


def run(*words: str) -> Result:
    """The command, in this process; the kit has one of its own."""
    return CliRunner().invoke(cli, ["conformance", *words])


def test_it_runs_the_kit() -> None:
    """A built-in calibrator passes; skips are shown with their reason, in JSON every test."""
    done = run("moving-average", "--kind", "calibrator", "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["kind"], report["name"], report["failed"]) == ("calibrator", "moving-average", 0)
    assert report["passed"] + report["skipped"] == len(report["tests"]) > 15
    named = {t["test"].partition("[")[0]: t for t in report["tests"]}
    assert named["test_nothing_seen"]["outcome"] == "passed"
    assert "covers is False" in named["test_the_range_contains_what_was_seen"]["message"]
    assert all(t["clause"].endswith(".") for t in report["tests"])


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nobody"], 3, "no backend is called 'nobody'; known: "),
        (["drum"], 3, "it is a source: --kind source"),
        (["nobody", "--kind", "format"], 3, "no table format is called 'nobody'"),
        (["reference", "--kind", "accelerator"], 2, "'accelerator' is not one of"),
        (["minmax", "--kind", "calibrator", "--kit", "nowhere:Kit"], 2, "written module:class"),
        (["minmax", "--kind", "calibrator", "--kit", "json:JSONDecoder"], 2, "no subclass of"),
    ],
)
def test_what_cannot_be_run(words: list[str], code: int, says: str) -> None:
    """An unknown name, kind or kit ends before anything runs, with the code for it."""
    done = run(*words)
    assert done.exit_code == code
    assert says in done.stderr
    assert not done.stdout


def test_a_layer_of_an_unknown_class_needs_a_kit(monkeypatch: pytest.MonkeyPatch) -> None:
    """How somebody's layer is made is not known here, and the error says how to tell."""
    monkeypatch.delitem(installed_kit.__globals__["_LAYERS"], "torch.nn.modules.linear.Linear")
    done = run("torch.nn.modules.linear.Linear", "--kind", "layer")
    assert done.exit_code == 2
    assert "--kit module:class" in done.stderr


def test_kinds_are_the_same_everywhere() -> None:
    """The command, the kits and the templates know the same kinds."""
    assert list(KINDS) == list(KITS) == list(TITLES)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("backend", "reference"), ("source", "drum"), ("format", "npy"),
        ("layer", "torch.nn.modules.conv.Conv2d"), ("gradient", "straight-through"),
        ("calibrator", "moving-average"),
    ],
)  # fmt: skip
def test_kits_of_what_is_installed(kind: str, name: str) -> None:
    """For every kind a kit is made by name, and its first clause holds."""
    made = installed_kit(kind, name)
    assert issubclass(made, KITS[kind])
    first = {
        "backend": "test_it_has_the_five_methods", "source": "test_its_record",
        "format": "test_its_record", "layer": "test_its_record",
        "gradient": "test_it_keeps_nothing", "calibrator": "test_nothing_seen",
    }[kind]  # fmt: skip
    getattr(made(), first)()


def _record(test: str, outcome: str, message: str | None = None) -> dict[str, Any]:
    return {"test": test, "clause": "C.", "outcome": outcome, "message": message}


def test_what_was_begun_and_not_ended_failed() -> None:
    """If the process dies, the test that ran is a failure with its exit status."""
    records = [_record("a", "begun"), _record("a", "passed"), _record("b", "begun")]
    found = {t["test"]: t for t in _tests(records, -11)}
    assert found["a"]["outcome"] == "passed"
    assert found["b"]["outcome"] == "failed"
    assert "exit status -11" in found["b"]["message"]


def test_a_teardown_that_fails_fails_its_test() -> None:
    """A test that passed and then could not clean up is a failure; a skip stays one."""
    records = [_record("a", "passed"), _record("a", "failed", "boom"), _record("b", "skipped", "x")]
    assert [t["outcome"] for t in _tests(records, 1)] == ["failed", "skipped"]


def test_what_a_person_reads() -> None:
    """Failures in the contract's words, reasons of skips with their number, and the sum."""
    tests = [
        _record("test_a[1]", "failed", "The contract says: x.\nThis plug-in: y"),
        _record("test_b", "skipped", "no table"),
        _record("test_c", "skipped", "no table"),
    ]
    record = {"kind": "backend", "name": "n", "passed": 0, "failed": 1, "skipped": 2}
    assert _lines({**record, "tests": tests}) == [
        "failed   test_a[1]: C.",
        "         The contract says: x.",
        "         This plug-in: y",
        "skipped  2 x no table",
        "backend n: 0 passed, 1 failed, 2 skipped",
    ]
