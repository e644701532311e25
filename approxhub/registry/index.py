"""Index files: a library's multipliers, pinned to a commit, with their hashes.

Reads and checks JSON; every refusal names the file, the entry, the field and what was expected.
Imports the standard library and the registry's entries.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from approxhub.errors import IndexFormatError, InputError
from approxhub.multiplier import Hardware
from approxhub.operands import OperandFormat
from approxhub.registry.entries import Entry

__all__ = ["SCHEMA_VERSION", "Circuit", "Index", "read_index"]

SCHEMA_VERSION = 1
MAX_INDEX_BYTES = 64 << 20

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"(?!/)[A-Za-z0-9_.,+=@ ()/-]+")
_NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_PRINTED = frozenset(
    ("mae_pct", "mae", "wce_pct", "wce", "wcre_pct", "ep_pct", "mre_pct", "mse", "bias")
)
_HARDWARE = ("power_mw", "area_um2", "delay_ns")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Circuit:
    """One multiplier of an index: what a listing shows, and where its C model lies.

    Parameters
    ----------
    entry : Entry
        What is known of it without fetching.
    path : str
        File in the library, relative, with forward slashes.
    function : str or None
        Name of the function in that file.
    source_sha256 : str
        Hash of that file.
    """

    entry: Entry
    path: str
    function: str | None
    source_sha256: str


@dataclass(frozen=True, slots=True)
class Index:
    """One release of a library.

    Parameters
    ----------
    source, release, commit : str
        Library, release and the commit that the paths are pinned to.
    urls : tuple of str
        Addresses with ``{commit}`` and ``{path}`` in them.
    circuits : mapping of str to Circuit
        By the part of the id after the colon, ``release/name``.
    """

    source: str
    release: str
    commit: str
    urls: tuple[str, ...]
    circuits: Mapping[str, Circuit]

    def urls_of(self, circuit: Circuit) -> tuple[str, ...]:
        """Addresses of a circuit's file."""
        path = quote(circuit.path)
        return tuple(u.replace("{commit}", self.commit).replace("{path}", path) for u in self.urls)


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

    def optional(self, field: str, read: Callable[[str], T]) -> T | None:
        return None if self._data.get(field) is None else read(field)

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
        if any(part in ("", ".", "..") for part in path.split("/")):
            raise self.fail(field, expected, path)
        return path

    def number(self, field: str) -> float:
        value = self.get(field)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise self.fail(field, "a number of 0 or more", value)
        return float(value)


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
    file = str(path)
    try:
        with open(path, "rb") as stream:
            raw = stream.read(MAX_INDEX_BYTES + 1)
    except OSError as error:
        raise IndexFormatError(f"{file}: cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_INDEX_BYTES:
        raise IndexFormatError(f"{file}: an index has at most {MAX_INDEX_BYTES} bytes")
    try:
        data = json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(f"{file}: not JSON: {error}") from None
    head = _Reader(file, data)
    version = head.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise IndexFormatError(
            f"{file}: field 'schema_version': this ApproxHub reads version {SCHEMA_VERSION}, got "
            f"{_short(version)}; upgrade ApproxHub, or get the index in version {SCHEMA_VERSION}"
        )
    name = head.text("source", re.compile(r"[A-Za-z][A-Za-z0-9_-]*"), "the name of a source")
    if source is not None and name != source:
        raise head.fail("source", repr(source), name)
    release = head.text("release", _NAME, "letters, digits and . _ -")
    if not release.strip("."):
        raise head.fail("release", "letters, digits and . _ -", release)
    head.text("format", re.compile("c-model"), "'c-model'")
    commit = head.text("commit", _COMMIT, "a commit hash")
    urls = _urls(head)
    licence = head.part("licence").text("spdx", None, "an SPDX name")
    technology = head.optional("technology", lambda f: head.text(f, None, "a name"))
    citations = _citations(file, head.get("citations"))
    rows = head.get("multipliers")
    if not isinstance(rows, list):
        raise head.fail("multipliers", "a list", rows)
    circuits: dict[str, Circuit] = {}
    for position, row in enumerate(rows):
        label = row.get("name", f"#{position}") if isinstance(row, dict) else f"#{position}"
        reader = _Reader(f"{file}: multiplier {label}", row)
        short = reader.text("name", _NAME, "letters, digits and . _ -")
        key = f"{release}/{short}"
        if not short.strip(".") or key in circuits:
            raise reader.fail("name", "a name that stands once", short)
        circuits[key] = _circuit(reader, f"{name}:{key}", licence, technology, citations)
    return Index(name, release, commit, urls, circuits)


def _urls(head: _Reader) -> tuple[str, ...]:
    urls = head.get("urls")
    expected = "a list of http(s) addresses with {path} in them"
    if not isinstance(urls, list):
        raise head.fail("urls", expected, urls)
    for url in urls:
        if not (isinstance(url, str) and url.startswith(("https://", "http://"))):
            raise head.fail("urls", expected, url)
        if "{path}" not in url:
            raise head.fail("urls", expected, url)
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


def _circuit(
    reader: _Reader,
    id: str,
    licence: str,
    technology: str | None,
    citations: Mapping[str, tuple[str, str | None]],
) -> Circuit:
    printed = reader.get("printed")
    if not isinstance(printed, dict) or not printed.keys() <= _PRINTED:
        raise reader.fail("printed", f"an object with keys of {sorted(_PRINTED)}", printed)
    for key, value in printed.items():
        if not isinstance(value, str) or not _NUMBER.fullmatch(value):
            raise reader.fail(f"printed.{key}", "a number as a string", value)
    costs = reader.part("hardware")
    key = reader.optional("citation", lambda f: reader.text(f, None, "a key of 'citations'"))
    if key is not None and key not in citations:
        raise reader.fail("citation", "a key of 'citations'", key)
    citation, doi = citations[key] if key is not None else (None, None)
    entry = Entry(
        id=id,
        a=reader.format("a"),
        b=reader.format("b"),
        table_sha256=reader.optional("table_sha256", reader.sha256),
        hardware=Hardware(
            **{f: costs.optional(f, costs.number) for f in _HARDWARE}, technology=technology
        ),
        printed=printed,
        licence=licence,
        citation=citation,
        doi=doi,
    )
    return Circuit(
        entry=entry,
        path=reader.path("path"),
        function=reader.optional(
            "function", lambda f: reader.text(f, _IDENTIFIER, "the name of a C function")
        ),
        source_sha256=reader.sha256("source_sha256"),
    )
