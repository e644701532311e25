"""Contracts of plug-ins as tests: pytest classes to subclass in one's own test suite.

Needs pytest, which nothing else of ApproxHub does.
"""

from __future__ import annotations

from approxhub.testing.backend import BackendConformance

__all__ = ["BackendConformance"]
