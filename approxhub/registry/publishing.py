"""Publishing: from a folder of tables and C models to an index that others can use.

``metadata.json`` in the folder says what no file does: source, release, licence, citation, cost.
Hashes and metrics are computed. Imports the index format; the table formats when a folder is read.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from approxhub.errors import IndexFormatError, InputError, NotFoundError, PinnedIndexError
from approxhub.files import replacing
from approxhub.registry.index import (
    C_MODEL,
    SCHEMA_VERSION,
    decode_json,
    parse_index,
    read_file,
    render_index,
)
from approxhub.registry.pins import INDEX_NAME, built_in_names, differences

if TYPE_CHECKING:
    from approxhub.metrics import Metrics

__all__ = ["METADATA_NAME", "build_index", "write_index"]

METADATA_NAME = "metadata.json"
"""What the file beside the tables is called that says what they do not."""

_READING = ("operands", "format", "index_order", "operand_order")
_COSTS = ("power_mw", "area_um2", "delay_ns", "luts")
_HEAD = frozenset(
    ("source", "release", "revision", "repository", "commit", "urls", "licence", "technology")
)
_METADATA = _HEAD | {"citation", "citations", "ignore", "multipliers", *_READING}
_ROW = frozenset(("name", "citation", *_READING, *_COSTS))
_INTEGERS = ("wce",)


def build_index(
    folder: str | os.PathLike[str],
    *,
    source: str | None = None,
    release: str | None = None,
    url: str | None = None,
) -> dict[str, Any]:
    r"""Index of a folder of tables, of any format, and of C models.

    Parameters
    ----------
    folder : path
        The folder; files in folders below it count too.
    source, release : str, optional
        What stands in the ids; instead of what ``metadata.json`` says.
    url : str, optional
        Address that the folder will have; without it the files are looked for beside the index.

    Returns
    -------
    dict
        The content of an index file, checked.

    Raises
    ------
    NotFoundError
        If there is no such folder, or a file that ``metadata.json`` names is not in it.
    IndexFormatError
        If ``metadata.json`` is missing, or says something that no index can say.
    InputError
        If the source has the name of a built-in one.
    ApproxHubError
        If a file cannot be read; it is named.

    Examples
    --------
    >>> import json, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "half.txt").write_text("0 0\n0 2\n")
    >>> _ = (folder / "metadata.json").write_text(json.dumps(
    ...     {"source": "mylab", "release": "v1", "licence": "CC0-1.0", "operands": "1u"}))
    >>> row = build_index(folder)["multipliers"][0]
    >>> row["name"], row["format"], row["printed"]["mae"], row["printed"]["ep_pct"]
    ('half', 'text', '0.25', '25')
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder")
    metadata = _metadata(folder, source, release)
    citations = {"default": _citation(metadata["citation"])} if metadata.get("citation") else {}
    citations.update({k: _citation(v) for k, v in (metadata.get("citations") or {}).items()})
    rows = [
        _row(folder, path, {**_defaults(metadata), **facts}, citations)
        for path, facts in _files(folder, metadata)
    ]
    if not rows:
        raise NotFoundError(f"{folder} has no file of a known table format, and no C model")
    formats = [row["format"] for row in rows]
    common = max(sorted(set(formats)), key=formats.count)
    licence = metadata["licence"]
    index = {
        "schema_version": SCHEMA_VERSION,
        "source": metadata["source"],
        "release": metadata["release"],
        "revision": metadata.get("revision", 1),
        "repository": metadata.get("repository"),
        "commit": metadata.get("commit"),
        "urls": metadata.get("urls", []) if url is None else [_template(url)],
        "format": common,
        "licence": {"spdx": licence, "holder": None} if isinstance(licence, str) else licence,
        "technology": metadata.get("technology"),
        "citations": dict(sorted(citations.items())),
        "multipliers": sorted(rows, key=lambda row: str(row["name"])),
    }
    parse_index(index, str(folder / METADATA_NAME))
    return index


