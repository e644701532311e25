"""Mitch-w against its formula in exact fractions, and its authors' mean error."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import product

import pytest

from approxhub.errors import InputError
from approxhub.families import dsm, mitchell, truncated_mitchell


@cache
def logarithm(x: int, w: int) -> Fraction:
    """Characteristic, and the fraction's first w - 1 digits."""
    digits = format(x, "b")
    fraction = digits[1:w]
    return len(digits) - 1 + Fraction(int(fraction or "0", 2), 2 ** len(fraction))


def reference(w: int):
    """Add the approximate logarithms and take the approximate antilogarithm."""

    def multiply(a: int, b: int) -> int:
        if a == 0 or b == 0:
            return 0
        total = logarithm(a, w) + logarithm(b, w)
        characteristic = int(total)
        product_ = 2**characteristic * (1 + total - characteristic)
        assert product_.denominator == 1  # what is kept fits into the product
        return int(product_)

    return multiply


@pytest.mark.parametrize(("a_signed", "b_signed"), list(product((False, True), repeat=2)))
def test_small_widths_equal_the_reference(a_signed, b_signed, assert_everywhere, by_magnitude):
    """All w at all pairs of widths from 1 to 4 equal the reference."""
    for bits_a, bits_b in product(range(1, 5), repeat=2):
        for w in range(1, max(bits_a, bits_b) + 1):
            m = truncated_mitchell(bits_a, a_signed, w=w, b_bits=bits_b, b_signed=b_signed)
            assert_everywhere(m, by_magnitude(reference(w)))


@pytest.mark.parametrize(("w", "signed", "b_signed"), [(3, False, False), (5, False, True)])
def test_8x8_equals_the_reference(w, signed, b_signed, assert_everywhere, by_magnitude):
    """At 8x8 every product equals the reference."""
    m = truncated_mitchell(8, signed, w=w, b_signed=b_signed)
    assert_everywhere(m, by_magnitude(cache(reference(w))))


@pytest.mark.parametrize(("signed", "b_bits"), list(product((False, True), (9, 16))))
def test_16_bits_equal_the_reference_on_a_sample(signed, b_bits, assert_sampled, by_magnitude):
    """Multipliers without a table equal the reference on corners and random pairs."""
    m = truncated_mitchell(16, signed, w=6, b_bits=b_bits)
    assert not m.has_table
    assert_sampled(m, by_magnitude(reference(6)), count=2000)


def test_it_is_mitchells_product_of_dynamic_segments():
    """Mitchell's multiplier and the segments of DSM, one after the other, give the same."""
    values = range(256)
    for w in (2, 5):
        kept = dsm(8, False, m=w)(values, 1)
        for x in range(0, 256, 11):
            expected = mitchell(8, False)(int(kept[x]), kept)
            assert (truncated_mitchell(8, False, w=w)(x, values) == expected).all()


def test_all_bits_kept_is_mitchells_multiplier():
    """With w equal to the width nothing is cut."""
    assert truncated_mitchell(8, w=8) == mitchell(8)


def test_mean_error_of_the_authors():
    """Mitch-w6 errs by -5.9 % on average; the error has one sign, so its size is the same.

    M. S. Kim et al., "The Effects of Approximate Multiplication on Convolutional Neural
    Networks", IEEE TETC 10(2), 904-916, 2022, over random pairs of wide operands. It tells w = 6
    from six bits of the fraction, which give -4.9 %.
    """
    m = truncated_mitchell(16, False, w=6)
    low, high = m.metrics.interval["mre_pct"]
    assert 5.85 <= low < high < 5.95
    assert m.metrics.bias == -m.metrics.mae


@pytest.mark.parametrize("w", [0, 9])
def test_w_out_of_range_is_refused(w):
    """At least the leading one is kept, and the error names the range."""
    with pytest.raises(InputError, match=r"w \(bits kept .*\) must be 1 to 8"):
        truncated_mitchell(8, w=w, b_bits=4)
