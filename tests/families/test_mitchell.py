"""Mitchell's multiplier against its formula in exact fractions, and its paper's maximum error."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import pytest

from approxhub.errors import InputError
from approxhub.families import mitchell
from approxhub.multiplier import exact


@cache
def logarithm(x: int) -> Fraction:
    """Characteristic plus fraction, as the paper approximates the binary logarithm."""
    p = len(format(x, "b")) - 1
    return p + Fraction(x, 2**p) - 1


def reference(a: int, b: int) -> int:
    """Add the approximate logarithms and take the approximate antilogarithm."""
    if a == 0 or b == 0:
        return 0
    total = logarithm(a) + logarithm(b)
    characteristic = int(total)
    product_ = 2**characteristic * (1 + total - characteristic)
    assert product_.denominator == 1  # full-width fractions lose nothing
    return int(product_)


@pytest.mark.parametrize(("a_signed", "b_signed"), list(product((False, True), repeat=2)))
def test_small_widths_equal_the_reference(a_signed, b_signed, assert_everywhere, by_magnitude):
    """All pairs of widths from 1 to 4 equal the reference."""
    for bits_a, bits_b in product(range(1, 5), repeat=2):
        m = mitchell(bits_a, a_signed, b_bits=bits_b, b_signed=b_signed)
        assert_everywhere(m, by_magnitude(reference))


@pytest.mark.parametrize(("signed", "b_signed"), [(False, False), (True, True), (False, True)])
def test_8x8_equals_the_reference(signed, b_signed, assert_everywhere, by_magnitude):
    """At 8x8 every product equals the reference."""
    assert_everywhere(mitchell(8, signed, b_signed=b_signed), by_magnitude(cache(reference)))


@pytest.mark.parametrize(("signed", "b_bits"), list(product((False, True), (9, 16))))
def test_16_bits_equal_the_reference_on_a_sample(signed, b_bits, assert_sampled, by_magnitude):
    """Multipliers without a table equal the reference on corners and random pairs."""
    m = mitchell(16, signed, b_bits=b_bits)
    assert not m.has_table
    assert_sampled(m, by_magnitude(reference))


def test_powers_of_two_are_exact():
    """An operand without a fraction is multiplied exactly, -128 too."""
    m = mitchell(8)
    for x in (-128, -64, 64, 1):
        assert [m(x, v) for v in range(-128, 128)] == [x * v for v in range(-128, 128)]


def test_maximum_error_of_the_paper():
    """The error runs from 0 to -11.1 %, a ninth, reached where both fractions are a half."""
    m = mitchell(8, False)
    ideal = exact(8, False).table.astype(np.int64)
    error = m.table - ideal
    assert (error <= 0).all()
    assert (9 * -error <= ideal).all()
    assert round(m.metrics.wcre_pct, 1) == 11.1
    worst = {(a, b) for a, b in np.argwhere((9 * -error == ideal) & (ideal > 0)).tolist()}
    assert worst == {(3 << i, 3 << j) for i in range(7) for j in range(7)}


def test_mean_error_is_that_of_uniform_fractions():
    """The mean relative error at 16 bits is the integral over uniform fractions, 3.85 %.

    The paper gives no mean; the integral is an independent derivation, by the midpoint rule.
    """
    f = (np.arange(1000) + 0.5) / 1000
    x, y = f[:, None], f[None, :]
    lost = np.where(x + y < 1, x * y, (1 - x) * (1 - y)) / ((1 + x) * (1 + y))
    low, high = mitchell(16, False).metrics.interval["mre_pct"]
    assert round(100 * lost.mean(), 2) == 3.85
    assert low < 100 * lost.mean() < high


@pytest.mark.parametrize("bits", [0, 17, "8"])
def test_bad_widths_are_refused(bits):
    """Widths other than 1 to 16 are refused."""
    with pytest.raises(InputError, match="operand width"):
        mitchell(bits)
