"""`info`, `compare`, `cite`, `plot` and `completion`: what they say of multipliers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from approxhub.cli import arguments, cli
from approxhub.metrics import exhaustive_metrics
from approxhub.multiplier import Multiplier
from approxhub.plugins import MultiplierSource, hookimpl, host
from approxhub.registry import Store, load


def bring(source: MultiplierSource) -> None:
    """Register a plug-in with one source."""

    class Plugin:
        @staticmethod
        @hookimpl
        def approxhub_multiplier_sources() -> list[MultiplierSource]:
            return [source]

    host().register(Plugin, source.name)


# --- info ---------------------------------------------------------------------------------


def row(ran: Any, name: str) -> list[str]:
    """The words of one line of `info`."""
    assert ran.code == 0, ran.err
    return next(line.split() for line in ran.out.splitlines() if line.split()[0] == name)


def test_info_shows_printed_beside_computed(lab: Any, run: Any) -> None:
    """A metric's line has the computed and then the printed value, and how it was obtained."""
    assert row(run("info", "mul4u_PRINT"), "wce") == ["wce", "-", "9"]
    load("mul4u_PRINT")
    ran = run("info", "mul4u_PRINT")
    assert row(ran, "wce") == ["wce", "4", "9"]
    assert row(ran, "mse") == ["mse", "16", "-"]
    assert "exhaustive: over all 256 operand pairs" in ran.out
    assert run("info", "mul4u_PRINT", "--json").json["metrics_samples"] == 256


def test_info_of_a_sample_has_intervals(lab: Any, run: Any) -> None:
    """Sampled metrics are labelled, with 95 % intervals that hold their values."""
    load("mul16u_WIDE")
    ran = run("info", "mul16u_WIDE")
    assert "sampled: over 1,048,576 random operand pairs" in ran.out
    found = run("info", "mul16u_WIDE", "--json").json
    assert found["metrics_method"] == "sampled"
    for key in ("mae", "mae_pct", "mse", "mre_pct", "ep_pct", "bias"):
        low, high = found["metrics_interval"][key]
        assert low <= found["metrics"][key] <= high
    assert "to" in row(ran, "ep_pct")


@pytest.mark.parametrize(
    ("product", "row_zero", "column_zero", "said"),
    [
        (lambda a, b: a * b, True, True, "yes"),
        (lambda a, b: a * b + (a == 0) * b, False, True, "no: not for a zero activation"),
        (lambda a, b: a * b + (b == 0) * a, True, False, "no: not for a zero weight"),
        (lambda a, b: a * b + 1, False, False, "no: not for a zero activation nor a zero weight"),
    ],
)
@pytest.mark.parametrize("fmt", ["4u", "13u"])
def test_info_of_zeros(
    run: Any, product: Any, row_zero: bool, column_zero: bool, said: str, fmt: str
) -> None:
    """Row and column of zero are told apart, and which operand breaks is named; wide ones too."""
    made = Multiplier.from_function(product, name="m", a=fmt, b=fmt, fingerprint="m")
    bring(MultiplierSource("mine", list, lambda path, _: made, cache=False))
    found = run("info", "mine:m", "--json").json
    assert (found["zero_row"], found["zero_column"]) == (row_zero, column_zero)
    assert found["preserves_zero"] == (row_zero and column_zero)
    assert f"keeps zero    {said}\n" in run("info", "mine:m").out


# --- compare --------------------------------------------------------------------------------


def test_compare(lab: Any, run: Any) -> None:
    """Metrics stand side by side, differing entries are counted as a slow loop counts them."""
    ran = run("compare", "mul4u_CUT", "exact:4u", "--json", "--positions", "2")
    assert ran.code == 0
    slow = [(a, b) for a in range(16) for b in range(16) if (a & 12) * b != a * b]
    found = ran.json
    assert (found["differing"], found["pairs"], found["equal"]) == (len(slow), 256, False)
    assert [(p["a"], p["b"]) for p in found["positions"]] == slow[:2]
    assert found["max_abs"] == 45
    assert (
        found["first"]["metrics"]["wce"]
        == exhaustive_metrics(load("mul4u_CUT").table, load("mul4u_CUT").a, load("mul4u_CUT").b).wce
    )
    out = run("compare", "mul4u_CUT", "exact:4u").out
    assert f"differs in {len(slow)} of 256 entries" in out
    assert next(x.split() for x in out.splitlines() if x.startswith("wce ")) == ["wce", "45", "0"]


