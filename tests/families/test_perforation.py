"""Partial product perforation against a sum over the rows that are left."""

from __future__ import annotations

from itertools import product

import pytest

from approxhub.errors import InputError
from approxhub.families import perforation, truncation
from approxhub.multiplier import exact
from approxhub.operands import OperandFormat


def reference(b: OperandFormat, j: int, k: int):
    """Add up the partial products, the activation shifted, of the weight's bits that are left."""
    left = [i for i in range(b.bits) if i not in range(j, j + k)]
    negative = b.bits - 1 if b.signed else None

    def multiply(x: int, w: int) -> int:
        total = 0
        for i in left:
            if w >> i & 1:
                total += -(x << i) if i == negative else x << i
        return total

    return multiply


def members(bits: int):
    """All pairs of parameters of a weight's width."""
    return [(j, k) for j in range(bits) for k in range(min(bits - j, bits - 1) + 1)]


@pytest.mark.parametrize(("a_signed", "b_signed"), list(product((False, True), repeat=2)))
def test_small_widths_equal_the_reference(a_signed, b_signed, assert_everywhere):
    """All parameters at all pairs of widths from 1 to 4 equal the reference."""
    for bits_a, bits_b in product(range(1, 5), repeat=2):
        b = OperandFormat(bits_b, b_signed)
        for j, k in members(bits_b):
            m = perforation(bits_a, a_signed, j=j, k=k, b_bits=bits_b, b_signed=b_signed)
            assert_everywhere(m, reference(b, j, k))


@pytest.mark.parametrize(("signed", "b_signed"), list(product((False, True), repeat=2)))
def test_8x8_equals_the_reference(signed, b_signed, assert_everywhere):
    """At 8x8 every product equals the reference, for every combination of signs."""
    for j, k in [(2, 4), (5, 3)]:
        m = perforation(8, signed, j=j, k=k, b_signed=b_signed)
        assert_everywhere(m, reference(OperandFormat(8, b_signed), j, k))


@pytest.mark.parametrize(("signed", "b_bits"), list(product((False, True), (9, 16))))
def test_16_bits_equal_the_reference_on_a_sample(signed, b_bits, assert_sampled):
    """Multipliers without a table equal the reference on corners and random pairs."""
    for j, k in [(2, 5), (b_bits - 3, 3)]:
        m = perforation(16, signed, j=j, k=k, b_bits=b_bits)
        assert not m.has_table
        assert_sampled(m, reference(OperandFormat(b_bits, signed), j, k), count=2000)


def test_the_weight_is_perforated():
    """The second operand loses bits, as in the paper; the first keeps all of them."""
    m = perforation(8, False, j=0, k=4)
    assert m(15, 16) == 240
    assert m(16, 15) == 0


def test_perforating_from_the_lowest_bit_truncates_the_weight():
    """With j = 0 it is the truncation of the weight by k bits."""
    for signed, k in product((False, True), range(8)):
        assert perforation(8, signed, j=0, k=k) == truncation(8, signed, a=0, b=k)


def test_perforating_nothing_is_exact():
    """With k = 0 no partial product is missing."""
    for signed, j in product((False, True), range(6)):
        assert perforation(6, signed, j=j, k=0) == exact(6, signed)


@pytest.mark.parametrize(("j", "k"), [(0, 1), (0, 4), (2, 2), (3, 5), (6, 2)])
def test_error_follows_the_closed_form(j, k):
    """Unsigned: the error is the activation times the omitted bits, (2**k - 1) * 2**j at most.

    The paper gives the error of a pair; its means were not at hand. Both factors are independent
    and each is half of its maximum on average.
    """
    omitted = (2**k - 1) * 2**j
    metrics = perforation(8, False, j=j, k=k).metrics
    assert metrics.mae == 255 / 2 * omitted / 2
    assert metrics.wce == 255 * omitted
    assert metrics.bias == -metrics.mae


@pytest.mark.parametrize(
    ("j", "k", "text"),
    [
        (4, 0, r"j \(.*\) must be 0 to 3 for 8s x 4s, got 4"),
        (1, 4, r"k \(.*\) must be 0 to 3 for 8s x 4s, j = 1, got 4"),
        (0, 4, r"k \(.*\) must be 0 to 3 for 8s x 4s, j = 0, got 4"),
        (2, 3, r"k \(.*\) must be 0 to 2 for 8s x 4s, j = 2, got 3"),
        (-1, 1, "j .* must be 0 to 3"),
        (0, True, "k must be an integer"),
    ],
)
def test_parameters_out_of_range_are_refused(j, k, text):
    """At least one partial product stays, and the error names the range and what it follows."""
    with pytest.raises(InputError, match=text):
        perforation(8, j=j, k=k, b_bits=4)
