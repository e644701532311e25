"""The broken-array multiplier against a loop over the cells of the array."""

from __future__ import annotations

from itertools import product

import pytest

from approxhub.errors import InputError
from approxhub.families import broken_array
from approxhub.multiplier import exact
from approxhub.operands import OperandFormat

# SHA-256 of tables that EvoApproxLib v1.1 publishes as C models.
PUBLISHED = [
    ("mul8s_1KVA", 0, 2, "ecf1828615c815bf22178247e4bfe71f30a846758f8254fb8eaeda0ad4ee6b97"),
    ("mul8s_1KVB", 0, 3, "1381801dbc5c34365d75ed4a65dc316244b846e522c9d0be1ab903c1484c13a0"),
    ("mul8s_1KX2", 0, 4, "21276146933c55c480756cdb24f39e688aec936bc8d7afce0e19473779256d9a"),
    ("mul8s_1KR6", 1, 3, "494c2948b00ee0d0847e769a5092c615018f748c876dc465b23d41c53450a98b"),
    ("mul8s_1KRC", 1, 4, "1aa83d02fd6ab7381ae42d0507511f34101f52f44139757c2fdc93e6fa7e425d"),
    ("mul8s_1KVL", 2, 5, "b8246fa63a3e223d63ddc3baa2757d1637a1842312d92d8d7bf627fab4677b8c"),
]


def cells(a: OperandFormat, b: OperandFormat, h: int, v: int) -> list[tuple[int, int, int]]:
    """List what stays of the array: bit of a, bit of b, signed weight."""
    found = []
    for i in range(a.bits):
        for j in range(b.bits):
            if i < h or i + j < v:
                continue
            weight = 2 ** (i + j)
            if a.signed and i == a.bits - 1:
                weight = -weight
            if b.signed and j == b.bits - 1:
                weight = -weight
            found.append((i, j, weight))
    return found


def reference(a: OperandFormat, b: OperandFormat, h: int, v: int):
    """Add up the cells that are left, one by one."""
    left = cells(a, b, h, v)
    return lambda x, w: sum(s for i, j, s in left if x >> i & 1 and w >> j & 1)


@pytest.mark.parametrize(("a_signed", "b_signed"), list(product((False, True), repeat=2)))
def test_small_widths_equal_the_cell_by_cell_reference(a_signed, b_signed, assert_everywhere):
    """All breaks at mixed widths from 1 to 4 equal the reference."""
    for bits_a, bits_b in [(1, 1), (1, 3), (3, 1), (2, 4), (4, 2), (3, 3)]:
        a, b = OperandFormat(bits_a, a_signed), OperandFormat(bits_b, b_signed)
        for h, v in product(range(bits_a), range(bits_a + bits_b - 1)):
            m = broken_array(bits_a, a_signed, h=h, v=v, b_bits=bits_b, b_signed=b_signed)
            assert_everywhere(m, reference(a, b, h, v))


@pytest.mark.parametrize(
    ("signed", "b_signed", "h", "v"),
    [
        (False, False, 0, 6),
        (False, False, 3, 9),
        (True, True, 2, 5),
        (True, True, 0, 11),
        (True, False, 5, 8),
        (False, True, 5, 8),
    ],
)
def test_8x8_equals_the_cell_by_cell_reference(signed, b_signed, h, v, assert_everywhere):
    """At 8x8 every product equals the reference, for every combination of signs."""
    a, b = OperandFormat(8, signed), OperandFormat(8, b_signed)
    assert_everywhere(broken_array(8, signed, h=h, v=v, b_signed=b_signed), reference(a, b, h, v))


@pytest.mark.parametrize(("signed", "b_bits"), list(product((False, True), (9, 16))))
def test_16_bits_equal_the_reference_on_a_sample(signed, b_bits, assert_sampled):
    """Multipliers without a table equal the reference on corners and random pairs."""
    a, b = OperandFormat(16, signed), OperandFormat(b_bits, signed)
    m = broken_array(16, signed, h=3, v=14, b_bits=b_bits)
    assert not m.has_table
    assert_sampled(m, reference(a, b, 3, 14), count=2000)


@pytest.mark.parametrize(("name", "h", "v", "sha"), PUBLISHED)
def test_published_circuits_are_members(name, h, v, sha):
    """The tables of six published EvoApproxLib circuits are reproduced entry by entry."""
    assert broken_array(8, h=h, v=v).table_sha256 == sha, name


def test_published_error_figures():
    """The C model of mul8s_1KVL prints MAE 101, WCE 449, EP 91.89 %, MRE 8.93 %, MSE 19690."""
    metrics = broken_array(8, h=2, v=5).metrics
    assert (int(metrics.mae), metrics.wce, round(metrics.mse)) == (101, 449, 19690)
    assert round(metrics.ep_pct, 2) == 91.89
    assert round(metrics.mre_pct, 2) == 8.93
    assert round(metrics.wcre_pct) == 6500


def test_published_signed_array_with_one_cell():
    """EvoApproxLib v1.0 prints its netlist of bw=8, v=14, h=2: the AND of both sign bits."""
    m = broken_array(8, h=2, v=14)
    assert {m(-1, -1), m(-128, -5)} == {1 << 14}
    assert {m(-1, 1), m(127, 127), m(5, -128)} == {0}


def test_rows_belong_to_the_activation():
    """The horizontal break omits low bits of the activation, not of the weight."""
    m = broken_array(8, False, h=4, v=0)
    assert m(15, 255) == 0
    assert m(240, 15) == 3600


def test_no_break_is_the_exact_multiplier():
    """With both levels at 0 nothing is omitted."""
    for signed in (False, True):
        m = broken_array(8, signed, h=0, v=0)
        assert m == exact(8, signed)
        assert m.is_exact


@pytest.mark.parametrize(("h", "v"), [(0, 3), (0, 6), (1, 4), (2, 7), (4, 4)])
def test_error_follows_the_omitted_cells(h, v):
    """Unsigned: the mean error is a quarter of the omitted weights, the worst all of them.

    The paper states its mean error as a formula, whose figures were not at hand; each omitted
    cell is one for a quarter of all pairs, which gives the same mean independently.
    """
    omitted = sum(2 ** (i + j) for i, j in product(range(8), range(8)) if i < h or i + j < v)
    metrics = broken_array(8, False, h=h, v=v).metrics
    assert metrics.mae == omitted / 4
    assert metrics.wce == omitted
    assert metrics.bias == -metrics.mae


def test_unsigned_products_are_never_too_large():
    """As the paper states: an unsigned BAM gives at most the exact product."""
    ideal = exact(8, False).table
    for h, v in product((0, 1, 3), (0, 4, 8)):
        assert (broken_array(8, False, h=h, v=v).table <= ideal).all()


@pytest.mark.parametrize(
    ("h", "v", "text"),
    [
        (8, 0, "h .* must be 0 to 7"),
        (-1, 0, "h .* must be 0 to 7"),
        (0, 11, "v .* must be 0 to 10"),
        (0.0, 0, "h must be an integer"),
    ],
)
def test_levels_out_of_range_are_refused(h, v, text):
    """At least one cell stays, and the error names the range."""
    with pytest.raises(InputError, match=text):
        broken_array(8, h=h, v=v, b_bits=4)
