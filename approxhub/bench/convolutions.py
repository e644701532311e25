"""The suite ``conv``: convolutions of every kind against the portable lookup and torch's fp32."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from approxhub import functional
from approxhub.bench.context import Context, codes, unstructured
from approxhub.bench.names import FP32, SCALAR_LOOKUP
from approxhub.bench.report import Row
from approxhub.bench.step import Step
from approxhub.bench.timing import Entrant
from approxhub.multiplier import Multiplier

__all__ = [
    "CASES",
    "MULTIPLIERS",
    "ConvCase",
    "conv",
    "engine_entrant",
    "float_entrant",
]

MULTIPLIERS = ("exact:8s", "roba:8s")
"""Beside a table without structure."""


@dataclass(frozen=True, slots=True)
class ConvCase:
    """A convolution.

    Parameters
    ----------
    name : str
    x, w : tuple of int
        Shapes of the input and of the weight, as the torch function takes them.
    function : str
        Of :mod:`torch.nn.functional`, and of :mod:`approxhub.functional`.
    stride, padding, groups : int
    channels_last : bool
        How the input lies in memory.
    """

    name: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    function: str = "conv2d"
    stride: int = 1
    padding: int = 1
    groups: int = 1
    channels_last: bool = False

    @property
    def options(self) -> dict[str, int]:
        """Keywords of the function."""
        return {"stride": self.stride, "padding": self.padding, "groups": self.groups}

    def laid(self, x: Tensor) -> Tensor:
        """An input, in memory as the case wants it."""
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    @property
    def products(self) -> int:
        """Products of one call, those with padding included."""
        if "transpose" in self.function:  # every input meets every tap, some outside the output
            return math.prod(self.x) * math.prod(self.w[1:])
        sizes = zip(self.x[2:], self.w[2:], strict=True)
        out = [(n + 2 * self.padding - k) // self.stride + 1 for n, k in sizes]
        return self.x[0] * math.prod(self.w) * math.prod(out)

    def tiny(self) -> ConvCase:
        """The same kind of convolution in a small size."""
        depthwise = self.groups > 1
        channels = 4
        x = (min(2, self.x[0]), channels, *(5 for _ in self.x[2:]))
        w = (channels, 1 if depthwise else channels, *self.w[2:])
        return replace(self, x=x, w=w, groups=channels if depthwise else 1)


CASES = (
    ConvCase("3x3", (8, 64, 16, 16), (64, 64, 3, 3)),
    ConvCase("3x3, batch 1", (1, 64, 16, 16), (64, 64, 3, 3)),
    ConvCase("3x3, batch 1, 56x56", (1, 64, 56, 56), (64, 64, 3, 3)),
    ConvCase("3x3, channels last", (8, 64, 16, 16), (64, 64, 3, 3), channels_last=True),
    ConvCase("3x3, stride 2", (8, 64, 16, 16), (64, 64, 3, 3), stride=2),
    ConvCase("3x3, 4x4 images", (8, 256, 4, 4), (256, 256, 3, 3)),
    ConvCase("depthwise 3x3", (8, 64, 16, 16), (64, 1, 3, 3), groups=64),
    ConvCase("depthwise 3x3, batch 1", (1, 64, 16, 16), (64, 1, 3, 3), groups=64),
    ConvCase(
        "depthwise 3x3, channels last", (8, 64, 16, 16), (64, 1, 3, 3), groups=64,
        channels_last=True,
    ),
    ConvCase("pointwise", (8, 64, 16, 16), (64, 64, 1, 1), padding=0),
    ConvCase("1d, 9 taps", (8, 64, 256), (64, 64, 9), "conv1d", padding=4),
    ConvCase("3d, 3x3x3", (2, 32, 8, 16, 16), (32, 32, 3, 3, 3), "conv3d"),
    ConvCase(
        "transposed 4x4, stride 2", (8, 64, 16, 16), (64, 64, 4, 4), "conv_transpose2d", stride=2
    ),
)  # fmt: skip
"""What is timed."""


def conv(context: Context) -> list[Step]:
    """A race for each kind of convolution."""
    cases = [c.tiny() for c in CASES] if context.settings.quick else list(CASES)
    return [
        Step(f"conv, {c.name}, {threads} thread(s)", functools.partial(_case, context, c, threads))
        for threads in context.settings.threads
        for c in cases
    ]


def _case(context: Context, case: ConvCase, threads: int) -> list[Row]:
    entrants = [float_entrant(case, threads)]
    for m in context.multipliers([*MULTIPLIERS, unstructured(True)]):
        engine = engine_entrant(context, case, m, threads)
        if len(entrants) == 1:  # its speed is the same for all tables
            run = context.on_scalar_lookup(_call(case, m))
            entrants.append(replace(engine, name=SCALAR_LOOKUP, run=run, details={}))
        entrants.append(engine)
    where = f"{case.name}, {'x'.join(map(str, case.x))}, threads: {threads}"
    return context.race("conv", where, entrants, (SCALAR_LOOKUP, FP32))


def engine_entrant(context: Context, case: ConvCase, m: Multiplier, threads: int) -> Entrant:
    """The engine on a convolution, called as a user would."""
    call = _call(case, m)
    return Entrant(
        m.id,
        context.on_engine(call),
        context.on_reference(call)(),
        threads=threads,
        products=case.products,
        details={"multiplier": m.id, "isa": context.isa},
    )


def _call(case: ConvCase, m: Multiplier) -> Callable[[], Tensor]:
    run = getattr(functional, case.function)
    x, w = case.laid(codes(m.a, case.x, 1)), codes(m.b, case.w, 2)
    return lambda: run(x, w, m, **case.options)


def float_entrant(case: ConvCase, threads: int) -> Entrant:
    """Torch on the same convolution, in fp32."""
    run = getattr(F, case.function)
    x, w = case.laid(torch.rand(case.x)), torch.rand(case.w)

    def call() -> Tensor:
        with torch.inference_mode():
            out: Tensor = run(x, w, **case.options)
            return out

    return Entrant(FP32, call, threads=threads, products=case.products)
