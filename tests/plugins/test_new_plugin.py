"""``approxhub new-plugin``: what it writes, and what it refuses."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from approxhub.cli import cli
from approxhub.errors import InputError, StoreError
from approxhub.plugins.template import TITLES, write_package


def run(*words: str) -> Result:
    """The command, in this process."""
    return CliRunner().invoke(cli, ["new-plugin", *words])


@pytest.mark.parametrize("kind", TITLES)
def test_a_complete_package(kind: str, tmp_path: Path) -> None:
    """Every kind has metadata, a module, tests, a README, a licence and a workflow, all filled."""
    done = run(
        f"approxhub-my-{kind}", "--kind", kind, "--output", str(tmp_path), "--licence", "MIT",
        "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    module = f"approxhub_my_{kind}"
    report = json.loads(done.stdout)
    assert report["files"] == sorted(
        [
            ".github/workflows/test.yml", "LICENSE", "README.md", "pyproject.toml",
            f"src/{module}/__init__.py", f"src/{module}/{kind}.py", f"tests/test_{module}.py",
        ]
    )  # fmt: skip
    folder = tmp_path / f"approxhub-my-{kind}"
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]
    for file in report["files"]:
        text = (folder / file).read_text()
        assert text.endswith("\n")
        assert not re.search(r"\$\{\w+\}", text), f"{file} has an empty place"
        if file.endswith(".py"):
            tree = ast.parse(text)
            assert ast.get_docstring(tree)
            assert max(map(len, text.splitlines())) <= 100
    project = (folder / "pyproject.toml").read_text()
    assert f'[project.entry-points.approxhub]\nmy-{kind} = "{module}"' in project
    assert 'license = "MIT"' in project
    assert "MIT" in (folder / "LICENSE").read_text()
    assert "Conformance" in (folder / f"tests/test_{module}.py").read_text()
    assert "${{ matrix.python }}" in (folder / ".github/workflows/test.yml").read_text()


def test_the_module_that_is_found_imports_nothing_heavy(tmp_path: Path) -> None:
    """What the entry point names imports ApproxHub's records only, until something is loaded."""
    for kind in TITLES:
        folder = write_package(f"my-{kind}", kind, tmp_path)
        tree = ast.parse((folder / f"src/my_{kind}/__init__.py").read_text())
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert getattr(node, "module", "") in (
                    "__future__", "approxhub", "approxhub.plugins", f"my_{kind}",
                )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("My", "backend", "small letters"),
        ("../evil", "backend", "small letters"),
        ("a--b", "backend", "small letters"),
        ("a_b", "backend", "small letters"),
        ("", "backend", "small letters"),
        ("class", "backend", "a module 'class' is there already"),
        ("json", "format", "a module 'json' is there already"),
        ("approxhub", "backend", "a module 'approxhub' is there already"),
        ("reference", "backend", "a backend called 'reference' is there already"),
        ("approxhub-drum", "source", "a source called 'drum' is there already"),
        ("approxhub-npy", "format", "a format called 'npy' is there already"),
    ],
)
def test_bad_names(name: str, kind: str, says: str, tmp_path: Path) -> None:
    """A name that is malformed or taken is refused, and nothing is written."""
    done = run(name, "--kind", kind, "--output", str(tmp_path))
    assert done.exit_code == 2
    assert says in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_bad_licence(tmp_path: Path) -> None:
    """A licence that could break out of its line is refused."""
    with pytest.raises(InputError, match="SPDX"):
        write_package("mine", "backend", tmp_path, licence='MIT"\nx = "y')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_what_is_there_stays(what: str, tmp_path: Path) -> None:
    """An existing folder, file or dangling link of the name is not touched."""
    place = tmp_path / "mine"
    if what == "folder":
        place.mkdir()
    elif what == "file":
        place.write_text("precious")
    else:
        place.symlink_to("nowhere")
    done = run("mine", "--kind", "backend", "--output", str(tmp_path))
    assert done.exit_code == 2
    assert "is there already" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert what != "file" or place.read_text() == "precious"


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file cannot be written, nothing is left, and the error says where."""
    write, count = Path.write_text, iter(range(100))

    def full(path: Path, *args: object, **kwargs: object) -> int:
        if next(count) == 3:
            raise OSError(28, "No space left on device")
        return write(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_package("mine", "source", tmp_path)
    assert not list(tmp_path.iterdir())
