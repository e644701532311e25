"""The suite ``scaling``: what M, N, K, the rank of the error, threads and the batch cost."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

from approxhub.bench.context import Context, codes, of_rank, unstructured
from approxhub.bench.convolutions import MULTIPLIERS, ConvCase, engine_entrant, float_entrant
from approxhub.bench.machine import cores
from approxhub.bench.names import FP32, ONE_THREAD
from approxhub.bench.products import SHAPE
from approxhub.bench.report import Row
from approxhub.bench.step import Step
from approxhub.bench.timing import Entrant
from approxhub.multiplier import Multiplier

__all__ = ["SWEEPS", "scaling"]

SWEEPS: dict[str, tuple[int, ...]] = {
    "M": (1, 4, 16, 64, 256, 1024),
    "K": (9, 27, 64, 288, 1152, 4608),
    "N": (1, 4, 16, 64, 256, 1024),
    "rank of the error": (0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 16),
    "batch": (1, 2, 4, 8, 16),
}
"""Values of each size; the others stay as in the suite ``gemm``."""

_QUICK_SHAPE = (6, 19, 5)
_QUICK_VALUES = slice(1, 3)
_CONV = ConvCase("3x3", (8, 64, 16, 16), (64, 64, 3, 3))
_LARGE_CONV = ConvCase("3x3, batch 1", (1, 64, 56, 56), (64, 64, 3, 3))

Shape = tuple[int, int, int]


def scaling(context: Context) -> list[Step]:
    """A race for each value of each size, and for each thing that is run on several threads."""
    quick, threads = context.settings.quick, context.settings.threads[0]
    steps = [
        Step(f"scaling, {sweep} = {v}", functools.partial(_point, context, sweep, v, threads))
        for sweep, values in SWEEPS.items()
        for v in (values[_QUICK_VALUES] if quick else values)
    ]
    counts = range(1, (2 if quick else cores()) + 1)
    steps += [
        Step(f"scaling, threads, {what}", functools.partial(_threads, context, what, make, counts))
        for what, make in _threaded(context)
    ]
    return steps


def _shape(context: Context) -> Shape:
    return _QUICK_SHAPE if context.settings.quick else SHAPE


def _conv(context: Context, case: ConvCase) -> ConvCase:
    return case.tiny() if context.settings.quick else case


def _multipliers(context: Context) -> list[Multiplier]:
    return context.multipliers([*MULTIPLIERS, unstructured(True)])


def _point(context: Context, sweep: str, value: int, threads: int) -> list[Row]:
    """A race with one size at one value."""
    shape = _shape(context)
    if sweep == "batch":
        case = _conv(context, _CONV)
        case = replace(case, x=(value, *case.x[1:]))
        entrants = [float_entrant(case, threads)]
        entrants += [engine_entrant(context, case, m, threads) for m in _multipliers(context)]
        what = f"{sweep}, convolution 3x3 on {' x '.join(map(str, case.x[1:]))}"
    elif sweep == "rank of the error":
        entrants = [_engine(context, of_rank(value), shape, threads, "synthetic tables")]
        entrants += context.torch_products(*shape, threads)
        what = f"{sweep}, {_said(shape)}"
    else:
        at = "MKN".index(sweep)
        shape = (*shape[:at], value, *shape[at + 1 :])  # type: ignore[assignment]
        entrants = context.torch_products(*shape, threads)
        entrants += [_engine(context, m, shape, threads, m.id) for m in _multipliers(context)]
        what = f"{sweep}, {_said(shape, sweep)}"
    rows = context.race("scaling", f"{what}, threads: {threads}", entrants, (FP32,))
    return [replace(r, details={**r.details, "sweep": sweep, "value": value}) for r in rows]


def _said(shape: Shape, sweep: str = "") -> str:
    return " x ".join(n if n == sweep else str(v) for n, v in zip("MKN", shape, strict=True))


def _engine(context: Context, m: Multiplier, shape: Shape, threads: int, name: str) -> Entrant:
    rows, k, n = shape
    a, b = codes(m.a, (rows, k), 1), codes(m.b, (k, n), 2)
    expected = context.reference(m, a, b)
    return context.engine(name, context.isa, m, a, b, expected, threads)


Make = Callable[[int], Entrant]


def _threaded(context: Context) -> list[tuple[str, Make]]:
    """What is run on several threads: its name, and what makes an entrant with so many."""
    shape, conv = _shape(context), _conv(context, _LARGE_CONV)

    def product(threads: int) -> Entrant:
        return context.torch_products(*shape, threads)[0]

    def convolution(threads: int) -> Entrant:
        return float_entrant(conv, threads)

    found: list[tuple[str, Make]] = [
        (f"{FP32}, {_said(shape)}", product),
        (f"{FP32}, convolution 3x3, batch 1", convolution),
    ]
    for m in _multipliers(context):

        def engine(threads: int, m: Multiplier = m) -> Entrant:
            return _engine(context, m, shape, threads, m.id)

        def engine_conv(threads: int, m: Multiplier = m) -> Entrant:
            return engine_entrant(context, conv, m, threads)

        found += [
            (f"{m.id}, {_said(shape)}", engine),
            (f"{m.id}, convolution 3x3, batch 1", engine_conv),
        ]
    return found


def _threads(context: Context, what: str, make: Make, counts: Sequence[int]) -> list[Row]:
    """A race of one thing against itself on fewer threads."""
    entrants = [replace(make(t), name=f"{what}, threads: {t}") for t in counts]
    rows = context.race("scaling", "threads", entrants, (entrants[0].name,))
    return [
        replace(
            r,
            name=what,
            against={ONE_THREAD: next(iter(r.against.values()))},
            details={**r.details, "sweep": "threads", "value": t},
        )
        for r, t in zip(rows, counts, strict=True)
    ]
