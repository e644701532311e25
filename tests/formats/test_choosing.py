"""Which format a file is in, what has to be said, and what a plug-in's format may do."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from approxhub import errors, hookimpl
from approxhub.formats import TableData, read_table, write_table
from approxhub.multiplier import Multiplier
from approxhub.plugins import TableFormat, host


def register(*formats: TableFormat, name: str = "mine") -> None:
    """Bring formats as a plug-in does."""
    hook = hookimpl(lambda: list(formats))
    host().register(SimpleNamespace(approxhub_formats=hook), name)


# --- telling formats apart ---------------------------------------------------------


def test_two_formats_are_refused(tmp_path: Path) -> None:
    """A file that may be two formats is refused, naming both and the way out."""
    path = tmp_path / "t.csv"
    path.write_text("0,0,1\n0,5,6\n1,7,8\n")  # a first row and column, or three triples
    with pytest.raises(errors.InputError, match=r"may be 'csv' or 'triples'.*--format"):
        read_table(path, operands="1u")
    assert read_table(path, format="csv", operands="1u").table.tolist() == [[5, 6], [7, 8]]
    path = tmp_path / "t.h"
    path.write_text("const int t[2][2] = {{1, 2}, {3, 4}};\nint f(int a, int b) { return a; }\n")
    with pytest.raises(errors.InputError, match="'c-array' or 'c-model'"):
        read_table(path, operands="1u")


def test_suffix_and_bytes_must_agree(tmp_path: Path) -> None:
    """A text that is called .npy is not read as text until that is said."""
    path = tmp_path / "t.npy"
    path.write_text("1 2\n3 4\n")
    with pytest.raises(
        errors.TableFileError, match=r"called \.npy, but is not 'npy'; it looks like 'text'"
    ):
        read_table(path, operands="1u")
    assert read_table(path, format="text", operands="1u")(1, 0) == 3


def test_the_reader_says_why(tmp_path: Path) -> None:
    """Floats of ``np.savetxt`` are refused with what the readers of the suffix say, not guessed."""
    path = tmp_path / "t.txt"
    np.savetxt(path, np.eye(2))
    why = (
        r"as 'text' \(line 1, number 1: '1\.0+e\+00' is not an integer.*or 'triples' \(line 1: 2 n"
    )
    with pytest.raises(errors.TableFileError, match=why):
        read_table(path, operands="1u")
    np.savetxt(path, np.eye(2), fmt="%d")
    assert read_table(path, operands="1u")(1, 1) == 1


def test_unknown_suffix_is_told_by_its_bytes(tmp_path: Path, signed: Multiplier) -> None:
    """Without a suffix that means something the first bytes decide, for every format."""
    for format in ("npy", "npz", "h5", "raw", "text", "triples", "csv", "c-array"):
        write_table(signed, tmp_path / "table", format=format, overwrite=True)
        assert read_table(tmp_path / "table", operands="4sx3s", index_order="pattern") == signed
    (tmp_path / "table").write_text("nothing of the kind\n")
    with pytest.raises(errors.TableFileError, match=r"no format that can be told.*csv"):
        read_table(tmp_path / "table")


@pytest.mark.parametrize("name", ["", "nobody"])
def test_unknown_format(tmp_path: Path, name: str) -> None:
    """A format that nobody brings is not found, and those that are known are named."""
    (tmp_path / "t.txt").write_text("1 2\n3 4\n")
    with pytest.raises(errors.NotFoundError, match="known: c-array, c-model"):
        read_table(tmp_path / "t.txt", format=name)
    with pytest.raises(errors.InputError, match=r"suffix '\.tab' is of no format.*npy \(\.npy\)"):
        write_table("exact:1u", tmp_path / "t.tab")
    with pytest.raises(errors.InputError, match="can only be read"):
        write_table("exact:1u", tmp_path / "t.c", format="c-model")


def test_what_is_no_file(tmp_path: Path) -> None:
    """No file, a folder, an empty file: each says so."""
    with pytest.raises(errors.NotFoundError, match="no such file"):
        read_table(tmp_path / "gone.npy")
    with pytest.raises(errors.InputError, match="is a folder"):
        read_table(tmp_path)
    (tmp_path / "t.npy").touch()
    with pytest.raises(errors.TableFileError, match="the file is empty"):
        read_table(tmp_path / "t.npy")
    with pytest.raises(errors.InputError, match="no regular file"):
        read_table("/dev/zero", format="raw", operands="8u")


def test_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the system keeps back says so, as an error of ours."""
    (tmp_path / "t.txt").write_text("1 2\n3 4\n")

    def forbidden(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    for format in (None, "text"):
        with pytest.raises(errors.TableFileError, match="cannot be read: Permission denied"):
            read_table(tmp_path / "t.txt", format=format, operands="1u")


# --- what has to be said ----------------------------------------------------------------


def test_signs_are_never_guessed(tmp_path: Path) -> None:
    """Negative entries do not make operands signed: the caller is asked, with suggestions."""
    path = tmp_path / "t.txt"
    path.write_text("-1 2\n3 4\n")
    with pytest.raises(errors.InputError, match=r"whether its operands are signed.*1u or 1s"):
        read_table(path)
    with pytest.raises(errors.InputError, match="order its rows stand, and 1s is signed"):
        read_table(path, operands="1sx1u")
    with pytest.raises(errors.InputError, match="order its columns stand, and 1s is signed"):
        read_table(path, operands="1ux1s")
    assert read_table(path, operands="1u")(0, 0) == -1


def test_labels_against_operands(tmp_path: Path) -> None:
    """Labels 0..3 are values of 2u and indices of 2s; labels that are neither are refused."""
    path = tmp_path / "t.triples"
    lines = [f"{a} {b} {10 * a + b}" for a in range(4) for b in range(2)]
    path.write_text("\n".join(reversed(lines)))
    assert read_table(path, operands="2ux1u")(3, 1) == 31
    with pytest.raises(errors.InputError, match="order its rows stand"):
        read_table(path, operands="2sx1u")
    assert read_table(path, operands="2sx1u", index_order="pattern")(-1, 1) == 31
    assert read_table(path, operands="2sx1u", index_order="offset")(-2, 1) == 1
    path.write_text("\n".join(lines).replace("3 ", "4 "))
    with pytest.raises(errors.TableFileError, match="rows are labelled 0 to 4, 4 of them"):
        read_table(path, operands="2ux1u")
    # Values in one column: the other's are values too, and 0..1 are none of 1s.
    path.write_text("-1 0 1\n-1 1 2\n0 0 3\n0 1 4\n")
    assert str(read_table(path).b) == "1u"
    with pytest.raises(errors.TableFileError, match="says 1s of what counts its rows and 1u"):
        read_table(path, operands="1s", index_order="pattern")


def test_patterns_in_an_unsigned_type(tmp_path: Path) -> None:
    """65,535 in an unsigned 16-bit array of signed operands may be -1: refused, not guessed."""
    table = np.zeros((256, 256), dtype=np.uint16)
    table[1, 255] = 65_535
    np.save(tmp_path / "t.npy", table)
    with pytest.raises(errors.TableFileError, match=r"row 1, column 255.*may be .* -1"):
        read_table(tmp_path / "t.npy", operands="8s", index_order="pattern")
    assert read_table(tmp_path / "t.npy", operands="8u")(1, 255) == 65_535


@pytest.mark.parametrize(
    ("shape", "operands", "message"),
    [
        ((3, 4), "2u", "this one has 3 x 4"),
        ((4, 4), "2ux3u", "has 4 x 4 entries, and operands of 2u by 3u need 4 x 8"),
        ((1, 4), "2u", "this one has 1 x 4"),
        ((4, 4), "16u", r"at most 2\*\*24"),
        ((6,), "1ux2u", "has 6 entries"),
    ],
)
def test_wrong_shapes(tmp_path: Path, shape: tuple[int, ...], operands: str, message: str) -> None:
    """A shape that the operands do not have says both."""
    np.save(tmp_path / "t.npy", np.zeros(shape, dtype=int))
    with pytest.raises(errors.TableFileError, match=message):
        read_table(tmp_path / "t.npy", operands=operands)


@pytest.mark.parametrize(
    "options",
    [
        {"operands": "8q"},
        {"operands": "1u", "index_order": "backwards"},
        {"operands": "1u", "operand_order": "aa"},
        {"operands": "1u", "name": "no good"},
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any]) -> None:
    """An option that is none is the caller's mistake."""
    (tmp_path / "t.txt").write_text("1 2\n3 4\n")
    with pytest.raises(errors.InputError):
        read_table(tmp_path / "t.txt", **options)


def test_c_model_says_its_operands(tmp_path: Path) -> None:
    """A function called mul4x2u_... says its operands, another has to be told; -1 is -1."""
    path = tmp_path / "t.c"
    path.write_text("int mul4x2u_XY(int a, int b) { return a * b + 1; }")
    m = read_table(path)
    assert (str(m.a), str(m.b), m(15, 3)) == ("4u", "2u", 46)
    with pytest.raises(errors.TableFileError, match="the file says 4u"):
        read_table(path, operands="4u")
    path.write_text("int f(int a, int b) { return a * 2 - b; }")
    with pytest.raises(errors.InputError, match="how wide the operands of 'f' are"):
        read_table(path)
    m = read_table(path, operands="2s")
    assert m(-2, 1) == -5
    m = read_table(path, operands="2ux3u", operand_order="ba")  # b is C's first argument
    assert m(3, 7) == 11
    path.write_text("int f(int a, int b) {\n goto x; }")
    with pytest.raises(errors.CModelError, match=r"t\.c: line 2: goto"):
        read_table(path, operands="2s")


# --- writing ---------------------------------------------------------------------------


def test_never_half_written(tmp_path: Path, signed: Multiplier) -> None:
    """A writer that fails leaves what was there, and nothing beside it."""

    def fails(data: TableData, path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    def breaks(data: TableData, path: Path) -> None:
        path.write_text("half")
        raise ZeroDivisionError("oh")

    register(
        TableFormat("full", (".full",), lambda head: False, write=fails),
        TableFormat("broken", (".broken",), lambda head: False, write=breaks),
    )
    (tmp_path / "t.full").write_text("before")
    with pytest.raises(errors.TableFileError, match=r"t\.full: cannot be written: No space left"):
        write_table(signed, tmp_path / "t.full", overwrite=True)
    with pytest.raises(errors.PluginError, match="'broken' failed: ZeroDivisionError: oh"):
        write_table(signed, tmp_path / "t.broken")
    with pytest.raises(errors.TableFileError, match="cannot be written"):
        write_table(signed, tmp_path / "gone" / "t.npy")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"t.full": "before"}


def test_nothing_is_replaced_unasked(tmp_path: Path, signed: Multiplier) -> None:
    """A file that is there stays, until it is said that it may go."""
    path = tmp_path / "t.npy"
    path.write_text("mine")
    with pytest.raises(errors.InputError, match="is there already; --force"):
        write_table(signed, path)
    assert path.read_text() == "mine"
    write_table(signed, path, overwrite=True)
    assert read_table(path, operands="4sx3s", index_order="pattern") == signed
    with pytest.raises(errors.InputError, match="is a folder"):
        write_table(signed, tmp_path, format="npy", overwrite=True)


def test_what_a_format_cannot_hold(tmp_path: Path) -> None:
    """A negative product of unsigned operands, or another order of our own files, is refused."""
    m = Multiplier.from_table([[-1, 2], [3, 4]], name="m")
    with pytest.raises(errors.TableFileError, match="a raw file could not say so"):
        write_table(m, tmp_path / "t.bin")
    with pytest.raises(errors.InputError, match="have one order"):
        write_table(m, tmp_path / "t.h5", operand_order="ba")
    assert list(tmp_path.iterdir()) == []


# --- plug-ins ------------------------------------------------------------------------------


def test_a_plugin_takes_part_equally(tmp_path: Path) -> None:
    """A plug-in's format reads, writes and makes a match ambiguous like a built-in one."""

    def write(data: TableData, path: Path) -> None:
        path.write_text("MINE" + " ".join(map(str, data.grid.ravel().tolist())))

    def read(path: Path, operands: Any) -> TableData:
        return TableData(np.array(path.read_text()[4:].split(), dtype=int), operands=operands)

    register(
        TableFormat("mine", (".mine",), lambda h: h.startswith(b"MINE"), read, write),
        TableFormat("greedy", (".txt",), lambda h: True, read),
    )
    m = Multiplier.from_table([[5, 6], [7, 8]], name="m")
    write_table(m, tmp_path / "t.mine")
    assert read_table(tmp_path / "t.mine", operands="1u") == m
    write_table(m, tmp_path / "t.txt")
    with pytest.raises(errors.InputError, match="'greedy' or 'text'"):
        read_table(tmp_path / "t.txt", operands="1u")


def test_a_plugin_that_raises_stops_nobody(tmp_path: Path) -> None:
    """One whose sniff raises is passed over with a warning; one whose read raises is named."""

    def raises(*_: Any) -> Any:
        raise ZeroDivisionError("oh")

    register(
        TableFormat("bad", (".txt",), raises, raises),
        TableFormat("exits", (".txt",), lambda h: sys.exit(3), raises),
        TableFormat("wrong", (".wrong",), lambda h: True, lambda p, o: "a table"),  # type: ignore[arg-type,return-value]
    )
    path = tmp_path / "t.txt"
    path.write_text("1 2\n3 4\n")
    with pytest.warns(UserWarning, match="failed to look at a file") as warned:
        assert read_table(path, operands="1u")(1, 0) == 3
    assert [str(w.message) for w in warned] == [
        "table format 'bad' failed to look at a file: ZeroDivisionError: oh",
        "table format 'exits' failed to look at a file: SystemExit: 3",
    ]
    with pytest.raises(errors.PluginError, match="'bad' failed: ZeroDivisionError: oh"):
        read_table(path, format="bad", operands="1u")
    (tmp_path / "t.wrong").write_text("1 2\n3 4\n")
    with pytest.raises(errors.PluginError, match="must return TableData, got str"):
        read_table(tmp_path / "t.wrong", format="wrong", operands="1u")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (TableData([[1, 2], [3, 4]]), "must return numpy arrays, and 'entries' is of type list"),  # type: ignore[arg-type]
        (TableData(np.eye(2, dtype=int), rows=[0, 1]), "and 'rows' is of type list"),  # type: ignore[arg-type]
        (TableData(np.eye(2, dtype=int), operands="1u"), "as 'operands', got '1u'"),  # type: ignore[arg-type]
        (TableData(np.eye(2, dtype=int), index_order="up"), "returned 'up' as 'index_order'"),
    ],
)
def test_a_plugin_that_returns_other_types_is_named(
    tmp_path: Path, data: TableData, said: str
) -> None:
    """What a reader gives is looked at as it comes, so that the error says whose it is."""
    register(TableFormat("lists", (".lists",), lambda h: True, lambda p, o: data))
    path = tmp_path / "t.lists"
    path.write_text("any")
    with pytest.raises(errors.PluginError) as caught:
        read_table(path, operands="1u")
    assert f"{path}: table format 'lists' failed: " in str(caught.value)
    assert said in str(caught.value)
