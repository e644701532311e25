"""The command line: what it prints, where, and how it exits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import approxhub
from approxhub.cli import COMMANDS, LazyGroup, cli
from approxhub.plugins import BackendInfo, hookimpl, host, reset_host
from approxhub.registry import Store, load

INFO_KEYS = {
    *("id", "table_sha256", "a", "b", "metrics", "metrics_method", "hardware", "rank"),
    *("error_rank", "printed", "licence", "citation", "cached", "outdated"),
}
LAB_HARDWARE = {
    **{"power_mw": 0.25, "area_um2": 10.0, "delay_ns": 1.0, "technology": "LAB1", "luts": None}
}
METRICS_KEYS = {"mae", "wce", "mse", "mre_pct", "ep_pct", "bias"}


def register(name: str, **hooks: Any) -> None:
    """Register a plug-in made of functions."""
    host().register(type(name, (), {k: staticmethod(hookimpl(f)) for k, f in hooks.items()}), name)


# --- the group ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "--json"],
        ["list", "--cached", "mul8s_*"],
        ["list", "--max-mae", "1", "--technology", "PDK45", "--pareto", "power,mae"],
        ["search", "drum", "--sort", "mae"],
        ["cache", "du"],
        ["cite", "drum:8u/k=4"],
        ["completion", "bash"],
        ["-h"],
        ["--version"],
    ],
)
def test_listing_imports_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    """Commands that list import neither torch nor h5py, flint, requests or pycparser."""
    code = (
        "import sys\n"
        "from approxhub.cli import cli\n"
        f"cli.main({words!r}, standalone_mode=False)\n"
        "heavy = {'torch', 'h5py', 'flint', 'requests', 'pycparser', 'rich', 'filelock'}\n"
        "heavy.add('matplotlib')\n"
        "print('heavy:', sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_command(run: Any, flag: str) -> None:
    """Help lists all commands and the exit codes."""
    ran = run(flag)
    assert ran.code == 0
    assert all(f"  {name} " in ran.out for name in COMMANDS)
    assert "Exit codes" in ran.out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_command_help(run: Any, name: str) -> None:
    """Every command has help, and the group says the same of it in short."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert (command.help or "").splitlines()[0] == COMMANDS[name]
    assert run(name, "--help").code == 0


def test_version(run: Any) -> None:
    """The version is the package's."""
    assert run("--version").out == f"approxhub, version {approxhub.__version__}\n"


def test_module_runs(tmp_path: Path) -> None:
    """``python -m approxhub.cli`` is the command line too."""
    done = subprocess.run(
        [sys.executable, "-m", "approxhub.cli", "nope"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "No such command 'nope'" in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["list"], 0),
        (["info", "mul8u_NOPE"], 3),
        (["info", "mul4u_TWO"], 3),
        (["info", "not an id"], 2),
        (["info"], 2),
        (["nope"], 2),
        (["list", "--nope"], 2),
        (["list", "--format", "8x"], 2),
        (["fetch"], 2),
        (["fetch", "mul4u_CUT"], 0),
        (["fetch", "mul4u_LIE"], 1),
        (["fetch", "mul4u_GOTO"], 1),
        (["fetch", "mul4u_TWO"], 3),
        (["fetch", "--offline", "mul4u_CUT"], 4),
        (["verify"], 0),
        (["verify", "mul4u_CUT"], 3),
        (["verify", "local:mine"], 3),
        (["verify", "exact:8s"], 0),
        (["info", "local:mine"], 3),
        (["list", "--source", "nobody"], 3),
        (["verify", "--all", "mul4u_CUT"], 2),
        (["plugins"], 0),
        (["backends"], 0),
    ],
)
def test_exit_codes(lab: Any, run: Any, words: list[str], code: int) -> None:
    """0 done, 1 failed verification, 2 usage, 3 not found, 4 network; the cause on stderr."""
    ran = run(*words)
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err
    if code:
        assert "rror: " in ran.err
    else:
        assert ran.err == ""


# --- list -----------------------------------------------------------------------------------


def ids(ran: Any) -> list[str]:
    """Ids of a listing in JSON."""
    assert ran.code == 0, ran.err
    return [e["id"] for e in ran.json]


