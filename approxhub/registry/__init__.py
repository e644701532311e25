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
    "FetchContext": "approxhub.registry.context",
    "FetchResult": "approxhub.registry.client",
    "Store": "approxhub.registry.store",
    "VerifyResult": "approxhub.registry.audit",
    "energy_reference": "approxhub.registry.energy",
    "fetch": "approxhub.registry.client",
    "find_by_identity": "approxhub.registry.client",
    "index_source": "approxhub.registry.sources",
    "load": "approxhub.registry.client",
    "verify": "approxhub.registry.audit",
}

__all__ = [
    "Entry",
    "FetchContext",
    "FetchResult",
    "Store",
    "VerifyResult",
    "energy_reference",
    "entries",
    "fetch",
    "find_by_identity",
    "index_source",
    "load",
    "resolve",
    "verify",
]

if TYPE_CHECKING:
    from approxhub.registry.audit import VerifyResult as VerifyResult
    from approxhub.registry.audit import verify as verify
    from approxhub.registry.client import FetchResult as FetchResult
    from approxhub.registry.client import fetch as fetch
    from approxhub.registry.client import find_by_identity as find_by_identity
    from approxhub.registry.client import load as load
    from approxhub.registry.context import FetchContext as FetchContext
    from approxhub.registry.energy import energy_reference as energy_reference
    from approxhub.registry.sources import index_source as index_source
    from approxhub.registry.store import Store as Store


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'approxhub.registry' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
