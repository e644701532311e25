"""What all suites share: settings, operands, multipliers, yardsticks, engines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from approxhub.backends import Backend, GemmRequest, ReferenceBackend, use_backend
from approxhub.backends.cpu import CpuBackend
from approxhub.backends.native import load_library
from approxhub.bench.names import FP32, INT8
from approxhub.bench.native import LOOPS, PlainLoop
from approxhub.bench.report import Row
from approxhub.bench.timing import Entrant, ran
from approxhub.errors import BackendUnavailableError, NetworkError
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat
from approxhub.ops import code_dtype
from approxhub.plugins import BackendInfo, hookimpl, host
from approxhub.registry import load
from approxhub.registry.selection import expand, is_pattern

__all__ = [
    "FAMILIES",
    "Context",
    "Settings",
    "codes",
    "of_rank",
    "on_backend",
    "unstructured",
]

FAMILIES = (
    "exact:8s",
    "exact:8u",
    "roba:8s",
    "truncation:8u/a=3,b=3",
    "drum:8s/k=4",
    "drum:8u/k=4",
    "bam:8s/h=0,v=6",
)
"""Multipliers that need no network, of several ranks."""

Bound = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Takes a call, and gives one that runs on a certain backend."""

_CPU = torch.device("cpu")
_SEED = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked of a run.

    Parameters
    ----------
    suites : tuple of str
        Names of suites; all of them when empty.
    multipliers : tuple of str
        Ids, or patterns over the known ones; each suite's own choice when empty.
    threads : tuple of int
        How many threads to use, one after the other.
    rounds : int
        How often each entrant is timed.
    quick : bool
        Whether to run each suite on tiny shapes, in seconds: that it works, not how fast it is.
    device : str
        Where to run: ``'cpu'``, or a device that a plug-in's backend serves, such as ``'cuda'``.
    """

    suites: tuple[str, ...] = ()
    multipliers: tuple[str, ...] = ()
    threads: tuple[int, ...] = (1,)
    rounds: int = 7
    quick: bool = False
    device: str = "cpu"

    @property
    def least(self) -> float:
        """Seconds that one timing takes at least."""
        return 0.0005 if self.quick else 0.02

    @property
    def command(self) -> str:
        """The command line that repeats a run."""
        words = ["approxhub bench", *self.suites]
        words += [f"--device {self.device}"] * (self.device != "cpu")
        words += [f"--multiplier '{m}'" for m in self.multipliers]
        words += [f"--threads {' '.join(map(str, self.threads))} --rounds {self.rounds}"]
        return " ".join(words + ["--quick"] * self.quick)


def unstructured(signed: bool) -> Multiplier:
    """A multiplier whose products are random: of full rank, so nothing but a lookup serves it.

    Examples
    --------
    >>> unstructured(signed=True).id
    'local:random-8s'
    """
    f = OperandFormat(8, signed)
    table = np.random.default_rng(_SEED).integers(-30000, 30000, (256, 256))
    return Multiplier.from_table(table, name=f"random-{f}", a_signed=signed, b_signed=signed)


def of_rank(rank: int) -> Multiplier:
    """A signed multiplier whose error has this rank: the exact product plus `rank` small terms.

    Examples
    --------
    >>> from approxhub.factorization import factorize
    >>> factorize(of_rank(3)).rank_error
    3
    """
    f = OperandFormat(8, True)
    rng = np.random.default_rng([_SEED, rank])
    u, v = rng.integers(-6, 7, (256, rank)), rng.integers(-6, 7, (rank, 256))
    values = f.values()
    table = values[:, None] * values[None, :] + u @ v
    return Multiplier.from_table(table, name=f"rank-{rank}", a_signed=True, b_signed=True)


def codes(f: OperandFormat, shape: Sequence[int], seed: int) -> Tensor:
    """Random values of an operand, in the smallest dtype that holds them."""
    rng = np.random.default_rng([_SEED, seed])
    return torch.from_numpy(rng.integers(f.min, f.max + 1, tuple(shape))).to(code_dtype(f))


@dataclass
class Context:
    """One run: its settings, its folder for compiled yardsticks, and what it could not measure.

    A context manager: what it offers to the plug-in host is taken back at its end.
    """

    settings: Settings
    folder: Path
    notes: dict[str, None] = field(default_factory=dict)  # in the order they came, each once
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @functools.cached_property
    def isas(self) -> tuple[str, ...]:
        """Instruction sets of the engine that this machine has, the best one last."""
        return tuple(load_library().isas)

    @functools.cached_property
    def isa(self) -> str:
        """The one that is used where only one is: the best, or what ``APPROXHUB_CPU_ISA`` says."""
        backend = CpuBackend()
        reason = backend.unavailable_reason()
        if reason is not None:
            raise BackendUnavailableError(reason)
        return backend.isa

    def note(self, text: str) -> None:
        """Say what could not be measured, and why."""
        self.notes[text] = None

    def race(
        self, suite: str, case: str, entrants: Sequence[Entrant], yardsticks: Sequence[str]
    ) -> list[Row]:
        """Run a race with this run's rounds."""
        return ran(
            suite, case, entrants,
            rounds=self.settings.rounds, least=self.settings.least, yardsticks=yardsticks,
        )  # fmt: skip

    # --- multipliers ----------------------------------------------------------------

    def multipliers(self, default: Iterable[str | Multiplier]) -> list[Multiplier]:
        """Those that were asked for, else a suite's own choice.

        Multipliers that the engine does not take are left out with a note.
        """
        return [m for m in self.any_multipliers(default) if self._fits(m)]

    def any_multipliers(self, default: Iterable[str | Multiplier]) -> list[Multiplier]:
        """Those that were asked for, else a suite's own choice, whatever runs them."""
        asked = self._asked if self.settings.multipliers else default
        return [load(one) if isinstance(one, str) else one for one in asked]

    def _fits(self, m: Multiplier) -> bool:
        fits = CpuBackend().supports(GemmRequest(m, 1, 1, 1, _CPU, torch.int64))
        if not fits:
            self.note(f"{m.id} is left out: the CPU engine does not take such a table")
        return fits

    @functools.cached_property
    def _asked(self) -> tuple[Multiplier, ...]:
        """What was asked for; of a pattern, what is in the cache or can be fetched."""
        found: dict[str, Multiplier] = {}
        for text in self.settings.multipliers:
            failed = None
            for id in expand(text):
                try:
                    found.setdefault(id, load(id))
                except NetworkError as error:
                    if not is_pattern(text):
                        raise
                    failed = error
                    self.note(f"{id} is left out: {error}")
            if failed is not None and not found:
                raise failed
        return tuple(found.values())

    # --- through the operators ----------------------------------------------------------

    @functools.cached_property
    def on_engine(self) -> Bound:
        """Binds calls to the engine as users have it: under its own name it quantises, too."""
        return bound_to("cpu")

    @functools.cached_property
    def on_scalar_lookup(self) -> Bound:
        """Binds calls to the portable C of the engine, which looks every product up."""
        return self._stack.enter_context(
            on_backend("bench-scalar-lookup", lambda: CpuBackend("scalar", "lookup"))
        )

    @functools.cached_property
    def on_reference(self) -> Bound:
        """Binds calls to the reference."""
        return self._stack.enter_context(on_backend("bench-reference", ReferenceBackend))

    # --- matrix products --------------------------------------------------------------

    def engine(
        self, name: str, isa: str, m: Multiplier, a: Tensor, b: Tensor, expected: Tensor,
        threads: int,
    ) -> Entrant:  # fmt: skip
        """The engine on a matrix product."""
        backend = CpuBackend(isa)
        tables = backend.prepare(m, _CPU)
        rows, k, n = a.shape[0], *b.shape
        taken = backend.plan(tables, rows, k, n).way
        return Entrant(
            name,
            lambda: backend.gemm(a, b, tables, torch.int32),
            expected,
            threads=threads,
            products=rows * k * n,
            details={
                "multiplier": m.id,
                "isa": isa,
                "way": taken,
                "int8_products": None if taken == "lookup" else tables.planes,
            },
        )

    @staticmethod
    def reference(m: Multiplier, a: Tensor, b: Tensor) -> Tensor:
        """What a matrix product must be."""
        backend = ReferenceBackend()
        return backend.gemm(a, b, backend.prepare(m, _CPU), torch.int32)

    @functools.cached_property
    def _loops(self) -> dict[str, PlainLoop]:
        return {name: PlainLoop(self.folder, name) for name in LOOPS}

    def loops(self, m: Multiplier, a: Tensor, b: Tensor, expected: Tensor) -> list[Entrant]:
        """The plain loops on a matrix product; none where there is no compiler."""
        found = []
        for name, loop in self._loops.items():
            if loop.available:
                products = a.shape[0] * b.numel()
                found.append(Entrant(name, loop.on(a, b, m), expected, products=products))
            else:
                self.note(f"no {name}: gcc is missing or does not take the options")
        return found

    def torch_products(self, m: int, k: int, n: int, threads: int) -> list[Entrant]:
        """Torch's own matrix products: fp32, and int8 where that is proven exact here."""
        a, b = torch.rand(m, k), torch.rand(k, n)
        found = [Entrant(FP32, lambda: a @ b, threads=threads, products=m * k * n)]
        f = OperandFormat(8, True)
        x, w = codes(f, (m, k), 1), codes(f, (k, n), 2)
        why = int8_is_wrong(x, w)
        if why is None:
            found.append(
                Entrant(
                    INT8, lambda: torch._int_mm(x, w), _wide(x, w), threads=threads,
                    products=m * k * n,
                )
            )  # fmt: skip
        else:
            self.note(f"no {INT8} for {m} x {k} x {n}: {why}")
        return found


