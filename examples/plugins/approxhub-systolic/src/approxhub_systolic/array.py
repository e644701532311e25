"""The array: its size and its accumulator, what it costs, and which one is in use.

Imports the standard library.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

OVERFLOWS = ("refuse", "saturate", "wrap")


@dataclass(frozen=True)
class SystolicArray:
    """A weight-stationary systolic array.

    Parameters
    ----------
    rows, columns : int
        Cells in each direction; partial sums run down the rows.
    accumulator_bits : int
        Width of every adder and of the accumulator, two's complement, 2 to 63.
    clock_ns : float
        Duration of a cycle.

    Examples
    --------
    >>> array = SystolicArray(rows=4, columns=4, accumulator_bits=16)
    >>> array.largest
    32767
    >>> array.cycles(m=10, k=9, n=4)  # three tiles of 4 + 10 + 4 + 4 - 2 cycles
    60
    """

    rows: int = 16
    columns: int = 16
    accumulator_bits: int = 32
    clock_ns: float = 1.0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1 or not self.clock_ns > 0:
            raise ValueError(f"rows, columns and clock_ns must be positive: {self}")
        if not 2 <= self.accumulator_bits <= 63:
            raise ValueError(f"accumulator_bits must be 2 to 63, got {self.accumulator_bits}")

    @property
    def largest(self) -> int:
        """Largest sum; the smallest is ``-largest - 1``."""
        return (1 << (self.accumulator_bits - 1)) - 1

    def holds(self, k: int, max_abs: int) -> bool:
        """Whether no sum of `k` products of that size overflows, in whatever order."""
        return k * max_abs <= self.largest

    def cycles(self, m: int, k: int, n: int) -> int:
        """Cycles that a product (m, k) x (k, n) takes, tile after tile."""
        tiles = -(-k // self.rows) * -(-n // self.columns)
        return tiles * (2 * self.rows + self.columns + m - 2)


@dataclass
class Count:
    """What the array did: products, cycles, and energy where the multiplier's power is known.

    Attributes
    ----------
    products, cycles : int
    energy_pj : float or None
        Of the multipliers alone, in pJ; None once one of unknown power was used.
    """

    products: int = 0
    cycles: int = 0
    energy_pj: float | None = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, array: SystolicArray, m: int, k: int, n: int, power_mw: float | None) -> None:
        """Count one product of matrices; from any thread."""
        with self._lock:
            self.products += m * k * n
            self.cycles += array.cycles(m, k, n)
            if power_mw is None or self.energy_pj is None:
                self.energy_pj = None
            else:
                self.energy_pj += m * k * n * power_mw * array.clock_ns


@dataclass(frozen=True)
class Setting:
    """The array in use, what happens when it overflows, and where work is counted."""

    array: SystolicArray = SystolicArray()
    overflow: str = "refuse"
    count: Count | None = None


_DEFAULT = Setting()
_setting: ContextVar[Setting] = ContextVar("approxhub_systolic", default=_DEFAULT)


def setting() -> Setting:
    """Return what is in use here."""
    return _setting.get()


@contextmanager
def measure(array: SystolicArray, *, overflow: str = "refuse") -> Iterator[Count]:
    """Let the backend be a given array, and count its work.

    Parameters
    ----------
    array : SystolicArray
    overflow : {'refuse', 'saturate', 'wrap'}
        What becomes of a product whose sums may not fit the accumulator. With ``'refuse'`` it is
        not supported, and all results are exact; the others give what the array would give.

    Yields
    ------
    Count
        Of what runs on the backend in this context.

    Raises
    ------
    ValueError
        If `overflow` is none of the three.
    """
    if overflow not in OVERFLOWS:
        raise ValueError(f"overflow must be one of {', '.join(OVERFLOWS)}, got {overflow!r}")
    count = Count()
    token = _setting.set(Setting(array, overflow, count))
    try:
        yield count
    finally:
        _setting.reset(token)
