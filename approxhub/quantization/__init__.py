"""Quantisation: operand mappings, quantisers, calibrators."""

from __future__ import annotations

from approxhub.quantization.calibrators import Calibrator, CodesAware, MinMax, MovingAverage
from approxhub.quantization.datapath import Datapath
from approxhub.quantization.learned import LearnedQuantizer, scale_parameters
from approxhub.quantization.mapping import MAPPINGS, CodeRange, OperandMapping
from approxhub.quantization.narrowing import Entropy, Percentile, SquaredError
from approxhub.quantization.quantizer import Quantizer
from approxhub.quantization.ranks import Mergeable
from approxhub.quantization.requantization import FixedPoint, integer_bias
from approxhub.quantization.scales import scale_and_zero_point

__all__ = [
    "MAPPINGS",
    "Calibrator",
    "CodeRange",
    "CodesAware",
    "Datapath",
    "Entropy",
    "FixedPoint",
    "LearnedQuantizer",
    "Mergeable",
    "MinMax",
    "MovingAverage",
    "OperandMapping",
    "Percentile",
    "Quantizer",
    "SquaredError",
    "integer_bias",
    "scale_and_zero_point",
    "scale_parameters",
]
