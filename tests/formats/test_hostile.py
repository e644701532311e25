"""Table files from a stranger: each is refused by name and place, and nothing else happens."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from approxhub import errors
from approxhub.errors import ApproxHubError, TableFileError
from approxhub.formats import all_formats, hdf5, read_table, write_table
from approxhub.multiplier import Multiplier
from approxhub.registry.framing import seal


def refused(path: Path, message: str, kind: type[Exception] = TableFileError, **said: Any) -> None:
    """Expect a refusal that names the file and says what is wrong."""
    said.setdefault("operands", "1u")
    with pytest.raises(kind, match=message) as caught:
        read_table(path, **said)
    assert str(caught.value).startswith(str(path))


# --- text -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"1 2\n3\n", "line 2: 1 numbers, not 2"),
        (b"1 2\n3 4 5\n", "line 2: 3 numbers, not 2"),
        (b"1 2\n3 4.0\n", "line 2, number 2: '4.0' is not an integer"),
        (b"1 2\n3 nan\n", "line 2, number 2: 'nan'"),
        (b"1 2\n3 inf\n", "'inf'"),
        (b"1 2\n3 1e3\n", "'1e3'"),
        (b"1 2\n3 1_0\n", "'1_0'"),
        (b"1 2\n3 0x4\n", "'0x4'"),
        (b"1 2\n3 99999999999999999999\n", "line 2, number 2: '99999999999999999999'"),
        (b"1 2\n3 4294967296\n", "row 1, column 1.*at most 32 bits"),
        (b"1 2\n-2147483649 4\n", "row 1, column 0.*at most 32 bits"),
        ("1 2\n3 ٤\n".encode(), "line 2, number 2: '٤'"),
        ("1 2\n3 \uff14".encode(), "line 2, number 2: '\uff14'"),
        (b"1 2\n3 \x004\n", r"line 2, number 2: '\\x004'"),
        (b"1 2\n3 " + b"9" * (1 << 21), "line 2: longer than 1,048,576 bytes"),
        (b"1 2\n" * 3, "this one has 3 x 2"),
    ],
    ids=range(16),
)
def test_text(tmp_path: Path, text: bytes, message: str) -> None:
    """A text table that is no table names the line and the number."""
    path = tmp_path / "t.txt"
    path.write_bytes(text)
    refused(path, message)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" \r\n\r\n"])
@pytest.mark.parametrize("suffix", ["txt", "csv", "triples", "h"])
def test_line_ends_and_marks_are_harmless(
    tmp_path: Path, mark: bytes, end: bytes, suffix: str
) -> None:
    """Windows' line ends and UTF-8's mark change nothing; UTF-16 is refused by name."""
    lines = {
        "txt": [b"1 2", b"3 4"],
        "csv": [b"1,2", b"3,4"],
        "triples": [b"0 0 1", b"0 1 2", b"1 0 3", b"1 1 4"],
        "h": [b"const int t[2][2] = {", b"{1, 2}, {3, 4}", b"};"],
    }[suffix]
    path = tmp_path / f"t.{suffix}"
    path.write_bytes(mark + end.join(lines) + end)
    assert read_table(path, operands="1u").table.tolist() == [[1, 2], [3, 4]]


def test_utf16(tmp_path: Path) -> None:
    """A text in UTF-16 says that it is."""
    path = tmp_path / "t.txt"
    path.write_bytes("1 2\n3 4\n".encode("utf-16"))
    refused(path, "line 1: the text is UTF-16", format="text")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0 1\n0 1 2\n1 0 3\n0 1 4\n1 1 5\n", "line 4: the pair 0 1 stands in line 2"),
        ("0 0 1\n0 1 2\n1 1 3\n", "the pair 1 0 is missing: there are 3 triples of 2 x 2"),
        ("0 0 1\n0 1 2\n1 0 3\n", "the pair 1 1 is missing"),
        ("0 1 2\n1 0 3\n1 1 3\n", "the pair 0 0 is missing"),
        ("0 0 1\n0 1\n", "line 2: 2 numbers, not 'a b result'"),
        ("0 0 1\na b c\n", "line 2, number 1: 'a' is not an integer"),
        ("0 0 1\n0 1 2.5\n", "line 2, number 3: '2.5'"),
        ("0 0 1\n0 1 1\n5 0 1\n5 1 1\n", "rows are labelled 0 to 5"),
        ("a b c\n", "no triples"),
        ("0 0 7\n", "labelled 0 to 0, 1 of them|this one has 1 x 1"),
    ],
)
def test_triples(tmp_path: Path, text: str, message: str) -> None:
    """A pair twice, a pair missing, a pair that is none: each says which."""
    path = tmp_path / "t.triples"
    path.write_text(text)
    refused(path, message)


def test_triples_against_a_slow_count(tmp_path: Path) -> None:
    """The pair that is said to be missing is the first one missing, wherever it stands."""
    path = tmp_path / "t.triples"
    pairs = [(a, b) for a in range(-2, 2) for b in range(4)]
    for gone in pairs:
        left = [p for p in pairs if p != gone]
        random.Random(1).shuffle(left)
        path.write_text("".join(f"{a} {b} 1\n" for a, b in left))
        refused(path, f"the pair {gone[0]} {gone[1]} is missing", operands="2sx2u")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3\n", "line 2: 1 numbers, and 2"),
        ("1,2\n3,=cmd()\n", "line 2, number 2: '=cmd"),
        ("1,2\n3,\n", "line 2, number 2: ''"),
        ("1,2\n3,nan\n", "'nan'"),
        ("1,2\n1,2\n3,4\n", "it has 3 x 2 numbers"),
        ("1,2\n3,4 5\n", "line 2, number 2: '4 5' is not an integer"),  # found by fuzzing
        ("a,0,1\n0,1,2\n", "it has 2 x 3 numbers"),
        ("a,0,1\n0,1,2\n0,3,4\n", "rows are labelled 0 to 0, 2 of them"),
        ("a,0,2\n0,1,2\n1,3,4\n", "columns are labelled 0 to 2"),
        ("a,0,1\n-1,1,2\n1,3,4\n", "rows are labelled -1 to 1|says 1s"),
    ],
)
def test_csv(tmp_path: Path, text: str, message: str) -> None:
    """Rows that differ, formulas, gaps and labels that are none."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    refused(path, message, format="csv")


