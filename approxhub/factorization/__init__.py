"""Integer factors of a table: bit-exact products by plain integer matrix multiplication.

``T[a, b] = [a * b +] sum_i u[a, i] * v[i, b]``. Importing this package imports numpy, neither
python-flint nor torch or h5py.
"""

from __future__ import annotations

from approxhub.factorization.cache import factorize_cached, known_factors
from approxhub.factorization.errors import (
    FactorizationError,
    NoFactorizableTableError,
    TooCostlyError,
)
from approxhub.factorization.factors import Factorization, Plane, exact_cost
from approxhub.factorization.search import MAX_RANK, factorize, ranks
from approxhub.factorization.stored import from_bytes, to_bytes

__all__ = [
    "MAX_RANK",
    "Factorization",
    "FactorizationError",
    "NoFactorizableTableError",
    "Plane",
    "TooCostlyError",
    "exact_cost",
    "factorize",
    "factorize_cached",
    "from_bytes",
    "known_factors",
    "ranks",
    "to_bytes",
]
