"""Whole models: convert, calibrate, switch multipliers and modes, summarise."""

from __future__ import annotations

from approxhub.model.calibration import calibrate, synchronize_ranges
from approxhub.model.compensation import compensate
from approxhub.model.convert import approximate, leftovers, set_multiplier
from approxhub.model.folding import fold_batch_norm
from approxhub.model.integers import IntegerNetwork, to_integers
from approxhub.model.leftovers import Leftover
from approxhub.model.modes import mode, set_datapath, set_gradient, set_mode
from approxhub.model.normalization import reestimate_batch_norm
from approxhub.model.statistics import (
    AccumulatedError,
    LayerStatistics,
    capture_statistics,
    set_noise,
)
from approxhub.model.summary import LayerSummary, Summary, count_operations, summary
from approxhub.model.training import IntegerTraining, integer_training

__all__ = [
    "AccumulatedError",
    "IntegerNetwork",
    "IntegerTraining",
    "LayerStatistics",
    "LayerSummary",
    "Leftover",
    "Summary",
    "approximate",
    "calibrate",
    "capture_statistics",
    "compensate",
    "count_operations",
    "fold_batch_norm",
    "integer_training",
    "leftovers",
    "mode",
    "reestimate_batch_norm",
    "set_datapath",
    "set_gradient",
    "set_mode",
    "set_multiplier",
    "set_noise",
    "summary",
    "synchronize_ranges",
    "to_integers",
]
