"""Whole models: convert, calibrate, switch multipliers and modes, summarise."""

from __future__ import annotations

from approxhub.model.calibration import calibrate
from approxhub.model.convert import approximate, leftovers, set_multiplier
from approxhub.model.leftovers import Leftover
from approxhub.model.modes import mode, set_mode
from approxhub.model.summary import LayerSummary, Summary, count_operations, summary

__all__ = [
    "LayerSummary",
    "Leftover",
    "Summary",
    "approximate",
    "calibrate",
    "count_operations",
    "leftovers",
    "mode",
    "set_mode",
    "set_multiplier",
    "summary",
]