def write_index(index: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write an index file, whole or not at all.

    Raises
    ------
    PinnedIndexError
        If the file there has the same release with other content, and no lower `revision`: who
        has added it would be refused the new one.
    InputError
        If it cannot be written.
    """
    path = Path(path)
    if path.is_file():
        old, new = (parse_index(decode_json(r, str(path)), str(path)) for r in (
            read_file(path), render_index(index).encode()
        ))  # fmt: skip
        if (old.source, old.release) == (new.source, new.release) and new.revision <= old.revision:
            broken = [str(c) for c in differences(old, new) if c.kind != "added"]
            if broken:
                raise PinnedIndexError(
                    f"{path} says otherwise of {old.source}:{old.release}: {'; '.join(broken)}. "
                    "A published release never changes: give the new one another name, or, if "
                    "nobody has it yet, delete the file or raise 'revision'"
                )
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(render_index(index).encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


# --- metadata -----------------------------------------------------------------


def _metadata(folder: Path, source: str | None, release: str | None) -> dict[str, Any]:
    path = folder / METADATA_NAME
    if not path.is_file():
        raise IndexFormatError(
            f"{path} is missing: it must say at least "
            '{"source": "mylab", "release": "v1", "licence": "CC-BY-4.0"}'
        )
    found = decode_json(read_file(path), str(path))
    _check_keys(found, _METADATA, str(path))
    given = {"source": source, "release": release}
    found.update({key: value for key, value in given.items() if value is not None})
    missing = [key for key in ("source", "release", "licence") if not found.get(key)]
    if missing:
        raise IndexFormatError(f"{path}: {', '.join(missing)} must be there")
    if isinstance(found["source"], str) and found["source"] in built_in_names():
        raise InputError(
            f"{path if source is None else '--source'}: the source {found['source']!r} is built "
            "in, and an index of it could not be added; choose another name"
        )
    for key, kind in (("multipliers", dict), ("citations", dict), ("ignore", list)):
        if not isinstance(found.get(key) or kind(), kind):
            raise IndexFormatError(f"{path}: {key!r} must be {_article(kind)}")
    _check_texts(found, str(path))
    for name, facts in (found.get("multipliers") or {}).items():
        _check_keys(facts, _ROW, f"{path}: multiplier {name}")
        _check_texts(facts, f"{path}: multiplier {name}", "citation", "name")
    return dict(found)


def _article(kind: type) -> str:
    return "an object" if kind is dict else "a list"


def _check_keys(value: Any, known: frozenset[str], where: str) -> None:
    if not isinstance(value, dict):
        raise IndexFormatError(f"{where}: expected an object")
    unknown = sorted(value.keys() - known)
    if unknown:
        raise IndexFormatError(
            f"{where}: {', '.join(unknown)} means nothing here; known are "
            f"{', '.join(sorted(known))}"
        )


def _check_texts(value: Mapping[str, Any], where: str, *more: str) -> None:
    """Refuse what the index itself would not: what is used before there is an index."""
    for key in (*_READING, *more):
        if not isinstance(value.get(key, ""), (str, type(None))):
            raise IndexFormatError(f"{where}: {key!r} must be a text, got {value[key]!r}")


def _defaults(metadata: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: metadata[key] for key in _READING if metadata.get(key) is not None}
    return {**found, "citation": "default" if metadata.get("citation") else None}


def _citation(value: Any) -> Any:
    return {"text": value, "doi": None} if isinstance(value, str) else value


def _template(url: str) -> str:
    return url if "{path}" in url else f"{url.rstrip('/')}/{{path}}"


# --- files --------------------------------------------------------------------


def _files(folder: Path, metadata: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Files of the folder that are tables or C models, each with what is said of it."""
    from approxhub.formats.reading import all_formats

    suffixes = {s for f in all_formats() if f.read is not None for s in f.suffixes}
    said: dict[str, dict[str, Any]] = dict(metadata.get("multipliers") or {})
    inside = folder.resolve()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        name = relative.as_posix()
        facts = said.pop(name, None)
        if facts is None and (
            path.suffix.lower() not in suffixes
            or name in (METADATA_NAME, INDEX_NAME)
            or any(part.startswith(".") for part in relative.parts)
            or any(fnmatch.fnmatchcase(name, str(p)) for p in metadata.get("ignore") or ())
        ):
            continue
        if not path.is_file():
            continue
        if inside not in path.resolve().parents:
            raise InputError(f"{path} leads out of the folder; put a copy of the file there")
        yield path, facts or {}
    if said:
        raise NotFoundError(f"{folder} has no file {', '.join(sorted(said))}")


def _row(
    folder: Path, path: Path, facts: Mapping[str, Any], citations: Mapping[str, Any]
) -> dict[str, Any]:
    from approxhub.formats import read_data, table_of
    from approxhub.formats.reading import format_of

    format = facts.get("format") or format_of(path).name
    operands, index_order = facts.get("operands"), facts.get("index_order")
    operand_order = facts.get("operand_order")
    data = read_data(path, format=format, operands=operands, operand_order=operand_order)
    made = table_of(
        data, path, operands=operands, index_order=index_order, operand_order=operand_order
    )
    key = facts.get("citation")
    if key is not None and key not in citations:
        raise IndexFormatError(
            f"{folder / METADATA_NAME}: {path.name} cites {key!r}, which is not in 'citations'"
        )
    row = {
        "name": facts.get("name", path.stem),
        "a": str(made.a),
        "b": str(made.b),
        "path": path.relative_to(folder).as_posix(),
        "format": format,
        "function": data.name if format == C_MODEL else None,
        "index_order": index_order,
        "operand_order": operand_order,
        "source_sha256": made.provenance.source_sha256,
        "table_sha256": made.table_sha256,
        "printed": _printed(made.metrics),
        "hardware": {k: facts[k] for k in _COSTS if facts.get(k) is not None},
        "citation": key,
    }
    needed = ("name", "table_sha256")
    return {k: v for k, v in row.items() if v is not None or k in needed}


def _printed(metrics: Metrics) -> dict[str, str]:
    """Metrics with six digits; those of a sample are no facts of the circuit, and are left out."""
    if metrics.method != "exhaustive":
        return {}
    return {
        key: str(value) if key in _INTEGERS else f"{value:.6g}"
        for key, value in metrics.to_json().items()
    }
