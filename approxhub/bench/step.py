"""One step of a suite: what progress counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from approxhub.bench.report import Row

__all__ = ["Step"]


class Step(NamedTuple):
    """A part of a suite that is run at a stretch.

    Parameters
    ----------
    name : str
    run : callable
        Returns its rows.
    """

    name: str
    run: Callable[[], list[Row]]
