"""Layer x circuit x quantiser x gradient x mode, by the campaign's functions at small counts."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from campaigns import layers as campaign

import approxhub as ah


@pytest.mark.parametrize("strength", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("circuit", campaign.CIRCUITS, ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # torch's
def test_equals_the_loop(circuit: Any, strength: int) -> None:
    """Results, gradients and refusals are those of loops and contract, for every pair of choices.

    The slow ones are for every three choices; all of them are a campaign.
    """
    wrong, total = [], Counter()
    for case in campaign.cases(strength):
        if case.circuit == circuit:
            try:
                total[campaign.check(case)] += 1
            except campaign.Wrong as error:
                wrong.append(str(error))
    assert not wrong, "\n".join(wrong)
    assert total["integers"]
    assert total["float"]


@pytest.mark.parametrize("kind", campaign.KINDS, ids=str)
def test_mappings_that_do_not_fit_are_refused(kind: Any) -> None:
    """Each layer takes a mapping with operands of its signs alone, and names what would fit."""
    assert campaign.check_refusals(kind) == 24 - 7


def test_every_layer_is_among_them() -> None:
    """No layer of the package is left out."""
    named = {n: getattr(ah.nn, n) for n in ah.nn.__all__}
    bases = (ah.nn.ApproxLayer, ah.nn.CompositeLayer)
    layers = {
        n for n, c in named.items() if isinstance(c, type) and issubclass(c, bases)
    } - {"ApproxLayer", "CompositeLayer"}  # fmt: skip
    assert {k.name for k in campaign.KINDS} == layers


@pytest.mark.parametrize("strength", [2, 3])
def test_the_choices_are_covered(strength: int) -> None:
    """Every combination of that many values stands in a case, in far fewer cases than there are."""
    sizes = [len(axis) for axis in campaign.AXES]
    rows = campaign.covering(sizes, strength)
    for axes in itertools.combinations(range(len(sizes)), strength):
        held = {tuple(row[a] for a in axes) for row in rows}
        assert held == set(itertools.product(*(range(sizes[a]) for a in axes)))
    largest = sorted(sizes)[-strength:]
    assert len(rows) < 1.2 * campaign.math.prod(largest)
