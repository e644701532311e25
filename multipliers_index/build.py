"""Rebuild the index files of a library from one git checkout of it.

``python -m multipliers_index.build --checkout DIR [--source NAME] [--release NAME ...]
[--output DIR] [--check]``

Reads the pinned commits out of git's object store, whatever is checked out, so the result is the
same bytes everywhere. Runs the git program; imports approxhub's C models and table hash.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from approxhub.cmodel import CModel, Header
from approxhub.errors import ApproxHubError
from approxhub.multiplier import MAX_TABLE_BITS, table_sha256
from approxhub.registry.index import SCHEMA_VERSION, render_index
from multipliers_index.libraries import LIBRARIES, Facts, Library, Place

__all__ = ["build_index", "main"]

LICENCE = {
    "spdx": "MIT",
    "holder": "EHW@FIT, Faculty of Information Technology, Brno University of Technology",
}

_COMMENT = re.compile(rb"\A/\*.*?\*/", re.DOTALL)


class BuildError(ApproxHubError):
    """The checkout does not hold what the index needs."""


def _git(checkout: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), *arguments],
            input=stdin,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise BuildError(f"git cannot be run: {error}") from error
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        raise BuildError(f"git {arguments[0]} failed in {checkout}: {message}")
    return done.stdout


def _read(checkout: Path, commit: str, paths: Sequence[str]) -> Iterator[bytes]:
    """Contents of files of a commit, in order."""
    request = "".join(f"{commit}:{path}\n" for path in paths).encode()
    output = _git(checkout, "cat-file", "--batch", stdin=request)
    position = 0
    for path in paths:
        end = output.index(b"\n", position)
        head = output[position:end].split()
        if len(head) != 3 or head[1] != b"blob":
            raise BuildError(f"{path} of {commit} is not in {checkout}")
        start, size = end + 1, int(head[2])
        yield output[start : start + size]
        position = start + size + 1


def _circuits(checkout: Path, library: Library, commit: str) -> dict[str, dict[str, Place]]:
    """Name to the paths that hold it, the one for the index first."""
    listed = _git(checkout, "ls-tree", "-r", "--name-only", "-z", commit).decode().split("\0")
    found: dict[str, dict[str, Place]] = {}
    for path in listed:
        try:
            place = library.place(path)
        except ValueError as error:
            raise BuildError(str(error)) from error
        if place is not None:
            found.setdefault(place.name, {})[path] = place
    if not found:
        raise BuildError(f"commit {commit} of {checkout} has no multipliers")
    return {
        name: dict(sorted(paths.items(), key=lambda item: (item[1].rank, item[0])))
        for name, paths in sorted(found.items())
    }


def _citation_key(text: str) -> str:
    """Short name of an article: first author, year, first word of the title."""
    surname = re.split(r",| and ", text)[0].split()
    years = re.findall(r"\b(?:19|20)\d\d\b", re.sub(r"doi:.*", "", text))
    title = re.search(r'"\s*(\w+)', text)
    # A name in capitals is written "SURNAME I.", the others "I. Surname".
    words = [
        surname[0] if surname[0].isupper() and len(surname[0]) > 2 else surname[-1],
        years[-1] if years else "",
        title[1] if title else "",
    ]
    return re.sub(r"[^a-z0-9]", "", "".join(words).lower())


def build_index(checkout: Path, library: Library, release: str) -> dict[str, Any]:
    """Index of one release.

    Parameters
    ----------
    checkout : Path
        A git repository (bare or not) that has the release's commit.
    library : Library
        What is known of the library.
    release : str
        One of its releases.

    Raises
    ------
    BuildError
        If the commit or a file is missing, or copies of a circuit differ.
    CModelError
        If a file is outside what the C interpreter or the header reader know.
    """
    commit = library.releases[release]
    circuits = _circuits(checkout, library, commit)
    wanted = [path for paths in circuits.values() for path in paths]
    contents = dict(zip(wanted, _read(checkout, commit, wanted), strict=True))
    facts: Facts = {}
    if library.facts_path is not None and library.facts is not None:
        (raw,) = _read(checkout, commit, [library.facts_path])
        facts = library.facts(raw)
    citations: dict[str, dict[str, str | None]] = {}
    entries = []
    for number, (name, paths) in enumerate(circuits.items(), 1):
        path, *copies = paths
        raw = contents[path]
        for copy in copies:
            # Only the comment, which names the folder, may differ.
            if _COMMENT.sub(b"", contents[copy]) != _COMMENT.sub(b"", raw):
                raise BuildError(f"{copy} and {path} are different circuits of one name")
        try:
            entry, header = _entry(paths[path], path, raw, library)
        except ApproxHubError as error:
            raise BuildError(f"{path}: {error}") from error
        if library.facts is not None:
            if name not in facts:
                raise BuildError(f"{library.facts_path} has nothing of {name}")
            entry["printed"].update(facts[name][0])
            entry["hardware"].update(facts[name][1])
        key = _citation_key(header.citation)
        article = {"text": header.citation, "doi": header.doi}
        if citations.setdefault(key, article) != article:
            raise BuildError(f"{path}: two articles have the key {key}")
        entry["citation"] = key
        entries.append(entry)
        if number % 50 == 0 or number == len(circuits):
            print(f"{library.source} {release}: {number} of {len(circuits)}", file=sys.stderr)
    return {
        "schema_version": SCHEMA_VERSION,
        "source": library.source,
        "release": release,
        "repository": library.repository,
        "commit": commit,
        "urls": [library.url],
        "format": "c-model",
        "licence": LICENCE,
        "technology": library.technology,
        "citations": dict(sorted(citations.items())),
        "multipliers": entries,
    }


def _entry(place: Place, path: str, raw: bytes, library: Library) -> tuple[dict[str, Any], Header]:
    model = CModel.parse(raw, a=place.a, b=place.b, function=place.name)
    header = Header.parse(model.source, library.dialect)
    has_table = place.a.bits + place.b.bits <= MAX_TABLE_BITS
    entry = {
        "name": place.name,
        "a": str(place.a),
        "b": str(place.b),
        "path": path,
        "function": model.function,
        "source_sha256": hashlib.sha256(raw).hexdigest(),
        "table_sha256": table_sha256(model.tabulate()) if has_table else None,
        "printed": dict(header.printed),
        "hardware": dict(header.hardware),
    }
    return entry, header


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    known = {library.source: library for library in LIBRARIES}
    parser = argparse.ArgumentParser(
        prog="python -m multipliers_index.build",
        description="Rebuild the index of a library from a git checkout of it.",
    )
    parser.add_argument(
        "--checkout", type=Path, required=True, help="git repository that has the pinned commits"
    )
    parser.add_argument(
        "--source", choices=sorted(known), default=LIBRARIES[0].source, help="which library it is"
    )
    parser.add_argument("--release", action="append", help="only this release (repeat)")
    parser.add_argument(
        "--output", type=Path, help="folder to write to, or to compare with (default: the package)"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a file would change"
    )
    options = parser.parse_args(arguments)
    library = known[options.source]
    for release in options.release or ():
        if release not in library.releases:
            parser.error(f"{library.source} has the releases {', '.join(library.releases)}")
    folder = options.output or Path(str(files("multipliers_index")))
    differing = []
    for release in options.release or library.releases:
        try:
            index = build_index(options.checkout, library, release)
        except ApproxHubError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        text = render_index(index).encode()
        path = folder / f"{library.source}-{release}.json"
        if not options.check:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        elif not path.is_file() or path.read_bytes() != text:
            differing.append(path.name)
    for name in differing:
        print(f"{name} differs from what the checkout gives; rebuild it", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
