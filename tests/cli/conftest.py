"""Running the command line in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from approxhub.cli import cli


@dataclass
class Ran:
    """What a command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What stood on stdout, which must be JSON and nothing else."""
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run ``approxhub`` with some arguments."""

    def call(*arguments: str) -> Ran:
        with pytest.raises(SystemExit) as caught:
            cli.main(list(arguments), prog_name="approxhub")
        captured = capsys.readouterr()
        code = caught.value.code
        return Ran(code if isinstance(code, int) else int(bool(code)), captured.out, captured.err)

    return call
