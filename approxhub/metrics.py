"""Error metrics of a multiplier against the exact product.

Imports numpy, the operand formats and the errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from approxhub.errors import InputError
from approxhub.operands import OperandFormat

__all__ = ["Metrics", "exhaustive_metrics", "sampled_metrics"]

_BLOCK = 1 << 20
_SAMPLES = 1 << 20
_Z95 = 1.959963984540054

Evaluate = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Metrics:
    r"""Error metrics of an approximate multiplier.

    With :math:`N` the number of operand pairs, :math:`X` the exact product, :math:`T` the
    approximate one and :math:`E = T - X` (definitions as in V. Mrazek et al., EvoApprox8b,
    DATE 2017, DOI 10.23919/DATE.2017.7926993):

    Parameters
    ----------
    mae, wce : float, int
        Mean and worst-case absolute error: mean and maximum of :math:`|E|` over all pairs.
    mse : float
        Mean of :math:`E^2` over all pairs.
    mre_pct, wcre_pct : float
        Mean and worst of :math:`100 |E| / |X|` over the pairs with :math:`X \ne 0`.
    ep_pct : float
        Error probability: share of all pairs with :math:`E \ne 0`, in percent.
    bias : float
        Mean of :math:`E` over all pairs.
    range_bits : int
        ``bits_a + bits_b``; `mae_pct` and `wce_pct` divide by ``2**range_bits``.
    method : {'exhaustive', 'sampled'}
        Whether all operand pairs were evaluated.
    samples : int
        Number of pairs evaluated.
    interval : mapping of str to (float, float)
        For ``sampled``: 95 % normal intervals of the means. Worst cases of a sample are
        lower bounds.
    """

    mae: float
    wce: int
    mse: float
    mre_pct: float
    wcre_pct: float
    ep_pct: float
    bias: float
    range_bits: int
    method: str = "exhaustive"
    samples: int = 0
    interval: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def mae_pct(self) -> float:
        """`mae` in percent of ``2**range_bits``."""
        return float(100.0 * self.mae / (1 << self.range_bits))

    @property
    def wce_pct(self) -> float:
        """`wce` in percent of ``2**range_bits``."""
        return float(100.0 * self.wce / (1 << self.range_bits))

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as plain numbers, keyed as the command line prints them."""
        return {
            "mae": self.mae,
            "mae_pct": self.mae_pct,
            "wce": self.wce,
            "wce_pct": self.wce_pct,
            "mse": self.mse,
            "mre_pct": self.mre_pct,
            "wcre_pct": self.wcre_pct,
            "ep_pct": self.ep_pct,
            "bias": self.bias,
        }


def _weights(p: npt.ArrayLike | None, f: OperandFormat, name: str) -> npt.NDArray[np.float64]:
    """Probability of each bit pattern, from weights given in ascending order of values."""
    if p is None:
        return np.full(f.size, 1.0 / f.size)
    w = np.asarray(p, dtype=np.float64)
    if w.shape != (f.size,):
        raise InputError(
            f"distribution of operand {name}: expected {f.size} weights, one for each value "
            f"{f.min}..{f.max}, got shape {w.shape}"
        )
    if not np.isfinite(w).all() or (w < 0).any() or w.sum() <= 0:
        raise InputError(
            f"distribution of operand {name}: weights must be finite, not negative, and not all 0"
        )
    by_pattern = np.empty_like(w)
    by_pattern[f.to_pattern(np.arange(f.min, f.max + 1))] = w / w.sum()
    return by_pattern


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _BLOCK // columns)
    return (slice(i, min(i + step, rows)) for i in range(0, rows, step))


def exhaustive_metrics(
    table: npt.NDArray[np.int32],
    a: OperandFormat,
    b: OperandFormat,
    p_a: npt.ArrayLike | None = None,
    p_b: npt.ArrayLike | None = None,
) -> Metrics:
    """Metrics over every operand pair.

    Parameters
    ----------
    table : ndarray of int32, shape (2**a.bits, 2**b.bits)
        Products indexed by bit patterns.
    a, b : OperandFormat
        Formats of the operands.
    p_a, p_b : array_like of float, optional
        Weight of each operand value in ascending order of values (``a.min`` first), lengths
        ``2**bits``. Uniform when not given. Worst cases are taken over pairs of positive weight.

    Returns
    -------
    Metrics

    Raises
    ------
    InputError
        If a distribution has the wrong length, a negative or non-finite weight, or no weight.
    """
    w_a, w_b = _weights(p_a, a, "a"), _weights(p_b, b, "b")
    v_a, v_b = a.values(), b.values()
    mae = mse = mre = ep = bias = nonzero = 0.0
    wce, wcre = 0, 0.0
    for rows in _blocks(a.size, b.size):
        exact = v_a[rows, None] * v_b[None, :]
        error = table[rows].astype(np.int64) - exact
        p = w_a[rows, None] * w_b[None, :]
        size = np.abs(error)
        live = p > 0
        mae += float((p * size).sum())
        mse += float((p * size.astype(np.float64) ** 2).sum())
        ep += float(p[error != 0].sum())
        bias += float((p * error).sum())
        wce = max(wce, int(size[live].max(initial=0)))
        some = exact != 0
        relative = size[some] / np.abs(exact[some])
        mre += float((p[some] * relative).sum())
        nonzero += float(p[some].sum())
        wcre = max(wcre, float(relative[live[some]].max(initial=0.0)))
    return Metrics(
        mae=mae,
        wce=wce,
        mse=mse,
        mre_pct=100.0 * mre / nonzero if nonzero else 0.0,
        wcre_pct=100.0 * wcre,
        ep_pct=100.0 * ep,
        bias=bias,
        range_bits=a.bits + b.bits,
        samples=table.size,
    )


def sampled_metrics(
    evaluate: Evaluate, a: OperandFormat, b: OperandFormat, samples: int = _SAMPLES, seed: int = 0
) -> Metrics:
    """Metrics over a seeded uniform sample of operand pairs, with 95 % intervals.

    Parameters
    ----------
    evaluate : callable
        Product of two int64 arrays of values.
    a, b : OperandFormat
        Formats of the operands.
    samples : int
        Number of pairs.
    seed : int
        Seed of the sample; the same seed gives the same metrics.

    Returns
    -------
    Metrics
        With ``method='sampled'``.
    """
    rng = np.random.default_rng(seed)
    x = rng.integers(a.min, a.max, samples, endpoint=True)
    w = rng.integers(b.min, b.max, samples, endpoint=True)
    exact = x * w
    error = (evaluate(x, w) - exact).astype(np.float64)
    some = exact != 0
    columns = {
        "mae": np.abs(error),
        "mse": error**2,
        "mre_pct": 100.0 * np.abs(error[some] / exact[some]),
        "ep_pct": 100.0 * (error != 0),
        "bias": error,
    }
    mean = {k: float(v.mean()) for k, v in columns.items()}
    half = {k: _Z95 * float(v.std(ddof=1)) / float(np.sqrt(v.size)) for k, v in columns.items()}
    return Metrics(
        **mean,
        wce=int(np.abs(error).max()),
        wcre_pct=float(columns["mre_pct"].max()),
        range_bits=a.bits + b.bits,
        method="sampled",
        samples=samples,
        interval={k: (mean[k] - half[k], mean[k] + half[k]) for k in mean},
    )
