"""Sources made of index files: the shipped EvoApproxLib, and anybody's own.

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

__all__ = ["index_source", "index_sources"]


def index_source(
    name: str, paths: Sequence[Path] | Callable[[], Sequence[Path]]
) -> MultiplierSource:
    """Make a source of one or more index files.

    Parameters
    ----------
    name : str
        Name of the source; every index must carry it.
    paths : sequence of Path, or callable
        One file per release; a callable is asked at the first question.

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

    @functools.cache
    def circuits() -> dict[str, tuple[Index, Circuit]]:
        found: dict[str, tuple[Index, Circuit]] = {}
        releases: dict[str, Path] = {}
        for path in paths() if callable(paths) else paths:
            index = read_index(path, name)
            other = releases.setdefault(index.release, path)
            if other is not path:
                raise IndexFormatError(
                    f"{path}: release {index.release!r} of {name} stands in {other} too"
                )
            found.update((key, (index, c)) for key, c in index.circuits.items())
        return found

    def entries() -> Iterable[Entry]:
        return [circuit.entry for _, circuit in circuits().values()]

    def fetch(path: str, context: FetchContext) -> Multiplier:
        from approxhub.registry.acquisition import acquire

        if path not in circuits():
            raise UnknownMultiplierError(f"{name} has no multiplier {path!r}")
        index, circuit = circuits()[path]
        return acquire(index, circuit, context)

    return MultiplierSource(name, entries, fetch)


def index_sources() -> list[MultiplierSource]:
    """Sources of the index files that ApproxHub ships."""

    def paths() -> list[Path]:
        import multipliers_index

        return [Path(str(p)) for p in multipliers_index.index_paths()]

    return [index_source("evoapproxlib", paths)]
