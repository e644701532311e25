"""Benchmarks of the CPU engine: suites of races whose every entrant is checked before it is timed.

``approxhub bench`` runs them; :func:`run` does so from Python. Public names are loaded on first
use: what only shows a report, or a command's help, needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from approxhub.bench.names import SUITES
from approxhub.bench.report import SCHEMA_VERSION, Report, Row

if TYPE_CHECKING:
    from approxhub.bench.context import Settings as Settings
    from approxhub.bench.suites import run as run

_HOMES = {"Settings": "approxhub.bench.context", "run": "approxhub.bench.suites"}

__all__ = ["SCHEMA_VERSION", "SUITES", "Report", "Row", "Settings", "run"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'approxhub.bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
