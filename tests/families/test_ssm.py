"""Static segments against slices of strings of bits."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import pytest

from approxhub.errors import InputError
from approxhub.families import dsm, ssm
from approxhub.multiplier import exact


@cache
def segment(x: int, bits: int, m: int, p: int) -> int:
    """Try the slices of an operand's digits, the lowest first, until only zeros stand before."""
    if bits <= m:
        return x
    digits = format(x, f"0{bits}b")
    ends = [bits, m] if p == 2 else [bits, bits - (bits - m) // 2, m]
    for end in ends:
        if "1" not in digits[: end - m]:
            return int(digits[end - m : end] + "0" * (bits - end), 2)
    raise AssertionError("the last slice begins with the first digit")


def reference(a_bits: int, b_bits: int, m: int, p: int):
    """Multiply both segments."""
    return lambda a, b: segment(a, a_bits, m, p) * segment(b, b_bits, m, p)


def members(bits: int):
    """All parameters of a width: segments cover the operand."""
    for m in range(1, bits + 1):
        for p in (2, 3):
            if m * p >= bits:
                yield m, p


@pytest.mark.parametrize(("a_signed", "b_signed"), list(product((False, True), repeat=2)))
def test_small_widths_equal_the_reference(a_signed, b_signed, assert_everywhere, by_magnitude):
    """All parameters at all pairs of widths from 1 to 5 equal the reference."""
    for bits_a, bits_b in product(range(1, 6), repeat=2):
        for m, p in members(max(bits_a, bits_b)):
            multiplier = ssm(bits_a, a_signed, m=m, p=p, b_bits=bits_b, b_signed=b_signed)
            assert_everywhere(multiplier, by_magnitude(reference(bits_a, bits_b, m, p)))


@pytest.mark.parametrize(("m", "p"), [(4, 2), (4, 3), (3, 3)])
@pytest.mark.parametrize(("signed", "b_signed"), [(False, False), (False, True)])
def test_8x8_equals_the_reference(m, p, signed, b_signed, assert_everywhere, by_magnitude):
    """At 8x8 every product equals the reference."""
    multiplier = ssm(8, signed, m=m, p=p, b_signed=b_signed)
    assert_everywhere(multiplier, by_magnitude(reference(8, 8, m, p)))


@pytest.mark.parametrize(("m", "p"), [(8, 2), (8, 3), (10, 2), (6, 3)])
@pytest.mark.parametrize(("signed", "b_bits"), list(product((False, True), (9, 16))))
def test_16_bits_equal_the_reference_on_a_sample(
    m, p, signed, b_bits, assert_sampled, by_magnitude
):
    """Multipliers without a table equal the reference on corners and random pairs."""
    multiplier = ssm(16, signed, m=m, p=p, b_bits=b_bits)
    assert not multiplier.has_table
    assert_sampled(multiplier, by_magnitude(reference(16, b_bits, m, p)), count=500)


def test_places_of_the_paper():
    """SSM8x8 of 16 bits has bits 7:0 and 15:8, ESSM8x8 bits 11:4 as well."""
    two, three = ssm(16, False, m=8, p=2), ssm(16, False, m=8, p=3)
    for x, in_two, in_three in [
        (0x00FF, 0x00FF, 0x00FF),
        (0x01FF, 0x0100, 0x01F0),
        (0x0FFF, 0x0F00, 0x0FF0),
        (0x1FFF, 0x1F00, 0x1F00),
    ]:
        assert (two(x, 1), three(x, 1)) == (in_two, in_three)


def test_a_leading_one_is_never_lost():
    """No parameters that are allowed turn an operand into zero."""
    for bits in range(1, 10):
        for m, p in members(bits):
            multiplier = ssm(bits, False, m=m, p=p)
            assert all(multiplier(x, 1) > 0 for x in range(1, 1 << bits)), multiplier.id


def test_more_places_and_wider_segments_are_never_worse():
    """DSM, which may put a segment anywhere, errs least, then three places, then two."""
    x = range(1 << 8)
    for m in (4, 5, 6):
        two, three = (ssm(8, False, m=m, p=p)(x, 1) for p in (2, 3))
        assert (two <= three).all()
        assert (three <= dsm(8, False, m=m)(x, 1)).all()


def test_mean_error_of_the_paper():
    """Its abstract: "average computational error of 1%", which ESSM has at 16 bits with m = 8.

    The abstract does not say which of its designs that is; over all operands SSM errs by 2 %.
    """
    kept = np.arange(1, 1 << 16)
    error = {
        p: 1 - (ssm(16, False, m=8, p=p).evaluate(kept, np.ones_like(kept)) / kept).mean() ** 2
        for p in (2, 3)
    }
    assert {p: round(100 * e) for p, e in error.items()} == {2: 2, 3: 1}


@pytest.mark.parametrize(("m", "p"), [(4, 2), (4, 3), (3, 3)])
def test_mean_error_is_that_of_independent_operands(m, p):
    """The mean relative error is 1 - r**2, with r the mean share that one operand keeps.

    The paper's table was not at hand; r is summed here in exact fractions.
    """
    kept = sum(Fraction(segment(x, 8, m, p), x) for x in range(1, 256)) / 255
    metrics = ssm(8, False, m=m, p=p).metrics
    assert metrics.mre_pct == pytest.approx(float(100 * (1 - kept**2)), rel=1e-12)
    assert metrics.bias == -metrics.mae


def test_full_segments_are_exact():
    """With m equal to the width nothing is cut."""
    assert ssm(6, m=6, p=2) == ssm(6, m=6, p=3) == exact(6)


@pytest.mark.parametrize(
    ("m", "p", "text"),
    [
        (2, 3, r"m \(bits of each segment\) must be 3 to 8"),
        (9, 2, r"m \(bits of each segment\) must be 3 to 8"),
        (3, 2, r"p \(places of a segment\) must be 3 to 3 for 8s x 4s, m = 3, got 2"),
        (4, 4, r"p \(places of a segment\) must be 2 to 3"),
    ],
)
def test_parameters_out_of_range_are_refused(m, p, text):
    """Segments must cover the operands, and the error names the range."""
    with pytest.raises(InputError, match=text):
        ssm(8, m=m, p=p, b_bits=4)
