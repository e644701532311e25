"""A pytest plug-in that writes what becomes of each test into a file, one JSON object a line.

For ``approxhub conformance``, which reads it: what was begun is there even if the process dies.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

import pytest

__all__: list[str] = []

_OPTION = "--approxhub-report"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the file."""
    parser.addoption(_OPTION, type=Path, required=True, help="Where to write the report.")


def pytest_configure(config: pytest.Config) -> None:
    """Open the file."""
    path = config.getoption(_OPTION)
    config.pluginmanager.register(_Report(path.open("w", encoding="utf-8")))


class _Report:
    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._clauses: dict[str, str] = {}

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Write what made the whole kit fail."""
        if report.failed:
            self._write({"test": "", "outcome": "failed", "message": report.longreprtext})

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Note what a test states, and that it has begun."""
        text = getattr(getattr(item, "function", None), "__doc__", None) or ""
        self._clauses[item.nodeid] = text.strip().partition("\n")[0]
        self._write({"test": item.name, "clause": self._clauses[item.nodeid], "outcome": "begun"})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write how a test ended; a fixture that fails fails the test."""
        if report.when != "call" and report.passed:
            return
        self._write(
            {
                "test": report.nodeid.rpartition("::")[2],
                "clause": self._clauses.get(report.nodeid, ""),
                "outcome": report.outcome,
                "message": _message(report),
            }
        )

    def pytest_unconfigure(self) -> None:
        """Close the file."""
        self._file.close()


def _message(report: pytest.TestReport) -> str | None:
    if report.passed:
        return None
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return report.longreprtext
