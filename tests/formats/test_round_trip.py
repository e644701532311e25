"""What is written is what is read, in every format and every order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import approxhub as ah
from approxhub import errors
from approxhub.formats import all_formats, read_table, write_table
from approxhub.multiplier import Multiplier

OWN = {
    "c-array": ".h",
    "csv": ".csv",
    "h5": ".h5",
    "npy": ".npy",
    "npz": ".npz",
    "raw": ".bin",
    "text": ".txt",
    "triples": ".triples",
}
OPERANDS = st.builds("{}{}".format, st.integers(1, 4), st.sampled_from("su"))


def test_every_format_that_writes_is_tried() -> None:
    """The list of these tests is the list of the formats, each with its own suffix."""
    assert {f.name: f.suffixes[0] for f in all_formats() if f.write is not None} == OWN


@pytest.mark.parametrize("format", sorted(set(OWN) - {"h5"}))
@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    a=OPERANDS,
    b=OPERANDS,
    seed=st.integers(0, 99),
    bound=st.sampled_from([100, 255, 32_767, 65_535, 2**31 - 1]),
    index=st.sampled_from(["pattern", "offset"]),
    order=st.sampled_from(["ab", "ba"]),
)
def test_round_trip(
    lopsided: Callable[..., Multiplier],
    format: str,
    a: str,
    b: str,
    seed: int,
    bound: int,
    index: str,
    order: str,
) -> None:
    """Whatever the widths, signs and orders: the same identity, and every product the same."""
    m = lopsided(a, b, seed, bound)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"table{OWN[format]}"
        write_table(m, path, index_order=index, operand_order=order)
        # A first row over one bit may be a triple too.
        doubtful = format == "csv" and min(m.a.bits, m.b.bits) == 1
        again = read_table(
            path,
            format=format if doubtful else None,
            operands=f"{a}x{b}",
            index_order=index,
            operand_order=order,
        )
    assert again.identity == m.identity
    for x in range(m.a.min, m.a.max + 1):
        for w in range(m.b.min, m.b.max + 1):
            assert again(x, w) == m(x, w)


@pytest.mark.parametrize("operands", ["8s", "4ux3s", "12ux3u"])
def test_own_file_says_everything(
    tmp_path: Path, lopsided: Callable[..., Multiplier], operands: str
) -> None:
    """An .h5 is read without a word; an .npz in any order too."""
    a, _, b = operands.partition("x")
    m = lopsided(a, b or a)
    write_table(m, tmp_path / "t.h5")
    assert read_table(tmp_path / "t.h5") == m
    write_table(m, tmp_path / "t.npz", index_order="offset", operand_order="ba")
    assert read_table(tmp_path / "t.npz") == m


def test_values_need_no_order(tmp_path: Path, signed: Multiplier) -> None:
    """Triples and CSV write values: a negative one settles the operands and the index order."""
    for suffix in ("triples", "csv"):
        path = tmp_path / f"t.{suffix}"
        write_table(signed, path, index_order="offset")
        assert read_table(path) == signed
        assert read_table(path, index_order="pattern") == signed  # moot
    write_table(signed, path, operand_order="ba", overwrite=True)
    assert read_table(path) == signed  # the corner says it
    with pytest.raises(errors.TableFileError, match="'ba' of the operand order, and you say 'ab'"):
        read_table(path, operand_order="ab")


def test_wide_circuit(tmp_path: Path) -> None:
    """A C model too wide for a table goes into .h5 as its text, and nowhere else."""
    text = "unsigned mul16u_T(unsigned short a, unsigned short b) { return a * (b | 1u); }"
    (tmp_path / "mul16u_T.c").write_text(text)
    m = read_table(tmp_path / "mul16u_T.c")
    assert (str(m.a), m.has_table, m(65_535, 65_534)) == ("16u", False, 65_535**2)
    write_table(m, tmp_path / "t.h5")
    assert read_table(tmp_path / "t.h5") == m
    with pytest.raises(errors.TableFileError, match="too wide for a table"):
        write_table(m, tmp_path / "t.npy")
    with pytest.raises(errors.InputError, match="takes the activation first"):
        read_table(tmp_path / "mul16u_T.c", operand_order="ba")


def test_equal_tables_give_equal_bytes(tmp_path: Path, signed: Multiplier) -> None:
    """Nothing of the day gets into a file."""
    for suffix in OWN.values():
        for name in ("one", "two"):
            write_table(signed, tmp_path / f"{name}{suffix}")
        one, two = ((tmp_path / f"{n}{suffix}").read_bytes() for n in ("one", "two"))
        assert one == two, suffix


def test_what_others_write(tmp_path: Path) -> None:
    """numpy's own files, Fortran order and other byte orders too, are read as they are meant."""
    table = np.arange(64).reshape(8, 8) - 32
    m = Multiplier.from_table(table, name="t", a_signed=True, b_signed=True)
    path = tmp_path / "t.npy"
    for array in (table.astype(">i2"), np.asfortranarray(table), table[::-1][::-1]):
        np.save(path, array)
        assert read_table(path, operands="3s", index_order="pattern") == m
    np.savez(tmp_path / "t.npz", whatever=table)
    assert read_table(tmp_path / "t.npz", operands="3s", index_order="pattern") == m
    np.savetxt(tmp_path / "t.txt", table, fmt="%d", header="ours")
    assert read_table(tmp_path / "t.txt", operands="3s", index_order="pattern") == m
    np.savetxt(tmp_path / "t.csv", table, fmt="%d", delimiter=",")
    assert read_table(tmp_path / "t.csv", operands="3s", index_order="pattern") == m
    np.save(path, table.ravel())  # row by row
    assert read_table(path, operands="3s", index_order="pattern") == m


