"""``approxhub import`` and ``approxhub export``: a table in, a table out, nothing wrong unseen."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from approxhub import load
from approxhub.cli import cli
from approxhub.formats import read_table, write_table
from approxhub.multiplier import Multiplier
from approxhub.registry import Store


def circuit(a: int, b: int) -> int:
    """A signed circuit of ours: the low bits of `a` come on top, so signs matter."""
    return a * b + (a & 5) - (b & 2)


EXPRESSION = "A * B + (A & 5) - (B & 2)"


@pytest.fixture
def wrong(lab: Any, tmp_path: Path) -> tuple[Path, int]:
    """A header called like a known circuit, wrong where both operands are negative.

    Like the one that a much-used tool ships: there it takes absolute values first. Also the
    number of entries that differ, counted one by one.
    """
    lab.add("mul4s_SIGN", EXPRESSION, circuit, fmt="4s")
    lab.install()
    count, rows = 0, []
    for a in range(-8, 8):
        row = []
        for b in range(-8, 8):
            both = a < 0 and b < 0
            row.append(circuit(abs(a), abs(b)) if both else circuit(a, b))
            count += row[-1] != circuit(a, b)
        rows.append("{" + ",".join(map(str, row)) + "}")
    path = tmp_path / "mul4s_SIGN.h"
    path.write_text(f"const int16_t lut[16][16] = {{{','.join(rows)}}};\n")
    assert 30 < count < 64
    return path, count


SIGNED = ("--operands", "4s", "--index-order", "offset")


def test_wrong_table_is_caught(
    run: Callable[..., Any], wrong: tuple[Path, int], snapshot: Callable[[], dict[str, str]]
) -> None:
    """A table that differs from the circuit whose name it carries: how much, where, exit code 1."""
    path, count = wrong
    load("lab:r1/mul4s_SIGN")
    before = snapshot()
    ran = run("import", str(path), *SIGNED, "--json")
    assert ran.code == 1
    assert f"differs in {count} of 256 entries, all of them where both operands are neg" in ran.err
    assert "warning: local:mul4s_SIGN carries the name of lab:r1/mul4s_SIGN" in ran.err
    assert (ran.json["state"], ran.json["error"]["type"]) == ("failed", "VerificationError")
    (claim,) = ran.json["claims"]
    assert (claim["id"], claim["holds"]) == ("lab:r1/mul4s_SIGN", False)
    assert claim["comparison"]["differing"] == count
    where = {(q["a_negative"], q["b_negative"]): q for q in claim["comparison"]["quadrants"]}
    assert where.pop((True, True))["differing"] == count
    assert [q["differing"] for q in where.values()] == [0, 0, 0]
    assert snapshot() == before


def test_wrong_table_by_force(run: Callable[..., Any], wrong: tuple[Path, int]) -> None:
    """With --force it is imported, and carries the finding as a note for good."""
    path, count = wrong
    ran = run("import", str(path), *SIGNED, "--force")
    assert (ran.code, ran.out.split()[:2]) == (0, ["imported", "local:mul4s_SIGN"])
    assert f"differs in {count} of 256" in ran.err
    (note,) = load("local:mul4s_SIGN").provenance.notes
    assert f"differs in {count} of 256 entries" in note
    assert "note" in run("info", "local:mul4s_SIGN").out


def test_right_table(run: Callable[..., Any], lab: Any, tmp_path: Path) -> None:
    """The true table under its name, and under another one, is told to be that circuit's."""
    lab.add("mul4s_SIGN", EXPRESSION, circuit, fmt="4s")
    lab.install()
    for name in ("mul4s_SIGN.h", "mine.txt"):
        path = tmp_path / name
        write_table("mul4s_SIGN", path, index_order="offset", overwrite=True)
        ran = run("import", str(path), *SIGNED, "--json")
        assert (ran.code, ran.json["equal"][:1]) == (0, ["lab:r1/mul4s_SIGN"])
    assert load("local:mine") == load("mul4s_SIGN")
    # Read the other way round it is the same circuit with its operands exchanged, and said so.
    ran = run("import", str(path), *SIGNED, "--operand-order", "ba", "--name", "turned")
    assert ran.code == 0
    assert "equals   lab:r1/mul4s_SIGN with its operands exchanged" in ran.out
    # In the wrong index order nothing fits: what would, is said.
    ran = run("import", str(tmp_path / "mul4s_SIGN.h"), *SIGNED[:-1], "pattern")
    assert ran.code == 1
    assert "read in the other index order (pattern or offset), it is that table" in ran.err
    ran = run("import", str(tmp_path / "mul4s_SIGN.h"), *SIGNED, "--operand-order", "ba")
    assert ran.code == 1
    assert "in none once the operands are exchanged (+swap)" in ran.err


