"""Rebuild the index files from one git checkout of EvoApproxLib.

``python -m multipliers_index.build --checkout DIR [--release NAME ...] [--output DIR] [--check]``

Reads the pinned commits out of git's object store, whatever is checked out, so the result is the
same bytes everywhere. Runs the git program; imports approxhub's C models and table hash.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from approxhub.cmodel import CModel, Header
from approxhub.errors import ApproxHubError
from approxhub.multiplier import table_sha256
from approxhub.operands import OperandFormat

__all__ = ["RELEASES", "build_index", "main", "render"]

#: Release to the commit that it is.
RELEASES = {
    "v1.1": "d321f7f68c81141a7eed7556e1614b86d4ba629a",
    "v2022": "187ff571556cc1f310e46fa4ac463abb71dd671e",
}

REPOSITORY = "https://github.com/ehw-fit/evoapproxlib"
URL = "https://raw.githubusercontent.com/ehw-fit/evoapproxlib/{commit}/{path}"
LICENCE = {
    "spdx": "MIT",
    "holder": "EHW@FIT, Faculty of Information Technology, Brno University of Technology",
}

#: Wider operands have no table hash: their tables are too large to make for every entry.
_TABLE_BITS = 8

# A circuit that is Pareto-optimal in several ways lies in several folders; the first of these
# that has it gives the path.
_FOLDERS = ("mae", "wce", "mre", "mse", "ep")
# (The library's folder is really spelt like this.)
_PATH = re.compile(r"multiplers/(\d+)x(\d+)_(signed|unsigned)/pareto_pwr_(\w+)/(\w+)\.c", re.ASCII)
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


def _circuits(checkout: Path, commit: str) -> dict[str, list[str]]:
    """Name to the paths that hold it, the one for the index first."""
    listed = _git(checkout, "ls-tree", "-r", "--name-only", "-z", commit).decode().split("\0")
    found: dict[str, list[str]] = {}
    for path in listed:
        match = _PATH.fullmatch(path)
        if match is None:
            continue
        if match[4] not in _FOLDERS:
            raise BuildError(f"{path}: the folder pareto_pwr_{match[4]} is new; give it a rank")
        found.setdefault(match[5], []).append(path)
    if not found:
        raise BuildError(f"commit {commit} of {checkout} has no multipliers")

    def rank(path: str) -> tuple[int, str]:
        match = _PATH.fullmatch(path)
        assert match is not None
        return _FOLDERS.index(match[4]), path

    return {name: sorted(paths, key=rank) for name, paths in sorted(found.items())}


def _citation_key(text: str) -> str:
    """Short name of an article: first author, year, first word of the title."""
    surname = re.split(r",| and ", text)[0].split()[-1]
    years = re.findall(r"\b(?:19|20)\d\d\b", re.sub(r"doi:.*", "", text))
    title = re.search(r'"\s*(\w+)', text)
    words = [surname, years[-1] if years else "", title[1] if title else ""]
    return re.sub(r"[^a-z0-9]", "", "".join(words).lower())


def build_index(checkout: Path, release: str, commit: str) -> dict[str, Any]:
    """Index of one release.

    Parameters
    ----------
    checkout : Path
        A git repository (bare or not) that has the commit.
    release : str
        What the release is called in multiplier ids.
    commit : str
        The full commit hash.

    Raises
    ------
    BuildError
        If the commit or a file is missing, or copies of a circuit differ.
    CModelError
        If a file is outside what the C interpreter or the header reader know.
    """
    circuits = _circuits(checkout, commit)
    wanted = [path for paths in circuits.values() for path in paths]
    contents = dict(zip(wanted, _read(checkout, commit, wanted), strict=True))
    citations: dict[str, dict[str, str | None]] = {}
    technologies: set[str] = set()
    entries = []
    for number, (name, paths) in enumerate(circuits.items(), 1):
        raw = contents[paths[0]]
        for copy in paths[1:]:
            # Only the comment, which names the folder, may differ.
            if _COMMENT.sub(b"", contents[copy]) != _COMMENT.sub(b"", raw):
                raise BuildError(f"{copy} and {paths[0]} are different circuits of one name")
        try:
            entry, header = _entry(name, paths[0], raw)
        except ApproxHubError as error:
            raise BuildError(f"{paths[0]}: {error}") from error
        key = _citation_key(header.citation)
        article = {"text": header.citation, "doi": header.doi}
        if citations.setdefault(key, article) != article:
            raise BuildError(f"{paths[0]}: two articles have the key {key}")
        entry["citation"] = key
        technologies.add(header.technology)
        entries.append(entry)
        if number % 50 == 0 or number == len(circuits):
            print(f"{release}: {number} of {len(circuits)}", file=sys.stderr)
    if len(technologies) != 1:
        raise BuildError(f"the files name several technologies: {sorted(technologies)}")
    return {
        "schema_version": 1,
        "source": "evoapproxlib",
        "release": release,
        "repository": REPOSITORY,
        "commit": commit,
        "urls": [URL],
        "format": "c-model",
        "licence": LICENCE,
        "technology": technologies.pop(),
        "citations": dict(sorted(citations.items())),
        "multipliers": entries,
    }


def _entry(name: str, path: str, raw: bytes) -> tuple[dict[str, Any], Header]:
    match = _PATH.fullmatch(path)
    assert match is not None
    signed = match[3] == "signed"
    a, b = (OperandFormat(int(bits), signed=signed) for bits in (match[1], match[2]))
    model = CModel.parse(raw, a=a, b=b, function=name)
    header = Header.parse(model.source)
    small = max(a.bits, b.bits) <= _TABLE_BITS
    entry = {
        "name": name,
        "a": str(a),
        "b": str(b),
        "path": path,
        "function": model.function,
        "source_sha256": hashlib.sha256(raw).hexdigest(),
        "table_sha256": table_sha256(model.tabulate()) if small else None,
        "printed": dataclasses.asdict(header.printed),
        "hardware": {
            "power_mw": float(header.power_mw),
            "area_um2": float(header.area_um2),
            "delay_ns": float(header.delay_ns),
        },
    }
    return entry, header


def render(index: dict[str, Any]) -> str:
    """Text of an index file: one line per key, and one per multiplier.

    Examples
    --------
    >>> print(render({"release": "x", "multipliers": [{"name": "m"}]}), end="")
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m multipliers_index.build",
        description="Rebuild the index of EvoApproxLib from a git checkout of it.",
    )
    parser.add_argument(
        "--checkout", type=Path, required=True, help="git repository that has the pinned commits"
    )
    parser.add_argument(
        "--release", action="append", choices=sorted(RELEASES), help="only this release (repeat)"
    )
    parser.add_argument(
        "--output", type=Path, help="folder to write to, or to compare with (default: the package)"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a file would change"
    )
    options = parser.parse_args(arguments)
    folder = options.output or Path(str(files("multipliers_index")))
    differing = []
    for release in options.release or sorted(RELEASES):
        try:
            index = build_index(options.checkout, release, RELEASES[release])
        except ApproxHubError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        text = render(index).encode()
        path = folder / f"evoapproxlib-{release}.json"
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
