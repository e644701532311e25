"""Contracts of plug-ins as tests: pytest classes to subclass in one's own test suite.

Needs pytest, which nothing else of ApproxHub does.
"""

from __future__ import annotations

from approxhub.testing.backend import BackendConformance
from approxhub.testing.calibrator import CalibratorConformance
from approxhub.testing.format import FormatConformance
from approxhub.testing.gradient import GradientConformance
from approxhub.testing.layer import LayerConformance
from approxhub.testing.source import SourceConformance

__all__ = [
    "BackendConformance",
    "CalibratorConformance",
    "FormatConformance",
    "GradientConformance",
    "LayerConformance",
    "SourceConformance",
]
