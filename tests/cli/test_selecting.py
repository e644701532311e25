"""`list`, `search` and `fetch`: choosing multipliers on the command line."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from approxhub.registry import Store, load


def ids(ran: Any) -> list[str]:
    """Ids of a listing, one on a line."""
    assert ran.code == 0, ran.err
    return ran.out.splitlines()


# --- list and search --------------------------------------------------------------------


def test_list_of_several_patterns(lab: Any, run: Any) -> None:
    """Of several globs one must fit; ids come one on a line."""
    assert ids(run("list", "*_CUT", "lab:r2/*_S*", "--ids")) == [
        *("lab:r1/mul4u_CUT", "lab:r2/mul4u_SAME")
    ]


def test_bound(lab: Any, run: Any) -> None:
    """A bound is inclusive; those without the figure are left out, and counted on stderr."""
    lab.add("mul4u_P1", "A * B", None, printed={"mae_pct": "0.5", "ep_pct": "1"})
    lab.add("mul4u_P2", "A * B", None, printed={"mae_pct": "0.6", "ep_pct": "1"})
    lab.install()
    ran = run("list", "mul4u_P*", "--max-mae", "0.5", "--ids")
    assert ids(ran) == ["lab:r1/mul4u_P1"]
    assert ran.err == "left out, as it has no mae: 1 (see --computed)\n"
    assert ids(run("list", "mul4u_P?", "--min-mae", "0.5", "--sort", "mae", "--reverse", "--ids"))[
        0
    ].endswith("P2")


def test_width(lab: Any, run: Any) -> None:
    """A width is of both operands, or of the activation and the weight, whatever the signs."""
    assert ids(run("list", "--source", "drum", "--width", "16", "--ids")) == [
        *("drum:16u/k=6", "drum:16s/k=6")
    ]
    known = ids(run("list", "evoapproxlib:v1.1/*", "--width", "8x3", "--ids"))
    assert known
    assert all("/mul8x3u_" in k for k in known)


def test_columns_of_the_query_are_shown(lab: Any, run: Any) -> None:
    """The table has the columns that options name, with their units."""
    head = run("list", "mul4u_CUT", "--sort", "delay", "--max-area", "10").out.splitlines()[0]
    assert head.split("  ")[-3:] == ["area um2", "delay ns", "cached"]


def test_search(lab: Any, run: Any) -> None:
    """Words must all occur, in whatever case; the options are those of list."""
    assert ids(run("search", "LAB:R2", "us, 2024", "--ids")) == [
        *("lab:r2/mul4u_SAME", "lab:r2/mul4u_TWO", "lab:r2/mul4u_WHO")
    ]
    assert ids(run("search", "mahdiani", "--unsigned", "--limit", "1", "--ids"))[0][:4] == "bam:"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--source", "drum", "--width", "9"], "without --width 9, 8 would; nearest: 8, 16"),
        (["--source", "drum", "--width", "8x3"], "without --width 8x3, 8 would; nearest: 8, 16"),
        (
            ["--source", "exact", "--format", "11s"],
            "without --format 11s, 4 would; nearest: 8s, 8u, 16s",
        ),
        (
            ["--source", "lab", "--release", "r3"],
            "without --release r3, 13 would; nearest: r2, r1",
        ),
        (["drm*", "--signed"], "'drum:*'"),
        (["mul4u_CUTS"], "nearest: lab:r1/mul4u_CUT"),
        (["--source", "lab", "--technology", "LAB"], "nearest: LAB1"),
        (["--source", "drum", "--max-bits", "15"], "nearest: 16 (drum:8"),
        (["--source", "drum", "--min-bits", "33"], "nearest: 32 (drum:16"),
        (["--source", "drum", "--max-mae", "1"], "none has a mae"),
        (["--source", "exact", "--approximate"], "without --approximate, 4 would"),
        (["--source", "exact", "--exact", "--cached"], "without --cached, 4 would"),
        (["--source", "exact", "--width", "9", "drum*"], "drop several"),
        (["--source", "drum", "--pareto", "power,mae"], "8 would, but none has all of power, mae"),
    ],
)
def test_what_would_fit_instead(lab: Any, run: Any, words: list[str], said: str) -> None:
    """Of a query that nothing fits, the condition to drop is named, and what is nearest to it."""
    ran = run("list", *words)
    assert (ran.code, ran.out) == (0, "")
    assert "no multiplier fits\n" in ran.err
    assert said in ran.err


def test_what_would_fit_a_search(lab: Any, run: Any) -> None:
    """Of several words, the one that does not fit is named; nothing asked for is nothing to say."""
    assert run("search", "lab:r2", "unheard-of").err.splitlines()[1:] == [
        "without the word 'unheard-of', 3 would"
    ]
    assert run("list", "--limit", "0").err == ""


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--sort", "colour"],
        ["list", "--pareto", "power,colour"],
        ["list", "--max-mae", "little"],
        ["list", "--max-mae", "nan"],
        ["list", "--max-mae", "-1"],
        ["list", "--min-power", "-0.5"],
        ["list", "--limit", "-1"],
        ["list", "--width", "8u"],
        ["list", "--ids", "--json"],
        ["search"],
        ["fetch", "--from", "no-such-file"],
        ["fetch", "--jobs", "0", "mul4u_CUT"],
    ],
)
def test_wrong_usage(lab: Any, run: Any, words: list[str]) -> None:
    """What cannot be meant is refused, with exit code 2."""
    ran = run(*words)
    assert (ran.code, ran.out) == (2, "")
    assert "rror: " in ran.err


def test_mixed_technologies(lab: Any, run: Any) -> None:
    """Sorting by costs of two technologies warns, a front of them is refused."""
    words = ["list", "mul8u_JV3", "mul4u_CUT", "--source"]
    assert "warning" not in run(*words, "lab", "--sort", "power").err
    ran = run(*words[:3], "--sort", "power")
    assert "warning: costs in different technologies (LAB1, PDK45) do not compare" in ran.err
    ran = run(*words[:3], "--pareto", "power,bits")
    assert ran.code == 2
    assert "--technology" in ran.err


# --- fetch ---------------------------------------------------------------------------------


def test_fetch_patterns(lab: Any, run: Any) -> None:
    """Globs, names and ids mix; each multiplier is fetched once, in the order named."""
    ran = run("fetch", "lab:r2/*_S*", "mul4u_CUT", "lab:r2/mul4u_SAME", "--json")
    assert ran.code == 0
    assert [r["id"] for r in ran.json] == ["lab:r2/mul4u_SAME", "lab:r1/mul4u_CUT"]
    assert ran.err == (
        "[1/2] lab:r2/mul4u_SAME fetched\n[2/2] lab:r1/mul4u_CUT fetched\n2 fetched\n"
    )


def test_fetch_pattern_that_fits_nothing(lab: Any, run: Any) -> None:
    """A glob that fits nothing fails in its place, and the rest is fetched."""
    ran = run("fetch", "nope*", "mul4u_CUT", "--json")
    assert ran.code == 3
    assert [(r["id"], r["state"]) for r in ran.json] == [
        ("nope*", "failed"),
        ("lab:r1/mul4u_CUT", "fetched"),
    ]


def test_fetch_all(lab: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--all`` is everything that a source lists and the cache keeps: no formulas."""
    import approxhub.registry.catalogue as catalogue

    listed = catalogue.entries
    monkeypatch.setattr(
        catalogue, "entries", lambda: [e for e in listed() if e.source in ("lab", "drum")]
    )
    ran = run("fetch", "--all", "--json")
    assert ran.code == 1  # of mul4u_LIE and mul4u_GOTO
    assert {r["id"].partition(":")[0] for r in ran.json} == {"lab"}
    assert len(ran.json) == 13
    assert len(Store().ids()) == 11


