"""The project's own promises: version, README, licence, typing, pins."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path

import pytest
from torch import nn

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


MODULES = sorted(
    [*(ROOT / "approxhub").rglob("*.py"), *(ROOT / "approxhub_cuda" / "src").rglob("*.py")]
)
# What a class of layers or quantisers asks of another of its kind that it has just made.
BETWEEN_RELATIVES = {"_adopt", "_adopt_parameters", "_seen", "_settle"}


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _defined(tree: ast.AST) -> Iterator[str]:
    """Private functions, classes, variables and attributes that a module makes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names = [node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names = [node.attr]
        else:
            continue
        yield from filter(_private, names)


def _imported(tree: ast.AST) -> Iterator[str]:
    """Private names that a module imports from ApproxHub."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            path = (node.module or "").split(".")
            if node.level or path[0] in ("approxhub", "approxhub_cuda"):
                yield from filter(_private, [*path, *(a.name for a in node.names)])


def _asked(tree: ast.AST) -> Iterator[str]:
    """Private names that a module takes of objects other than its own."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and _private(node.attr)
            and ast.unparse(node.value) not in ("self", "cls", "super()")
        ):
            yield node.attr


def test_private_names_stay_in_their_modules() -> None:
    """No module imports a private name of another, nor asks its objects for one."""
    trees = {m: ast.parse(m.read_text(encoding="utf-8")) for m in MODULES}
    made = {module: set(_defined(tree)) for module, tree in trees.items()}
    # What torch and Python call so is another matter.
    ours = set().union(*made.values()) - BETWEEN_RELATIVES - set(vars(nn.Module()))
    found = {
        f"{module.relative_to(ROOT)}: {name}"
        for module, tree in trees.items()
        for name in (*_imported(tree), *(n for n in _asked(tree) if n in ours - made[module]))
    }
    assert not found