def test_compare_equal_and_swapped(lab: Any, run: Any) -> None:
    """Equal tables are said to be equal, and so are those equal once exchanged."""
    found = run("compare", "lab:r1/mul4u_SAME", "lab:r2/mul4u_SAME", "--json").json
    assert (found["equal"], found["differing"], found["largest"]) == (True, 0, None)
    assert (
        "equals lab:r2/mul4u_SAME in all 256 entries"
        in run("compare", "lab:r1/mul4u_SAME", "lab:r2/mul4u_SAME").out
    )
    found = run("compare", "mul4u_CUT", "mul4u_CUT+swap", "--json").json
    assert (found["equal"], found["swapped_equal"]) == (False, True)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["exact:4u", "exact:4s"], 2),
        (["exact:4u", "local:nobody"], 3),
        (["exact:4u"], 2),
        (["exact:4u", "mul4u_CUT", "--offline"], 4),
    ],
)
def test_compare_refusals(lab: Any, run: Any, words: list[str], code: int) -> None:
    """Other formats, unknown ids and what offline cannot be had exit with their codes."""
    ran = run("compare", *words)
    assert (ran.code, ran.out) == (code, "")
    assert "rror: " in ran.err


# --- cite -----------------------------------------------------------------------------------


def test_cite(lab: Any, run: Any) -> None:
    """Papers come once, ApproxHub last; of what no paper is known that is said on stderr."""
    ran = run("cite", "mul4u_CUT", "drum:8u/k=*", "exact:8u")
    assert ran.code == 0
    assert ran.err == "no paper is known for exact:8u\n"
    assert [x.partition("{")[2] for x in ran.out.splitlines() if x.startswith("@")] == [
        *("work2024,", "hashemi2015drum,", "approxhub,")
    ]
    assert "\n% drum:8u/k=3, drum:8u/k=4, drum:8u/k=6\n" in ran.out
    text = run("cite", "mul4u_CUT", "--style", "text").out.splitlines()
    assert text[:2] == ["Us, 2024. doi: 10.1/us", "  for lab:r1/mul4u_CUT"]
    found = run("cite", "mul4u_CUT", "exact:8u", "--json").json
    assert found["unknown"] == ["exact:8u"]
    assert [w["key"] for w in found["works"]] == ["work2024", "approxhub"]
    assert lab.server.asked == []
    assert run("cite").out.startswith("@misc{approxhub,")
    assert run("cite", "nope*").code == run("cite", "mul4u_NOPE").code == 3
    assert run("cite", "--style", "chicago").code == 2


# --- plot -----------------------------------------------------------------------------------


