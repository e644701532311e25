"""The suite ``roofline``: how far each kernel is from what the machine can do, and what takes time.

The peak of a kernel is the rate of the one instruction that it cannot do without, in a loop over
registers that is compiled at run time: nothing is loaded, laid out or written. So a share of it
holds all that a real product does besides.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from approxhub import functional
from approxhub.backends.native import NativeLibrary
from approxhub.bench.context import Context, codes, unstructured
from approxhub.bench.inference import compared_with_reference, inferring
from approxhub.bench.names import FP32
from approxhub.bench.native import compiled_peak
from approxhub.bench.products import SHAPE
from approxhub.bench.report import Detail, Row
from approxhub.bench.step import Step
from approxhub.bench.timing import Entrant, best_of, check, seconds, with_threads
from approxhub.model import calibrate
from approxhub.multiplier import Multiplier
from approxhub.nn import Conv2d
from approxhub.quantization import Quantizer

__all__ = ["roofline"]

_QUICK_SHAPE = (6, 19, 5)
_FP32_SIZE = 1024
_COPY_BYTES = 1 << 28
_PEAK_STEPS = 20_000
_KERNELS = {"exact": "product", "factored": "product", "lookup": "lookup"}
_MULTIPLIERS = ("exact:8s", "roba:8s")

_LAYER = (8, 64, 16, 16)
_QUICK_LAYER = (1, 4, 5, 5)
_LAY, _PACK = ("lay_codes", "lay_planes"), ("pack_rows",)
_MULTIPLY = ("lookup", "product")


def roofline(context: Context) -> list[Step]:
    """Peaks and kernels on one thread, then where the time of a layer goes."""
    steps = [Step("roofline, machine", functools.partial(_machine, context))]
    steps += [
        Step(f"roofline, kernels on {isa}", functools.partial(_kernels, context, isa))
        for isa in context.isas
    ]
    steps += [
        Step(f"roofline, layer, {m.id}", functools.partial(_layer, context, m))
        for m in context.multipliers([*_MULTIPLIERS, unstructured(True)])
    ]
    return steps


def _machine(context: Context) -> list[Row]:
    """What torch reaches here: fp32 products, and bytes copied in memory."""
    quick, rounds, least = context.settings.quick, context.settings.rounds, context.settings.least
    n = 32 if quick else _FP32_SIZE
    a, b = torch.rand(n, n), torch.rand(n, n)
    source = torch.zeros(1024 if quick else _COPY_BYTES, dtype=torch.uint8)
    target = torch.zeros_like(source)
    with with_threads(1):
        product = best_of(lambda: a @ b, rounds, least)
        copy = best_of(lambda: target.copy_(source), rounds, least)
    return [
        _peak(f"{FP32}, {n} x {n} x {n}", "fp32 products", product, n**3 / product),
        _peak("torch copy, bytes read and written", "bytes", copy, 2 * len(source) / copy),
    ]


def _peak(name: str, unit: str, spent: float, rate: float) -> Row:
    details: dict[str, Detail] = {"kind": "machine", "unit": unit, "per_second": rate}
    return Row("roofline", "what the machine does, threads: 1", name, spent, details=details)


def _kernels(context: Context, isa: str) -> list[Row]:
    """A race of the engine on one instruction set with the loops that bound it."""
    steps = 10 if context.settings.quick else _PEAK_STEPS
    entrants, peaks = [], {}
    for kernel in dict.fromkeys(_KERNELS.values()):
        loop = compiled_peak(context.folder, kernel, isa)
        if loop is None:
            context.note(f"no peak of {kernel} on {isa}: no loop for it, or no gcc")
            continue
        peaks[kernel] = f"peak of {kernel}"
        entrants.append(
            Entrant(
                peaks[kernel], functools.partial(loop, steps), products=steps * loop(1),
                details={"kind": "peak", "kernel": kernel, "isa": isa},
            )
        )  # fmt: skip
    m, k, n = _QUICK_SHAPE if context.settings.quick else SHAPE
    for multiplier in context.multipliers([*_MULTIPLIERS, unstructured(True)]):
        a, b = codes(multiplier.a, (m, k), 1), codes(multiplier.b, (k, n), 2)
        expected = context.reference(multiplier, a, b)
        made = context.engine(multiplier.id, isa, multiplier, a, b, expected, 1)
        kernel = _KERNELS[str(made.details["way"])]
        # What the kernel does: int8 products of the factored form, or look-ups.
        each = int(made.details["int8_products"] or 1)
        details = {**made.details, "kind": "kernel", "kernel": kernel}
        entrants.append(replace(made, products=m * k * n * each, details=details))
    case = f"kernels on {isa}, {m} x {k} x {n}, threads: 1"
    rows = context.race("roofline", case, entrants, tuple(peaks.values()))
    work = {r.name: r.products or 0 for r in rows}
    return [_with_share(r, peaks, work) for r in rows]


def _with_share(row: Row, peaks: dict[str, str], work: dict[str, int]) -> Row:
    """The row with its rate as a share of its peak; against nothing, which would mean little."""
    peak = peaks.get(str(row.details["kernel"]))
    share = None
    if peak is not None:
        share = row.against[peak] * work[row.name] / work[peak]
    details = {**row.details, "per_second": row.rate, "of_peak": share}
    return replace(row, against={}, details=details)


# --- one layer -----------------------------------------------------------------------


@contextmanager
def _clocked(spent: dict[str, float], methods: Sequence[tuple[type, str]]) -> Iterator[None]:
    """Add up the seconds spent in methods, by their names. None of them may call another."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

        return run

    before = [(owner, name, vars(owner)[name]) for owner, name in methods]
    try:
        for owner, name, function in before:
            setattr(owner, name, timed(name, function))
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def _split(
    run: Callable[[], object], least: float, methods: Sequence[tuple[type, str]]
) -> dict[str, float]:
    """Seconds of one call, ``'whole'``, and those of them that are spent in methods."""
    spent: dict[str, float] = {}
    calls = 0

    def counted() -> None:
        nonlocal calls
        run()
        calls += 1

    run()
    with _clocked(spent, methods):
        whole = seconds(counted, least)
    return {"whole": whole, **{name: total / calls for name, total in spent.items()}}


