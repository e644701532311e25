"""The broken carry-save array against a simulation of its cells, bit by bit."""

from __future__ import annotations

from itertools import product

import pytest

from approxhub.errors import InputError
from approxhub.families import broken_array, broken_carry_save
from approxhub.multiplier import exact
from approxhub.operands import OperandFormat


def simulate(a: OperandFormat, b: OperandFormat, h: int, v: int):
    """Run sums and carries through the cells of the array, row by row."""
    rows, columns, width = range(a.bits), range(b.bits), a.bits + b.bits
    ones = [f.bits - 1 for f in (a, b) if f.signed]
    ones += [width - 1] if ones else []

    def array(x: int, w: int) -> int:
        sums: dict[tuple[int, int], int] = {}
        carries: dict[tuple[int, int], int] = {}
        for i, j in product(rows, columns):
            if i < h or i + j < v:
                continue
            bit = (x >> i) & (w >> j) & 1
            sign_bits = (a.signed and i == a.bits - 1) + (b.signed and j == b.bits - 1)
            if sign_bits == 1:
                bit = 1 - bit
            here = bit + sums.get((i - 1, j + 1), 0) + carries.get((i - 1, j), 0)
            sums[i, j], carries[i, j] = here % 2, here // 2
        # What leaves the array: sums on its right edge, sums and carries of its last row.
        total = sum(sums.get((i, 0), 0) << i for i in rows[:-1])
        for j in columns:
            total += sums.get((a.bits - 1, j), 0) << (a.bits - 1 + j)
            total += carries.get((a.bits - 1, j), 0) << (a.bits + j)
        total = (total + sum(1 << c for c in ones if c >= v)) % (1 << width)
        negative = (a.signed or b.signed) and total >> (width - 1)
        return total - (1 << width) if negative else total

    return array


@pytest.mark.parametrize(("a_signed", "b_signed"), list(product((False, True), repeat=2)))
def test_small_widths_equal_the_simulated_array(a_signed, b_signed, assert_everywhere):
    """All breaks at mixed widths from 1 to 4 equal the simulation."""
    for bits_a, bits_b in [(1, 1), (1, 3), (3, 1), (2, 4), (4, 2), (3, 3)]:
        a, b = OperandFormat(bits_a, a_signed), OperandFormat(bits_b, b_signed)
        for h, v in product(range(bits_a), range(bits_a + bits_b - 1)):
            m = broken_carry_save(bits_a, a_signed, h=h, v=v, b_bits=bits_b, b_signed=b_signed)
            assert_everywhere(m, simulate(a, b, h, v))


@pytest.mark.parametrize(("signed", "b_signed"), list(product((False, True), repeat=2)))
@pytest.mark.parametrize(("bits", "b_bits"), [(8, 8), (16, 9), (16, 16)])
def test_wide_arrays_equal_the_simulated_array(bits, b_bits, signed, b_signed, assert_sampled):
    """Corners and random pairs equal the simulation, for every combination of signs."""
    a, b = OperandFormat(bits, signed), OperandFormat(b_bits, b_signed)
    for h, v in [(0, 6), (2, 5), (3, 13)]:
        m = broken_carry_save(bits, signed, h=h, v=v, b_bits=b_bits, b_signed=b_signed)
        assert_sampled(m, simulate(a, b, h, v), count=60)


@pytest.mark.parametrize(("bits", "b_bits"), [(8, 8), (5, 3), (3, 5)])
def test_unsigned_cells_are_partial_products(bits, b_bits):
    """Without signs the array gives what omitted partial products give: no carry is lost."""
    for h, v in product(range(bits), range(bits + b_bits - 1)):
        cells = broken_carry_save(bits, False, h=h, v=v, b_bits=b_bits)
        assert cells == broken_array(bits, False, h=h, v=v, b_bits=b_bits), (h, v)


@pytest.mark.parametrize(("a_signed", "b_signed"), [(True, True), (True, False), (False, True)])
def test_signed_arrays_part_where_a_sign_bit_is_omitted(a_signed, b_signed):
    """Both forms agree for vertical breaks below both widths, and differ beyond."""
    for v in range(8):
        cells = broken_carry_save(8, a_signed, h=0, v=v, b_bits=6, b_signed=b_signed)
        products = broken_array(8, a_signed, h=0, v=v, b_bits=6, b_signed=b_signed)
        assert (cells == products) == (v < 6 or (v < 8 and not b_signed)), v


def test_an_omitted_sign_cell_counts_as_zero():
    """A NAND that is gone lacks its one: zero times zero is minus its weight."""
    assert broken_carry_save(8, h=1, v=0)(0, 0) == -(1 << 7)
    assert broken_carry_save(8, h=3, v=0)(0, 0) == -((1 << 7) + (1 << 8) + (1 << 9))


def test_rows_belong_to_the_activation():
    """The horizontal break omits low bits of the activation, not of the weight."""
    m = broken_carry_save(8, False, h=4, v=0)
    assert m(15, 255) == 0
    assert m(240, 15) == 3600


def test_no_break_is_the_exact_multiplier():
    """The whole array of Baugh and Wooley multiplies exactly, at any width and sign."""
    for a_signed, b_signed in product((False, True), repeat=2):
        for bits, b_bits in product((1, 2, 5), repeat=2):
            m = broken_carry_save(bits, a_signed, h=0, v=0, b_bits=b_bits, b_signed=b_signed)
            assert m == exact(bits, a_signed, b_bits=b_bits, b_signed=b_signed)


@pytest.mark.parametrize(
    ("h", "v", "text"),
    [
        (8, 0, "h .* must be 0 to 7"),
        (0, 11, "v .* must be 0 to 10"),
        (0.0, 0, "h must be an integer"),
    ],
)
def test_levels_out_of_range_are_refused(h, v, text):
    """At least one cell stays, and the error names the range."""
    with pytest.raises(InputError, match=text):
        broken_carry_save(8, h=h, v=v, b_bits=4)
