"""Experiments: one calibrated model, many multipliers, rows that can be reproduced and resumed.

Imports the models and charts; nothing of approxhub but the command line imports this.
"""

from __future__ import annotations

from approxhub.experiments.result import Result, Results
from approxhub.experiments.sweeping import sensitivity, sweep

__all__ = ["Result", "Results", "sensitivity", "sweep"]
