"""Kulkarni's multiplier against the recursion of its paper, and its error figures."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest

from approxhub.errors import InputError
from approxhub.families import kulkarni
from approxhub.multiplier import exact


@cache
def recursive(a: int, b: int, bits: int) -> int:
    """Four multipliers of half the width, down to the 2x2 block."""
    if bits == 2:
        return 7 if a == b == 3 else a * b
    half = bits // 2
    high_a, low_a = divmod(a, 1 << half)
    high_b, low_b = divmod(b, 1 << half)
    middle = recursive(high_a, low_b, half) + recursive(low_a, high_b, half)
    return (
        (recursive(high_a, high_b, half) << bits) + (middle << half) + recursive(low_a, low_b, half)
    )


def reference(bits: int):
    """Fill the width up to a power of two."""
    return lambda a, b: recursive(a, b, next(n for n in (2, 4, 8, 16, 32) if n >= bits))


@pytest.mark.parametrize(("a_signed", "b_signed"), list(product((False, True), repeat=2)))
def test_small_widths_equal_the_recursion(a_signed, b_signed, assert_everywhere, by_magnitude):
    """All pairs of widths from 1 to 5 equal the recursion, however far they are filled up."""
    for bits_a, bits_b in product(range(1, 6), repeat=2):
        m = kulkarni(bits_a, a_signed, b_bits=bits_b, b_signed=b_signed)
        for bits in {max(bits_a, bits_b), 16}:
            assert_everywhere(m, by_magnitude(reference(bits)))


@pytest.mark.parametrize(("signed", "b_signed"), list(product((False, True), repeat=2)))
def test_8x8_equals_the_recursion(signed, b_signed, assert_everywhere, by_magnitude):
    """At 8x8 every product equals the recursion, for every combination of signs."""
    assert_everywhere(kulkarni(8, signed, b_signed=b_signed), by_magnitude(reference(8)))


@pytest.mark.parametrize(("signed", "b_bits"), list(product((False, True), (9, 16))))
def test_16_bits_equal_the_recursion_on_a_sample(signed, b_bits, assert_sampled, by_magnitude):
    """Multipliers without a table equal the recursion on corners and random pairs."""
    m = kulkarni(16, signed, b_bits=b_bits)
    assert not m.has_table
    assert_sampled(m, by_magnitude(reference(16)), count=1000)


def test_one_entry_of_the_block_is_wrong():
    """Of sixteen products of two bits only 3 times 3 differs: 7, which has three bits."""
    wrong = kulkarni(2, False).table - exact(2, False).table
    assert np.argwhere(wrong).tolist() == [[3, 3]]
    assert wrong[3, 3] == -2


def test_maximum_error_of_the_paper():
    """The largest relative error is 22.22 % at every width, two ninths."""
    for bits in (2, 3, 4, 6, 8):
        assert round(kulkarni(bits, False).metrics.wcre_pct, 2) == 22.22


@pytest.mark.parametrize(("bits", "mean"), [(2, 1.39), (16, 3.32)])
def test_mean_errors_of_the_paper(bits, mean):
    """Its abstract: an average error of 1.39 % to 3.32 %, at 2 and at 16 bits.

    The paper's mean is over all pairs, those with a zero too, which are exact. The error of a
    pair is a product of one number for each operand, read here off the products with 3, so the
    mean over all pairs is a product of two.
    """
    x = np.arange(1, 1 << bits)
    m = kulkarni(bits, False)
    one = (3 * x - m.evaluate(np.int64(3), x)) / x
    assert round(float(100 * one.sum() ** 2 / 2 / 4**bits), 2) == mean


@pytest.mark.parametrize("bits", [0, 17, "8"])
def test_bad_widths_are_refused(bits):
    """Widths other than 1 to 16 are refused."""
    with pytest.raises(InputError, match="operand width"):
        kulkarni(bits)
