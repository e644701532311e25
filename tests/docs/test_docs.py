"""The documentation holds: its examples run, its ids exist, and it leaves nothing out."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

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


# These take minutes, or a file that the page does not write; their own tests and .ci/run run them.
LONG = ("demo", "bench", "conformance", "evaluate", "sweep")


def _run_line(line: str) -> None:
    """Run one command line of ApproxHub's, in this process, with the files that it names."""
    words = shlex.split(line.replace("https://example.org/mylab/", "mylab"), comments=True)
    words, target = _cut(words, ">")
    words, origin = _cut(words, "<")
    given = Path(origin).read_text(encoding="utf-8") if origin else None
    done = CliRunner().invoke(cli, words[1:], input=given)
    # What has to be downloaded cannot be had here; that it is asked for rightly is seen.
    downloads = re.search(r"\bmul\d", line + (given or ""))
    assert done.exit_code in ((0, 3, 4) if downloads else (0,)), f"{line}\n{done.output}"
    assert done.exception is None or isinstance(done.exception, SystemExit), line
    if target:
        Path(target).write_text(done.stdout, encoding="utf-8")


def _cut(words: list[str], mark: str) -> tuple[list[str], str]:
    """Words before a redirection, and the file behind it."""
    at = words.index(mark) if mark in words else len(words)
    return words[:at], "".join(words[at + 1 :])


def _prepare(page: Path) -> None:
    """Make the files that a page takes to be there: tables to publish or to import."""
    if page.name == "publish-an-index.md":
        mylab = Path("mylab")
        mylab.mkdir()
        (mylab / "metadata.json").write_text(_blocks(page, "json")[0], encoding="utf-8")
        ah.write_table(ah.exact(8), mylab / "mymul.npy")
        ah.write_table(ah.exact(8, signed=True), mylab / "signed.csv", index_order="offset")
    elif page.name == "README.md":
        ah.write_table(ah.load("drum:8u/k=3"), Path("table.csv"))


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if any(n == _name(p) and w[0] not in LONG for n, w in _command_lines())],
    ids=_name,
)
def test_command_lines_run(page: Path) -> None:
    """A page's Python and its command lines run in the order of the page, without a network."""
    _prepare(page)
    namespace: dict[str, object] = {"__name__": "__main__"}
    ran = 0
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            if page.name == "publish-an-index.md":
                Path("mylab").rename("mylab-by-hand")
            exec(compile(text, _name(page), "exec"), namespace)
        elif language in ("sh", "console"):
            lines = [part.strip() for li in text.splitlines() for part in li.split("&&")]
            for line in (li.removeprefix("$ ") for li in lines):
                if line.startswith("approxhub ") and line.split()[1] not in LONG:
                    _run_line(line)
                    ran += 1
    wanted = [w for p, w in _command_lines() if p == _name(page) and w[0] not in LONG]
    assert bool(ran) == bool(wanted)


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
@pytest.mark.filterwarnings("ignore")  # torch.compile warns about torch's own code
@pytest.mark.parametrize("page", [p for p in PAGES if _blocks(p, "py")], ids=_name)
def test_long_python_examples_run(page: Path) -> None:
    """Blocks marked ``py`` take long, and run here.

    Those for several processes are compiled: `tests/machinery` does what they say.
    """
    if "approxhub[interop]" in page.read_text(encoding="utf-8"):
        for tool in ("brevitas", "onnx", "onnxruntime", "torchao"):
            pytest.importorskip(tool)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for text in _blocks(page, "python", "py"):
        code = compile(text, _name(page), "exec")
        if "distributed" not in text:
            exec(code, namespace)


def test_the_tutorial_shows_rows_of_the_demonstration() -> None:
    """The rows in the tutorial are rows of the table in the README, which says where they ran."""
    shown = [_blocks(ROOT / p, "text")[0] for p in ("docs/tutorial/index.md", "README.md")]
    some, all_of_them = ([row.split() for row in text.splitlines()] for text in shown)
    assert len(some) > 5
    assert all(row in all_of_them for row in some)


def test_data_blocks_are_well_formed() -> None:
    """Blocks of JSON and TOML on the pages can be read."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    texts = [text for page in PAGES for text in _blocks(page, "json")]
    assert all(json.loads(text) for text in texts)
    more = [text for page in PAGES for text in _blocks(page, "toml")]
    assert all(tomllib.loads(text) for text in more)
    assert texts
    assert more


def test_every_language_is_known() -> None:
    """Each block is of a language that some test here reads, or is shown for its text alone."""
    known = {"python", "py", "sh", "console", "json", "toml", "text"}
    for page in PAGES:
        assert {
            language for language, _ in BLOCK.findall(page.read_text(encoding="utf-8"))
        } <= known


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
    codes = text.partition("## Exit codes")[2].partition("## ")[0]
    assert re.findall(r"^\| ([a-z-]+) \|", codes, re.MULTILINE)[1:] == _commands()


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