def test_fetch_from_file(
    lab: Any, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file has ids and globs, one on a line, with comments; ``-`` is standard input."""
    text = "# ours\n\nmul4u_CUT  # the first\n lab:r2/*SAME\r\n"
    file = tmp_path / "ids.txt"
    file.write_text(text)
    both = ["lab:r1/mul4u_CUT", "lab:r2/mul4u_SAME"]
    assert [r["id"] for r in run("fetch", "--from", str(file), "--json").json] == both
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert [r["id"] for r in run("fetch", "--from", "-", "--json").json] == both
    file.write_text("# nothing\n")
    assert (run("fetch", "--from", str(file)).code, run("fetch").code) == (0, 2)
    file.write_bytes(b"\xff\xfe\n")
    ran = run("fetch", "--from", str(file))
    assert ran.code == 2
    assert "UTF-8" in ran.err


def test_fetch_in_parallel(
    lab: Any, run: Any, misbehave: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs run beside each other, and results come in the order asked for all the same."""
    at_once: list[int] = []
    now = 0
    lock = threading.Lock()

    def slowly(request: Any) -> None:
        nonlocal now
        with lock:
            now += 1
            at_once.append(now)
        time.sleep(0.2)
        with lock:
            now -= 1
        body = (lab.tree / request.path.lstrip("/")).read_bytes()
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    lab.server.behave[".c"] = slowly
    names = ["mul4u_CUT", "mul4u_NOPE", "mul4s_NEG", "lab:r2/mul4u_SAME", "mul8u_BIG"]
    ran = run("fetch", *names, "--jobs", "2", "--json")  # five of them: some wait
    assert ran.code == 3
    assert [r["id"].rpartition("/")[2] for r in ran.json] == [n.rpartition("/")[2] for n in names]
    assert [r["state"] for r in ran.json] == ["fetched", "failed"] + 3 * ["fetched"]
    assert max(at_once) == 2
    assert len(Store().ids()) == 4
    at_once.clear()
    run("fetch", "mul4u_CUT", "mul4s_NEG", "--force", "--jobs", "1")
    assert max(at_once) == 1


def test_fetch_says_how_many_are_cached(lab: Any, run: Any) -> None:
    """After several the sum is told by state."""
    load("mul4u_CUT")
    assert run("fetch", "mul4u_CUT", "mul4s_NEG").err.splitlines()[-1] == "1 cached, 1 fetched"
