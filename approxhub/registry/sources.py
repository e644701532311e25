"""Sources made of index files: those that are shipped, and anybody's own.

Indexes are read at the first question. Imports the index reader; the fetching only when used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from approxhub.errors import IndexFormatError, UnknownMultiplierError
from approxhub.plugins.descriptors import MultiplierSource
from approxhub.registry.index import Circuit, Index, read_index

if TYPE_CHECKING:
    from approxhub.multiplier import Multiplier
    from approxhub.registry.context import FetchContext
    from approxhub.registry.entries import Entry

__all__ = ["index_source", "index_sources", "release_source"]

_PREFERRED = "evoapproxlib"  # of libraries that share a circuit, the one that describes it best

Releases = Sequence[tuple[Index, str | None]]
"""Indexes of one source, the preferred first, each with the place that its files lie beside."""


def index_source(
    name: str,
    paths: Sequence[Path] | Callable[[], Sequence[Path]],
    priority: int = 0,
) -> MultiplierSource:
    """Make a source of one or more index files.

    Parameters
    ----------
    name : str
        Name of the source; every index must carry it.
    paths : sequence of Path, or callable
        One file per release, the preferred release first; a callable is asked at the first
        question. An index without addresses has its files beside it.
    priority : int
        As of :class:`~approxhub.plugins.MultiplierSource`.

    Returns
    -------
    MultiplierSource
        To be returned from ``approxhub_multiplier_sources``.

    Examples
    --------
    >>> source = index_source("mylab", [Path("mylab-2024.json")])
    >>> source.name, source.cache
    ('mylab', True)
    """

    def releases() -> Releases:
        found: dict[str, tuple[Path, Index]] = {}
        for path in paths() if callable(paths) else paths:
            index = read_index(path, name)
            other, _ = found.setdefault(index.release, (path, index))
            if other is not path:
                raise IndexFormatError(
                    f"{path}: release {index.release!r} of {name} stands in {other} too"
                )
        return [(i, None if i.urls else str(path.absolute().parent)) for path, i in found.values()]

    return release_source(name, releases, priority)


def release_source(name: str, releases: Callable[[], Releases], priority: int) -> MultiplierSource:
    """Make a source of indexes that are read at the first question."""

    @functools.cache
    def circuits() -> dict[str, tuple[Index, Circuit, str | None]]:
        return {
            key: (index, circuit, beside)
            for index, beside in releases()
            for key, circuit in index.circuits.items()
        }

    def entries() -> Iterable[Entry]:
        return [circuit.entry for _, circuit, _ in circuits().values()]

    def fetch(path: str, context: FetchContext) -> Multiplier:
        from approxhub.registry.acquisition import acquire

        if path not in circuits():
            raise UnknownMultiplierError(f"{name} has no multiplier {path!r}")
        return acquire(*circuits()[path][:2], context, circuits()[path][2])

    return MultiplierSource(name, entries, fetch, priority=priority)


def index_sources() -> list[MultiplierSource]:
    """Sources of the index files that ApproxHub ships."""
    import multipliers_index

    def source(name: str) -> MultiplierSource:
        def paths() -> list[Path]:
            return [Path(str(p)) for p in multipliers_index.index_paths(name)]

        return index_source(name, paths, priority=1 if name == _PREFERRED else 0)

    return [source(name) for name in multipliers_index.INDEX_FILES]
