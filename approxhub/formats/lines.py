"""Lines of integers out of a text file, with bounds on all of it.

Plain ASCII digits only: what a float, a name or another script's digits would mean is never
guessed. Imports numpy and the errors.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from approxhub.errors import TableFileError
from approxhub.formats.data import MAX_ENTRIES

__all__ = ["MAX_LINE", "integers", "is_integers", "text_lines"]

MAX_LINE = 1 << 20
"""Bytes of a line: 65,536 numbers of 32 bits fit."""

_INTEGER = re.compile(rb"[+-]?[0-9]{1,10}")
_INTEGERS = re.compile(rb"(?:[+-]?[0-9]{1,10}\n)*[+-]?[0-9]{1,10}")
_MAX_LINES = MAX_ENTRIES + 16
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def text_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1; without empty ones, comments (``#``) and line ends.

    A byte-order mark of UTF-8 and carriage returns are passed over.

    Raises
    ------
    TableFileError
        If a line is too long, there are too many, or it is no text of bytes.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if number == 1:
                if line.startswith(_WIDE):
                    raise TableFileError("line 1: the text is UTF-16; save it as plain ASCII")
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) > MAX_LINE:
                raise TableFileError(f"line {number}: longer than {MAX_LINE:,} bytes")
            if number > _MAX_LINES:
                raise TableFileError(f"line {number}: more lines than the largest table has")
            line = line.strip()
            if line and not line.startswith(b"#"):
                yield number, line


def is_integers(tokens: Sequence[bytes]) -> bool:
    """Whether there are tokens, and all are integers."""
    return bool(tokens) and all(_INTEGER.fullmatch(t) for t in tokens)


def integers(tokens: Sequence[bytes], number: int) -> list[int]:
    """Integers of a line, of at most 10 digits.

    Raises
    ------
    TableFileError
        If a token is something else; says which one.

    Examples
    --------
    >>> integers([b"12", b"-3"], 1)
    [12, -3]
    """
    # All at once: a file may have millions of lines. No token of a line holds a line feed.
    if _INTEGERS.fullmatch(b"\n".join(tokens)):
        return list(map(int, tokens))
    bad = next((i for i, t in enumerate(tokens) if _INTEGER.fullmatch(t) is None), 0)
    text = b"".join(tokens[bad : bad + 1])[:40].decode("utf-8", "replace")
    raise TableFileError(
        f"line {number}, number {bad + 1}: {text!r} is not an integer of 32 bits in plain digits"
    )