@pytest.mark.parametrize(
    ("signed", "said", "hint"),
    [
        (True, ["8s", "--index-order", "pattern"], "with --index-order offset it would equal ex"),
        (True, ["8u"], "with --operands 8s --index-order offset it would equal exact:8s"),
        (False, ["8s", "--index-order", "offset"], "with --operands 8u it would equal exact:8u"),
    ],
)
def test_wrong_reading(
    run: Callable[..., Any], tmp_path: Path, signed: bool, said: list[str], hint: str
) -> None:
    """What was said of a table is doubted when something else would make a product of it."""
    values = np.arange(256) - 128 * signed
    for off in (0, 1):  # exactly, and nearly
        np.save(tmp_path / "t.npy", np.outer(values, values) + off)
        ran = run("import", str(tmp_path / "t.npy"), "--operands", *said, "--dry-run", "--json")
        assert ran.code == 0
        wanted = hint if not off else hint.partition(" it would")[0] + " its MAE would be 1, not"
        assert ran.json["hint"].startswith(wanted)
        assert f"warning: local:t: {wanted}" in ran.err


def test_right_but_rough(run: Callable[..., Any], tmp_path: Path) -> None:
    """No reading is better than the right one of a rough circuit: nothing is doubted."""
    write_table("drum:8u/k=3", tmp_path / "t.npy")
    ran = run("import", str(tmp_path / "t.npy"), "--operands", "8u", "--name", "t2", "--json")
    assert (ran.code, ran.json["hint"]) == (0, None)


def test_metrics_identity_and_closest(run: Callable[..., Any], tmp_path: Path) -> None:
    """What is imported is measured, kept under local:NAME, and set beside the exact product."""
    table = np.outer(np.arange(16), np.arange(16))
    table[3, 5] += 64
    path = tmp_path / "t.npy"
    np.save(path, table)
    ran = run("import", str(path), "--operands", "4u", "--name", "mine", "--json")
    assert ran.code == 0
    kept = load("local:mine")
    assert kept(3, 5) == 79
    assert ran.json["identity"] == kept.identity
    assert (ran.json["metrics"]["wce"], ran.json["metrics"]["mae"]) == (64, 0.25)
    assert ran.json["closest"]["second"] == "exact:4u"
    assert ran.json["closest"]["positions"] == [{"a": 3, "b": 5, "first": 79, "second": 15}]
    text = run("import", str(path), "--operands", "4u", "--name", "mine").out
    assert "closest  exact:4u: differs in 1 of 256 entries, first at a=3, b=5 (79, not 15)" in text
    assert "MAE 0.25, WCE 64" in text


def test_one_name_one_table(run: Callable[..., Any], tmp_path: Path) -> None:
    """A second table under a name that is taken is refused without --force; the same one is not."""
    path = tmp_path / "t.txt"
    path.write_text("1 2\n3 4\n")
    for _ in range(2):
        assert run("import", str(path), "--operands", "1u").code == 0
    path.write_text("1 2\n3 5\n")
    ran = run("import", str(path), "--operands", "1u")
    assert ran.code == 1
    assert "local:t is there already with another table" in ran.err
    assert load("local:t")(1, 1) == 4
    assert run("import", str(path), "--operands", "1u", "--force").code == 0
    stored = Store().get("local:t")
    assert stored is not None
    assert stored(1, 1) == 5


def test_dry_run(
    run: Callable[..., Any], tmp_path: Path, snapshot: Callable[[], dict[str, str]]
) -> None:
    """A dry run reports and keeps nothing."""
    (tmp_path / "t.txt").write_text("0 0\n0 1\n")
    ran = run("import", str(tmp_path / "t.txt"), "--operands", "1u", "--dry-run")
    assert (ran.code, ran.out.split()[0]) == (0, "seen")
    assert "equals   exact:1u" in ran.out
    assert snapshot() == {}