_GROUPS = (_LAY, _PACK, _MULTIPLY)
_NATIVE = tuple((NativeLibrary, name) for group in _GROUPS for name in group)


def _layer(context: Context, m: Multiplier) -> list[Row]:
    """Where the time of a convolution's forward pass goes, on one thread."""
    x_shape = _QUICK_LAYER if context.settings.quick else _LAYER
    channels = x_shape[1]
    layer = Conv2d(channels, channels, 3, padding=1, multiplier=m).eval()
    x = torch.randn(x_shape)
    calibrate(layer, [x])
    entrant = _operator(context, m, x_shape, channels)
    half = _operator(context, m, (x_shape[0], channels // 2, *x_shape[2:]), channels)
    for one in (entrant, half):
        check("roofline", "layer", one)
    forward = context.on_engine(inferring(layer, x))
    compared_with_reference(f"roofline, layer, {m.id}", forward)
    found: dict[str, list[float]] = {}
    least = context.settings.least
    with with_threads(1):
        for _ in range(context.settings.rounds):
            for name, spent in _round(forward, entrant.run, half.run, least).items():
                found.setdefault(name, []).append(spent)
    medians = {name: statistics.median(values) for name, values in found.items()}
    total = medians.pop("whole")
    said = " x ".join(map(str, x_shape))
    case = f"where the time goes, conv {channels} to {channels}, 3 x 3, on {said}, threads: 1"
    return [
        Row(
            "roofline", case, m.id, spent,
            details={"kind": "part", "part": name, "share": spent / total},
        )
        for name, spent in [*medians.items(), ("whole", total)]
    ]  # fmt: skip


def _operator(context: Context, m: Multiplier, x_shape: tuple[int, ...], channels: int) -> Entrant:
    """The layer's convolution of codes to so many channels, without quantisers and epilogue."""
    x, w = codes(m.a, x_shape, 1), codes(m.b, (channels, x_shape[1], 3, 3), 2)

    def call() -> Tensor:
        return functional.conv2d(x, w, m, padding=1)

    return Entrant(m.id, context.on_engine(call), context.on_reference(call)())


def _round(
    forward: Callable[[], object],
    operator: Callable[[], object],
    half: Callable[[], object],
    least: float,
) -> dict[str, float]:
    """Seconds of one pass, by part."""
    layer = _split(forward, least, [(Quantizer, "quantize_unread")])
    product = _split(operator, least, _NATIVE)
    lay, pack, multiply = (sum(product.get(n, 0.0) for n in names) for names in _GROUPS)
    halved = _split(half, least, _NATIVE)
    # Twice the half has the inner loop once, and twice what does not depend on the channels.
    emit = 2 * sum(halved.get(n, 0.0) for n in _MULTIPLY) - multiply
    emit = min(max(emit, 0.0), multiply)
    return {
        "quantise": layer["quantize_unread"],
        "lay lanes": lay,
        "pack rows": pack,
        "inner loop": multiply - emit,
        "emit sums": emit,
        "check, plan, allocate": product["whole"] - lay - pack - multiply,
        "epilogue and the rest": max(
            0.0, layer["whole"] - layer["quantize_unread"] - product["whole"]
        ),
        "whole": layer["whole"],
    }
