"""Truncated operands against bits that are cleared one by one."""

from __future__ import annotations

from itertools import product

import pytest

from approxhub.errors import InputError
from approxhub.families import truncation
from approxhub.operands import OperandFormat

# SHA-256 of tables that EvoApproxLib v1.1 publishes as C models (DOI 10.1109/TVLSI.2018.2856362).
PUBLISHED = [
    ("mul8s_1L2H", 1, 1, "ef588b130ab2f588c37c2f9e169de12a6b74cef70aa8fcb48aeacfc53505c222"),
    ("mul8s_1L2D", 2, 2, "a4b7ec182e753ae09e44212592e8ca3e72429043c9b9bedb703e914b3dcd5e90"),
    ("mul8s_1L1G", 3, 3, "25932bf67310fad6dddbc85994ddb7d08c7b86061fe9d268700ae86c221d6bfb"),
    ("mul8s_1KR8", 1, 0, "cf4cc9da34d5d5b8f968f07760854ca0856b42bf2a42e111a09ee9aa36782462"),
    ("mul8s_1KTY", 3, 0, "45eddc90f4266945981a18770ad62af9097b3ef1398c649e6b5092a5657d4e2c"),
    ("mul8s_1KR3", 6, 0, "14980c2542f31228ab01ce825f68d1cf39dcf1fbed582dec1e1cfcb133654aab"),
]


def kept(value: int, bits: int, signed: bool, dropped: int) -> int:
    """Add up the weights of the bits of a code that are not dropped."""
    total = 0
    for i in range(dropped, bits):
        weight = -(1 << i) if signed and i == bits - 1 else 1 << i
        total += weight * ((value >> i) & 1)
    return total


def reference(a: OperandFormat, b: OperandFormat, drop_a: int, drop_b: int):
    """Exact product of what is kept of both operands."""
    table_a = {x: kept(x, a.bits, a.signed, drop_a) for x in range(a.min, a.max + 1)}
    table_b = {x: kept(x, b.bits, b.signed, drop_b) for x in range(b.min, b.max + 1)}
    return lambda x, w: table_a[x] * table_b[w]


@pytest.mark.parametrize(("a_signed", "b_signed"), list(product((False, True), repeat=2)))
def test_small_widths_equal_the_bit_level_reference(a_signed, b_signed, assert_everywhere):
    """All parameters at all pairs of widths from 1 to 4 equal the reference."""
    for bits_a, bits_b in product(range(1, 5), repeat=2):
        a, b = OperandFormat(bits_a, a_signed), OperandFormat(bits_b, b_signed)
        for i, j in product(range(bits_a), range(bits_b)):
            m = truncation(bits_a, a_signed, a=i, b=j, b_bits=bits_b, b_signed=b_signed)
            assert_everywhere(m, reference(a, b, i, j))


@pytest.mark.parametrize(("signed", "b_signed"), list(product((False, True), repeat=2)))
def test_8x8_equals_the_bit_level_reference(signed, b_signed, assert_everywhere):
    """At 8x8 every product equals the reference, for every combination of signs."""
    a, b = OperandFormat(8, signed), OperandFormat(8, b_signed)
    for i, j in [(0, 0), (2, 3), (7, 1)]:
        assert_everywhere(truncation(8, signed, a=i, b=j, b_signed=b_signed), reference(a, b, i, j))


@pytest.mark.parametrize(("signed", "b_bits"), list(product((False, True), (9, 16))))
def test_16_bits_equal_the_reference_on_a_sample(signed, b_bits, assert_sampled):
    """Multipliers without a table equal the reference on corners and random pairs."""
    a, b = OperandFormat(16, signed), OperandFormat(b_bits, signed)
    m = truncation(16, signed, a=5, b=2, b_bits=b_bits)
    assert not m.has_table
    assert_sampled(m, reference(a, b, 5, 2))


def test_the_parameters_belong_to_their_own_operand():
    """`a` truncates the activation and `b` the weight, never the other way round."""
    m = truncation(8, False, a=4, b=0)
    assert m(15, 1) == 0
    assert m(1, 15) == 0
    assert m(16, 15) == 240
    assert m(15, 16) == 0


def test_negative_operands_are_rounded_down():
    """Two's complement loses low bits of the code: -3 becomes -4, and -128 stays."""
    m = truncation(8, a=2, b=0)
    assert [m(v, 1) for v in (-1, -3, -4, -128, 127)] == [-4, -4, -4, -128, 124]


@pytest.mark.parametrize(("name", "a", "b", "sha"), PUBLISHED)
def test_published_circuits_are_members(name, a, b, sha):
    """The tables of six published EvoApproxLib circuits are reproduced entry by entry."""
    assert truncation(8, a=a, b=b).table_sha256 == sha, name


def test_published_error_figures():
    """EvoApproxLib prints MAE 0.081 %, WCE 0.39 %, EP 74.61 %, MRE 4.4 % for mul8s_1L2H."""
    metrics = truncation(8, a=1, b=1).metrics
    assert round(metrics.mae_pct, 3) == 0.081
    assert round(metrics.wce_pct, 2) == 0.39
    assert round(metrics.ep_pct, 2) == 74.61
    assert round(metrics.mre_pct, 1) == 4.4


@pytest.mark.parametrize("dropped", range(8))
def test_error_follows_the_closed_form(dropped):
    """One truncated unsigned operand loses its low bits' mean times the other's mean."""
    metrics = truncation(8, False, a=dropped, b=0).metrics
    assert metrics.mae == (2**dropped - 1) / 2 * 255 / 2
    assert metrics.wce == (2**dropped - 1) * 255
    assert metrics.bias == -metrics.mae


@pytest.mark.parametrize("bad", [{"a": 8, "b": 0}, {"a": 0, "b": 4}, {"a": -1, "b": 0}])
def test_parameters_out_of_range_are_refused(bad):
    """At least one bit of each operand stays, and the error names the range."""
    with pytest.raises(InputError, match=r"must be 0 to [37] for 8s x 4s"):
        truncation(8, b_bits=4, **bad)


@pytest.mark.parametrize("bad", [1.0, "1", True, None])
def test_parameters_are_integers(bad):
    """A parameter that is not an integer is refused by name."""
    with pytest.raises(InputError, match="a must be an integer"):
        truncation(8, a=bad, b=0)
