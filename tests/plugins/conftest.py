"""Distributions as pip leaves them, in a folder of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from approxhub.plugins import PluginStatus, host

HEAD = """\
from approxhub import hookimpl
from approxhub.plugins import BackendInfo


def load():
    from approxhub.backends import ReferenceBackend

    return ReferenceBackend()

"""


class Site:
    """A folder of installed distributions, on sys.path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self,
        name: str,
        text: str = "",
        *,
        value: str | None = None,
        module: str | None = None,
        entry_points: str | None = None,
        metadata: bool = True,
        project: str | None = None,
    ) -> None:
        """Install a plug-in `name` whose module is `text` behind a few imports."""
        module = module or f"plugin_{name}"
        (self.folder / f"{module}.py").write_text(HEAD + textwrap.dedent(text))
        info = self.folder / f"{project or name}-1.5.dist-info"
        info.mkdir(exist_ok=True)
        if metadata:
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {project or name}\nVersion: 1.5\n"
            )
        lines = entry_points or f"[approxhub]\n{name} = {value or module}\n"
        (info / "entry_points.txt").write_text(lines)

    def rows(self) -> dict[str, PluginStatus]:
        """Rows of the plug-ins that were found."""
        return {row.name: row for row in host().status()}

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python where the distributions are installed."""
        return subprocess.run(
            [sys.executable, *arguments],
            env={**self.environment(), **environment},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        """The environment of a process that sees the distributions."""
        path = os.pathsep.join(filter(None, [str(self.folder), os.environ.get("PYTHONPATH")]))
        return {**os.environ, "PYTHONPATH": path}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A folder of distributions of the test's own; their modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    yield Site(tmp_path)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
