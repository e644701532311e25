"""Dynamic segments against strings of bits, and the errors that follow from one operand's."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import product

import pytest

from approxhub.errors import InputError
from approxhub.families import drum, dsm
from approxhub.multiplier import exact


@cache
def segment(x: int, m: int) -> int:
    """Write zeros over all digits of a binary number but the first m."""
    digits = format(x, "b")
    return int(digits[:m] + "0" * len(digits[m:]), 2)


def reference(m: int):
    """Multiply both segments."""
    return lambda a, b: segment(a, m) * segment(b, m)


@pytest.mark.parametrize(("a_signed", "b_signed"), list(product((False, True), repeat=2)))
def test_small_widths_equal_the_reference(a_signed, b_signed, assert_everywhere, by_magnitude):
    """All m at all pairs of widths from 1 to 5 equal the reference."""
    for bits_a, bits_b in product(range(1, 6), repeat=2):
        for m in range(1, max(bits_a, bits_b) + 1):
            multiplier = dsm(bits_a, a_signed, m=m, b_bits=bits_b, b_signed=b_signed)
            assert_everywhere(multiplier, by_magnitude(reference(m)))


@pytest.mark.parametrize(
    ("m", "signed", "b_signed"), list(product((1, 4), (False, True), (False, True)))
)
def test_8x8_equals_the_reference(m, signed, b_signed, assert_everywhere, by_magnitude):
    """At 8x8 every product equals the reference, for every combination of signs."""
    assert_everywhere(dsm(8, signed, m=m, b_signed=b_signed), by_magnitude(reference(m)))


@pytest.mark.parametrize(("signed", "b_bits"), list(product((False, True), (9, 16))))
def test_16_bits_equal_the_reference_on_a_sample(signed, b_bits, assert_sampled, by_magnitude):
    """Multipliers without a table equal the reference on corners and random pairs."""
    multiplier = dsm(16, signed, m=6, b_bits=b_bits)
    assert not multiplier.has_table
    assert_sampled(multiplier, by_magnitude(reference(6)))


def test_a_segment_as_wide_as_the_operands_is_exact():
    """With m equal to the width nothing is cut."""
    assert dsm(6, m=6) == exact(6)


def test_drum_only_sets_the_lowest_bit_of_the_segment():
    """Per operand DRUM differs by the lowest bit of a segment below which something was cut."""
    for m, x in product((2, 4), range(256)):
        cut = max(x.bit_length() - m, 0)
        one_operand = dsm(8, False, m=m)(x, 1)
        assert drum(8, False, k=m)(x, 1) == (one_operand | (1 << cut if cut else 0))


@pytest.mark.parametrize("m", [2, 4, 6])
def test_mean_error_is_that_of_independent_operands(m):
    """The mean relative error is 1 - r**2, with r the mean share that one operand keeps.

    The paper's figures were not at hand; r is summed here in exact fractions.
    """
    kept = sum(Fraction(segment(x, m), x) for x in range(1, 256)) / 255
    metrics = dsm(8, False, m=m).metrics
    assert metrics.mre_pct == pytest.approx(float(100 * (1 - kept**2)), rel=1e-12)
    assert metrics.bias == -metrics.mae  # always towards zero
    assert metrics.wcre_pct < 100 * (1 - (1 - 2 ** (1 - m)) ** 2)


def test_mean_error_at_16_bits():
    """Eight of sixteen bits cost half a per cent, as the documentation may say."""
    low, high = dsm(16, False, m=8).metrics.interval["mre_pct"]
    assert low < 0.53 < high


@pytest.mark.parametrize("m", [0, 9])
def test_m_out_of_range_is_refused(m):
    """The segment has 1 bit to the larger width, and the error says so."""
    with pytest.raises(InputError, match=r"m \(bits of each segment\) must be 1 to 8"):
        dsm(8, m=m, b_bits=4)
