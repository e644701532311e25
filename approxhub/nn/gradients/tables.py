"""Gradients from derivatives of the product table: LRE, smoothed differences, given tables.

A product of real numbers through a table is
``p = s_x s_w (T[a, b] - z_x b - z_w a + z_x z_w)`` with ``x = s_x (a - z_x)`` and
``w = s_w (b - z_w)``. With tables ``A ~ dT/da`` and ``B ~ dT/db``,

    dp/dx = s_w (A[a, b] - z_w) = w + s_w (A[a, b] - b)
    dp/dw = s_x (B[a, b] - z_x) = x + s_x (B[a, b] - a)

so a gradient is the straight-through one, and a sum over the table of what the derivative has in
excess of the exact one. That table is split into a function of the other operand alone, which is
added to it, and a rest of low rank: ``rest ~ sum_i u_i[own] v_i[other]``. Each pair costs one more
product, with operands recoded number by number.
"""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from approxhub.backends import GradientTables, real
from approxhub.errors import InputError
from approxhub.multiplier import Multiplier
from approxhub.nn.gradients.estimators import Arithmetic, Grid
from approxhub.nn.gradients.products import Product
from approxhub.operands import OperandFormat

__all__ = [
    "Excess",
    "GivenTables",
    "LinearRegression",
    "OneDimensionalTables",
    "TableFile",
    "TableGradient",
    "TwoDimensionalTables",
]

Array = npt.NDArray[np.float64]
Tables = tuple[Array, Array]
Estimate = Callable[[Array, Array], Array]


@dataclass(frozen=True, slots=True, eq=False)
class Excess:
    """A derivative of a table less that of the exact product, as factors.

    ``excess[own, other] ~ shift[other] + sum_i own[i, own] * other[i, other]``, indexed by bit
    patterns; `own` is the operand that the derivative is taken by.

    Parameters
    ----------
    shift : Tensor of float32, (other codes,)
    own : Tensor of float32, (r, own codes)
    other : Tensor of float32, (r, other codes)
    error : float
        Largest difference between the factors' sum and the table, measured on all its entries.
    """

    shift: Tensor
    own: Tensor
    other: Tensor
    error: float

    @classmethod
    def of(cls, table: Array, tolerance: float) -> Excess:
        """Factorise an excess, ``table[own, other]``, to within a largest difference.

        The rest is cut to the first terms of its singular value decomposition, in float64; their
        number is the smallest whose factors, rounded to float32, keep to `tolerance` on all
        entries.

        Examples
        --------
        >>> Excess.of(np.outer([1.0, 2, 3, 4], [1.0, 0, 2, 5]), 1e-5).own.shape
        torch.Size([1, 4])
        """
        shift = table.mean(axis=0).astype(np.float32)
        rest = table - shift
        rank, error = 0, float(np.abs(rest).max())
        if error <= tolerance:  # a function of the other operand alone: nothing to factorise
            u, s, v = rest[:, :0], rest[0, :0], rest[:0]
        else:
            u, s, v = np.linalg.svd(rest, full_matrices=False)
        root = np.sqrt(s)
        own, other = (u * root).T.astype(np.float32), (v * root[:, None]).astype(np.float32)
        while error > tolerance and rank < len(s):
            rest = rest - np.outer(own[rank].astype(np.float64), other[rank])
            rank, error = rank + 1, float(np.abs(rest).max())
        return cls(
            torch.from_numpy(shift),
            torch.from_numpy(np.ascontiguousarray(own[:rank])),
            torch.from_numpy(np.ascontiguousarray(other[:rank])),
            error,
        )

    def to(self, device: torch.device) -> Excess:
        """The same on a device."""
        return Excess(self.shift.to(device), self.own.to(device), self.other.to(device), self.error)

    def table(self) -> Tensor:
        """What the factors stand for, (own codes, other codes)."""
        return self.shift + self.own.t() @ self.other


