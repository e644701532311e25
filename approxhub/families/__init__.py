"""Families: published multipliers with closed formulas, for any width up to 16 and both signs.

They need no network. Each has a constructor here and ids such as ``drum:8u/k=4``.
"""

from __future__ import annotations

from approxhub.families.broken_array import broken_array
from approxhub.families.broken_carry_save import broken_carry_save
from approxhub.families.drum import drum
from approxhub.families.dsm import dsm
from approxhub.families.kulkarni import kulkarni
from approxhub.families.mbm import mbm
from approxhub.families.mitchell import mitchell
from approxhub.families.perforation import perforation
from approxhub.families.roba import roba
from approxhub.families.sources import family_sources
from approxhub.families.ssm import ssm
from approxhub.families.tosam import tosam
from approxhub.families.truncated_mitchell import truncated_mitchell
from approxhub.families.truncation import truncation

__all__ = [
    "broken_array",
    "broken_carry_save",
    "drum",
    "dsm",
    "family_sources",
    "kulkarni",
    "mbm",
    "mitchell",
    "perforation",
    "roba",
    "ssm",
    "tosam",
    "truncated_mitchell",
    "truncation",
]
