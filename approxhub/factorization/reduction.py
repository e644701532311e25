"""Cheaper factors of the same product: unimodular steps on the inner index, and common divisors.

``u @ v`` stays what it is while a multiple of one row of `v` is added to another (and taken back
in `u`), and while a common divisor moves from a row to its column. Imports numpy only; every
decision is made on integers, so the same factors give the same result on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from approxhub.factorization.digits import digit_count, nonzero_planes
from approxhub.factorization.lattice import Matrix

__all__ = ["component_costs", "reduce_factors", "share_divisors"]

_DIGIT = 800  # one digit weighs as much as 50 bits, 16 to the bit
_LIMITS = tuple(127 * (256**k - 1) // 255 for k in range(1, 8))
_ROUNDS = 4
_STEPS = 4000
_DIVISORS = 4096

Ints = npt.NDArray[Any]


def component_costs(u: Matrix, v: Matrix) -> list[int]:
    """Digit planes of each column of `u` times those of the row of `v`.

    Examples
    --------
    >>> import numpy as np
    >>> component_costs(np.array([[1, 200], [2, 0]]), np.array([[300, 3], [1000, 9]]))
    [2, 4]
    """
    return [len(nonzero_planes(x)) * len(nonzero_planes(y)) for x, y in zip(u.T, v, strict=True)]


def reduce_factors(u: Matrix, v: Matrix) -> tuple[Matrix, Matrix]:
    """Return factors of the same product that are no dearer, and mostly cheaper.

    Examples
    --------
    >>> import numpy as np
    >>> u, v = reduce_factors(np.array([[100], [127]]), np.array([[-300, 900]]))
    >>> u.tolist(), v.tolist()  # 300 cannot be helped, but 900 = 9 * 100 can
    ([[100], [127]], [[-300, 900]])
    >>> u, v = reduce_factors(np.array([[1], [3]]), np.array([[-320, 640]]))
    >>> sum(component_costs(u, v)), (u @ v).tolist()
    (1, [[-320, 640], [-960, 1920]])
    """
    best = u, v
    cost = sum(component_costs(u, v))
    for _ in range(_ROUNDS):
        # Within the descent a power of 256 is a size like any other; only at its end is it free.
        u, v = _descend(*share_divisors(u, v, free=1))
        u, v = share_divisors(u, v)
        reached = sum(component_costs(u, v))
        if reached >= cost:
            break
        best, cost = (u, v), reached
    return best


# --- common divisors ------------------------------------------------------------------


def share_divisors(u: Matrix, v: Matrix, free: int = 256) -> tuple[Matrix, Matrix]:
    """Move common divisors between each column and its row, and their sign, to the best place.

    Powers of `free` count for nothing: those of 256 only move digits, 1 means none.
    """
    u, v = u.copy(), v.copy()
    for i in range(len(v)):
        cu, cv = int(np.gcd.reduce(u[:, i])), int(np.gcd.reduce(v[i]))
        x, y = u[:, i] // cu, v[i] // cv
        ends = (int(x.min()), int(x.max())), (int(y.min()), int(y.max()))
        _, d, sign = min(_splits(*ends, cu * cv, free))
        u[:, i], v[i] = x * (sign * d), y * (sign * (cu * cv // d))
    return u, v


def _splits(
    x: tuple[int, int], y: tuple[int, int], divisor: int, free: int
) -> list[tuple[Any, int, int]]:
    """Every way to share a divisor: (cost, largest entry), what goes to x, sign."""
    found: list[tuple[Any, int, int]] = []
    small = [d for d in range(1, min(divisor, _DIVISORS) + 1) if divisor % d == 0]
    for d in sorted({*small, *(divisor // d for d in small)}):
        for sign in (1, -1):
            p, q = _scaled(x, sign * d, free), _scaled(y, sign * (divisor // d), free)
            cost = digit_count(*p) * digit_count(*q)
            found.append(((cost, max(-p[0], p[1], -q[0], q[1]), -sign), d, sign))
    return found


def _scaled(ends: tuple[int, int], factor: int, free: int) -> tuple[int, int]:
    """Ends of a range times a factor, less the powers of `free` in it.

    Examples
    --------
    >>> _scaled((-1, 3), -512, 256), _scaled((-1, 3), -512, 1)
    ((-6, 2), (-1536, 512))
    """
    while free > 1 and factor % free == 0:
        factor //= free
    low, high = sorted((ends[0] * factor, ends[1] * factor))
    return low, high


# --- unimodular steps -----------------------------------------------------------------


def _sizes(rows: Ints) -> Ints:
    """What each row, and each row negated, asks of a signed digit: shape (2, rows)."""
    low, high = rows.min(axis=-1), rows.max(axis=-1)
    return np.stack([np.maximum(high, -low - 1), np.maximum(-low, high - 1)])


def _weights(sizes: Ints) -> Ints:
    """Digits first, logarithm next: an integer that grows with the size."""
    m = np.maximum(sizes, 1)
    mantissa, exponent = np.frexp(m.astype(np.float64))  # exact, unlike log2
    weight = 16 * exponent.astype(np.int64) + (32 * mantissa).astype(np.int64) - 16
    weight += _DIGIT
    for limit in _LIMITS[:-1]:
        weight += _DIGIT * (m > limit)
    return np.asarray(weight)


class _Descent:
    """Steps ``v[i] += s v[j]; u[j] -= s u[i]`` that lower the sum of weights, best first.

    `of_v[:, s, i, j]` are the weights of ``v[i] + s v[j]``, `of_u[:, s, i, j]` of
    ``u[j] - s u[i]``, the first index for the row and the row negated; `gain` what each step
    changes. A step touches two components, so only their rows and columns are computed again.
    """

    signs = (1, -1)

    def __init__(self, u: Matrix, v: Matrix) -> None:
        # A sum of two entries below the limit cannot overflow, and at the limit the descent ends.
        small = max(int(np.abs(x).max()) for x in (u, v)) < 1 << 24
        dtype, self.limit = (np.int32, 1 << 28) if small else (np.int64, 1 << 60)
        self.u: Ints = np.ascontiguousarray(u.T, dtype)
        self.v: Ints = np.ascontiguousarray(v, dtype)
        r = len(v)
        self.weight_u, self.weight_v = _weights(_sizes(self.u)), _weights(_sizes(self.v))
        self.of_u = np.zeros((2, 2, r, r), np.int64)
        self.of_v = np.zeros((2, 2, r, r), np.int64)
        self.gain = np.zeros((2, r, r), np.int64)
        for i in range(r):
            self._weigh_v(i)
            self._weigh_u(i)
        for i in range(r):
            self._compare(i)

    def _weigh_v(self, i: int) -> None:
        for k, s in enumerate(self.signs):
            w = _weights(_sizes(self.v + s * self.v[i]))
            self.of_v[:, k, :, i] = w
            # v[i] - v[j] is v[j] - v[i] negated
            self.of_v[:, k, i, :] = w if s == 1 else w[::-1]

    def _weigh_u(self, j: int) -> None:
        for k, s in enumerate(self.signs):
            w = _weights(_sizes(self.u - s * self.u[j]))
            self.of_u[:, k, j, :] = w
            self.of_u[:, k, :, j] = w[::-1] if s == 1 else w

    def _compare(self, x: int) -> None:
        now = (self.weight_u * self.weight_v).min(axis=0)
        for rows, columns in ((slice(x, x + 1), slice(None)), (slice(None), slice(x, x + 1))):
            first = self.of_v[:, :, rows, columns] * self.weight_u[:, None, rows, None]
            second = self.of_u[:, :, rows, columns] * self.weight_v[:, None, None, columns]
            before = now[rows, None] + now[None, columns]
            self.gain[:, rows, columns] = first.min(axis=0) + second.min(axis=0) - before
        self.gain[:, x, x] = 0

    def step(self) -> bool:
        """Make the best step; whether there was one."""
        at = int(self.gain.argmin())
        k, i, j = (int(x) for x in np.unravel_index(at, self.gain.shape))
        if self.gain[k, i, j] >= 0:
            return False
        self.v[i] += self.signs[k] * self.v[j]
        self.u[j] -= self.signs[k] * self.u[i]
        if max(int(np.abs(x).max()) for x in (self.v[i], self.u[j])) > self.limit:
            return False
        self.weight_v[:, i] = _weights(_sizes(self.v[i]))
        self.weight_u[:, j] = _weights(_sizes(self.u[j]))
        self._weigh_v(i)
        self._weigh_u(j)
        self._compare(i)
        self._compare(j)
        return True


def _descend(u: Matrix, v: Matrix) -> tuple[Matrix, Matrix]:
    if len(v) < 2:
        return u, v
    descent = _Descent(u, v)
    for _ in range(_STEPS):
        if not descent.step():
            break
    return descent.u.T.astype(np.int64), descent.v.astype(np.int64)
