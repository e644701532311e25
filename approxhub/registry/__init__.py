"""The registry: names of multipliers, and the verified tables behind them.

Most public names are loaded on first use, so that importing this package (and listing what there
is) imports neither torch nor h5py, requests or pycparser.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from approxhub.registry.entries import Entry

# After the line above, which binds `entries` to the submodule: here the function wins.
from approxhub.registry.catalogue import entries, resolve  # isort: skip

_HOMES = {
    "Change": "approxhub.registry.pins",
    "Comparison": "approxhub.registry.comparison",
    "FetchContext": "approxhub.registry.context",
    "FetchResult": "approxhub.registry.client",
    "Pin": "approxhub.registry.pins",
    "Query": "approxhub.registry.selection",
    "Removal": "approxhub.registry.housekeeping",
    "Row": "approxhub.registry.selection",
    "Selection": "approxhub.registry.selection",
    "Store": "approxhub.registry.store",
    "Usage": "approxhub.registry.housekeeping",
    "VerifyResult": "approxhub.registry.audit",
    "Work": "approxhub.registry.citation",
    "add_index": "approxhub.registry.pins",
    "bibtex": "approxhub.registry.citation",
    "build_index": "approxhub.registry.publishing",
    "compare": "approxhub.registry.comparison",
    "energy_reference": "approxhub.registry.energy",
    "fetch": "approxhub.registry.client",
    "fetch_each": "approxhub.registry.client",
    "find_by_identity": "approxhub.registry.client",
    "index_source": "approxhub.registry.sources",
    "known_tables": "approxhub.registry.comparison",
    "load": "approxhub.registry.client",
    "prune": "approxhub.registry.housekeeping",
    "remove": "approxhub.registry.housekeeping",
    "remove_index": "approxhub.registry.pins",
    "select": "approxhub.registry.selection",
    "update_index": "approxhub.registry.pins",
    "usage": "approxhub.registry.housekeeping",
    "verify": "approxhub.registry.audit",
    "works_of": "approxhub.registry.citation",
    "write_index": "approxhub.registry.publishing",
}

__all__ = [
    "Change",
    "Comparison",
    "Entry",
    "FetchContext",
    "FetchResult",
    "Pin",
    "Query",
    "Removal",
    "Row",
    "Selection",
    "Store",
    "Usage",
    "VerifyResult",
    "Work",
    "add_index",
    "bibtex",
    "build_index",
    "compare",
    "energy_reference",
    "entries",
    "fetch",
    "fetch_each",
    "find_by_identity",
    "index_source",
    "known_tables",
    "load",
    "prune",
    "remove",
    "remove_index",
    "resolve",
    "select",
    "update_index",
    "usage",
    "verify",
    "works_of",
    "write_index",
]

if TYPE_CHECKING:
    from approxhub.registry.audit import VerifyResult as VerifyResult
    from approxhub.registry.audit import verify as verify
    from approxhub.registry.citation import Work as Work
    from approxhub.registry.citation import bibtex as bibtex
    from approxhub.registry.citation import works_of as works_of
    from approxhub.registry.client import FetchResult as FetchResult
    from approxhub.registry.client import fetch as fetch
    from approxhub.registry.client import fetch_each as fetch_each
    from approxhub.registry.client import find_by_identity as find_by_identity
    from approxhub.registry.client import load as load
    from approxhub.registry.comparison import Comparison as Comparison
    from approxhub.registry.comparison import compare as compare
    from approxhub.registry.comparison import known_tables as known_tables
    from approxhub.registry.context import FetchContext as FetchContext
    from approxhub.registry.energy import energy_reference as energy_reference
    from approxhub.registry.housekeeping import Removal as Removal
    from approxhub.registry.housekeeping import Usage as Usage
    from approxhub.registry.housekeeping import prune as prune
    from approxhub.registry.housekeeping import remove as remove
    from approxhub.registry.housekeeping import usage as usage
    from approxhub.registry.pins import Change as Change
    from approxhub.registry.pins import Pin as Pin
    from approxhub.registry.pins import add_index as add_index
    from approxhub.registry.pins import remove_index as remove_index
    from approxhub.registry.pins import update_index as update_index
    from approxhub.registry.publishing import build_index as build_index
    from approxhub.registry.publishing import write_index as write_index
    from approxhub.registry.selection import Query as Query
    from approxhub.registry.selection import Row as Row
    from approxhub.registry.selection import Selection as Selection
    from approxhub.registry.selection import select as select
    from approxhub.registry.sources import index_source as index_source
    from approxhub.registry.store import Store as Store


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'approxhub.registry' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