# --- C arrays -----------------------------------------------------------------------------------

HEAD = "const int16_t t[2][2] = "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "{{1,2},{3,4}", "line 1: the file ends inside the array"),
        (HEAD + "{{1,2},{3,", "the file ends inside the array"),
        (HEAD + "{{1,2},\n{3}};", "line 2: a row of 1 numbers, and 2 are declared"),
        (HEAD + "{{1,2},{3,4,5}};", "a row of 3 numbers"),
        (HEAD + "{{1,2}};", "1 rows, and 2 are declared"),
        (HEAD + "{{1,2},{3,4},{5,6}};", "3 rows, and 2 are declared"),
        (HEAD + "{{1,2},{3,40000}};", "entry 3 of 't' .* is 40000, which int16_t cannot hold"),
        (HEAD + "{{1,2},{3,99999999999}};", "line 1: '99999999999' where a number should be"),
        (HEAD + "{{1,2},{3,4.0}};", "'4.0' where a number"),
        (HEAD + "{{1,2},{3,1+3}};", r"'1\+3' where a number"),
        (HEAD + "{{1,2},{3,(4)}};", "where a number"),
        (HEAD + "{{1,2},{3,f(4)}};", "where a number"),
        (HEAD + "{{1,2},{3,'a'}};", "where a number"),
        (HEAD + "{{1,2},{3,010}};", "010 is octal"),
        (HEAD + "{{1,2},[1]={3,4}};", r"',\[1\]=' where only a comma"),
        (HEAD + "{{1,2}{3,4}};", "a comma is missing between two rows"),
        (HEAD + "{{1,2},,{3,4}};", "',,' where only a comma"),
        (HEAD + "{1,2,3,4};", "'1,2,3,4' where only a comma"),
        (HEAD + "{" * 10_000, "a brace too many"),
        (HEAD + "};", "where a number|one array|the file ends"),
        (HEAD + "{{1,2},;", "ends before its last brace"),
        (
            "#define X 4\n" + HEAD + "{{1,2},{3,X}};",
            "line 1: the preprocessor directive",
        ),
        ('#include "/etc/passwd"\n' + HEAD + "{{1,2},{3,4}};", "directive '#include \"/etc/passwd"),
        ("#if 0\n#endif\n" + HEAD + "{{1,2},{3,4}};", "line 1: the preprocessor directive '#if 0'"),
        ("#pragma pack(1)\n" + HEAD + "{{1,2},{3,4}};", "#pragma pack"),
        (HEAD + "{{1,2},\\\n{3,4}};", "line 1: a continued line"),
        ("??=define int16_t int\n" + HEAD + "{{1,2},{3,4}};", "a trigraph"),
        (HEAD + "{{1,2},{3,4\0}};", "a NUL character"),
        (HEAD + "{{1,2},{3,٤}};", "where a number"),
        ("const float t[2][2] = {{1,2},{3,4}};", "'float' is no integer type"),
        ("const int t[2][] = {{1,2},{3,4}};", "C needs the length of a row"),
        ("const int t[2][2][1] = {{{1},{2}},{{3},{4}}};", "3 dimensions"),
        (HEAD + "{{1,2},{3,4}};\nint u[1] = {1};", r"has 2 \(t, u\)"),
        ("int t[2][2];", "it has 0"),
        ("const int t[0][2] = {{1,2}};", "1 rows, and 0 are declared"),
        ("const int t[] = {};", "a row without numbers"),
    ],
    ids=range(36),
)
def test_c_array(tmp_path: Path, text: str, message: str) -> None:
    """Whatever a compiler might make of it: what is no plain list of numbers is refused."""
    path = tmp_path / "t.h"
    path.write_text(text, encoding="utf-8")
    refused(path, message, format="c-array")


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "{" * 3_000_000,
        HEAD + "{{" + " " * 3_000_000,
        "/*" * 1_500_000,
        "/* " * 1_000_000,
        "//" * 1_500_000,
        "int " * 800_000,
        "a[1]" * 800_000,
        "x [" * 1_000_000,
        "int t[" + "1" * 3_000_000,
        "#" * 3_000_000,
        ("int t" + "[1]" * 4 + " ") * 100_000,
        "int a" * 700_000,
        "int " + "a" * 3_000_000,
        "int" + " \t" * 1_500_000 + "[",
    ],
    ids=range(14),
)
def test_c_array_takes_no_time(tmp_path: Path, text: str) -> None:
    """Three million signs that are meant to keep a parser busy are refused in seconds."""
    path = tmp_path / "t.h"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(ApproxHubError):
        read_table(path, format="c-array", operands="1u")
    assert time.monotonic() - started < 10


