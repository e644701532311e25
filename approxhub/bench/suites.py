"""All suites, and running them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from approxhub.bench import cards
from approxhub.bench.context import Context, Settings
from approxhub.bench.convolutions import conv
from approxhub.bench.inference import network
from approxhub.bench.machine import machine, versions
from approxhub.bench.names import SUITES
from approxhub.bench.products import gemm, tables
from approxhub.bench.report import Report, Row
from approxhub.bench.roofline import roofline
from approxhub.bench.scaling import scaling
from approxhub.bench.step import Step
from approxhub.bench.training import train
from approxhub.errors import InputError

__all__ = ["run"]

_STEPS: dict[str, Callable[[Context], list[Step]]] = dict(
    zip(SUITES, (gemm, tables, conv, scaling, network, train, roofline), strict=True)
)


_CARD_STEPS: dict[str, Callable[[Context, cards.Device], list[Step]]] = dict(
    zip(cards.CARD_SUITES, (cards.gemm, cards.conv, cards.network), strict=True)
)


def run(settings: Settings, progress: Callable[[int, int, str], None] | None = None) -> Report:
    """Run suites.

    Parameters
    ----------
    settings : Settings
    progress : callable, optional
        Takes how many steps are done, of how many, and which one begins.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        If a suite is not known, or a number is below 1.
    BackendUnavailableError
        If the CPU engine is not there, or no backend for another device.
    BenchmarkError
        If a path that was to be timed does not give the integers of the reference.

    Examples
    --------
    >>> from approxhub.bench import Settings, run
    >>> report = run(Settings(suites=("gemm",), multipliers=("roba:8s",), quick=True, rounds=1))
    >>> {row.suite for row in report.rows}
    {'gemm'}
    """
    unknown = [s for s in settings.suites if s not in SUITES]
    if unknown:
        raise InputError(f"no suite is called {unknown[0]!r}; known: {', '.join(SUITES)}")
    if min(settings.rounds, *settings.threads) < 1:
        raise InputError("rounds and threads are at least 1")
    if settings.device != "cpu" and set(settings.suites) - set(cards.CARD_SUITES):
        raise InputError(
            f"on {settings.device!r} there are the suites {', '.join(cards.CARD_SUITES)}"
        )
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="approxhub-bench-") as folder,
        Context(settings, Path(folder)) as context,
    ):
        described, steps = _planned(context)
        for done, step in enumerate(steps):
            if progress is not None:
                progress(done, len(steps), step.name)
            rows += step.run()
    asked = {
        "command": settings.command,
        "rounds": settings.rounds,
        "threads": list(settings.threads),
        "quick": settings.quick,
        "device": settings.device,
    }
    return Report(described, versions(), asked, tuple(context.notes), tuple(rows))


def _planned(context: Context) -> tuple[dict[str, Any], list[Step]]:
    """What it runs on, and the steps of the suites that were asked for."""
    settings = context.settings
    if settings.device == "cpu":
        names = settings.suites or SUITES
        steps = [step for name in SUITES if name in names for step in _STEPS[name](context)]
        return machine(context.isas, context.isa), steps
    device = cards.Device.find(settings.device)
    names = settings.suites or cards.CARD_SUITES
    steps = [step for name in names for step in _CARD_STEPS[name](context, device)]
    return {**machine((), "none"), **device.described()}, steps