def _wide(x: Tensor, w: Tensor) -> Tensor:
    """The integer product: float64 holds each of these sums exactly."""
    return (x.double() @ w.double()).to(torch.int32)


def int8_is_wrong(x: Tensor, w: Tensor) -> str | None:
    """Why torch's int8 product of two matrices is not to be used here, or None if it is exact.

    On processors without 8-bit dot products oneDNN saturates sums of two products. So the product
    is compared for these operands and for the ones that saturate first, of the same shape.
    """
    extremes = (
        (x, w),
        (torch.full_like(x, -128), torch.full_like(w, -128)),
        (torch.full_like(x, 127), torch.full_like(w, -128)),
    )
    try:
        exact = all(torch.equal(torch._int_mm(x, w), _wide(x, w)) for x, w in extremes)
    except RuntimeError as error:
        return f"torch refuses it ({str(error).splitlines()[0]})"
    return None if exact else "it is not exact on this machine"


def bound_to(name: str) -> Bound:
    """What binds calls to a backend."""

    def bound(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with use_backend(name):
                return call()

        return run

    return bound


@contextmanager
def on_backend(name: str, make: Callable[[], Backend], device_type: str = "cpu") -> Iterator[Bound]:
    """Offer a backend under a name of its own for a while; gives what binds calls to it."""

    class Plugin:
        @staticmethod
        @hookimpl
        def approxhub_backends() -> list[BackendInfo]:
            return [BackendInfo(name, device_type, make)]

    host().register(Plugin, name)
    try:
        yield bound_to(name)
    finally:
        host().unregister(name)
