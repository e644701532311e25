"""The index of named multipliers: which there are, where their sources lie, what must come out.

Data only; :mod:`approxhub` reads it, and ``python -m multipliers_index.build`` makes it from a
checkout of a source library. The C sources themselves are not here. Imports nothing.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    if sys.version_info >= (3, 11):
        from importlib.resources.abc import Traversable
    else:
        from importlib.abc import Traversable

__all__ = ["INDEX_FILES", "SCHEMA_FILE", "index_paths", "schema_path"]

INDEX_FILES = {
    "evoapproxlib": (
        "evoapproxlib-v1.1.json",
        "evoapproxlib-v2022.json",
        "evoapproxlib-v1.0.json",
    ),
    "evoapprox8b": ("evoapprox8b-2017.json",),
    "approx-fpgas": ("approx-fpgas-2020.json",),
}
"""Source to its files, the preferred release first."""

SCHEMA_FILE = "schema.json"


def index_paths(source: str | None = None) -> tuple[Traversable, ...]:
    """The shipped index files, all or those of one source.

    Examples
    --------
    >>> [path.name for path in index_paths("evoapprox8b")]
    ['evoapprox8b-2017.json']
    """
    folder = files(__name__)
    wanted = INDEX_FILES if source is None else {source: INDEX_FILES[source]}
    return tuple(folder.joinpath(name) for names in wanted.values() for name in names)


def schema_path() -> Traversable:
    """The JSON Schema that every index file follows.

    Examples
    --------
    >>> schema_path().is_file()
    True
    """
    return files(__name__).joinpath(SCHEMA_FILE)
