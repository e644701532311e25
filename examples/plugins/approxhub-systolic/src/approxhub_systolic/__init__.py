"""A systolic array with a limited accumulator, as a backend for ApproxHub.

Imports nothing heavy: the backend, and torch with it, is loaded when it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from approxhub import hookimpl
from approxhub.plugins import BackendInfo
from approxhub_systolic.array import Count, SystolicArray, measure

if TYPE_CHECKING:
    from approxhub_systolic.backend import SystolicBackend

__all__ = ["Count", "SystolicArray", "measure"]


def _load() -> SystolicBackend:
    from approxhub_systolic.backend import SystolicBackend

    return SystolicBackend()


@hookimpl
def approxhub_backends() -> list[BackendInfo]:
    """Offer the array, on the CPU; it is taken only where it is asked for."""
    return [BackendInfo("systolic", "cpu", _load, priority=-1)]