def test_folder(run: Callable[..., Any], tmp_path: Path) -> None:
    """A folder of C models: each by its own name; one that cannot be read stops no other."""
    for name, expression in (("mul4u_A1", "a * b + 1"), ("mul4u_B1", "a * b * c"), ("c", "a | b")):
        text = f"int {name}(int a, int b) {{ return {expression}; }}"
        (tmp_path / f"{name}.c").write_text(text)
    (tmp_path / "README").write_text("not a table")
    ran = run("import", str(tmp_path), "--operands", "4u", "--json")
    assert ran.code == 1
    assert [(Path(r["path"]).name, r["state"]) for r in ran.json] == [
        ("c.c", "imported"),
        ("mul4u_A1.c", "imported"),
        ("mul4u_B1.c", "failed"),
    ]
    assert "mul4u_B1.c: line 1: " in ran.err
    assert (load("local:c")(5, 2), load("local:mul4u_A1")(5, 2)) == (7, 11)
    assert run("import", str(tmp_path), "--name", "x").code == 2
    (tmp_path / "empty").mkdir()
    assert run("import", str(tmp_path / "empty")).code == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["t.txt"], 2, "whether its operands are signed"),
        (["t.txt", "--operands", "1s"], 2, "--index-order"),
        (["t.txt", "--operands", "8u"], 1, "need 256 x 256"),
        (["t.txt", "--operands", "one"], 2, "not an operand format"),
        (["t.txt", "--operands", "1u", "--format", "nobody"], 3, "no table format is called"),
        (["t.txt", "--operands", "1u", "--index-order", "up"], 2, "'up'"),
        (["t.txt", "--operands", "1u", "--name", "a b"], 2, "cannot name a multiplier"),
        (["t.txt", "--operands", "1u", "--name", ""], 2, "'' cannot name a multiplier"),
        (["gone.txt"], 3, "gone.txt: no such file"),
    ],
)
def test_import_refusals(
    run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    """What is missing or wrong is said on stderr, with the exit code of its kind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("1 2\n3 4\n")
    ran = run("import", *arguments)
    assert ran.code == code
    assert message in ran.err
    assert Store().ids() == []


# --- export -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.npy", "t.npz", "t.h5", "t.bin", "t.txt", "t.csv", "t.h"])
def test_export(run: Callable[..., Any], tmp_path: Path, name: str) -> None:
    """Any id goes out, with modifiers too, and comes back as it was."""
    path = tmp_path / name
    id = "drum:4ux3u/k=2+swap"
    ran = run("export", id, str(path), "--json")
    assert (ran.code, ran.json["file"], ran.json["bytes"]) == (0, str(path), path.stat().st_size)
    assert ran.json["id"] == id
    assert read_table(path, operands="3ux4u") == load(id)
    assert run("export", id, str(path)).code == 2
    assert run("export", id, str(path), "--force").code == 0


def test_export_orders(run: Callable[..., Any], tmp_path: Path) -> None:
    """The orders that are asked for are those of the file."""
    m = Multiplier.from_table(np.arange(16).reshape(4, 4), name="m", a_signed=True, b_signed=True)
    Store().put(m)
    path = tmp_path / "t.txt"
    ran = run("export", m.id, str(path), "--index-order", "offset", "--operand-order", "ba")
    assert (ran.code, ran.out) == (0, f"local:m  {path}\n")
    rows = [[m(a, b) for a in range(-2, 2)] for b in range(-2, 2)]
    assert path.read_text() == "".join(" ".join(map(str, row)) + "\n" for row in rows)


def test_export_refusals(run: Callable[..., Any], tmp_path: Path) -> None:
    """An unknown id, suffix or folder leaves nothing behind."""
    assert run("export", "nobody", str(tmp_path / "t.npy")).code == 3
    assert run("export", "exact:4u", str(tmp_path / "t.xyz")).code == 2
    assert run("export", "exact:4u", str(tmp_path / "gone" / "t.npy")).code == 1
    assert run("export", "exact:16u", str(tmp_path / "t.npy")).code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["npy", "npz", "raw", "text", "triples", "csv", "c-array"])
def test_export_to_stdout(
    capfdbinary: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """Standard output has the bytes of the file and nothing else, and no file is made."""
    monkeypatch.chdir(tmp_path)
    words = ["drum:4ux3u/k=2", "--format", format, "--operand-order", "ba"]
    with pytest.raises(SystemExit) as done:
        cli.main(["export", *words[:1], "-", *words[1:]])
    assert done.value.code == 0
    out, err = capfdbinary.readouterr()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit):
        cli.main(["export", *words[:1], "./-", *words[1:]])
    assert ((tmp_path / "-").read_bytes(), b"") == (out, err)


def test_export_to_stdout_refusals(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A format must be named, and be one stream; JSON has no place beside the table."""
    monkeypatch.chdir(tmp_path)
    for words, said in (
        ([], "say with --format"),
        (["--format", "h5"], "error: the format 'h5' is HDF5, which is read in a file only"),
        (["--format", "hdf5"], "error: the format 'hdf5' can only be read"),
        (["--format", "csv", "--json"], "name a file"),
        (["--format", "nosuch"], "'nosuch'"),
    ):
        ran = run("export", "exact:4u", "-", *words)
        assert (ran.code, ran.out) == (3 if "nosuch" in words else 2, "")
        assert said in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_export_onto_what_is_no_file(
    run: Callable[..., Any], tmp_path: Path, force: list[str]
) -> None:
    """A pipe stays one, with --force too, and a link to a device is not replaced."""
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "link.npy").symlink_to("/dev/null")
    for name, what in (("pipe.npy", "a pipe"), ("link.npy", "a device")):
        ran = run("export", "exact:4u", str(tmp_path / name), *force)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err == (
            f"error: {tmp_path / name}: cannot be written: it is {what}; name a regular file\n"
        )
    assert (tmp_path / "pipe.npy").is_fifo()
    assert (tmp_path / "link.npy").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2