# --- NumPy ---------------------------------------------------------------------------


class Bang:
    """Unpickling one writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def npy(array: Any, **options: Any) -> bytes:
    """Bytes of an ``.npy``."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), **options)
    return buffer.getvalue()


def header(text: str, body: bytes = b"") -> bytes:
    """An ``.npy`` with any header."""
    raw = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + body


GOOD = npy(np.zeros((2, 2), np.int16))
HUGE = "{'descr': '<i2', 'fortran_order': False, 'shape': (%s), }"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD[:-1], "7 bytes of entries, and its header promises 8"),
        (GOOD + b"\0", "9 bytes of entries, and its header promises 8"),
        (GOOD[:40], "no sound .npy header"),
        (npy(np.zeros((2, 2))), "of type float64, not integers"),
        (npy(np.full((2, 2), np.nan)), "of type float64"),
        (npy(np.zeros((2, 2), bool)), "of type bool"),
        (npy(np.zeros((2, 2), "i4,i4")), r"of type \[\('f0'"),
        (npy(np.zeros((2, 2), "U4")), "of type <U4"),
        (npy(np.zeros((2, 2), "M8[s]")), "of type datetime64"),
        (npy(np.zeros((2, 2, 2), int)), r"shape \(2, 2, 2\) is no table"),
        (npy(np.zeros((0, 2), int)), r"shape \(0, 2\) is no table"),
        (npy(np.int64(3)), "this one has|has  entries|is no table"),
        (npy([[1, 2], [3, 4]], version=(3, 0)), r"version \(3, 0\)"),
        (header(HUGE % "1 << 40, 2"), "no sound .npy header"),
        (header(HUGE % "1099511627776, 1099511627776"), "is no table"),
        (header(HUGE % "-2, -2", b"0" * 8), "is no table"),
        (header(HUGE % "2.0, 2", b"0" * 8), "no sound .npy header|is no table"),
        (header("__import__('os').system('true')"), "no sound .npy header"),
        (header("(" * 100), "no sound .npy header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "no sound .npy header"),
        (npy(np.array([[2**40, 2], [3, 4]])), "row 0, column 0.*at most 32 bits"),
        (npy(np.array([[2**64 - 1, 2], [3, 4]], np.uint64)), "at most 32 bits"),
    ],
    ids=range(22),
)
def test_npy(tmp_path: Path, data: bytes, message: str) -> None:
    """A header is not believed, and what is no integer is no entry."""
    path = tmp_path / "t.npy"
    path.write_bytes(data)
    refused(path, message)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    """An array of objects is refused, and none of them comes to life."""
    bang = np.array([[Bang(tmp_path / "bang")]], dtype=object)
    path = tmp_path / "t.npy"
    path.write_bytes(npy(bang, allow_pickle=True))
    refused(path, "of type object, not integers")
    np.savez(tmp_path / "t.npz", table=bang)
    refused(tmp_path / "t.npz", "array 'table': .* of type object")
    assert not (tmp_path / "bang").exists()


