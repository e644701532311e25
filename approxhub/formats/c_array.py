"""C header arrays: ``const int16_t lut[256][256] = {{...}, ...};`` as AdaPT and others have them.

A reader of its own takes integer literals between braces and nothing else: no preprocessor, no
expressions, nothing executed. Imports numpy.
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from approxhub.errors import TableFileError
from approxhub.formats.data import MAX_ENTRIES, Operands, TableData, smallest_dtype
from approxhub.plugins.descriptors import TableFormat

__all__ = ["FORMAT"]

_TYPES = {
    "int8_t": "i1",
    "uint8_t": "u1",
    "int16_t": "i2",
    "uint16_t": "u2",
    "int32_t": "i4",
    "uint32_t": "u4",
    "int64_t": "i8",
    "uint64_t": "u8",
    "signed char": "i1",
    "unsigned char": "u1",
    "short": "i2",
    "short int": "i2",
    "unsigned short": "u2",
    "unsigned short int": "u2",
    "int": "i4",
    "signed int": "i4",
    "unsigned": "u4",
    "unsigned int": "u4",
    "long long": "i8",
    "unsigned long long": "u8",
}
_COMMENT = re.compile(r"//[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
# Include guards and system headers change nothing; all else may change what the numbers are.
_HARMLESS = re.compile(
    r"#\s*(?:pragma\s+once|include\s*<[\w./]+>|ifndef\s+\w+|define\s+\w+|endif)\s*"
)
_QUALIFIERS = {"const", "static", "extern", "constexpr", "volatile"}
# Every expression here takes linear time on any text: none can be made to start over and over.
_START = re.compile(r"=\s*(?=\{)")
_SNIFF = re.compile(rb"\]\s*=\s*\{")
_DIMENSIONS = re.compile(r"(?:\[[0-9]{0,8}\])+")
_MAX_DECLARATION = 500
_MAX_DECLARATIONS = 64
_SIGN = re.compile(r"[{};]")
_NUMBER = re.compile(
    r"([+-]?)\s*(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})(?:[uU]?[lL]{0,2}|[lL]{1,2}[uU])"
)
_MAX_DEPTH = 2


def _sniff(head: bytes) -> bool:
    return _SNIFF.search(head) is not None


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _blank(comment: re.Match[str], text: str) -> str:
    """What stands for a comment: as many lines."""
    if comment[0].startswith("/*") and not comment[0][2:].endswith("*/"):
        raise TableFileError(f"line {_line(text, comment.start())}: a comment that never ends")
    return " " + "\n" * comment[0].count("\n")


def _plain(data: bytes) -> str:
    """The text without comments and harmless directives, line for line."""
    # Latin-1 takes any bytes; only comments have any that are not ASCII.
    text = data.removeprefix(codecs.BOM_UTF8).decode("latin-1")
    if "\0" in text:
        raise TableFileError(f"line {_line(text, text.index(chr(0)))}: a NUL character")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    bad = re.search(r"\\\n|\?\?[=/'()!<>-]", text)
    if bad is not None:
        raise TableFileError(
            f"line {_line(text, bad.start())}: a continued line or a trigraph; write it plainly"
        )
    text = _COMMENT.sub(lambda m: _blank(m, text), text)
    for match in re.finditer(r"^[ \t]*#[^\n]*$", text, re.MULTILINE):
        if _HARMLESS.fullmatch(match[0].strip()) is None:
            raise TableFileError(
                f"line {_line(text, match.start())}: the preprocessor directive "
                f"{match[0].strip()[:40]!r}; preprocess the file before"
            )
    return re.sub(r"^[ \t]*#[^\n]*$", "", text, flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Array:
    """A declaration: where its entries begin, its name, its C type and its dimensions."""

    start: int
    name: str
    type: str
    dims: list[int | None]


def _arrays(text: str) -> Iterator[_Array]:
    """All arrays of a text that have entries."""
    for number, match in enumerate(_START.finditer(text)):
        if number == _MAX_DECLARATIONS:
            raise TableFileError(f"line {_line(text, match.start())}: too many initialisers")
        before = text[max(0, match.start() - _MAX_DECLARATION) : match.start()]
        before = before[max(before.rfind(sign) for sign in ";{}") + 1 :]
        tokens = re.findall(r"\w+|\S", before)
        words = list(itertools.takewhile(lambda t: t.isidentifier(), tokens))
        dims = "".join(tokens[len(words) :])
        if len(words) > 1 and _DIMENSIONS.fullmatch(dims):
            yield _Array(
                match.end(),
                words[-1],
                " ".join(w for w in words[:-1] if w not in _QUALIFIERS),
                [int(n) if n else None for n in dims[1:-1].split("][")],
            )


def _read(path: Path, operands: Operands | None) -> TableData:
    text = _plain(path.read_bytes())
    found = list(_arrays(text))
    if len(found) != 1:
        names = ", ".join(f.name[:40] for f in found[:8]) or "none"
        raise TableFileError(
            f"one array with its entries is needed, and it has {len(found)} ({names}); keep one"
        )
    array = found[0]
    line = _line(text, array.start)
    kind = _TYPES.get(array.type)
    if kind is None:
        raise TableFileError(f"line {line}: {array.type[:60]!r} is no integer type of C")
    if len(array.dims) > _MAX_DEPTH:
        raise TableFileError(f"line {line}: {len(array.dims)} dimensions; a table has two, or one")
    entries = _entries(text, array)
    limits = np.iinfo(np.dtype(kind))
    bad = np.flatnonzero((entries < limits.min) | (entries > limits.max))
    if bad.size:
        raise TableFileError(
            f"entry {bad[0]} of {array.name!r} (counted from 0) is {entries.flat[bad[0]]}, which "
            f"{array.type} cannot hold"
        )
    return TableData(entries.astype(kind), name=array.name)


def _entries(text: str, array: _Array) -> npt.NDArray[np.int64]:
    """Numbers of an initialiser; each row as long as the declaration says, and as many rows."""
    depths = len(array.dims)
    height, width = (array.dims[0], array.dims[1]) if depths == _MAX_DEPTH else (1, array.dims[0])
    line = _line(text, array.start)
    if depths == _MAX_DEPTH and width is None:
        raise TableFileError(f"line {line}: C needs the length of a row: [...][256]")
    rows: list[npt.NDArray[np.int64]] = []
    depth, position = 0, array.start
    while True:
        sign = _SIGN.search(text, position)
        if sign is None:
            raise TableFileError(f"line {line}: the file ends inside the array; is it cut off?")
        between = text[position : sign.start()]
        if sign[0] == "}" and depth == depths:
            rows.append(_row(between, line, width))
            if rows[-1].size * len(rows) > MAX_ENTRIES:
                raise TableFileError(f"line {line}: more than {MAX_ENTRIES:,} entries")
        elif between.strip() not in ("", ","):
            raise TableFileError(
                f"line {line}: {between.strip()[:30]!r} where only a comma may stand"
            )
        elif sign[0] == "{" and rows and "," not in between:
            raise TableFileError(f"line {line}: a comma is missing between two rows")
        elif sign[0] == "{" and not rows and "," in between:
            raise TableFileError(f"line {line}: a comma before the first row")
        line += between.count("\n")
        position = sign.end()
        if sign[0] == ";" or (sign[0] == "{" and depth == depths):
            what = "a brace too many" if sign[0] == "{" else "the array ends before its last brace"
            raise TableFileError(f"line {line}: {what}")
        depth += 1 if sign[0] == "{" else -1
        if not depth:
            break
    if height is not None and len(rows) != height:
        raise TableFileError(f"line {line}: {len(rows)} rows, and {height} are declared")
    return np.array(rows) if depths == _MAX_DEPTH else rows[0]


def _row(text: str, line: int, width: int | None) -> npt.NDArray[np.int64]:
    """Numbers between two braces; a comma may follow the last."""
    tokens = text.split(",")
    if not tokens[-1].strip():
        tokens.pop()
    if not tokens:
        raise TableFileError(f"line {line}: a row without numbers")
    if width is not None and len(tokens) != width:
        raise TableFileError(
            f"line {line}: a row of {len(tokens)} numbers, and {width} are declared (C would fill "
            "it with zeros, or complain)"
        )
    return np.array([_value(token.strip(), line) for token in tokens], dtype=np.int64)


def _value(token: str, line: int) -> int:
    match = _NUMBER.fullmatch(token)
    if match is None:
        raise TableFileError(
            f"line {line}: {token[:30]!r} where a number should be; only plain integers are read"
        )
    sign, body = match.groups()
    if body[0] == "0" and body.isdigit() and len(body) > 1:
        raise TableFileError(f"line {line}: {body} is octal in C; write it as a decimal")
    size = int(body, 16) if body[:2] in ("0x", "0X") else int(body)
    return -size if sign == "-" else size


def _write(data: TableData, path: Path) -> None:
    assert data.operands is not None
    entries = data.grid
    signed = data.operands[0].signed or data.operands[1].signed
    dtype = smallest_dtype(entries, signed=signed)
    name = re.sub(r"\W", "_", data.name or "table", flags=re.ASCII)
    name = name if not name[0].isdigit() else f"_{name}"
    rows, columns = entries.shape
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.write("#include <stdint.h>\n\n")
        file.write(f"static const {dtype.name}_t {name}[{rows}][{columns}] = {{\n")
        file.write(",\n".join("{" + ", ".join(map(str, row)) + "}" for row in entries.tolist()))
        file.write("\n};\n")


FORMAT = TableFormat("c-array", (".h", ".c", ".hpp", ".inc"), _sniff, _read, _write)
