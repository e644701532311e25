"""Index files: a library's multipliers with their hashes, pinned to a commit where there is one.

Reads, checks and writes JSON; every refusal names the file, the entry, the field and what was
expected. Imports the standard library and the registry's entries.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from approxhub.errors import IndexFormatError, InputError
from approxhub.ids import is_source_name
from approxhub.multiplier import Hardware
from approxhub.operands import OperandFormat
from approxhub.registry.entries import Entry

__all__ = [
    "C_MODEL",
    "MAX_INDEX_BYTES",
    "SCHEMA_VERSION",
    "Circuit",
    "Index",
    "decode_json",
    "parse_index",
    "read_file",
    "read_index",
    "render_index",
]

SCHEMA_VERSION = 2
"""Version 2 added `revision`, tables beside C models, `luts`, and files beside the index; what
version 1 says, version 2 says in the same words."""

MAX_INDEX_BYTES = 64 << 20
MAX_ENTRIES = 100_000
MAX_URLS = 16

C_MODEL = "c-model"
"""Format of a circuit that is C text; every other format is one of :mod:`approxhub.formats`."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"(?!/)[A-Za-z0-9_.,+=@ ()/-]{1,1000}")
_PART = 200  # characters of a file's name, fewer than any file system allows
_NUMBER = re.compile(r"-?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?")
_PRINTED = frozenset(
    ("mae_pct", "mae", "wce_pct", "wce", "wcre_pct", "ep_pct", "mre_pct", "mse", "bias")
)
_HARDWARE = ("power_mw", "area_um2", "delay_ns")
_FORMAT = re.compile(r"[a-z0-9][a-z0-9_.-]*")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Circuit:
    """One multiplier of an index: what a listing shows, and where its file lies.

    Parameters
    ----------
    entry : Entry
        What is known of it without fetching.
    path : str
        File in the library, relative, with forward slashes.
    function : str or None
        Name of the function in that file, if it is a C model.
    source_sha256 : str
        Hash of that file.
    format : str
        What kind of file it is: `C_MODEL`, or the name of a table format.
    index_order, operand_order : str or None
        How a table is to be read, see :func:`approxhub.formats.read_table`.
    """

    entry: Entry
    path: str
    function: str | None
    source_sha256: str
    format: str = C_MODEL
    index_order: str | None = None
    operand_order: str | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """One release of a library.

    Parameters
    ----------
    source, release : str
        Library and release.
    commit : str or None
        The commit that the paths are pinned to.
    urls : tuple of str
        Addresses with ``{path}``, and ``{commit}`` where there is one, in them; none if the files
        lie beside the index.
    circuits : mapping of str to Circuit
        By the part of the id after the colon, ``release/name``.
    revision : int
        Counts what was published of one release; it never goes down.
    repository : str or None
        Address of the library, for people.
    """

    source: str
    release: str
    commit: str | None
    urls: tuple[str, ...]
    circuits: Mapping[str, Circuit]
    revision: int = 1
    repository: str | None = None

    def urls_of(self, circuit: Circuit) -> tuple[str, ...]:
        """Addresses of a circuit's file."""
        path, commit = quote(circuit.path), self.commit or ""
        return tuple(u.replace("{commit}", commit).replace("{path}", path) for u in self.urls)