def test_npz(tmp_path: Path) -> None:
    """A bomb, a liar, a broken archive, one of too many arrays: each is refused as that."""
    path = tmp_path / "t.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("table.npy", bytes(140 << 20))
    assert path.stat().st_size < 1 << 20
    refused(path, "unpacks to 146,800,640 bytes")
    np.savez(path, x=np.zeros((2, 2), int), y=np.zeros((2, 2), int))
    refused(path, r"several arrays or none \('x', 'y'\)")
    np.savez(path, x=np.zeros((2, 2)))
    refused(path, "array 'x': .* float64")
    np.savez(path, **{f"x{i}": np.zeros((2, 2), int) for i in range(17)})
    refused(path, "17 arrays")
    np.savez(path, table=np.zeros((2, 2), int), index_order=np.array("sideways"))
    refused(path, "'sideways' is none of pattern, offset")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../t.npy", GOOD)
        archive.writestr("evil.sh", "true")
    refused(path, "'evil.sh' is no array")
    np.savez_compressed(path, table=np.arange(4).reshape(2, 2))
    data = bytearray(path.read_bytes())
    data[60] ^= 255
    path.write_bytes(data)
    refused(path, "no sound|cut off|integers", ApproxHubError)
    path.write_bytes(bytes(data[:50]))
    refused(path, "no sound .npz")


@pytest.mark.parametrize("place", [b"PK\x03\x04", b"PK\x01\x02"], ids=["member", "directory"])
def test_npz_of_names_that_are_no_text(tmp_path: Path, place: bytes) -> None:
    """Found by fuzzing: a name said to be UTF-8 that is not is a damaged archive, not a crash."""
    path = tmp_path / "t.npz"
    np.savez(path, table=np.zeros((2, 2), np.int16))
    data = bytearray(path.read_bytes())
    for start in {data.index(place), data.index(b"PK\x01\x02")}:  # in a member: in both
        flags = start + (6 if data[start + 2 : start + 4] == b"\x03\x04" else 8)
        data[flags + 1] |= 8
    data[data.index(b"table.npy", data.index(place))] = 0x94
    path.write_bytes(data)
    refused(path, "no sound .npz: 'utf-8' codec")


# --- raw ---------------------------------------------------------------------------------------


def test_raw(tmp_path: Path) -> None:
    """A length that fits no table of the operands says which would; no operands, no table."""
    path = tmp_path / "t.bin"
    path.write_bytes(bytes(131_070))
    refused(path, "131,070 bytes; 65,536 entries of operands 8u by 8u take 131,072", operands="8u")
    refused(path, "says nothing but its numbers", errors.InputError, operands=None)
    refused(path, "at most 16,777,216 entries", operands="16u")


def test_size_cap(tmp_path: Path) -> None:
    """A file of half a gigabyte and more is not read at all; this one is a hole."""
    path = tmp_path / "t.txt"
    with path.open("wb") as file:
        file.truncate((1 << 29) + 1)
    refused(path, "has 536,870,913 bytes; at most 536,870,912")


