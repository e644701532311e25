"""What a factorisation is: integer factors of one multiplier's table, and their int8 digits.

Imports numpy, the multiplier and the exact products of :mod:`.lattice`; neither python-flint nor
torch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from approxhub.errors import TableError, VerificationError
from approxhub.factorization.digits import nonzero_planes
from approxhub.factorization.lattice import multiply
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat

__all__ = ["Factorization", "Plane", "exact_cost"]

_BLOCK = 1 << 22

Factor = npt.NDArray[Any]


class Plane(NamedTuple):
    """One int8 product of the sum: ``weight * left[a] * right[b]``, indexed by bit patterns.

    Parameters
    ----------
    left : ndarray of int8, shape (2**a.bits,)
    right : ndarray of int8, shape (2**b.bits,)
    weight : int
        A power of 256.
    """

    left: npt.NDArray[np.int8]
    right: npt.NDArray[np.int8]
    weight: int


def exact_cost(a: OperandFormat, b: OperandFormat) -> int:
    """Int8 products for one exact product: 1 up to 8x8 bits, signed or not, else by bytes.

    Examples
    --------
    >>> exact_cost(OperandFormat(8, False), OperandFormat(8, True))
    1
    >>> exact_cost(OperandFormat(12, True), OperandFormat(8, True))
    2
    """
    return -(-a.bits // 8) * -(-b.bits // 8)


@dataclass(frozen=True, eq=False)
class Factorization:
    """Integer factors of a table: ``T[a, b] = [a * b +] sum_i u[a, i] * v[i, b]``, exactly.

    Made by :func:`approxhub.factorization.factorize`, which verifies it on all entries.

    Parameters
    ----------
    identity : str
        Identity of the multiplier.
    a, b : OperandFormat
        Its operand formats.
    u : ndarray of int32 or int64, shape (2**a.bits, r)
        Left factors by bit pattern of the activation; read-only.
    v : ndarray of int32 or int64, shape (r, 2**b.bits)
        Right factors by bit pattern of the weight; read-only.
    with_exact : bool
        Whether the exact product of the values is added.
    rank_table, rank_error : int
        Ranks of the table and of its error.

    Examples
    --------
    >>> import approxhub as ah
    >>> from approxhub.factorization import factorize
    >>> m = ah.load("truncation:8s/a=2,b=0")
    >>> f = factorize(m)
    >>> f
    <Factorization 8s x 8s: 1 product, rank 1, error rank 1>
    >>> f.verify(m)
    """

    identity: str
    a: OperandFormat
    b: OperandFormat
    u: Factor
    v: Factor
    with_exact: bool
    rank_table: int
    rank_error: int

    def __post_init__(self) -> None:
        shapes = (self.u.shape, self.v.shape)
        if shapes != ((self.a.size, self.rank), (self.rank, self.b.size)):
            raise TableError(f"factors of {self.a} x {self.b} cannot have the shapes {shapes}")
        for name in ("u", "v"):
            object.__setattr__(self, name, _narrow(getattr(self, name)))

    @property
    def rank(self) -> int:
        """Number of components: the length of the inner index."""
        return int(self.u.shape[1])

    @functools.cached_property
    def digits_u(self) -> tuple[int, ...]:
        """Int8 digit planes of each column of `u` that are not all 0."""
        return tuple(len(nonzero_planes(x)) for x in self.u.T)

    @functools.cached_property
    def digits_v(self) -> tuple[int, ...]:
        """Int8 digit planes of each row of `v` that are not all 0."""
        return tuple(len(nonzero_planes(y)) for y in self.v)

    @property
    def cost(self) -> int:
        """Int8 products for one product of the multiplier, the exact product included."""
        exact = exact_cost(self.a, self.b) if self.with_exact else 0
        return exact + sum(x * y for x, y in zip(self.digits_u, self.digits_v, strict=True))

    def digits(self) -> tuple[Plane, ...]:
        """Int8 tables whose weighted products sum to the table, less the exact product if it is in.

        Returns
        -------
        tuple of Plane
            In ascending order of weight, then of component. With `with_exact` there are
            ``cost - exact_cost(a, b)`` of them, else `cost`.

        Examples
        --------
        >>> import approxhub as ah
        >>> from approxhub.factorization import factorize
        >>> m = ah.load("drum:4u/k=2")
        >>> planes = factorize(m).digits()
        >>> t = sum(p.weight * p.left[:, None].astype(int) * p.right[None, :] for p in planes)
        >>> bool((t == m.table).all())
        True
        """
        found = []
        for i, (x, y) in enumerate(zip(self.u.T, self.v, strict=True)):
            for k, left in nonzero_planes(x):
                for j, right in nonzero_planes(y):
                    found.append((k + j, i, k, Plane(left, right, 256 ** (k + j))))
        found.sort(key=lambda f: f[:3])
        return tuple(f[3] for f in found)

    def verify(self, multiplier: Multiplier) -> None:
        """Compare with a multiplier on all entries of its table, in exact arithmetic.

        Raises
        ------
        VerificationError
            If an entry, or an operand format, differs.
        """
        m = multiplier
        if (m.a, m.b) != (self.a, self.b):
            raise VerificationError(
                f"the factors are of {self.a} x {self.b}, not of {m.id} ({m.a} x {m.b})"
            )
        table, va, vb = m.table, self.a.values(), self.b.values()
        u, v = self.u.astype(np.int64), self.v.astype(np.int64)
        step = max(1, _BLOCK // vb.size)
        for i in range(0, va.size, step):
            rows = slice(i, i + step)
            product = multiply(u[rows], v)
            # Not product + exact, which could overflow: the right-hand side has 33 bits at most.
            wanted = table[rows].astype(np.int64)
            if self.with_exact:
                wanted -= va[rows, None] * vb
            wrong = np.argwhere(product != wanted)
            if len(wrong):
                x, y = (int(z) for z in wrong[0])
                raise VerificationError(
                    f"the factors are not those of {m.id}: they differ at {va[i + x]} * {vb[y]}"
                )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Factorization):
            return NotImplemented
        return (
            self._key() == other._key()
            and np.array_equal(self.u, other.u)
            and np.array_equal(self.v, other.v)
        )

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return self.identity, self.with_exact, self.rank, self.rank_table, self.rank_error

    def __repr__(self) -> str:
        products = f"{self.cost} product{'' if self.cost == 1 else 's'}"
        return (
            f"<Factorization {self.a} x {self.b}: {products}, rank {self.rank_table}, "
            f"error rank {self.rank_error}>"
        )


def _narrow(factor: Factor) -> Factor:
    """A read-only copy, in int32 if that holds it."""
    info = np.iinfo(np.int32)
    fits = not factor.size or (int(factor.min()) >= info.min and int(factor.max()) <= info.max)
    copy = np.array(factor, dtype=np.int32 if fits else np.int64, order="C")
    copy.flags.writeable = False
    return copy