def test_orientation_by_hand(tmp_path: Path) -> None:
    """One cell in each order, written out by hand: the activation counts the rows, or not."""
    path = tmp_path / "t.txt"
    path.write_text("1 2 3 4\n5 6 7 8\n")
    m = read_table(path, operands="1ux2u")
    assert (m(0, 3), m(1, 0)) == (4, 5)
    m = read_table(path, operands="2ux1u", operand_order="ba")
    assert (m(3, 0), m(0, 1)) == (4, 5)
    m = read_table(path, operands="1sx2s", index_order="offset")
    assert (m(-1, -2), m(-1, 1), m(0, -2), m(0, 1)) == (1, 4, 5, 8)
    m = read_table(path, operands="1sx2s", index_order="pattern")
    assert (m(0, 0), m(0, -1), m(-1, 0), m(-1, -2)) == (1, 4, 5, 7)
    path.write_text("\n".join("12345678"))  # one number a line: row by row
    assert read_table(path, operands="1ux2u")(1, 0) == 5


def test_raw_is_little_endian(tmp_path: Path) -> None:
    """131,072 bytes: 256 x 256 words, the low byte first; signed where an operand is."""
    words = np.zeros((256, 256), dtype="<u2")
    words[3, 5] = 0xFFFE
    path = tmp_path / "t.bin"
    path.write_bytes(words.tobytes())
    assert path.stat().st_size == 131_072
    assert read_table(path, operands="8u")(3, 5) == 65_534
    assert read_table(path, operands="8s", index_order="pattern")(3, 5) == -2
    assert read_table(path, operands="8s", index_order="offset")(-125, -123) == -2


def test_c_header_by_hand(tmp_path: Path) -> None:
    """An array as other tools have it: comments, hexadecimal, suffixes, a flat one, guards."""
    path = tmp_path / "t.h"
    path.write_text(
        "#ifndef T_H\r\n#define T_H\r\n#include <stdint.h>\r\n"
        "/* {9, 9}, */ const int16_t lut [2][2] = {{-1, 0x2}, // 7\r\n{3L, +4u},};\r\n#endif\r\n"
    )
    m = read_table(path, operands="1s", index_order="offset")
    assert (m(-1, -1), m(-1, 0), m(0, -1), m(0, 0)) == (-1, 2, 3, 4)
    path.write_text("static unsigned short t[4]={1,2,3,4};")
    assert read_table(path, operands="1u")(1, 0) == 3
    path.write_text("static unsigned short t[][2]={{1,2},{3,4}};")
    assert read_table(path, operands="1u")(1, 0) == 3


def test_ids_are_taken(tmp_path: Path) -> None:
    """Whatever takes a multiplier takes an id; provenance says the file's name and hash."""
    ah.write_table("drum:4u/k=3", tmp_path / "drum.npy")
    m = ah.read_table(tmp_path / "drum.npy", operands="4u")
    assert m == ah.load("drum:4u/k=3")
    assert m.id == "local:drum"
    assert m.provenance.path == "drum.npy"
    assert len(m.provenance.source_sha256 or "") == 64