# --- HDF5 ----------------------------------------------------------------------------


def table(file: h5py.File, name: str = "t", **options: Any) -> h5py.Dataset:
    """A sound dataset."""
    return file.create_dataset(name, data=np.array([[1, 2], [3, 4]], np.int16), **options)


def external_link(file: h5py.File, folder: Path) -> None:
    """The table lies behind a link into another file."""
    with h5py.File(folder / "other.h5", "w") as other:
        table(other)
    file["t"] = h5py.ExternalLink(str(folder / "other.h5"), "/t")


def soft_link(file: h5py.File, folder: Path) -> None:
    """The table lies behind a soft link."""
    table(file, "real")
    file["t"] = h5py.SoftLink("/real")


def external_storage(file: h5py.File, folder: Path) -> None:
    """The entries lie in another file."""
    (folder / "raw").write_bytes(bytes(8))
    file.create_dataset("t", (2, 2), np.int16, external=[(str(folder / "raw"), 0, 8)])


def virtual(file: h5py.File, folder: Path) -> None:
    """The entries are another file's."""
    with h5py.File(folder / "other.h5", "w") as other:
        table(other)
    layout = h5py.VirtualLayout((2, 2), np.int16)
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "t", (2, 2))
    file.create_virtual_dataset("t", layout)


def unknown_filter(file: h5py.File, folder: Path) -> None:
    """The entries ask for a filter plug-in."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((2, 2))
    properties.set_filter(32_015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple((2, 2))
    h5py.h5d.create(file.id, b"t", h5py.h5t.NATIVE_INT16, space, properties)


def huge(file: h5py.File, folder: Path) -> None:
    """Entries without end, none of them written."""
    file.create_dataset("t", (1 << 20, 1 << 20), np.int64, chunks=(1, 1 << 10))


def huge_chunk(file: h5py.File, folder: Path) -> None:
    """A chunk of two gigabytes."""
    file.create_dataset(
        "t", (2, 2), np.int64, chunks=(1 << 14, 1 << 14), maxshape=(None, None), compression="gzip"
    )


def two(file: h5py.File, folder: Path) -> None:
    """Two tables."""
    table(file, "x")
    table(file, "y")


def many(file: h5py.File, folder: Path) -> None:
    """A thousand groups and one."""
    for i in range(1001):
        file.create_group(f"g{i}")


def floats(file: h5py.File, folder: Path) -> None:
    """No integers."""
    file["t"] = np.full((2, 2), np.inf)


def nothing(file: h5py.File, folder: Path) -> None:
    """No table."""
    file["t"] = 3


STRANGE: dict[Callable[[h5py.File, Path], None], str] = {
    external_link: "'t' is a soft or external link",
    soft_link: "'t' is a soft or external link",
    external_storage: "the entries of 't' lie in another file",
    virtual: "'t' is a virtual dataset",
    unknown_filter: "'t' is packed with filter 32015",
    huge: r"'t' of shape \(1048576, 1048576\) is no table",
    huge_chunk: "chunks .* are too large",
    two: r"it holds 2 \(of 'x', 'y'\)",
    many: "more than 1,000 objects",
    floats: r"it holds 0 \(of 't'\)",
    nothing: r"it holds 0 \(of 't'\)",
}


@pytest.mark.parametrize("make", STRANGE, ids=lambda f: f.__name__)
def test_strange_hdf5(tmp_path: Path, make: Callable[[h5py.File, Path], None]) -> None:
    """What reaches out of the file, wants a plug-in or is no table is refused as that."""
    path = tmp_path / "t.hdf5"
    with h5py.File(path, "w") as file:
        make(file, tmp_path)
    refused(path, STRANGE[make])


def test_sealed_but_strange(tmp_path: Path) -> None:
    """Our frame around a stranger's file is no letter of safe conduct."""
    outside = tmp_path / "other.h5"
    with h5py.File(outside, "w") as other:
        other["table"] = np.array([[1, 2], [3, 4]])
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512) as file:
        file.attrs["a"] = file.attrs["b"] = "1u"
        file["table"] = h5py.ExternalLink(str(outside), "/table")
    path = tmp_path / "t.h5"
    path.write_bytes(seal(buffer.getvalue(), b"APPROXHUB-OBJECT", 1))
    refused(path, "'table' is a soft or external link")
    path.write_bytes(seal(buffer.getvalue(), b"APPROXHUB-OBJECT", 99))
    refused(path, "schema version 99, of a newer ApproxHub")


