"""Every error that ApproxHub raises on purpose.

All derive from :class:`ApproxHubError` and say what was wrong, where, and what to do.
`exit_code` is what the command line returns for that error.
This module imports nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "AmbiguousMultiplierError",
    "ApproxHubError",
    "BackendUnavailableError",
    "BenchmarkError",
    "CModelError",
    "CalibrationError",
    "ChartError",
    "CheckpointError",
    "ConversionError",
    "DemoError",
    "EngineError",
    "EvaluationError",
    "ExperimentError",
    "IndexFormatError",
    "InputError",
    "MappingError",
    "MissingTableError",
    "MultiplierIdError",
    "NetworkError",
    "NotFoundError",
    "OfflineError",
    "OperandRangeError",
    "PinnedIndexError",
    "PluginError",
    "StoreError",
    "StoreFullError",
    "StoreReadOnlyError",
    "TableError",
    "TableFileError",
    "TargetNotFoundError",
    "UnknownMultiplierError",
    "VerificationError",
]


class ApproxHubError(Exception):
    """The root of all errors raised by ApproxHub on purpose."""

    exit_code: ClassVar[int] = 1


# --- what the caller passed -------------------------------------------------


class InputError(ApproxHubError, ValueError):
    """An argument has a wrong type, shape, dtype or value."""

    exit_code = 2


class OperandRangeError(InputError):
    """A value lies outside the range of the operand that it is meant for."""


class TableError(InputError):
    """A product table has the wrong shape, dtype or size."""


class MultiplierIdError(InputError):
    """A text is not a well-formed multiplier id."""


class MappingError(InputError):
    """A multiplier does not fit the operand mapping that was asked for."""


# --- names ------------------------------------------------------------------


class NotFoundError(ApproxHubError, LookupError):
    """Something was asked for by a name that nobody knows."""

    exit_code = 3


class UnknownMultiplierError(NotFoundError):
    """No source has a multiplier of this id.

    Attributes
    ----------
    close : tuple of str
        Known ids that look like the one that was asked for.
    """

    def __init__(self, message: str, close: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.close = tuple(close)


class AmbiguousMultiplierError(NotFoundError):
    """A bare name stands for more than one circuit.

    Attributes
    ----------
    candidates : tuple of str
        The full ids that the name may stand for.
    """

    def __init__(self, message: str, candidates: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


# --- network, hashes, files ---------------------------------------------------


class NetworkError(ApproxHubError):
    """A download failed: no connection, a timeout, a status, a size."""

    exit_code = 4


class OfflineError(NetworkError):
    """The network is needed but ``APPROXHUB_OFFLINE`` forbids it."""


class VerificationError(ApproxHubError):
    """Bytes or tables do not have the hash that they should have."""


class CModelError(ApproxHubError):
    """A C model is outside the grammar that the interpreter reads.

    Attributes
    ----------
    line : int or None
        Line of the C text, counted from 1.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class TableFileError(ApproxHubError):
    """A table file does not hold what its format asks for, or cannot be written."""


class IndexFormatError(ApproxHubError):
    """An index file does not follow its schema."""


class PinnedIndexError(ApproxHubError):
    """An index is no longer what it was when it was pinned."""


class StoreError(ApproxHubError):
    """The cache could not be read or written."""


class StoreFullError(StoreError):
    """The disk that holds the cache is full."""


class StoreReadOnlyError(StoreError):
    """The cache folder cannot be written by this user."""


# --- plug-ins and backends ----------------------------------------------------


class PluginError(ApproxHubError):
    """A plug-in failed, or one was asked for that has failed."""


class BackendUnavailableError(PluginError):
    """No backend, or not the one asked for, can run this request."""


class EngineError(PluginError):
    """The native engine could not do what it was asked to."""


class MissingTableError(NotFoundError):
    """An operator's handle names a multiplier that this process cannot find."""


# --- models -------------------------------------------------------------------


class CalibrationError(ApproxHubError):
    """A quantiser has no range yet, or was shown values it cannot use."""


class ConversionError(ApproxHubError):
    """A layer that was named explicitly cannot be converted."""


class CheckpointError(ApproxHubError):
    """A checkpoint contradicts the model that loads it."""


class DemoError(ApproxHubError):
    """The demonstration cannot run as asked."""


class ExperimentError(ApproxHubError):
    """An experiment cannot run as asked, or its rows cannot be kept or read."""


class EvaluationError(ExperimentError):
    """An evaluator raised, or gave something that is no finite number."""


class TargetNotFoundError(NotFoundError):
    """A text ``package.module:function`` names a module or function that is not there."""


class ChartError(ApproxHubError):
    """A chart cannot be drawn, or not be written."""


class BenchmarkError(ApproxHubError):
    """What was to be timed is wrong, or a benchmark report cannot be read or written."""
