"""Families: published multipliers with closed formulas, for any width up to 16 and both signs.

They need no network. Each has a constructor here and ids such as ``drum:8u/k=4``.
"""

from __future__ import annotations

from approxhub.families.broken_array import broken_array
from approxhub.families.drum import drum
from approxhub.families.mitchell import mitchell
from approxhub.families.roba import roba
from approxhub.families.sources import family_sources
from approxhub.families.truncation import truncation

__all__ = ["broken_array", "drum", "family_sources", "mitchell", "roba", "truncation"]