def test_damaged_object(tmp_path: Path, signed: Multiplier) -> None:
    """A flipped bit of our own file is found before libhdf5 sees it."""
    path = tmp_path / "t.h5"
    write_table(signed, path)
    data = bytearray(path.read_bytes())
    data[900] ^= 1
    path.write_bytes(data)
    refused(path, "its SHA-256 is not the one in its header", errors.VerificationError)


def test_strangers_hdf5_is_read(tmp_path: Path) -> None:
    """A sound table in a group, packed with gzip, of any byte order, is read."""
    path = tmp_path / "t.h5"
    with h5py.File(path, "w") as file:
        made = file.create_group("deep").create_dataset(
            "lut", data=np.array([[1, -2], [3, 4]], ">i4"), compression="gzip", shuffle=True
        )
        made.attrs["note"] = "ours"
        file["deep/again"] = file["deep/lut"]  # a hard link to the same table
        file["scale"] = 0.5
    m = read_table(path, operands="1s", index_order="pattern")
    assert m.table.tolist() == [[1, -2], [3, 4]]


def test_hdf5_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not answer in time is ended, and the file refused."""
    path = tmp_path / "t.hdf5"
    with h5py.File(path, "w") as file:
        table(file)
    monkeypatch.setattr("approxhub.formats.hdf5._SECONDS", 0.001)
    refused(path, "without an answer: the file is damaged, or takes too much time or memory")


@pytest.mark.parametrize(
    "said", [b"", b"[]\n", b"{}\n", b'{"dtype": "O", "shape": [1]}\n12345678', b"\xff" * 9]
)
def test_what_a_captured_process_may_say(said: bytes) -> None:
    """The answer of a process that a file has taken over is believed no more than the file."""
    with pytest.raises(TableFileError, match="without an answer"):
        hdf5._answer(said, 0)


def test_truncated_hdf5(tmp_path: Path) -> None:
    """Cut off anywhere, it is refused."""
    path = tmp_path / "t.hdf5"
    with h5py.File(path, "w") as file:
        table(file, chunks=(1, 2), compression="gzip")
    whole = path.read_bytes()
    for end in (8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        refused(path, "libhdf5 cannot read it|without an answer|it holds 0", format="hdf5")


# --- any bytes --------------------------------------------------------------------------------

QUICK = sorted(f.name for f in all_formats() if f.read is not None and "h5" not in f.name)
QUICK = [name for name in QUICK if name != "hdf5"]


@pytest.mark.parametrize("format", QUICK)
@settings(max_examples=60, derandomize=True, deadline=None)
@given(data=st.data())
def test_any_bytes(
    format: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the bytes, sound ones with a few changed too: a table or one of our errors."""
    path = tmp_path_factory.getbasetemp() / f"any-{format}"
    seeds = {
        "npy": GOOD,
        "npz": _zipped(),
        "c-array": (HEAD + "{{1,2},{3,4}};").encode(),
        "c-model": b"int f(int a, int b) { return a * b; }",
        "csv": b"a,0,1\n0,1,2\n1,3,4\n",
        "text": b"1 2\n3 4\n",
        "triples": b"0 0 1\n0 1 2\n1 0 3\n1 1 4\n",
        "raw": bytes(8),
    }
    raw = bytearray(seeds[format])
    changes = st.tuples(st.integers(0, len(raw) - 1), st.binary(min_size=0, max_size=3))
    for place, new in data.draw(st.lists(changes, max_size=4)):
        raw[place : place + len(new) or 1] = new
    path.write_bytes(bytes(raw) or b"\0")
    # A PluginError would be a crash of the format's.
    with contextlib.suppress(TableFileError, errors.InputError, errors.CModelError):
        assert read_table(path, format=format, operands="1u", name="any").table.shape == (2, 2)


def _zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, table=np.zeros((2, 2), np.int16))
    return buffer.getvalue()