def test_plot(lab: Any, run: Any, tmp_path: Path) -> None:
    """Each kind is drawn to the file, which is what stdout says."""
    file = tmp_path / "a.svg"
    for words in (["mul4u_CUT", "exact:4u"], ["mul4u_C*", "--kind", "histogram"]):
        ran = run("plot", *words, "-o", str(file))
        assert (ran.code, ran.out) == (0, f"{file}\n"), ran.err
        assert file.read_bytes().startswith(b"<?xml")
        file.unlink()
    words = ["lab:*", "--kind", "pareto", "--axes", "power,bits", "--unsigned", "-o", str(file)]
    ran = run("plot", *words, "--json")
    assert (ran.json["file"], ran.json["kind"]) == (str(file), "pareto")
    assert set(ran.json["ids"]) == {e for e in ran.json["ids"] if "/mul4u_" in e}
    assert len(ran.json["ids"]) == 10
    assert file.exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["exact:4u", "-o", "a.pdf"], 2),
        (["exact:4u"], 2),
        (["-o", "a.png"], 2),
        (["exact:4u", "--signed", "-o", "a.png"], 2),
        (["exact:4u", "--axes", "power,mae", "-o", "a.png"], 2),
        (["--kind", "pareto", "--axes", "power", "-o", "a.png"], 2),
        (["--kind", "pareto", "--axes", "mae,mae", "-o", "a.png"], 2),
        (["no_such*", "--kind", "pareto", "-o", "a.png"], 3),
        (["no_such*", "-o", "a.png"], 3),
        (["lab:*", "--kind", "histogram", "-o", "a.png"], 2),
        (["mul4u_CUT", "--offline", "-o", "a.png"], 4),
        (["exact:4u", "-o", "nowhere/a.png"], 1),
    ],
)
def test_plot_refusals(
    lab: Any, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int
) -> None:
    """What cannot be drawn exits with its code, downloads nothing and leaves no file."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    ran = run("plot", *words)
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert "rror: " in ran.err
    assert sorted(tmp_path.rglob("*")) == before
    assert lab.server.asked == []


# --- completion -----------------------------------------------------------------------------


def completed(*words: str) -> list[str]:
    """What a shell is offered for the last of some words."""
    from click.shell_completion import ShellComplete

    found = ShellComplete(cli, {}, "approxhub", "_").get_completions(list(words[:-1]), words[-1])
    return [item.value for item in found]


def test_ids_complete(lab: Any) -> None:
    """Ids complete over their colon, bare names too, those of families only in full."""
    assert completed("info", "lab:r2/mul4u_S") == ["lab:r2/mul4u_SAME"]
    assert completed("info", "mul4u_S") == ["mul4u_SAME"]
    assert completed("fetch", "mul4u_CUT", "drum:8u/k=4") == ["drum:8u/k=4"]
    assert completed("fetch", "k=4") == []
    assert "exact:8u" in completed("compare", "mul4u_CUT", "exact:")
    assert completed("info", "zzz") == []
    assert completed("cache", "p") == ["prune"]


def test_own_and_cached_ids_complete(lab: Any) -> None:
    """`remove` and `verify` offer what is cached, by name if that tells it; the others all ids."""
    assert completed("remove", "lab:") == []
    load("mul4u_CUT")
    Store().put(Multiplier.from_table([[9, 0], [0, 1]], name="mine"))
    assert completed("remove", "l") == ["lab:r1/mul4u_CUT", "local:mine"]
    assert completed("remove", "m") == ["mine", "mul4u_CUT"]
    load("lab:r1/mul4u_TWO")
    load("lab:r2/mul4u_TWO")
    assert completed("remove", "mul4u_T") == []
    assert completed("verify", "lab:r1/mul4u_C") == ["lab:r1/mul4u_CUT"]
    assert completed("info", "local:") == ["local:mine"]


def test_sources_complete(lab: Any) -> None:
    """A source or family completes where one is asked for; what is imported is one, once it is."""
    assert completed("list", "--source", "dr") == ["drum"]
    assert completed("search", "x", "--source", "la") == ["lab"]
    assert completed("list", "--source", "lo") == []
    Store().put(Multiplier.from_table([[9, 0], [0, 1]], name="mine"))
    assert completed("list", "--source", "lo") == ["local"]


def test_completion_never_raises(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that fails, and a cache that cannot be read, complete to less, and say nothing."""

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("oops")

    bring(MultiplierSource("broken", broken, broken))
    assert completed("info", "lab:r2/mul4u_S") == ["lab:r2/mul4u_SAME"]
    monkeypatch.setattr("approxhub.registry.store.Store.ids", broken)
    assert completed("remove", "") == []
    ctx = click.Context(cli)
    assert arguments.complete_known(ctx, click.Argument(["id"]), "lab") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(run: Any, shell: str) -> None:
    """Each shell has its script, which calls back with the variable that switches completion on."""
    ran = run("completion", shell)
    assert ran.code == 0
    assert f"_APPROXHUB_COMPLETE={shell}_complete" in ran.out
    assert run("completion", "csh").code == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_over_a_colon(run: Any, home: Path, tmp_path: Path) -> None:
    """In bash, which splits words at colons, the part behind the colon is what is offered."""
    Store().put(Multiplier.from_table([[9, 0], [0, 1]], name="mine"))
    Store().put(Multiplier.from_table([[8, 0], [0, 1]], name="mint"))
    program = tmp_path / "approxhub"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m approxhub.cli "$@"\n')
    program.chmod(0o755)
    script = run("completion", "bash").out + "\n".join(
        [
            "COMP_WORDBREAKS=$' \\t\\n\"\\'><=;|&(:'",
            "a=approxhub",
            'for COMP_LINE in "$a remove local:mi" "$a remove lo" "$a cac"; do',
            "COMP_POINT=${#COMP_LINE}; _approxhub_completion approxhub",
            'echo "${COMPREPLY[*]}"; done',
        ]
    )
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.splitlines() == ["mine mint", "local:mine local:mint", "cache"]
    assert done.stderr == ""
