"""The scripts beside the documentation, as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """``script("pictures/draw.py")``: run a script of docs as a module."""

    def run(path: str) -> ModuleType:
        file = DOCS / path
        monkeypatch.setattr(sys, "path", [str(file.parent), *sys.path])
        spec = importlib.util.spec_from_file_location(f"docs_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return run
