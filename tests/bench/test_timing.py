"""Races: what is wrong is never timed, and ratios are taken within a round."""

from __future__ import annotations

import pytest
import torch

from approxhub.bench import timing
from approxhub.bench.timing import Entrant, ran
from approxhub.errors import BenchmarkError

EXPECTED = torch.tensor([[64, -3], [5, 7]], dtype=torch.int32)


def test_ratios_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ratio is the median of the rounds' ratios, not the ratio of the medians."""
    script = iter([1.0, 2.0, 10.0, 2.0, 3.0, 3.0])  # base, own, base, own, ...
    monkeypatch.setattr(timing, "seconds", lambda run, least: next(script))
    entrants = [Entrant("base", lambda: None), Entrant("own", lambda: None, products=30)]
    base, own = ran("s", "c", entrants, rounds=3, least=0.0, yardsticks=("base", "absent"))
    assert base.against == {"base": 1.0}
    assert own.against == {"base": 1.0}  # of 0.5, 5 and 1; the medians are 3 and 2
    assert (own.seconds, own.spread, own.rate) == (2.0, (2.0, 3.0), 15.0)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (EXPECTED + torch.tensor([[0, 0], [1, 0]]), "1 of 4 sums"),
        (EXPECTED[:1], r"\(1, 2\)"),
        (None, "NoneType"),
    ],
)
def test_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch, found: object, said: str) -> None:
    """An entrant whose integers differ, or that returns something else, stops the race at once."""
    monkeypatch.setattr(timing, "seconds", lambda run, least: pytest.fail("it was timed"))
    right = Entrant("right", EXPECTED.clone, EXPECTED)
    wrong = Entrant("wrong", lambda: found, EXPECTED)
    with pytest.raises(BenchmarkError, match=f"wrong is wrong.*{said}"):
        ran("s", "c", [right, wrong], rounds=1, least=0.0)


def test_check_is_called_before() -> None:
    """What an entrant checks by itself stops the race too."""

    def fail() -> None:
        raise BenchmarkError("no")

    with pytest.raises(BenchmarkError, match="no"):
        ran("s", "c", [Entrant("x", lambda: None, check=fail)], rounds=1, least=0.0)


def test_threads_are_set_and_given_back() -> None:
    """An entrant runs on its threads, in its check as in its timing; then all is as before."""
    before, seen = torch.get_num_threads(), set()

    def run() -> torch.Tensor:
        seen.add(torch.get_num_threads())
        return EXPECTED

    ran("s", "c", [Entrant("x", run, EXPECTED, threads=before + 1)], rounds=1, least=0.0)
    assert seen == {before + 1}
    assert torch.get_num_threads() == before