def test_list_filters(lab: Any, run: Any) -> None:
    """Filters narrow the listing, and together they all hold."""
    assert ids(run("list", "mul4u_T*", "--json")) == ["lab:r1/mul4u_TWO", "lab:r2/mul4u_TWO"]
    assert ids(run("list", "lab:r2/*SAME", "--json")) == ["lab:r2/mul4u_SAME"]
    assert ids(run("list", "--source", "lab", "--format", "16u", "--json")) == [
        "lab:r1/mul16u_WIDE"
    ]
    assert ids(run("list", "--source", "lab", "--signed", "--json")) == ["lab:r1/mul4s_NEG"]
    assert "lab:r1/mul4s_NEG" not in ids(run("list", "--source", "lab", "--unsigned", "--json"))
    assert len(ids(run("list", "--source", "lab", "--release", "r2", "--json"))) == 3


def test_list_of_nothing(lab: Any, run: Any) -> None:
    """No multiplier that fits is said on stderr; a source that nobody brought is refused."""
    for command in ("list", "search"):
        for words, out in (([], ""), (["--ids"], ""), (["--json"], "[]\n")):
            ran = run(command, "no_such_name*", *words)
            assert (ran.code, ran.out) == (0, out)
            assert ran.err.startswith("no multiplier fits\nwithout ")
    ran = run("list", "--source", "nobody")
    assert ran.code == 3
    assert "no source is called 'nobody'; known are " in ran.err


def test_list_cached(lab: Any, run: Any) -> None:
    """``--cached`` shows what is in the cache."""
    assert ids(run("list", "--cached", "--json")) == []
    load("mul4u_CUT")
    assert ids(run("list", "--cached", "--json")) == ["lab:r1/mul4u_CUT"]
    line = next(x for x in run("list").out.splitlines() if "mul4u_CUT" in x)
    assert line.endswith("yes")


def test_list_json(lab: Any, run: Any) -> None:
    """An entry in JSON has its operands, hashes, figures and whether it is cached."""
    (entry,) = run("list", "mul4s_NEG", "--json").json
    assert entry == {
        "id": "lab:r1/mul4s_NEG",
        "table_sha256": load("mul4s_NEG").table_sha256,
        "a": {"bits": 4, "signed": True},
        "b": {"bits": 4, "signed": True},
        "printed": {},
        "figures": {
            **dict.fromkeys(("mae_pct", "wce_pct", "mre_pct", "ep_pct", "rank", "error_rank")),
            **{"power_mw": 0.25, "area_um2": 10.0, "delay_ns": 1.0, "luts": None, "bits": 8},
        },
        "hardware": {**LAB_HARDWARE},
        "licence": "MIT",
        "citation": "Us, 2024",
        "doi": "10.1/us",
        "summary": "",
        "cached": False,
    }


def test_list_with_a_broken_source(lab: Any, run: Any) -> None:
    """A source that fails is a warning on stderr, and the rest is listed."""
    from approxhub.plugins import MultiplierSource

    def broken() -> Any:
        raise ZeroDivisionError("oops")

    source = MultiplierSource("broken", broken, broken)
    register("broken", approxhub_multiplier_sources=lambda: [source])
    ran = run("list", "mul4u_CUT", "--json")
    assert ids(ran) == ["lab:r1/mul4u_CUT"]
    assert ran.err == ("warning: source 'broken' cannot be listed: ZeroDivisionError: oops\n")


# --- fetch ----------------------------------------------------------------------------------


def test_fetch(lab: Any, run: Any) -> None:
    """Results go to stdout, a line each; nothing else does."""
    digest = load("mul4s_NEG").table_sha256
    ran = run("fetch", "mul4s_NEG", "exact:8u")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == f"cached  lab:r1/mul4s_NEG  {digest}"
    assert lines[1].startswith("computed  exact:8u  ")


def test_fetch_goes_on_and_exits_with_the_worst(lab: Any, run: Any) -> None:
    """After a failure the others are fetched; the highest code of all is returned."""
    ran = run("fetch", "mul4u_LIE", "mul4u_NOPE", "mul4u_CUT", "--json")
    assert ran.code == 3
    assert [(r["id"], r["state"]) for r in ran.json] == [
        ("lab:r1/mul4u_LIE", "failed"),
        ("mul4u_NOPE", "failed"),
        ("lab:r1/mul4u_CUT", "fetched"),
    ]
    assert ran.json[0]["error"]["type"] == "VerificationError"
    assert ran.json[1]["error"]["exit_code"] == 3
    assert ran.json[2]["error"] is None
    assert ran.err.count("error: ") == 2
    assert Store().ids() == ["lab:r1/mul4u_CUT"]


