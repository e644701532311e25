"""Suites of matrix products: ``gemm`` (few tables, every instruction set) and ``tables`` (many)."""

from __future__ import annotations

import functools

from approxhub.bench.context import FAMILIES, Context, codes, unstructured
from approxhub.bench.names import C_LOOP, C_LOOP_NATIVE, FP32, INT8
from approxhub.bench.report import Row
from approxhub.bench.step import Step
from approxhub.multiplier import Multiplier

__all__ = ["SHAPE", "gemm", "tables"]

SHAPE = (256, 1152, 256)
"""M, K and N of a layer with 3 x 3 kernels and 128 channels: the shape that peers report."""

_QUICK = (5, 19, 7)
_YARDSTICKS = (C_LOOP, C_LOOP_NATIVE, FP32, INT8)


def _multipliers(context: Context) -> list[Multiplier]:
    return context.multipliers([*FAMILIES, unstructured(False), unstructured(True)])


def _shape(context: Context) -> tuple[int, int, int]:
    return _QUICK if context.settings.quick else SHAPE


def gemm(context: Context) -> list[Step]:
    """Each multiplier on each instruction set, all in one race."""
    return [
        Step(f"gemm, {threads} thread(s)", functools.partial(_gemm, context, threads))
        for threads in context.settings.threads
    ]


def _gemm(context: Context, threads: int) -> list[Row]:
    m, k, n = _shape(context)
    entrants = context.torch_products(m, k, n, threads)
    for timed, multiplier in enumerate(_multipliers(context)):
        a, b = codes(multiplier.a, (m, k), 1), codes(multiplier.b, (k, n), 2)
        expected = context.reference(multiplier, a, b)
        if not timed:  # the loops take as long for every table
            entrants += context.loops(multiplier, a, b, expected)
        for isa in context.isas:
            name = f"{multiplier.id} on {isa}"
            entrants.append(context.engine(name, isa, multiplier, a, b, expected, threads))
    return context.race("gemm", f"{m} x {k} x {n}, threads: {threads}", entrants, _YARDSTICKS)


def tables(context: Context) -> list[Step]:
    """Each multiplier on the best instruction set, each in a race of its own."""
    return [
        Step(f"tables, {m.id}, {threads} thread(s)", functools.partial(_table, context, m, threads))
        for threads in context.settings.threads
        for m in _multipliers(context)
    ]


def _table(context: Context, multiplier: Multiplier, threads: int) -> list[Row]:
    m, k, n = _shape(context)
    a, b = codes(multiplier.a, (m, k), 1), codes(multiplier.b, (k, n), 2)
    expected = context.reference(multiplier, a, b)
    isa = context.isa
    entrants = [
        *context.torch_products(m, k, n, threads),
        *context.loops(multiplier, a, b, expected),
        context.engine(multiplier.id, isa, multiplier, a, b, expected, threads),
    ]
    rows = context.race("tables", f"{m} x {k} x {n}, threads: {threads}", entrants, _YARDSTICKS)
    return rows[-1:]  # the yardsticks are in its ratios
