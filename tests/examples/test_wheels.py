"""Generated plug-ins of every kind and the examples: built, installed, tested, used by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from approxhub.plugins.template import TITLES, write_package

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"

pytestmark = pytest.mark.slow

USE = """\
    import torch
    import approxhub as ah
    from approxhub_my_layer.layer import Decoder
    from approxhub_systolic import SystolicArray, measure

    assert ah.load("my-source:or1")(2, 3) == 7
    ah.write_table("my-source:half", "half.my-format")
    m = ah.read_table("half.my-format", operands="8u")
    assert m == ah.load("my-source:half")
    net = torch.nn.Sequential(torch.nn.Linear(9, 6), Decoder(6, 9))
    net = ah.approximate(net, m, gradient="my-gradient", calibrator="my-calibrator")
    x = torch.randn(4, 9)
    net(x).sum().backward()
    net.eval()
    with torch.no_grad():
        found = []
        for name in ("reference", "my-backend", "systolic"):
            with ah.use_backend(name), measure(SystolicArray()) as count:
                found.append(net(x))
        assert all(torch.equal(y, found[0]) for y in found)
    assert count.products == 2 * 4 * 9 * 6
    print("used")
    """


class Installed:
    """An environment of its own: the plug-ins' wheels, beside what these tests run with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, folder / "site"
        self.work = folder / "work"
        self.work.mkdir()

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python there, in an empty folder."""
        path = os.pathsep.join(filter(None, [str(self.site), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, *command], cwd=self.work, text=True, capture_output=True, check=False,
            timeout=600,
            env={**os.environ, "PYTHONPATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                 **environment},
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def approxhub(self, *words: str, **environment: str) -> str:
        """Output of a command of ApproxHub's."""
        return self.run("-m", "approxhub.cli", *words, **environment).stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Wheels of a generated plug-in of each kind and of the examples, installed."""
    found = Installed(tmp_path_factory.mktemp("wheels"))
    projects = [
        write_package(f"approxhub-my-{kind}", kind, found.folder, licence="MIT") for kind in TITLES
    ]
    for example in sorted(EXAMPLES.iterdir()):
        # A copy: a build leaves nothing behind in the checkout.
        projects.append(Path(shutil.copytree(example, found.folder / example.name)))
    dist = found.folder / "dist"
    found.run(
        "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
        "--wheel-dir", str(dist), *map(str, projects),
    )  # fmt: skip
    wheels = sorted(map(str, dist.glob("*.whl")))
    assert len(wheels) == len(projects)
    found.run(
        "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(found.site),
        *wheels,
    )  # fmt: skip
    return found


def test_all_take_part(installed: Installed) -> None:
    """Each is found through its entry point, with its version, and nothing is wrong."""
    rows = {row["name"]: row for row in json.loads(installed.approxhub("plugins", "--json"))}
    wanted = {*(f"my-{kind}" for kind in TITLES), "systolic", "folder"}
    assert wanted <= set(rows)
    for name in wanted:
        assert (rows[name]["state"], rows[name]["error"]) == ("ok", None)
        assert rows[name]["version"] == "0.1.0"


def test_their_own_tests_pass(installed: Installed) -> None:
    """The tests that each brings, which subclass the kits, pass on what is installed."""
    folders = sorted(str(p) for p in installed.folder.glob("approxhub-*/tests"))
    assert len(folders) == len(TITLES) + 2
    done = installed.run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib",
        "-W", "error", "--rootdir", str(installed.folder), *folders,
    )  # fmt: skip
    assert " passed" in done.stdout


def test_used_by_name_from_python(installed: Installed) -> None:
    """Multipliers, tables, layers, gradients, calibrators and backends are used by their names."""
    assert installed.run("-c", textwrap.dedent(USE)).stdout == "used\n"


def test_used_by_name_from_the_command_line(installed: Installed, tmp_path: Path) -> None:
    """The command line lists, shows, converts and tests what they bring."""
    info = json.loads(installed.approxhub("info", "my-source:or1", "--json"))
    assert info["metrics"]["ep_pct"] > 0
    installed.approxhub("export", "my-source:or1", "out.my-format", "--force")
    written = (installed.work / "out.my-format").read_bytes()
    assert written.startswith(b"my-format table 256 256\n")
    tables = tmp_path / "tables"
    tables.mkdir()
    shutil.copy(installed.work / "out.my-format", tables)
    entry = {"file": "out.my-format", "operands": "8u"}
    (tables / "tables.json").write_text(json.dumps({"ours": entry}))
    listed = installed.approxhub("list", "folder:*", "--ids", APPROXHUB_FOLDER=str(tables))
    assert listed.split() == ["folder:ours"]
    backends = {row["name"]: row for row in json.loads(installed.approxhub("backends", "--json"))}
    assert backends["systolic"]["available"]
    assert backends["my-backend"]["available"]
    report = json.loads(
        installed.approxhub("conformance", "my-source", "--kind", "source", "--json")
    )
    assert report["failed"] == 0
    assert report["passed"] >= 8
