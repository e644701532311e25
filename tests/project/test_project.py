"""The project's own promises: version, README, licence, typing, pins."""

from __future__ import annotations

import importlib
import re
from importlib import metadata, resources
from pathlib import Path

import pytest

import approxhub

ROOT = Path(__file__).parents[2]


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _pyproject_value(key: str) -> str:
    match = re.search(rf'^{re.escape(key)} = "(.+)"$', _read("pyproject.toml"), re.MULTILINE)
    assert match, f"pyproject.toml has no {key}"
    return match[1]


def test_versions_agree() -> None:
    """The package, its metadata and pyproject.toml name one version."""
    assert approxhub.__version__ == metadata.version("approxhub") == _pyproject_value("version")


@pytest.mark.parametrize("package", ["approxhub", "multipliers_index"])
def test_is_installed(package: str) -> None:
    """Both packages of the wheel can be found where approxhub is installed."""
    assert resources.files(package).is_dir()


@pytest.mark.parametrize(
    "package",
    [
        "",
        ".backends",
        ".experiments",
        ".families",
        ".nn",
        ".plugins",
        ".quantization",
        ".registry",
        ".testing",
    ],
)
def test_public_names_exist(package: str) -> None:
    """Every name in `__all__` can be had, the lazily loaded ones too, and `dir` lists it."""
    module = importlib.import_module(f"approxhub{package}")
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)


def test_types_are_shipped() -> None:
    """The installed package tells type checkers to read its annotations."""
    assert resources.files("approxhub").joinpath("py.typed").is_file()


def test_readme_opens_with_two_commands() -> None:
    """The README's first two shell blocks are one line each: the demo, then the tests."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", _read("README.md"), re.MULTILINE | re.DOTALL)
    demo, test = blocks[:2]
    assert demo.count("\n") == test.count("\n") == 1
    assert demo.rstrip().endswith("approxhub demo")
    assert test.rstrip().endswith("pytest")
    for command, extra in ((demo, "demo"), (test, "test")):
        assert "python3 -m venv" in command
        assert f'-c constraints.txt ".[{extra}]"' in command


def test_readme_shows_an_approximate_multiplier_beside_the_exact_one() -> None:
    """mul8u_1JFF is the first example; it is exact, which is said, and another follows."""
    readme = _read("README.md")
    fetched = re.findall(r"approxhub fetch (\S+)", readme)
    assert fetched[0] == "mul8u_1JFF"
    assert set(fetched) - {"mul8u_1JFF"}
    assert "`mul8u_1JFF` is the *exact*" in readme


def test_readme_links_lead_somewhere() -> None:
    """Every relative link of README.md and CONTRIBUTING.md names a file of the checkout."""
    for page in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)", _read(page)):
            if "://" not in target:
                assert (ROOT / target).is_file(), f"{page}: {target}"


def test_licence_is_mit() -> None:
    """LICENSE holds the MIT licence, and the metadata says so."""
    assert _read("LICENSE").startswith("MIT License")
    assert "The ApproxHub contributors" in _read("LICENSE")
    assert metadata.metadata("approxhub").get("License-Expression") == "MIT"


def test_torch_is_pinned_and_allowed() -> None:
    """The constraints pin one release of torch that the requirements accept."""
    pins = [line for line in _read("constraints.txt").splitlines() if not line.startswith("#")]
    assert pins == ["torch==2.13.0"]
    assert "torch>=2.8" in (metadata.requires("approxhub") or ())


def test_ci_is_executable() -> None:
    """`.ci/run` can be run as it stands."""
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_changelog_fragments_are_named_for_towncrier() -> None:
    """Every fragment has a name that towncrier reads, and says something in one sentence."""
    fragments = [p for p in (ROOT / "changelog.d").iterdir() if not p.name.startswith(".")]
    for fragment in fragments:
        assert re.fullmatch(r"(\d+|\+[a-z-]+)\.(added|changed|fixed)\.md", fragment.name)
        assert fragment.read_text(encoding="utf-8").strip().endswith(".")
