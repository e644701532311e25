"""Names of the suites and of the yardsticks. Imports nothing, so that help needs no torch."""

from __future__ import annotations

__all__ = ["C_LOOP", "C_LOOP_NATIVE", "FP32", "INT8", "ONE_THREAD", "SCALAR_LOOKUP", "SUITES"]

SUITES = ("gemm", "tables", "conv", "scaling", "network", "roofline")
"""In the order in which they run."""

C_LOOP, C_LOOP_NATIVE = "C loop, gcc -O2", "C loop, gcc -O3 -march=native"
"""One accumulator, one look-up a product."""

FP32, INT8 = "torch fp32", "torch int8"

SCALAR_LOOKUP = "scalar lookup"
"""The portable C of the engine, looking every product up."""

ONE_THREAD = "one thread"
"""The same on one thread."""
