"""TOSAM against its formula in exact fractions, and its paper's range of errors."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import combinations, product
from math import floor

import numpy as np
import pytest

from approxhub.errors import InputError
from approxhub.families import tosam

# Mean relative error in per cent, unsigned 16 bits: computed here, as the docstring has them.
MEANS = {(0, 2): 10.91, (0, 3): 7.61, (1, 5): 3.95, (2, 6): 2.06, (3, 7): 1.05, (5, 9): 0.26}


@cache
def split(x: int) -> tuple[int, str]:
    """Position of the leading one, and the digits after it."""
    digits = format(x, "b")[1:]
    return len(digits), digits


def cut(digits: str, count: int) -> str:
    """First digits of a fraction, filled up with zeros."""
    return digits[:count].ljust(count, "0")


def value(digits: str) -> Fraction:
    """Binary digits after the point."""
    return Fraction(int(digits or "0", 2), 2 ** len(digits))


def reference(h: int, t: int):
    """Evaluate the formula of the paper for two magnitudes."""

    def multiply(a: int, b: int) -> int:
        if a == 0 or b == 0:
            return 0
        (p, f), (q, g) = split(a), split(b)
        added = value(cut(f, t)) + value(cut(g, t))
        multiplied = value(cut(f, h) + "1") * value(cut(g, h) + "1")
        return floor(2 ** (p + q) * (1 + added + multiplied))

    return multiply


@pytest.mark.parametrize(("a_signed", "b_signed"), list(product((False, True), repeat=2)))
def test_small_widths_equal_the_reference(a_signed, b_signed, assert_everywhere, by_magnitude):
    """All parameters at pairs of widths from 1 to 4 equal the reference."""
    for bits_a, bits_b in product((1, 2, 4), repeat=2):
        most = max(bits_a - 1, bits_b - 1, 1)
        for h, t in combinations(range(most + 1), 2):
            m = tosam(bits_a, a_signed, h=h, t=t, b_bits=bits_b, b_signed=b_signed)
            assert_everywhere(m, by_magnitude(reference(h, t)))


@pytest.mark.parametrize(
    ("h", "t", "signed", "b_signed"),
    [(2, 6, False, True)],
)
def test_8x8_equals_the_reference(h, t, signed, b_signed, assert_everywhere, by_magnitude):
    """At 8x8 every product equals the reference."""
    m = tosam(8, signed, h=h, t=t, b_signed=b_signed)
    assert_everywhere(m, by_magnitude(reference(h, t)))


@pytest.mark.parametrize(("h", "t"), [(2, 6), (14, 15)])
@pytest.mark.parametrize(("signed", "b_bits"), list(product((False, True), (9, 16))))
def test_16_bits_equal_the_reference_on_a_sample(
    h, t, signed, b_bits, assert_sampled, by_magnitude
):
    """Multipliers without a table equal the reference on corners and random pairs."""
    m = tosam(16, signed, h=h, t=t, b_bits=b_bits)
    assert not m.has_table
    assert_sampled(m, by_magnitude(reference(h, t)), count=1500)


@pytest.mark.parametrize(("h", "t"), MEANS)
def test_mean_errors(h, t):
    """The mean relative error at 16 bits agrees with the figure that is stated."""
    low, high = tosam(16, False, h=h, t=t).metrics.interval["mre_pct"]
    assert low - 0.005 <= MEANS[h, t] <= high + 0.005


def test_range_of_the_paper():
    """Its abstract: a mean absolute relative error of 11 % to 0.3 %, TOSAM(0,2) to TOSAM(5,9).

    The paper takes the mean over random pairs, so do the metrics of a multiplier of 16 bits.
    """
    worst, best = tosam(16, False, h=0, t=2).metrics, tosam(16, False, h=5, t=9).metrics
    assert round(worst.mre_pct) == 11
    assert round(best.mre_pct, 1) == 0.3


def test_only_the_bits_that_are_kept_matter():
    """Operands that agree in their first t fraction bits give one product."""
    m = tosam(16, False, h=1, t=3)
    rng = np.random.default_rng(3)
    x = rng.integers(1 << 15, 1 << 16, 500)
    assert (m(x, 40000) == m((x >> 12) << 12, 40000)).all()
    assert (m(40000, x) == m(40000, (x >> 12) << 12)).all()


@pytest.mark.parametrize(
    ("h", "t", "text"),
    [
        (7, 7, r"h \(.*\) must be 0 to 6"),
        (-1, 2, r"h \(.*\) must be 0 to 6"),
        (2, 2, r"t \(.*\) must be 3 to 7 for 8s x 4s, h = 2, got 2"),
        (0, 8, r"t \(.*\) must be 1 to 7"),
    ],
)
def test_parameters_out_of_range_are_refused(h, t, text):
    """More bits are added than multiplied, and the error names the range."""
    with pytest.raises(InputError, match=text):
        tosam(8, h=h, t=t, b_bits=4)
