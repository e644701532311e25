"""``approxhub conformance``: runs the contract's tests on an installed plug-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click

from approxhub.cli.output import examples, json_option, print_json

KINDS = ("backend", "source", "format", "layer", "gradient", "calibrator")

_STDERR = 2
_MODULE = """\
from approxhub.testing.installed import installed_kit

TestInstalled = installed_kit({kind!r}, {name!r}, {kit!r})
"""


@click.command(
    epilog=examples(
        "conformance reference",
        "conformance evoapproxlib --kind source --json",
        "conformance torch.nn.modules.linear.Linear --kind layer",
    )
)
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(KINDS), default="backend", show_default=True, help="What it is."
)
@click.option(
    "--kit",
    metavar="MODULE:CLASS",
    help="A subclass of the kit that says more, such as how a layer to convert is made.",
)
@json_option
@click.pass_context
def command(ctx: click.Context, name: str, kind: str, kit: str | None, as_json: bool) -> None:
    """Run the contract's tests on an installed plug-in, by name.

    NAME is as `approxhub backends` and the other listings show it; of a layer converter the full
    name of the class that it takes. Exits with 1 if a clause does not hold. What was skipped is
    not proven, so the reasons are shown. Needs pytest.
    """
    _require(kind, name, kit)
    tests = _run(kind, name, kit)
    counts = Counter(t["outcome"] for t in tests)
    record = {
        "kind": kind,
        "name": name,
        "passed": counts["passed"],
        "failed": counts["failed"],
        "skipped": counts["skipped"],
        "tests": tests,
    }
    if as_json:
        print_json(record)
    else:
        for line in _lines(record):
            click.echo(line)
    ctx.exit(1 if counts["failed"] or not counts["passed"] else 0)


def _require(kind: str, name: str, kit: str | None) -> None:
    """Refuse what is not installed, does not work here, or cannot be tested, before anything runs.

    Raises
    ------
    ApproxHubError
        With the cause.
    """
    from approxhub.testing.installed import installed_kit

    installed_kit(kind, name, kit)
    if kind == "backend":
        from approxhub.backends import use_backend

        with use_backend(name):
            pass


def _run(kind: str, name: str, kit: str | None) -> list[dict[str, Any]]:
    """Run the kit in a process of its own, which may crash; pytest's dots go to stderr."""
    with tempfile.TemporaryDirectory(prefix="approxhub-conformance-") as folder:
        module, report = Path(folder, "test_conformance.py"), Path(folder, "report")
        module.write_text(_MODULE.format(kind=kind, name=name, kit=kit), encoding="utf-8")
        (Path(folder) / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--no-header", "--no-summary", "--tb=short",
             "-p", "no:cacheprovider", "-p", "approxhub.testing.report",
             f"--approxhub-report={report}", f"--rootdir={folder}",
             "-c", f"{folder}/pytest.ini", str(module)],
            env=_environment(), stdout=_STDERR, check=False,
        )  # fmt: skip
        lines = report.read_text(encoding="utf-8").splitlines() if report.exists() else []
    return _tests([json.loads(line) for line in lines], done.returncode)


def _environment() -> dict[str, str]:
    """The environment without what would change how the kit runs."""
    dropped = ("PYTEST_ADDOPTS", "APPROXHUB_BACKEND")
    kept = {k: v for k, v in os.environ.items() if k not in dropped}
    # What is on the path here is so there, too: python -m puts the current folder first.
    path = os.pathsep.join(p for p in sys.path if p)
    return {**kept, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def _tests(records: list[dict[str, Any]], code: int) -> list[dict[str, Any]]:
    """What became of each test; one that was begun and did not end took the process with it."""
    ended: dict[str, dict[str, Any]] = {}
    for record in records:
        before = ended.get(record["test"])
        if before is None or before["outcome"] in ("begun", "passed"):  # a teardown may yet fail
            ended[record["test"]] = record
    if code not in (0, 1):
        open_ = [r for r in ended.values() if r["outcome"] == "begun"]
        last = open_[-1] if open_ else {"test": "", "clause": ""}
        message = f"the process ended here with exit status {code}"
        ended[last["test"]] = {**last, "outcome": "failed", "message": message}
    return [r for r in ended.values() if r["outcome"] != "begun"]


def _lines(record: dict[str, Any]) -> list[str]:
    """What a person is told: the failures in the contract's words, and why tests were skipped."""
    lines = []
    for test in record["tests"]:
        if test["outcome"] == "failed":
            lines += [f"failed   {test['test']}: {test.get('clause', '')}".rstrip(": ")]
            lines += [f"         {line}" for line in (test["message"] or "").strip().splitlines()]
    reasons = Counter(t["message"] for t in record["tests"] if t["outcome"] == "skipped")
    lines += [f"skipped  {n} x {reason}" for reason, n in sorted(reasons.items())]
    lines.append(
        f"{record['kind']} {record['name']}: {record['passed']} passed, "
        f"{record['failed']} failed, {record['skipped']} skipped"
    )
    return lines
