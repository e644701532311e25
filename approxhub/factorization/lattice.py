"""Exact linear algebra: from an integer matrix to a reduced basis of its row lattice.

The one place that talks to python-flint, which is imported when it is first needed.
Imports numpy and the errors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from approxhub.factorization.errors import FactorizationError, TooCostlyError

__all__ = ["PRIME", "Matrix", "column_factors", "full_rank", "multiply", "row_factors"]

PRIME = (1 << 61) - 1
_LIFT = 1 << 40  # coordinates beyond this are not those of a lattice vector in a reduced basis
_INT64 = (1 << 63) - 1
_SAMPLE = 256  # generators to begin with
_STEP = 64  # generators added where they did not span everything
_SMALL_PRIMES = (2, 3, 5, 7, 11, 13)

Matrix = npt.NDArray[np.int64]


def flint() -> Any:
    """Return the module of python-flint.

    Raises
    ------
    FactorizationError
        If it cannot be imported.
    """
    try:
        import flint
    except ImportError as error:
        raise FactorizationError(
            f"factorising needs python-flint, which cannot be imported ({error}); "
            "`pip install python-flint`"
        ) from error
    return flint


def _modular(matrix: Matrix, prime: int = PRIME) -> Any:
    return flint().nmod_mat(*matrix.shape, (matrix % prime).ravel().tolist(), prime)


def _pivots(matrix: Matrix) -> list[int]:
    """Columns that are independent modulo the prime, first come first."""
    reduced, rank = _modular(matrix).rref()
    found: list[int] = []
    column = 0
    for i in range(rank):
        while not int(reduced[i, column]):
            column += 1
        found.append(column)
    return found


def least_rank(matrix: Matrix) -> int:
    """A lower bound of the rank, quickly: the rank modulo a prime."""
    return int(_modular(matrix).rank()) if matrix.size else 0


def full_rank(matrix: Matrix) -> bool:
    """Whether the shorter side of a matrix is proven to be its rank.

    A minor that is not 0 modulo a prime is not 0, so a yes is a proof; a no is none.
    """
    if not matrix.size:
        return True
    return bool(int(_modular(matrix).rank()) == min(matrix.shape))


def multiply(u: Matrix, v: Matrix) -> npt.NDArray[Any]:
    """Exact product: in int64 where the factors prove that it cannot overflow, else in Python ints.

    Examples
    --------
    >>> import numpy as np
    >>> multiply(np.array([[2**62]]), np.array([[4]]))
    array([[18446744073709551616]], dtype=object)
    """
    if _largest(u) * _largest(v) * u.shape[1] <= _INT64:
        return np.asarray(u @ v)
    product = np.zeros((u.shape[0], v.shape[1]), dtype=object)
    for i in range(u.shape[1]):
        product += u[:, i, None].astype(object) * v[i].astype(object)
    return product


def _largest(matrix: Matrix) -> int:
    return max(-int(matrix.min()), int(matrix.max())) if matrix.size else 0


def _basis(generators: Matrix) -> Matrix:
    """LLL-reduced basis of the lattice that some rows span."""
    reduced = np.array(flint().fmpz_mat(generators.tolist()).lll().tolist(), dtype=object)
    # Rows that depend on others come out as zeros. Reduced ones are never longer than the longest
    # generator (whose entries are of 34 bits at most), so they fit.
    basis = reduced.astype(np.int64)
    return np.ascontiguousarray(basis[basis.any(axis=1)])


def _coordinates(rows: Matrix, basis: Matrix) -> Matrix:
    """Coordinates of `rows` in `basis` if they are integers and small; else anything."""
    columns = _pivots(basis)
    if len(columns) < len(basis):
        raise FactorizationError("a basis is singular modulo the prime; this should not happen")
    square, right = _modular(basis[:, columns].T), _modular(rows[:, columns].T)
    flat = square.solve(right).entries()
    found = np.array([int(x) for x in flat], dtype=np.int64).reshape(len(basis), len(rows)).T
    return np.ascontiguousarray(np.where(found > PRIME // 2, found - PRIME, found))


def row_factors(matrix: Matrix, max_rank: int) -> tuple[Matrix, Matrix]:
    """Write a matrix as ``u @ v``, with the rows of `v` a reduced basis of its row lattice.

    Parameters
    ----------
    matrix : ndarray of int64, shape (m, n)
        Without repeated rows or columns this is quicker.
    max_rank : int
        Where to give up.

    Returns
    -------
    u : ndarray of int64, shape (m, rank)
    v : ndarray of int64, shape (rank, n)
        Their product is `matrix`: checked, exactly, on every entry.

    Raises
    ------
    TooCostlyError
        If the rank is above `max_rank`.

    Examples
    --------
    >>> import numpy as np
    >>> u, v = row_factors(np.array([[2, 4], [3, 6], [5, 10]]), 1)
    >>> v.tolist(), u.ravel().tolist()
    ([[1, 2]], [2, 3, 5])
    """
    m, n = matrix.shape
    if not matrix.any():
        return np.zeros((m, 0), np.int64), np.zeros((0, n), np.int64)
    chosen = np.zeros(m, dtype=bool)
    chosen[:: -(-m // _SAMPLE)] = True
    basis = np.zeros((0, n), np.int64)
    new = chosen
    while True:
        generators = np.vstack([basis, matrix[new]])
        # A lower bound, had in no time: what follows can take minutes.
        rank = int(_modular(generators).rank())
        if rank > max_rank:
            raise TooCostlyError(
                f"the rank is above {max_rank}, where factors of a {m} x {n} matrix are not "
                "looked for",
                rank,
            )
        basis = _basis(generators)
        u = _coordinates(matrix, basis)
        small = np.abs(u).max(axis=1) < _LIFT
        right = small.copy()
        right[small] = (multiply(u[small], basis) == matrix[small]).all(axis=1)
        if right.all():
            return u, basis
        missing = np.flatnonzero(~right & ~chosen)
        if not missing.size:
            raise FactorizationError(
                "a reduced basis gives coordinates beyond 2**40: these entries are too large"
            )
        new = np.zeros(m, dtype=bool)
        new[missing[:: -(-missing.size // _STEP)]] = True
        chosen = chosen | new


def column_factors(matrix: Matrix, u: Matrix, v: Matrix, max_rank: int) -> tuple[Matrix, Matrix]:
    """Write a matrix as ``u @ v``, with the columns of `u` a reduced basis of its column lattice.

    Parameters
    ----------
    matrix, u, v : ndarray of int64
        As of :func:`row_factors`.
    max_rank : int
        Where to give up.

    Returns
    -------
    u, v : ndarray of int64
        Their product is `matrix`: checked, exactly, on every entry.

    Examples
    --------
    >>> import numpy as np
    >>> m = np.array([[4, 8], [4, 8]])
    >>> u, v = column_factors(m, *row_factors(m, 1), 1)
    >>> u.tolist(), v.tolist()
    ([[4], [4]], [[1, 2]])
    """
    columns = np.ascontiguousarray(matrix.T)
    if len(v) and all(int(_modular(v, p).rank()) == len(v) for p in _SMALL_PRIMES):
        # The columns of v span all integer points, as far as small primes can tell. So those of u
        # span the column lattice, and are far fewer than the matrix's own, whose relations are
        # slow to find: minutes for 256 dense ones of rank 200. Whatever it spans, it is checked.
        basis = _basis(np.ascontiguousarray(u.T))
        right = _coordinates(columns, basis)
        if _largest(right) < _LIFT and (multiply(right, basis) == columns).all():
            return np.ascontiguousarray(basis.T), np.ascontiguousarray(right.T)
    right, basis = row_factors(columns, max_rank)
    return np.ascontiguousarray(basis.T), np.ascontiguousarray(right.T)
