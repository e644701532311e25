"""Quantisation: operand mappings, quantisers, calibrators."""

from __future__ import annotations

from approxhub.quantization.calibrators import Calibrator, MinMax, MovingAverage
from approxhub.quantization.mapping import MAPPINGS, CodeRange, OperandMapping
from approxhub.quantization.quantizer import Quantizer, scale_and_zero_point

__all__ = [
    "MAPPINGS",
    "Calibrator",
    "CodeRange",
    "MinMax",
    "MovingAverage",
    "OperandMapping",
    "Quantizer",
    "scale_and_zero_point",
]