@dataclass(frozen=True)
class TableGradient(ABC):
    """A gradient that is given by two tables, ``dT/da`` and ``dT/db``.

    Parameters
    ----------
    tolerance : float
        How far the factors may be from a table's entries, as a part of its largest one. A table
        of errors without any structure has a high rank, and a higher tolerance makes its gradient
        cheaper.
    """

    tolerance: float = field(default=1e-2, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise InputError(f"tolerance must be between 0 and 1, got {self.tolerance}")

    @abstractmethod
    def tables(self, multiplier: Multiplier) -> Tables:
        """Both derivatives of a multiplier's table, float64, indexed ``[a, b]`` by bit patterns."""

    def excesses(self, multiplier: Multiplier) -> tuple[Excess, Excess]:
        """What both derivatives have in excess of the exact ones, as factors.

        Parameters
        ----------
        multiplier : Multiplier
            With a table.

        Returns
        -------
        by_a, by_b : Excess
            Own operands are activations and weights. Kept for the multipliers used last.
        """
        return _excesses(self, multiplier)

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        w: Tensor,
        product: Product,
        arithmetic: Arithmetic,
        needs: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Sums over the tables; see :meth:`Gradient.backward`."""
        by_a, by_b = _excesses_on(self, arithmetic.multiplier, grad.device)
        of_x = of_w = None
        if needs[0]:
            of_x = _summed(
                by_a, _Operand.of(arithmetic.x, x), _Operand.of(arithmetic.w, w),
                lambda recoded, _: product.grad_input(grad, recoded, x),
            )  # fmt: skip
        if needs[1]:
            of_w = _summed(
                by_b, _Operand.of(arithmetic.w, w), _Operand.of(arithmetic.x, x),
                lambda recoded, pad: product.grad_weight(grad, recoded, w, pad),
            )  # fmt: skip
        return of_x, of_w


@dataclass(frozen=True, slots=True, eq=False)
class _Operand:
    """Numbers on a grid, and what looks tables up for them in few passes, if something does."""

    grid: Grid
    real: Tensor
    recoder: GradientTables | None
    patterns: Tensor | None  # without a recoder

    @classmethod
    def of(cls, grid: Grid, x: Tensor) -> _Operand:
        recoder = real.recoder(x)
        if recoder is None:
            return cls(grid, x, None, grid.patterns(x))
        return cls(grid, x.contiguous(), recoder, None)

    def _patterns(self) -> Tensor:
        assert self.patterns is not None
        return self.patterns

    def _laid(self) -> tuple[Tensor, tuple[int, int, int], Tensor, Tensor, int]:
        g = self.grid
        shape = real.laid(self.real, g.axis)
        return self.real, shape, g.scale.contiguous(), g.zero_point.contiguous(), g.format.size - 1

    def recoded(self, tables: Tensor, whole: bool) -> Sequence[Tensor]:
        """``scale * table[p]`` for each table; with `whole`, the numbers are added to the first."""
        if self.recoder is not None:
            out = self.real.new_empty((len(tables), *self.real.shape))
            self.recoder.recode(*self._laid(), tables.contiguous(), whole, out)
            return out.unbind()
        scale = self.grid.along(self.grid.scale, self.real.dim())
        found = [scale * table[self._patterns()] for table in tables]
        return [self.real + found[0], *found[1:]] if whole else found

    def combined(self, total: Tensor, tables: Tensor, products: Sequence[Tensor]) -> Tensor:
        """``total + table[p] * product`` for each table and its product, in order."""
        if self.recoder is not None and products:
            total = total.contiguous()
            parts = [p.contiguous() for p in products]
            self.recoder.combine(total, *self._laid(), tables.contiguous(), parts)
            return total
        for table, product in zip(tables, products, strict=True):
            total = total + table[self._patterns()] * product
        return total


def _summed(
    excess: Excess, own: _Operand, other: _Operand, multiply: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The exact gradient's product plus those of the excess.

    `multiply` makes the product with the other operand, recoded, and with what its padding holds.
    """
    tables = torch.cat([excess.shift[None], excess.other])
    # Of one element: an index without dimensions would be read.
    pads = other.grid.scale * tables[:, other.grid.zero_pattern().reshape(-1)[:1]]
    step = 1 if other.recoder is None else real.TERMS
    total: Tensor | None = None
    for i in range(0, len(tables), step):
        recoded = other.recoded(tables[i : i + step], whole=i == 0)
        products = [multiply(r, p) for r, p in zip(recoded, pads[i : i + step], strict=True)]
        own_tables = excess.own[max(0, i - 1) : i - 1 + len(recoded)]
        if total is None:
            total, products = products[0], products[1:]
        total = own.combined(total, own_tables, products)
    assert total is not None
    return total


@functools.lru_cache(maxsize=64)
def _excesses(gradient: TableGradient, m: Multiplier) -> tuple[Excess, Excess]:
    by_a, by_b = gradient.tables(m)
    a, b = m.a.values().astype(np.float64), m.b.values().astype(np.float64)
    limits = (gradient.tolerance * float(np.abs(t).max()) for t in (by_a, by_b))
    return Excess.of(by_a - b, next(limits)), Excess.of((by_b - a[:, None]).T, next(limits))


@functools.lru_cache(maxsize=64)
def _excesses_on(
    gradient: TableGradient, m: Multiplier, device: torch.device
) -> tuple[Excess, Excess]:
    """Excesses that were brought onto a device once."""
    by_a, by_b = gradient.excesses(m)
    return by_a.to(device), by_b.to(device)


# --- estimates --------------------------------------------------------------------


def _by_each(estimate: Estimate, m: Multiplier) -> Tables:
    """An estimate ``(values, curves[value, other]) -> derivative``, by each operand in turn."""
    table = m.table.astype(np.float64)
    return _by_pattern(estimate, table, m.a), _by_pattern(estimate, table.T, m.b).T


def _by_pattern(estimate: Estimate, table: Array, f: OperandFormat) -> Array:
    """Apply an estimate to a table whose rows are in the order of bit patterns."""
    order = f.values().argsort()
    found = np.empty_like(table)
    found[order] = estimate(f.values()[order].astype(np.float64), table[order])
    return found


@dataclass(frozen=True)
class LinearRegression(TableGradient):
    """The slope of the straight line that is nearest to the table, along each operand (LRE).

    At a fixed `b` the products ``T[a, b]`` over all `a` are fitted by ``c + slope * a``. Least
    squares, ``sum_a (T[a, b] - c - slope a)^2`` with its derivatives by `c` and the slope set to
    zero, gives

        slope[b] = sum_a (a - mean(a)) T[a, b] / sum_a (a - mean(a))^2 ~ dT/da

    for all `a`, and likewise a slope for each `a` along `b`. It depends on the other operand
    alone, so it costs what the straight-through gradient costs, of which it is the special case
    ``slope[b] = b``. ApproxTorch calls it LRE, linear-regression-based estimation.

    Examples
    --------
    >>> import approxhub as ah
    >>> by_a, by_b = LinearRegression().tables(ah.exact(4, signed=False))
    >>> by_a[0].round(6).tolist() == list(range(16))
    True
    """

    def tables(self, multiplier: Multiplier) -> Tables:
        """Slopes, repeated along the operand they do not depend on."""
        return _by_each(_slopes, multiplier)


def _slopes(values: Array, curves: Array) -> Array:
    centred = values - values.mean()
    slopes: Array = centred @ curves / (centred @ centred)
    return np.broadcast_to(slopes, curves.shape)


@dataclass(frozen=True)
class TwoDimensionalTables(TableGradient):
    """Differences of the smoothed table along each operand, an entry for each pair of codes.

    C. Meng et al., "Gradient Approximation of Approximate Multipliers for High-Accuracy Deep
    Neural Network Retraining", DATE 2025, and as LUT-2D in C. Meng, W. Burleson, G. De Micheli,
    "Gradient Estimation Methods of Approximate Multipliers for High-Accuracy Retraining of Deep
    Learning Models", arXiv 2509.10519, 2025. With the half window `h`, at a fixed `b` over the
    `n` values of `a` in ascending order,

        S[a] = mean of T[a - h .. a + h, b]
        dT/da = (S[a + 1] - S[a - 1]) / 2          where both windows lie inside
        dT/da = (max T[., b] - min T[., b]) / n    at the `h + 1` first and last values

    The last line is the paper's, whose operands are unsigned; here it has the sign of
    ``T[last, b] - T[first, b]``, for a product falls along `a` where `b` is negative.

    Parameters
    ----------
    half_window : int
        Values on either side that are averaged; at least 1.
    tolerance : float
        See :class:`TableGradient`.

    Examples
    --------
    >>> import approxhub as ah
    >>> by_a, _ = TwoDimensionalTables(half_window=2).tables(ah.exact(4, signed=False))
    >>> by_a[3].round(6).tolist() == list(range(16))  # inside, of the exact product
    True
    """

    half_window: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.half_window < 1:
            raise InputError(f"half_window must be at least 1, got {self.half_window}")

    def tables(self, multiplier: Multiplier) -> Tables:
        """Smoothed differences."""
        least = min(multiplier.a.size, multiplier.b.size)
        if 2 * self.half_window + 3 > least:
            raise InputError(
                f"half_window={self.half_window} leaves no difference inside an operand of "
                f"{least} values ({multiplier.id}); at most {max(0, (least - 3) // 2)} does"
            )
        return _by_each(functools.partial(_smoothed_differences, half=self.half_window), multiplier)


def _smoothed_differences(values: Array, curves: Array, *, half: int) -> Array:
    n, width = len(curves), 2 * half + 1
    sums = np.concatenate([np.zeros_like(curves[:1]), curves.cumsum(axis=0)])
    smooth = (sums[width:] - sums[:-width]) / width  # smooth[i] is centred on half + i
    sign = np.sign(curves[-1] - curves[0])
    edge = sign * (curves.max(axis=0) - curves.min(axis=0)) / n
    found: Array = np.broadcast_to(edge, curves.shape).copy()
    found[half + 1 : n - half - 1] = (smooth[2:] - smooth[:-2]) / 2
    return found


@dataclass(frozen=True)
class OneDimensionalTables(TwoDimensionalTables):
    """The two-dimensional tables, averaged along the operand that they are derivatives by.

    What is left is a function of the other operand alone, an entry for each of its codes, at the
    cost of the straight-through gradient. LUT-1D of arXiv 2509.10519 stores derivatives in
    one-dimensional tables too; of how it fills them we could read the abstract only, and the
    plain average is our reading.

    Parameters
    ----------
    half_window, tolerance
        As in :class:`TwoDimensionalTables`.
    """

    def tables(self, multiplier: Multiplier) -> Tables:
        """Averages, repeated along the operand they do not depend on."""
        by_a, by_b = super().tables(multiplier)
        shape = by_a.shape
        return (
            np.broadcast_to(by_a.mean(axis=0, keepdims=True), shape),
            np.broadcast_to(by_b.mean(axis=1, keepdims=True), shape),
        )


# --- given tables -----------------------------------------------------------------


@dataclass(frozen=True)
class GivenTables(TableGradient):
    """Derivatives that the caller gives.

    Parameters
    ----------
    by_a, by_b : array_like of float, (2**a.bits, 2**b.bits)
        ``dT/da`` and ``dT/db``, indexed by bit patterns, activation first.
    tolerance : float
        See :class:`TableGradient`.

    Raises
    ------
    InputError
        If the tables are not two equal matrices of finite numbers; at the first backward pass, if
        they do not fit the multiplier.

    Examples
    --------
    >>> import approxhub as ah
    >>> m = ah.exact(4, signed=False)
    >>> a, b = np.meshgrid(m.a.values(), m.b.values(), indexing="ij")
    >>> layer = ah.nn.Linear(3, 2, multiplier=m)
    >>> layer.set_gradient(GivenTables(by_a=b, by_b=a))  # the straight-through one, by hand
    """

    by_a: npt.ArrayLike = field(repr=False, compare=False)
    by_b: npt.ArrayLike = field(repr=False, compare=False)
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        made = []
        for name in ("by_a", "by_b"):
            try:
                array = np.array(getattr(self, name), dtype=np.float64, order="C")
            except (TypeError, ValueError) as error:
                raise InputError(f"{name} is not a matrix of numbers: {error}") from None
            if array.ndim != 2 or not np.isfinite(array).all():
                raise InputError(f"{name} must be a matrix of finite numbers, got {array.shape}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
            made.append(array)
        if made[0].shape != made[1].shape:
            raise InputError(
                f"both tables are indexed [a, b], so their shapes agree; got {made[0].shape} and "
                f"{made[1].shape}"
            )
        digest = hashlib.sha256(b"".join(a.tobytes() for a in made)).hexdigest()
        object.__setattr__(self, "sha256", digest)

    def tables(self, multiplier: Multiplier) -> Tables:
        """The given ones, if they fit."""
        by_a, by_b = np.asarray(self.by_a, np.float64), np.asarray(self.by_b, np.float64)
        wanted = (multiplier.a.size, multiplier.b.size)
        if by_a.shape != wanted:
            raise InputError(
                f"gradient tables of the shape {by_a.shape} do not fit {multiplier.id} "
                f"({multiplier.a} x {multiplier.b}), which needs {wanted}"
            )
        return by_a, by_b


@dataclass(frozen=True)
class TableFile(TableGradient):
    """Derivatives from a NumPy ``.npz`` file with the arrays ``by_a`` and ``by_b``.

    Parameters
    ----------
    file : str
        Path of the file; needed. Read once in a process.
    tolerance : float
        See :class:`TableGradient`.

    Raises
    ------
    InputError
        If the file cannot be read, or as :class:`GivenTables`.
    """

    file: str = ""

    def tables(self, multiplier: Multiplier) -> Tables:
        """The file's tables, if they fit."""
        if not self.file:
            raise InputError("gradient 'table' needs a file: 'table(file=gradients.npz)'")
        try:
            with np.load(Path(self.file), allow_pickle=False) as found:
                given = GivenTables(by_a=found["by_a"], by_b=found["by_b"])
        except (
            OSError,
            EOFError,
            BadZipFile,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            raise InputError(
                f"{self.file} is not a .npz file with the arrays by_a and by_b: {error}"
            ) from None
        return given.tables(multiplier)