def test_fetch_force(lab: Any, run: Any) -> None:
    """``--force`` downloads again what is there."""
    assert run("fetch", "mul4u_CUT", "--json").json[0]["state"] == "fetched"
    assert run("fetch", "mul4u_CUT", "--json").json[0]["state"] == "cached"
    assert run("fetch", "mul4u_CUT", "--force", "--json").json[0]["state"] == "fetched"


def test_fetch_reports_notes(lab: Any, run: Any) -> None:
    """A printed metric that does not hold is a warning, and in the JSON."""
    ran = run("fetch", "mul4u_PRINT", "--json")
    assert ran.code == 0
    assert ran.json[0]["notes"] == ["printed wce 9, computed 4"]
    assert "warning: lab:r1/mul4u_PRINT: printed wce 9, computed 4" in ran.err


# --- info -------------------------------------------------------------------------------------


def test_info_of_what_is_not_fetched(lab: Any, run: Any) -> None:
    """Info of an uncached id asks no network: index facts, and no computed metrics."""
    found = run("info", "mul4u_PRINT", "--json").json
    assert found.keys() >= INFO_KEYS
    assert found["metrics"] is None
    assert found["metrics_method"] is None
    assert found["printed"] == {"mae": "4", "wce": "9"}
    assert found["cached"] is False
    assert lab.server.asked == []
    assert "approxhub fetch lab:r1/mul4u_PRINT" in run("info", "mul4u_PRINT").out


def test_info_of_what_is_cached(lab: Any, run: Any) -> None:
    """Info of a cached id has its metrics and how they were obtained."""
    made = load("mul4u_PRINT")
    found = run("info", "mul4u_PRINT", "--json").json
    assert found.keys() >= INFO_KEYS
    assert found["metrics"].keys() >= METRICS_KEYS
    assert (found["metrics"]["wce"], found["metrics_method"]) == (4, "exhaustive")
    assert found["table_sha256"] == made.table_sha256
    assert found["hardware"] == LAB_HARDWARE
    assert (found["rank"], found["error_rank"]) == (2, 1)
    assert (found["licence"], found["citation"], found["cached"]) == ("MIT", "Us, 2024", True)
    text = run("info", "mul4u_PRINT").out
    assert "printed wce 9, computed 4" in text
    assert "4 bits, unsigned" in text


def test_info_of_a_formula(run: Any) -> None:
    """Families have computed metrics without any fetching; wide ones sampled ones."""
    found = run("info", "exact:8s+swap", "--json").json
    assert (found["id"], found["metrics"]["mae"], found["cached"]) == ("exact:8s+swap", 0.0, False)
    assert found["a"] == {"bits": 8, "signed": True}
    assert run("info", "exact:16u", "--json").json["metrics_method"] == "sampled"


def test_info_of_a_modified_id(lab: Any, run: Any) -> None:
    """A modifier needs the circuit: cached it is shown, uncached it is refused."""
    ran = run("info", "mul4u_CUT+swap")
    assert ran.code == 3
    assert "approxhub fetch lab:r1/mul4u_CUT" in ran.err
    load("mul4u_CUT")
    assert run("info", "mul4u_CUT+swap", "--json").json["id"] == "lab:r1/mul4u_CUT+swap"


def test_info_names_close_ones(lab: Any, run: Any) -> None:
    """An unknown id comes with those that look like it, an ambiguous one with its candidates."""
    assert "lab:r1/mul4u_CUT" in run("info", "mul4u_CUTS").err
    assert "lab:r1/mul4u_CUT" in run("info", "lab:r1/mul4u_CUTS").err
    err = run("info", "mul4u_TWO").err
    assert "lab:r1/mul4u_TWO, lab:r2/mul4u_TWO" in err


def test_own_ones_that_are_not_there(run: Any) -> None:
    """Of a local id that is not in the cache, `info` and `verify` say what puts it there."""
    for command in ("info", "verify"):
        err = run(command, "local:mine").err
        assert "local:mine is not in the cache; `approxhub import FILE --name mine` " in err
        assert "no source" not in err


# --- verify -----------------------------------------------------------------------------------


