"""The folder: what its ``tables.json`` says, and the tables themselves.

Imports ApproxHub's records; what reads a file only when one is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from approxhub import Multiplier, OperandFormat
from approxhub.errors import InputError, UnknownMultiplierError
from approxhub.ids import MultiplierId
from approxhub.multiplier import Hardware, parse_format_pair
from approxhub.registry import Entry, FetchContext

VARIABLE = "APPROXHUB_FOLDER"
LIST = "tables.json"

_READING = ("format", "index_order", "operand_order")
_HARDWARE = ("power_mw", "area_um2", "delay_ns", "technology")
_KNOWN = {"file", "operands", "summary", "licence", "citation", "doi", *_READING, *_HARDWARE}


@dataclass(frozen=True)
class Table:
    """One table of the folder: where it lies, and what is said of it."""

    name: str
    path: Path
    said: dict[str, str | float]

    @property
    def id(self) -> str:
        """Its full id."""
        return f"folder:{self.name}"

    @property
    def operands(self) -> tuple[OperandFormat, OperandFormat]:
        """Formats of activation and weight."""
        return parse_format_pair(str(self.said["operands"]))

    @property
    def hardware(self) -> Hardware:
        """What is said of power, area and delay."""
        return Hardware(**{k: self.said[k] for k in _HARDWARE if k in self.said})  # type: ignore[arg-type]

    def entry(self) -> Entry:
        """What a listing says of it, its file's hash too."""
        a, b = self.operands
        texts = {k: str(self.said[k]) for k in ("licence", "citation", "doi") if k in self.said}
        return Entry(
            self.id,
            a,
            b,
            hardware=self.hardware,
            summary=str(self.said.get("summary", "")),
            source_sha256=hashlib.sha256(self.path.read_bytes()).hexdigest(),
            **texts,
        )

    def read(self) -> Multiplier:
        """Read its file."""
        from approxhub.formats import read_table

        options = {k: str(self.said[k]) for k in _READING if k in self.said}
        m = read_table(self.path, operands=self.operands, name=self.name, **options)
        return Multiplier(
            self.id, m.a, m.b, table=m.table, hardware=self.hardware, provenance=m.provenance
        )


def tables() -> dict[str, Table]:
    """Return what the folder holds by name; nothing where no folder is named.

    Raises
    ------
    InputError
        If there is no such folder, or its list is wrong; the message names the place.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return {}
    path = Path(named, LIST)
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} (named by {VARIABLE}) cannot be read: {error}") from error
    if not isinstance(listed, dict):
        raise InputError(f"{path}: an object of names is needed")
    return {name: _table(path, name, said) for name, said in listed.items()}


def _table(path: Path, name: str, said: object) -> Table:
    where = f"{path}: {name!r}"
    if not isinstance(said, dict) or not {"file", "operands"} <= set(said):
        raise InputError(f"{where} needs at least 'file' and 'operands'")
    unknown = sorted(set(said) - _KNOWN)
    if unknown:
        raise InputError(f"{where} has the unknown {', '.join(unknown)}; known: {sorted(_KNOWN)}")
    file = (path.parent / str(said["file"])).resolve()
    if path.parent.resolve() not in file.parents or not file.is_file():
        raise InputError(f"{where}: there is no file {said['file']!r} in the folder")
    table = Table(name, file, said)
    try:
        MultiplierId.parse(table.id)
        _ = table.operands
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return table


def entries() -> list[Entry]:
    """Say what there is, without the network."""
    return [table.entry() for table in tables().values()]


def fetch(path: str, context: FetchContext) -> Multiplier:
    """Read the table ``folder:<path>``.

    Raises
    ------
    UnknownMultiplierError
        If the folder has none of that name.
    """
    found = tables()
    if path not in found:
        known = ", ".join(found) or f"none: {VARIABLE} names no folder"
        raise UnknownMultiplierError(f"folder:{path} is not in the folder; it has {known}")
    return found[path].read()
