"""MBM against its formula in exact fractions, and its authors' error figures."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import product
from math import floor

import numpy as np
import pytest

from approxhub.errors import InputError
from approxhub.families import mbm, mitchell


@cache
def shortened(x: int, width: int, t: int) -> tuple[int, Fraction]:
    """Characteristic, and the fraction as a string of width - 1 digits that loses t of them."""
    digits = format(x, "b")
    fraction = digits[1:].ljust(width - 1, "0")
    if t:
        fraction = fraction[: width - 1 - t][:-1] + "1"
    return len(digits) - 1, Fraction(int(fraction or "0", 2), 2 ** len(fraction))


def reference(a_bits: int, b_bits: int, t: int):
    """Evaluate the formula for two magnitudes, and clip to the bits of the output."""
    width = max(a_bits, b_bits)

    def multiply(a: int, b: int) -> int:
        if a == 0 or b == 0:
            return 0
        (p, f), (q, g) = shortened(a, width, t), shortened(b, width, t)
        mantissa = 1 + f + g if f + g < 1 else 2 * (f + g)
        return min(floor(2 ** (p + q) * (mantissa + Fraction(5, 64))), 2 ** (a_bits + b_bits) - 1)

    return multiply


@pytest.mark.parametrize(("a_signed", "b_signed"), list(product((False, True), repeat=2)))
def test_small_widths_equal_the_reference(a_signed, b_signed, assert_everywhere, by_magnitude):
    """All t at all pairs of widths from 1 to 4 equal the reference."""
    for bits_a, bits_b in product(range(1, 5), repeat=2):
        for t in range(max(bits_a - 1, bits_b - 1, 1)):
            m = mbm(bits_a, a_signed, t=t, b_bits=bits_b, b_signed=b_signed)
            assert_everywhere(m, by_magnitude(reference(bits_a, bits_b, t)))


@pytest.mark.parametrize(
    ("t", "signed", "b_signed"),
    [(0, False, False), (3, False, True)],
)
def test_8x8_equals_the_reference(t, signed, b_signed, assert_everywhere, by_magnitude):
    """At 8x8 every product equals the reference."""
    m = mbm(8, signed, t=t, b_signed=b_signed)
    assert_everywhere(m, by_magnitude(reference(8, 8, t)))


@pytest.mark.parametrize("t", [0, 14])
@pytest.mark.parametrize(("signed", "b_bits"), list(product((False, True), (9, 16))))
def test_16_bits_equal_the_reference_on_a_sample(t, signed, b_bits, assert_sampled, by_magnitude):
    """Multipliers without a table equal the reference on corners and random pairs."""
    m = mbm(16, signed, t=t, b_bits=b_bits)
    assert not m.has_table
    assert_sampled(m, by_magnitude(reference(16, b_bits, t)), count=700)


def test_it_adds_to_mitchells_product():
    """Without truncation it is Mitchell's product and 5/64 of 2**(p+q), until it overflows."""
    m, plain = mbm(8, False), mitchell(8, False)
    for a, b in product((1, 5, 100, 200, 254), repeat=2):
        added = 5 * 2 ** (a.bit_length() + b.bit_length() - 2) // 64
        assert m(a, b) == min(plain(a, b) + added, 65535)
    assert m(255, 255) == 65535


def test_error_figures_of_the_authors():
    """A mean error of 2.6 % and a peak of 7.8 %, and nearly no bias, where Mitchell's is -3.85 %.

    The figures are those of Saadat et al., "REALM", DATE 2020, for the best multiplier derived
    from Mitchell's before it, which is MBM. They hold over one interval between powers of two,
    here a grid over the highest one of 16 bits.
    """
    x = np.arange(1 << 15, 1 << 16, 32)
    ideal = x[:, None] * x
    error = 100 * (mbm(16, False)(x[:, None], x) - ideal) / ideal
    plain = 100 * (mitchell(16, False)(x[:, None], x) - ideal) / ideal
    assert round(float(np.abs(error).mean()), 1) == 2.6
    assert round(float(np.abs(error).max()), 1) == 7.8
    assert abs(error.mean()) < 0.1
    assert round(float(plain.mean()), 2) == -3.85


def test_rule_of_truncation_gives_the_figures_of_realm():
    """A one as the lowest bit kept is what the authors' REALM does, by its worst figures.

    Saadat et al., DATE 2020, abstract: a mean error of at most 1.6 % and a peak of at most 7.4 %.
    Its least accurate member, 4 x 4 segments and t = 9 at 16 bits, has both with that rule; with
    a one *after* the bits kept they are 1.4 % and 6.5 %, with no one the bias is over 1 %.
    """
    u = (np.arange(1024) + 0.5) / 1024
    x, y = u[:, None], u

    def by_segment(values):
        return values.reshape(4, 256, 4, 256).sum(axis=(1, 3))

    ideal = (1 + x) * (1 + y)
    lost = (ideal - np.where(x + y < 1, 1 + x + y, 2 * (x + y))) / ideal
    corrections = np.round(64 * by_segment(lost) / by_segment(1 / ideal)) / 64

    low = np.arange(64) / 64  # both ends of what is cut to six bits, and the middle
    ends = np.concatenate([low, low + 511 / 2**15, low + 256 / 2**15])
    x, y = ends[:, None], ends
    f, g = ((np.floor(64 * v).astype(int) | 1) / 64 for v in (x, y))
    mantissa = np.where(f + g < 1, 1 + f + g, 2 * (f + g))
    mantissa = mantissa + corrections[(4 * x).astype(int), (4 * y).astype(int)]
    error = np.abs(100 * (mantissa / ((1 + x) * (1 + y)) - 1))
    assert round(float(error.max()), 1) == 7.4
    assert round(float(error.mean()), 1) == 1.6


def test_truncation_does_not_bring_the_bias_back():
    """The lowest kept bit is one, which is what the dropped ones are on average."""
    x = np.arange(1 << 15, 1 << 16, 31)
    ideal = x[:, None] * x
    for t in (4, 8, 10):
        error = 100 * (mbm(16, False, t=t)(x[:, None], x) - ideal) / ideal
        assert abs(error.mean()) < 0.1, t


@pytest.mark.parametrize("t", [-1, 7])
def test_t_out_of_range_is_refused(t):
    """One fraction bit stays, and the error names the range."""
    with pytest.raises(InputError, match=r"t \(low bits dropped .*\) must be 0 to 6"):
        mbm(8, t=t, b_bits=4)