def test_verify(lab: Any, run: Any) -> None:
    """Verify names what is sound and what is not, and exits with 1 if anything is not."""
    for name in ("mul4u_CUT", "mul4s_NEG"):
        load(name)
    ran = run("verify", "--json")
    assert ran.code == 0
    assert ran.json == [
        {"name": name, "ok": True, "error": None, "path": None, "note": None}
        for name in ("lab:r1/mul4s_NEG", "lab:r1/mul4u_CUT")
    ]
    path = Store().object_path(load("mul4u_CUT").identity)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for words in (["verify"], ["verify", "--all"], ["verify", "mul4u_CUT"]):
        ran = run(*words)
        assert ran.code == 1
        assert "FAILED  lab:r1/mul4u_CUT" in ran.out
        assert str(path) in ran.err
    assert run("verify", "mul4s_NEG").code == 0


def test_verify_of_a_formula(run: Any) -> None:
    """What is computed is never in the cache: it is sound, and says why."""
    ran = run("verify", "exact:8s")
    assert ran.code == 0
    assert ran.out == "ok      exact:8s  (computed, nothing to verify)\n0 of 0 verified\n"


# --- plug-ins and backends ------------------------------------------------------------------


def test_plugins(run: Any) -> None:
    """Every plug-in has a row; one that fails has its cause, and the exit code is 0."""
    reset_host()

    def broken() -> Any:
        raise RuntimeError("no such luck")

    register("good", approxhub_backends=lambda: [])
    register("bad", approxhub_backends=broken)
    ran = run("plugins", "--json")
    assert ran.code == 0
    rows = {r["name"]: r for r in ran.json}
    assert rows["good"]["state"] == "ok"
    assert rows["good"]["error"] is None
    assert rows["bad"]["state"] == "failed"
    assert "no such luck" in rows["bad"]["error"]
    assert run("plugins").code == 0


def test_backends(run: Any) -> None:
    """Every backend has a row; whatever it raises is the reason, and the exit code is 0."""

    class Shy:
        def unavailable_reason(self) -> str | None:
            return "shy"

    def leave() -> Any:
        raise SystemExit("gone")

    infos = [
        BackendInfo("shy", "cpu", Shy),
        BackendInfo("none", "cpu", lambda: None),
        BackendInfo("leaves", "cpu", leave),
    ]
    register("three", approxhub_backends=lambda: infos)
    ran = run("backends", "--json")
    assert ran.code == 0
    rows = {r["name"]: r for r in ran.json}
    assert rows["reference"] == {
        **{"name": "reference", "device_type": "any", "available": True, "reason": None}
    }
    assert rows["shy"]["reason"] == "shy"
    assert "None" in rows["none"]["reason"]
    assert rows["leaves"]["reason"] == "SystemExit: gone"
    assert not any(rows[n]["available"] for n in ("shy", "none", "leaves"))


def test_forced_backend(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forced backend is marked in the table; one that is not known is told on stderr."""
    monkeypatch.setenv("APPROXHUB_BACKEND", "reference")
    ran = run("backends")
    assert "reference (forced)" in ran.out
    assert ran.err == ""
    assert "reference" in {r["name"] for r in run("backends", "--json").json}
    monkeypatch.setenv("APPROXHUB_BACKEND", "zzz")
    ran = run("backends")
    assert (ran.code, "forced" in ran.out) == (0, False)
    assert "warning: APPROXHUB_BACKEND: no backend is called 'zzz'; known: " in ran.err


@pytest.fixture
def fresh_cli(monkeypatch: pytest.MonkeyPatch) -> LazyGroup:
    """The group as it is before plug-ins were asked."""
    assert isinstance(cli, LazyGroup)
    monkeypatch.setattr(cli, "_plugins_asked", False)
    monkeypatch.setattr(cli, "commands", {})
    return cli


def test_plugin_command(run: Any, fresh_cli: LazyGroup) -> None:
    """A plug-in's command runs and stands in the help; `list` never asks for it."""

    def add(cli: Any) -> None:
        @cli.command("greet")
        def greet() -> None:
            """Say hello."""
            print("hello")

    register("greeter", approxhub_commands=add)
    run("list")
    assert fresh_cli.commands == {}
    assert run("greet").out == "hello\n"
    assert "Say hello." in run("--help").out


def test_plugin_command_cannot_replace_ours(run: Any, fresh_cli: LazyGroup) -> None:
    """A plug-in that takes one of our names, or raises, is reported and nothing else breaks."""

    def steal(cli: Any) -> None:
        @cli.command("list")
        def other() -> None:
            """Not the list."""

    register("thief", approxhub_commands=steal)
    assert "Not the list" not in run("--help").out
    rows = {r["name"]: r for r in run("plugins", "--json").json}
    assert "'list' exists already" in rows["thief"]["error"]
    assert run("list").code == 0
