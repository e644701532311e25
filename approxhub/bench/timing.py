"""Races: every entrant is timed in turn, round by round, and ratios are taken within a round.

So a machine whose speed drifts favours none of them. Imports torch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from approxhub.bench.report import Detail, Row
from approxhub.errors import BenchmarkError

__all__ = ["Entrant", "best_of", "check", "ran", "seconds", "with_threads"]


@dataclass(frozen=True, slots=True)
class Entrant:
    """Something to time.

    Parameters
    ----------
    name : str
        Unique within its race.
    run : callable
        One call of it.
    expected : Tensor of integers, optional
        What `run` must return, by the reference. It is called and compared before it is timed.
    check : callable, optional
        Called before anything is timed, where a comparison of the result does not do; raises
        BenchmarkError.
    threads : int
        Threads that torch and the engine use.
    products : int, optional
        Multiplications of one call.
    details : dict
        What else its row says.
    """

    name: str
    run: Callable[[], object]
    expected: Tensor | None = None
    check: Callable[[], None] | None = None
    threads: int = 1
    products: int | None = None
    details: dict[str, Detail] = field(default_factory=dict)


def seconds(run: Callable[[], object], least: float) -> float:
    """Seconds of one call, over as many calls as take `least` seconds."""
    calls, start = 0, time.perf_counter()
    while True:
        run()
        calls += 1
        spent = time.perf_counter() - start
        if spent >= least:
            return spent / calls


def best_of(run: Callable[[], object], rounds: int, least: float) -> float:
    """The quickest of several rounds: for peaks, which only disturbances lengthen."""
    run()
    return min(seconds(run, least) for _ in range(rounds))


@contextmanager
def with_threads(threads: int) -> Iterator[None]:
    """Let torch, and with it the engine, use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def ran(
    suite: str,
    case: str,
    entrants: Sequence[Entrant],
    *,
    rounds: int,
    least: float,
    yardsticks: Sequence[str] = (),
) -> list[Row]:
    """Check every entrant, then run a race.

    Parameters
    ----------
    suite, case : str
        Of the rows.
    entrants : sequence of Entrant
    rounds : int
        How often each is timed.
    least : float
        Seconds that one timing takes at least.
    yardsticks : sequence of str
        Names of entrants that the others are compared with; those that are not there are left out.

    Returns
    -------
    list of Row
        In the order of the entrants: median seconds, and medians of ratios within a round.

    Raises
    ------
    BenchmarkError
        If an entrant does not give the integers of the reference; nothing is timed then.
    """
    for entrant in entrants:
        with with_threads(entrant.threads):
            check(suite, case, entrant)
    times: dict[str, list[float]] = {e.name: [] for e in entrants}
    for _ in range(rounds):
        for entrant in entrants:
            with with_threads(entrant.threads):
                entrant.run()  # its threads, and its operands in the cache
                times[entrant.name].append(seconds(entrant.run, least))
    return [
        Row(
            suite,
            case,
            entrant.name,
            seconds=statistics.median(times[entrant.name]),
            spread=(min(times[entrant.name]), max(times[entrant.name])),
            products=entrant.products,
            against={
                y: statistics.median(
                    base / own for base, own in zip(times[y], times[entrant.name], strict=True)
                )
                for y in yardsticks
                if y in times
            },
            details={"threads": entrant.threads, **entrant.details},
        )
        for entrant in entrants
    ]


def check(suite: str, case: str, entrant: Entrant) -> None:
    """Compare an entrant with the reference.

    Parameters
    ----------
    suite, case : str
        Where it is, for an error.
    entrant : Entrant

    Raises
    ------
    BenchmarkError
        If it does not give the integers that it must.
    """
    if entrant.check is not None:
        entrant.check()
    if entrant.expected is None:
        return
    found = entrant.run()
    expected = entrant.expected
    if isinstance(found, Tensor) and found.shape == expected.shape:
        wrong = int((found != expected).sum())
        if not wrong:
            return
        what = f"{wrong} of {expected.numel()} sums differ from those of the reference"
    else:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        what = f"it returned {shape}, not {tuple(expected.shape)}"
    raise BenchmarkError(
        f"{suite}, {case}: {entrant.name} is wrong: {what}. Nothing was timed; please report this "
        "with what `approxhub doctor` prints"
    )
