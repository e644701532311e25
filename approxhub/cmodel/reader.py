"""Text of a C model to a parsed tree: line endings, comments, includes, pycparser.

Line numbers of the tree are those of the text. Imports pycparser, the errors and the limits.
"""

from __future__ import annotations

import re
from typing import Any

from pycparser import c_ast, c_parser

from approxhub.cmodel.limits import Limits
from approxhub.cmodel.types import STDINT
from approxhub.errors import CModelError

__all__ = ["decode", "parse", "plain_text"]

# Strings and characters stand first, so that a comment sign inside one is none. One that is not
# closed is taken to the end of its line, for the parser to refuse: as no match it would make the
# search start over at every quote.
_TOKEN = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)"""
    r"""|(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<open>/\*)""",
    re.DOTALL,
)
_INCLUDE = re.compile(r"\s*#\s*include\s*<[\w./]+>\s*")
_REFUSED_WORDS = {
    "asm": "inline assembler",
    "__asm": "inline assembler",
    "__asm__": "inline assembler",
    "__attribute__": "an attribute",
    "__attribute": "an attribute",
    "__declspec": "an attribute",
    "__extension__": "a compiler's extension",
    "typeof": "typeof",
    "__typeof__": "typeof",
    "__int128": "a 128-bit integer",
    "_Generic": "_Generic",
    "_Atomic": "_Atomic",
    "_Alignas": "_Alignas",
    "_Alignof": "_Alignof",
    "_Static_assert": "_Static_assert",
    "_Thread_local": "_Thread_local",
    "_Pragma": "_Pragma",
}
_REFUSED = re.compile(r"\b(" + "|".join(_REFUSED_WORDS) + r")\b")

# On the first line, so that the lines of the model keep their numbers.
_PRELUDE = "".join(f"typedef int {name};" for name in STDINT)
_PRELUDE_LENGTH = len(STDINT)

_PLACE = re.compile(r"(?::(\d+))?(?::\d+)?: (.*)\Z", re.DOTALL)


def decode(source: bytes | str, limits: Limits) -> str:
    """Text of a C file, with its size checked.

    Raises
    ------
    CModelError
        If it is too long, or holds a NUL character.
    """
    length = len(source)
    if length > limits.source_bytes:
        raise CModelError(
            f"the C text has {length} bytes; at most {limits.source_bytes} are read, "
            "so keep the multiplier alone in its file",
            1,
        )
    if isinstance(source, bytes):
        try:
            text = source.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = source.decode("latin-1")  # comments of old files; C itself is ASCII
    else:
        text = source
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CModelError(f"line {line}: a NUL character; this is not a text file of C", line)
    return text


def plain_text(text: str) -> str:
    r"""C text without comments, includes and carriage returns, line for line.

    Raises
    ------
    CModelError
        If there is another preprocessor directive, a continued line or an open comment.

    Examples
    --------
    >>> plain_text("#include <stdint.h>\r\nint /* a\r\nb */ x; // c")
    '\nint  \n x;  '
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), 1):
        if line.endswith("\\"):
            raise CModelError(
                f"line {number}: a line continued by a backslash; write it as one line", number
            )

    def strip(match: re.Match[str]) -> str:
        if match["text"] is not None:
            return match[0]
        if match["open"] is not None:
            number = text.count("\n", 0, match.start()) + 1
            raise CModelError(f"line {number}: a comment that never ends; close it", number)
        return " " + "\n" * match[0].count("\n")

    lines = _TOKEN.sub(strip, text).split("\n")
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("#"):
            continue
        if _INCLUDE.fullmatch(line) is None:
            words = line.strip().lstrip("#").split()
            name = "#" + (words[0] if words else "")
            raise CModelError(
                f"line {number}: the preprocessor directive {name}; only #include <...> is read, "
                "so preprocess the file before",
                number,
            )
        lines[number - 1] = ""
    return "\n".join(lines)


def parse(text: str, limits: Limits) -> tuple[list[Any], int]:
    """Top-level declarations of a C text, and the number of nodes of its tree.

    Raises
    ------
    CModelError
        If the text is not C, or too large.
    """
    plain = plain_text(text)
    refused = _REFUSED.search(plain)
    if refused is not None:
        line = plain.count("\n", 0, refused.start()) + 1
        what = _REFUSED_WORDS[refused[1]]
        raise CModelError(f"line {line}: {what} ({refused[1]}) is not supported; remove it", line)
    parser = c_parser.CParser()
    try:
        tree = parser.parse(_PRELUDE + plain, filename="")
    except c_parser.ParseError as error:
        # Some of pycparser's errors lack a place; the lexer then stands at or just after it.
        lexer = parser.clex
        near = getattr(lexer, "lineno", None) or getattr(lexer, "_lineno", None)
        raise _syntax_error(str(error), near) from None
    except RecursionError:
        raise CModelError(
            "expressions or blocks are nested too deeply; split them into several statements"
        ) from None
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # pycparser on text that is far from C.
        raise CModelError(f"the text cannot be parsed as C ({error})") from None
    if tree is None or not isinstance(tree, c_ast.FileAST):
        raise CModelError("the text is empty")
    declarations = list(tree.ext)[_PRELUDE_LENGTH:]
    return declarations, _count(declarations, limits)


def _syntax_error(message: str, near: int | None) -> CModelError:
    match = _PLACE.match(message)
    line = int(match[1]) if match is not None and match[1] else near
    where = f"line {line}: " if line else ""
    return CModelError(f"{where}not C that can be read: {match[2] if match else message}", line)


def _count(declarations: list[Any], limits: Limits) -> int:
    count = 0
    pending = declarations[::-1]  # taken from the end: in the order of the text
    while pending:
        node = pending.pop()
        count += 1
        if count > limits.nodes:
            line = node.coord.line if node.coord else None
            raise CModelError(
                f"line {line}: the program has more than {limits.nodes} syntax nodes; "
                "simplify the model, or give its table instead",
                line,
            )
        pending.extend(child for _, child in reversed(node.children()))
    return count
