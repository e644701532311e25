"""Backends: what runs integer matrix products through a multiplier."""

from __future__ import annotations

from approxhub.backends.explanation import Explanation
from approxhub.backends.protocol import (
    Backend,
    Convolution,
    ConvRequest,
    GemmRequest,
    GradientTables,
    RealNumbers,
)
from approxhub.backends.reference import ReferenceBackend
from approxhub.backends.routing import available_backends, choose, clear_prepared, use_backend

__all__ = [
    "Backend",
    "ConvRequest",
    "Convolution",
    "Explanation",
    "GemmRequest",
    "GradientTables",
    "RealNumbers",
    "ReferenceBackend",
    "available_backends",
    "choose",
    "clear_prepared",
    "use_backend",
]
