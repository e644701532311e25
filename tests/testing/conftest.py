"""Runs a kit on a plug-in inside the test, and says which clauses did not hold."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Failures = dict[str, str]
RunKit = Callable[..., Failures]


def clauses(kit: type) -> list[str]:
    """Names of a kit's tests."""
    return sorted(name for name in dir(kit) if name.startswith("test_"))


def _cases(function: Any) -> Iterator[dict[str, Any]]:
    """Arguments of a parametrised test, one combination after the other."""
    marks = [m for m in getattr(function, "pytestmark", ()) if m.name == "parametrize"]
    each = [[(m.args[0], value) for value in m.args[1]] for m in marks]
    for chosen in itertools.product(*each):
        yield dict(chosen)


@pytest.fixture
def run_kit(tmp_path: Path) -> RunKit:
    """``run_kit(kit, *names)``: clauses (all, or those named) that fail, with the words."""
    numbers = itertools.count()

    def run(kit: type, *names: str) -> Failures:
        failed: Failures = {}
        for name in names or clauses(kit):
            function = getattr(kit, name)
            wanted = inspect.signature(function).parameters
            for case in _cases(function):
                with pytest.MonkeyPatch.context() as patch:
                    if "tmp_path" in wanted:
                        case["tmp_path"] = tmp_path / str(next(numbers))
                        case["tmp_path"].mkdir()
                    if "monkeypatch" in wanted:
                        case["monkeypatch"] = patch
                    try:
                        function(kit(), **case)
                    except pytest.skip.Exception:
                        continue
                    except pytest.fail.Exception as error:
                        failed.setdefault(name, str(error))
                    except Exception as error:
                        failed.setdefault(name, repr(error))
        return failed

    return run
