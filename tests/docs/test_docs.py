"""The documentation holds: its examples run, its ids exist, and it leaves nothing out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import approxhub as ah
from approxhub.cli import cli
from approxhub.plugins import hookspecs

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [p for p in PAGES if "_build" not in p.parts]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _blocks(page: Path, *languages: str) -> list[str]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for language, text in found if language in languages]


def _command_lines() -> Iterator[tuple[str, list[str]]]:
    """Give every ``approxhub`` command line of the documentation, with its page."""
    for page in PAGES:
        for block in _blocks(page, "sh", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.removeprefix("$ ").split("&&"):
                    words = shlex.split(part, comments=True)
                    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                        del words[0]
                    if words and Path(words[0]).name == "approxhub":
                        yield _name(page), words[1:]


def _commands() -> list[str]:
    return cli.list_commands(click.Context(cli))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, an empty cache, and no network."""
    monkeypatch.setenv("APPROXHUB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("APPROXHUB_OFFLINE", "1")
    monkeypatch.delenv("APPROXHUB_MIRROR", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("page", [p for p in PAGES if _blocks(p, "python")], ids=_name)
def test_python_examples_run(page: Path) -> None:
    """The Python blocks of a page run in their order, from an empty cache, without a network."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for i, block in enumerate(_blocks(page, "python"), 1):
        exec(compile(block, f"{_name(page)}, block {i}", "exec"), namespace)


@pytest.mark.parametrize(
    ("page", "words"), [pytest.param(p, w, id=f"{p}: {shlex.join(w)}") for p, w in _command_lines()]
)
def test_command_lines_parse(page: str, words: list[str]) -> None:
    """Every command line shown names a command that there is, with options that it takes."""
    name, command, rest = cli.resolve_command(click.Context(cli), list(words))
    assert command is not None, f"{page}: {name}"
    command.make_context(name, rest)


def test_every_command_is_documented() -> None:
    """The command-line reference has a row for every command, and no row for another."""
    text = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == _commands()
    assert re.findall(r":prog: approxhub ([a-z-]+)$", text, re.MULTILINE) == _commands()


def test_every_hook_is_documented() -> None:
    """The hook reference has a heading for every hook, and none for another."""
    text = (ROOT / "docs" / "reference" / "hooks.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## `(approxhub_\w+)\(", text, re.MULTILINE)
    hooks = [name for name in vars(hookspecs) if name.startswith("approxhub_")]
    assert sorted(headings) == sorted(hooks)


def test_every_environment_variable_is_documented() -> None:
    """The reference has a row for every variable that the code reads, and none for another."""
    text = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(APPROXHUB_\w+)` \|", text, re.MULTILINE)
    package = Path(str(ah.__file__)).parent
    read = {
        name
        for module in package.rglob("*.py")
        for name in re.findall(r'"(APPROXHUB_[A-Z_]+)"', module.read_text(encoding="utf-8"))
    }
    assert sorted(rows) == sorted(read)


def test_ids_exist() -> None:
    """Every multiplier of EvoApproxLib that a page names is in the index."""
    from approxhub.registry import entries

    known = {e.id for e in entries()}
    names = {e.name for e in entries()}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        full = re.findall(r"evoapproxlib:[\w.]+/\w+(?![\w*])", text)
        bare = re.findall(r"\bmul\d+[a-z]+_\w+(?![\w*])", text)
        assert set(full) <= known, _name(page)
        assert set(bare) <= names, _name(page)


def test_family_ids_exist() -> None:
    """Every id of a family that a page names makes a multiplier of that id."""
    from approxhub.families import family_sources

    families = "|".join(source.name for source in family_sources())
    ids = {
        id
        for page in PAGES
        for id in re.findall(
            rf"\b(?:{families}):\d+[us](?:x\d+[us])?(?:/[\w=,]+)?",
            page.read_text(encoding="utf-8"),
        )
    }
    assert {id.partition(":")[0] for id in ids} == set(families.split("|")), "one is undocumented"
    for id in sorted(ids):
        assert ah.load(id).id == id


def test_links_lead_somewhere() -> None:
    """Every relative link between pages names a file of the checkout."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).is_file(), f"{_name(page)}: {target}"
