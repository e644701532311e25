"""Arguments that name multipliers, and how a shell completes them.

Imports click; the registry only while completing, and then neither torch nor h5py.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

__all__ = [
    "cached_ids_argument",
    "complete_cached",
    "complete_known",
    "complete_source",
    "id_argument",
]

F = TypeVar("F", bound=Callable[..., Any])


def complete_known(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Ids that begin with a text: of all that has a name, and names alone."""

    def known() -> Iterable[str]:
        from approxhub.registry.catalogue import bare_entries
        from approxhub.registry.selection import known_entries

        return [*(e.id for e in known_entries()), *(e.name for e in bare_entries())]

    return _beginning(known, incomplete)


def complete_cached(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Ids in the cache that begin with a text, and names that only one of them has."""

    def known() -> Iterable[str]:
        from approxhub.ids import MultiplierId
        from approxhub.registry.store import Store

        ids = Store().ids()
        names = Counter(MultiplierId.parse(id).name for id in ids)
        return [*ids, *(name for name, count in names.items() if count == 1)]

    return _beginning(known, incomplete)


def complete_source(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Sources of what has a name, families too, that begin with a text."""

    def known() -> Iterable[str]:
        from approxhub.registry.selection import known_entries

        return {e.source for e in known_entries()}

    return _beginning(known, incomplete)


def _beginning(known: Callable[[], Iterable[str]], incomplete: str) -> list[CompletionItem]:
    """Complete; whatever fails completes to nothing, and a shell is told nothing else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = sorted({t for t in known() if t.startswith(incomplete)})
    except Exception:
        return []
    return [CompletionItem(t) for t in found]


def id_argument(name: str = "id", **options: Any) -> Callable[[F], F]:
    """Give a command an argument that completes to any known id; options as for click's."""
    return click.argument(name, shell_complete=complete_known, **options)


def cached_ids_argument(**options: Any) -> Callable[[F], F]:
    """Give a command ``ids`` that complete to those in the cache; options as for click's."""
    return click.argument("ids", nargs=-1, shell_complete=complete_cached, **options)
