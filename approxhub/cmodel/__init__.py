"""C models of multipliers: text in, table out, without a compiler.

The text is parsed with pycparser and evaluated with numpy under C's typing rules; nothing of it
is ever executed. Imports pycparser, numpy, :mod:`approxhub.errors` and
:mod:`approxhub.operands` only, and nothing outside imports this package before it is needed.
"""

from __future__ import annotations

from approxhub.cmodel.header import EVOAPPROX8B, EVOAPPROXLIB, FPGAS, Dialect, Header
from approxhub.cmodel.limits import LIMITS, Limits
from approxhub.cmodel.model import MAX_TABLE_BITS, CModel

__all__ = [
    "EVOAPPROX8B",
    "EVOAPPROXLIB",
    "FPGAS",
    "LIMITS",
    "MAX_TABLE_BITS",
    "CModel",
    "Dialect",
    "Header",
    "Limits",
]