class _Reader:
    """Takes checked fields out of one JSON object."""

    def __init__(self, where: str, data: Any) -> None:
        self._where = where
        if not isinstance(data, dict):
            raise IndexFormatError(f"{where}: expected an object, got {_short(data)}")
        self._data: dict[str, Any] = data

    def part(self, field: str) -> _Reader:
        """Reader of an object inside this one."""
        return _Reader(f"{self._where}: {field}", self.get(field))

    def fail(self, field: str, expected: str, value: Any) -> IndexFormatError:
        return IndexFormatError(
            f"{self._where}: field {field!r}: expected {expected}, got {_short(value)}"
        )

    def get(self, field: str) -> Any:
        if field not in self._data:
            raise IndexFormatError(f"{self._where}: field {field!r} is missing")
        return self._data[field]

    def text(self, field: str, pattern: re.Pattern[str] | None, expected: str) -> str:
        value = self.get(field)
        if not isinstance(value, str) or not (pattern.fullmatch(value) if pattern else value):
            raise self.fail(field, expected, value)
        return value

    def absent(self, field: str) -> bool:
        return self._data.get(field) is None

    def name(self, field: str) -> str:
        value = self.text(field, _NAME, "letters, digits and . _ -")
        if not value.strip("."):
            raise self.fail(field, "letters, digits and . _ -", value)
        return value

    def format_name(self, field: str, version: int) -> str:
        if version == 1:
            return self.choice(field, C_MODEL)
        return self.text(field, _FORMAT, f"{C_MODEL!r} or the name of a table format")

    def optional(self, field: str, read: Callable[[str], T]) -> T | None:
        return None if self.absent(field) else read(field)

    def sha256(self, field: str) -> str:
        return self.text(field, _SHA256, "64 lower-case hexadecimal digits")

    def format(self, field: str) -> OperandFormat:
        text = self.text(field, None, "an operand format such as '8u'")
        try:
            return OperandFormat.parse(text)
        except InputError:
            raise self.fail(field, "an operand format such as '8u'", text) from None

    def path(self, field: str) -> str:
        expected = "a relative path inside the library, with forward slashes"
        path = self.text(field, _PATH, expected)
        if any(part in ("", ".", "..") or len(part) > _PART for part in path.split("/")):
            raise self.fail(field, expected, path)
        return path

    def number(self, field: str) -> float:
        value = self.get(field)
        expected = "a number of 0 or more"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.fail(field, expected, value)
        if not 0 <= value <= sys.float_info.max:
            raise self.fail(field, expected, value)
        return float(value)

    def count(self, field: str, least: int = 0) -> int:
        value = self.get(field)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**53:
            raise self.fail(field, f"an integer of {least} or more", value)
        return value

    def choice(self, field: str, *known: str) -> str:
        value = self.get(field)
        if value not in known:
            raise self.fail(field, " or ".join(map(repr, known)), value)
        return str(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [k for k, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def read_index(path: Path, source: str | None = None) -> Index:
    """Read and check an index file.

    Parameters
    ----------
    path : Path
        The file.
    source : str, optional
        Name of the source that it must be of.

    Raises
    ------
    IndexFormatError
        If the file cannot be read or does not follow the schema.
    """
    return parse_index(decode_json(read_file(path), str(path)), str(path), source)


def read_file(path: Path) -> bytes:
    """Bytes of an index file.

    Raises
    ------
    IndexFormatError
        If it cannot be read, or is too large.
    """
    try:
        with open(path, "rb") as stream:
            raw = stream.read(MAX_INDEX_BYTES + 1)
    except OSError as error:
        raise IndexFormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_INDEX_BYTES:
        raise IndexFormatError(f"{path}: an index has at most {MAX_INDEX_BYTES} bytes")
    return raw


def decode_json(raw: bytes, where: str) -> Any:
    """Value of a JSON text in which no key stands twice.

    Raises
    ------
    IndexFormatError
        If it is anything else; `where` stands before the message.
    """
    try:
        return json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(f"{where}: not JSON: {error}") from None


def parse_index(data: Any, where: str, source: str | None = None) -> Index:
    """Check what an index file holds.

    Parameters
    ----------
    data : object
        Value of the JSON text.
    where : str
        What stands before the message of an error.
    source : str, optional
        Name of the source that it must be of.

    Raises
    ------
    IndexFormatError
        If it does not follow the schema.
    """
    head = _Reader(where, data)
    version = head.get("schema_version")
    if version not in range(1, SCHEMA_VERSION + 1) or isinstance(version, bool):
        raise IndexFormatError(
            f"{where}: field 'schema_version': this ApproxHub reads versions 1 to "
            f"{SCHEMA_VERSION}, got {_short(version)}; upgrade ApproxHub, or get the index in "
            f"version {SCHEMA_VERSION}"
        )
    name = head.text("source", None, "the name of a source")
    if not is_source_name(name):
        raise head.fail("source", "the name of a source", name)
    if source is not None and name != source:
        raise head.fail("source", repr(source), name)
    release = head.name("release")
    pinned = version == 1 or not head.absent("commit")
    commit = head.text("commit", _COMMIT, "a commit hash") if pinned else None
    shared = _Shared(
        licence=head.part("licence").text("spdx", None, "an SPDX name"),
        technology=head.optional("technology", lambda f: head.text(f, None, "a name")),
        citations=_citations(where, head.get("citations")),
        format=head.format_name("format", version),
        version=version,
    )
    urls = _urls(head, commit)
    rows = head.get("multipliers")
    if not isinstance(rows, list):
        raise head.fail("multipliers", "a list", rows)
    if len(rows) > MAX_ENTRIES:
        raise head.fail("multipliers", f"at most {MAX_ENTRIES} entries", len(rows))
    circuits: dict[str, Circuit] = {}
    for position, row in enumerate(rows):
        named = isinstance(row, dict) and isinstance(row.get("name"), str)
        label = row["name"][:60] if named else f"#{position}"
        reader = _Reader(f"{where}: multiplier {label}", row)
        short = reader.name("name")
        key = f"{release}/{short}"
        if key in circuits:
            raise reader.fail("name", "a name that stands once", short)
        circuits[key] = _circuit(reader, f"{name}:{key}", shared)
    revision = 1 if head.absent("revision") else head.count("revision", least=1)
    repository = head.optional("repository", lambda f: head.text(f, None, "an address"))
    return Index(name, release, commit, urls, circuits, revision, repository)


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the head of an index says of all its multipliers."""

    licence: str
    technology: str | None
    citations: Mapping[str, tuple[str, str | None]]
    format: str
    version: int


def _urls(head: _Reader, commit: str | None) -> tuple[str, ...]:
    urls = head.get("urls")
    expected = "a list of http(s) addresses with {path} in them"
    if not isinstance(urls, list) or len(urls) > MAX_URLS:
        raise head.fail("urls", expected, urls)
    for url in urls:
        if not (isinstance(url, str) and url.startswith(("https://", "http://"))):
            raise head.fail("urls", expected, url)
        if "{path}" not in url:
            raise head.fail("urls", expected, url)
        if commit is None and "{commit}" in url:
            raise head.fail("urls", "no {commit} without a field 'commit'", url)
    return tuple(urls)


def _citations(file: str, data: Any) -> dict[str, tuple[str, str | None]]:
    if not isinstance(data, dict):
        raise IndexFormatError(f"{file}: field 'citations': expected an object, got {_short(data)}")
    found = {}
    for key, value in data.items():
        reader = _Reader(f"{file}: citation {key}", value)
        doi = reader.optional("doi", lambda f, r=reader: r.text(f, None, "a DOI"))  # type: ignore[misc]
        found[key] = (reader.text("text", None, "a text"), doi)
    return found


def _circuit(reader: _Reader, id: str, shared: _Shared) -> Circuit:
    printed = reader.get("printed")
    if not isinstance(printed, dict) or not printed.keys() <= _PRINTED:
        raise reader.fail("printed", f"an object with keys of {sorted(_PRINTED)}", printed)
    for key, value in printed.items():
        if not isinstance(value, str) or not _NUMBER.fullmatch(value):
            raise reader.fail(f"printed.{key}", "a number as a string", value)
    costs = reader.part("hardware")
    key = reader.optional("citation", lambda f: reader.text(f, None, "a key of 'citations'"))
    if key is not None and key not in shared.citations:
        raise reader.fail("citation", "a key of 'citations'", key)
    citation, doi = shared.citations[key] if key is not None else (None, None)
    source_sha256 = reader.sha256("source_sha256")
    function = reader.optional(
        "function", lambda f: reader.text(f, _IDENTIFIER, "the name of a C function")
    )
    entry = Entry(
        id=id,
        a=reader.format("a"),
        b=reader.format("b"),
        table_sha256=reader.optional("table_sha256", reader.sha256),
        hardware=Hardware(
            **{f: costs.optional(f, costs.number) for f in _HARDWARE},
            technology=shared.technology,
            luts=costs.optional("luts", costs.count),
        ),
        printed=printed,
        licence=shared.licence,
        citation=citation,
        doi=doi,
        source_sha256=source_sha256,
        function=function,
    )
    format = shared.format
    if not reader.absent("format"):
        format = reader.format_name("format", shared.version)
    return Circuit(
        entry=entry,
        path=reader.path("path"),
        function=function,
        source_sha256=source_sha256,
        format=format,
        index_order=reader.optional("index_order", lambda f: reader.choice(f, "pattern", "offset")),
        operand_order=reader.optional("operand_order", lambda f: reader.choice(f, "ab", "ba")),
    )


def render_index(index: Mapping[str, Any]) -> str:
    """Text of an index file: one line per key, and one per multiplier.

    Examples
    --------
    >>> print(render_index({"release": "x", "multipliers": [{"name": "m"}]}), end="")
    {
    "release": "x",
    "multipliers": [
    {"name":"m"}
    ]
    }
    """
    lines = []
    for key, value in index.items():
        if key == "multipliers":
            rows = ",\n".join(
                json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in value
            )
            lines.append(f"{json.dumps(key)}: [\n{rows}\n]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
