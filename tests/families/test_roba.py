"""RoBA against the nearest power of two by search, and its paper's maximum error."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import product
from math import log

import pytest

from approxhub.errors import InputError
from approxhub.families import roba


@cache
def rounded(x: int) -> int:
    """Nearest power of two by search; the larger of two, except for three."""
    if x in (0, 3):
        return 0 if x == 0 else 2
    return min((2**p for p in range(17)), key=lambda power: (abs(power - x), -power))


def reference(a: int, b: int) -> int:
    """The exact product without the product of the residues."""
    return a * b - (rounded(a) - a) * (rounded(b) - b)


@pytest.mark.parametrize(("a_signed", "b_signed"), list(product((False, True), repeat=2)))
def test_small_widths_equal_the_reference(a_signed, b_signed, assert_everywhere, by_magnitude):
    """All pairs of widths from 1 to 5 equal the reference."""
    for bits_a, bits_b in product(range(1, 6), repeat=2):
        m = roba(bits_a, a_signed, b_bits=bits_b, b_signed=b_signed)
        assert_everywhere(m, by_magnitude(reference))


@pytest.mark.parametrize(("signed", "b_signed"), list(product((False, True), repeat=2)))
def test_8x8_equals_the_reference(signed, b_signed, assert_everywhere, by_magnitude):
    """At 8x8 every product equals the reference, for every combination of signs."""
    assert_everywhere(roba(8, signed, b_signed=b_signed), by_magnitude(reference))


@pytest.mark.parametrize(("signed", "b_bits"), list(product((False, True), (9, 16))))
def test_16_bits_equal_the_reference_on_a_sample(signed, b_bits, assert_sampled, by_magnitude):
    """Multipliers without a table equal the reference on corners and random pairs."""
    m = roba(16, signed, b_bits=b_bits)
    assert not m.has_table
    assert_sampled(m, by_magnitude(reference))


def test_rounding_rule_of_the_paper():
    """Halfway values are rounded up, except that three becomes two.

    Multiplied with 3, whose residue is -1, an operand x gives 2x + x_r.
    """
    m = roba(8, False)
    rule = {1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 8, 7: 8, 11: 8, 12: 16, 95: 64, 96: 128, 191: 128}
    rule |= {192: 256, 255: 256}
    assert {x: m(x, 3) - 2 * x for x in rule} == rule


def test_powers_of_two_are_exact():
    """The result is exact when the magnitude of an operand is a power of two."""
    m = roba(8)
    for x in (-128, -2, 1, 64):
        assert [m(x, v) for v in range(-128, 128)] == [x * v for v in range(-128, 128)]


def test_maximum_error_of_the_paper():
    """The largest relative error is 11.1 %, a ninth, with both signs of the error present."""
    metrics = roba(8, False).metrics
    assert round(metrics.wcre_pct, 1) == 11.1
    m = roba(8, False)
    assert Fraction(m(3, 3) - 9, 9) == Fraction(-1, 9)
    assert m(5, 7) > 35


def test_mean_error_is_that_of_independent_residues():
    """The mean relative error is the square of one operand's, (ln 32/27)**2 = 2.89 % when wide.

    The paper's table of means was not at hand. The relative error is the product of the
    operands' own, which are independent; ln 32/27 is the mean over a uniform significand.
    """
    one = sum(Fraction(abs(rounded(x) - x), x) for x in range(1, 256)) / 255
    assert roba(8, False).metrics.mre_pct == pytest.approx(float(100 * one**2), rel=1e-12)
    low, high = roba(16, False).metrics.interval["mre_pct"]
    assert low < 100 * log(32 / 27) ** 2 < high


@pytest.mark.parametrize("bits", [0, 17, 8.0])
def test_bad_widths_are_refused(bits):
    """Widths other than 1 to 16 are refused."""
    with pytest.raises(InputError, match="operand width"):
        roba(bits)
