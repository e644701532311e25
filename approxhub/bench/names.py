"""Names of the suites and of the yardsticks. Imports nothing, so that help needs no torch."""

from __future__ import annotations

__all__ = [
    "C_LOOP",
    "C_LOOP_NATIVE",
    "FAKE_QUANTISED",
    "FP16",
    "FP32",
    "INT8",
    "ONE_THREAD",
    "PLAIN_GATHER",
    "SCALAR_LOOKUP",
    "SUITES",
]

SUITES = ("gemm", "tables", "conv", "scaling", "network", "train", "roofline")
"""In the order in which they run."""

C_LOOP, C_LOOP_NATIVE = "C loop, gcc -O2", "C loop, gcc -O3 -march=native"
"""One accumulator, one look-up a product."""

FP16, FP32, INT8 = "torch fp16", "torch fp32", "torch int8"

PLAIN_GATHER = "plain gather"
"""On a card: one sum a thread, each product gathered through the cache, as peers do it."""

FAKE_QUANTISED = "torch fake-quantise"
"""torch's products of tensors that went through its own fake quantisation."""

SCALAR_LOOKUP = "scalar lookup"
"""The portable C of the engine, looking every product up."""

ONE_THREAD = "one thread"
"""The same on one thread."""
