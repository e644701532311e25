"""Requantisation against Python's own integers and fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from approxhub.errors import InputError
from approxhub.quantization import FixedPoint, integer_bias

INT32 = st.integers(-(2**31), 2**31 - 1)
# What a mantissa of 31 bits and a shift by 1 to 62 stand for.
FACTORS = st.floats(2.0**-70, 2.0**30, exclude_max=True)


def floor_half_up(value: Fraction) -> int:
    """The nearest integer, halves up, in exact fractions."""
    return (value + Fraction(1, 2)).__floor__()


@given(factor=FACTORS)
@settings(derandomize=True, deadline=None)
def test_a_factor_is_its_nearest_mantissa(factor: float) -> None:
    """The mantissa has 31 bits, the top one set if a shift of 62 allows; none is nearer."""
    try:
        made = FixedPoint.of(torch.tensor(factor, dtype=torch.float64))
    except InputError:
        assert factor >= 2.0**30 * (1 - 2.0**-32)  # rounds up to what has no shift
        return
    mantissa, shift = int(made.mantissa), int(made.shift)
    assert 2**30 <= mantissa < 2**31 or (shift == 62 and 0 <= mantissa < 2**30)
    assert 1 <= shift <= 62
    assert abs(Fraction(mantissa, 2**shift) - Fraction(factor)) * 2 <= Fraction(1, 2**shift)


@given(x=st.lists(INT32, min_size=1, max_size=20), factor=FACTORS.filter(lambda f: f < 2**29))
@settings(derandomize=True, deadline=None)
def test_products_are_those_of_exact_fractions(x: list[int], factor: float) -> None:
    """Every int32 is multiplied and rounded once, halves up; nothing overflows."""
    made = FixedPoint.of(torch.tensor(factor, dtype=torch.float64))
    exact = Fraction(int(made.mantissa), 2 ** int(made.shift))
    assert made.multiply(torch.tensor(x)).tolist() == [floor_half_up(v * exact) for v in x]


def test_halves_go_up() -> None:
    """2.5 becomes 3 and -2.5 becomes -2: neither away from zero nor to even."""
    half = FixedPoint.of(torch.tensor(0.5))
    assert half.multiply(torch.tensor([5, -5, 3, -3, 1, -1])).tolist() == [3, -2, 2, -1, 1, 0]


@pytest.mark.parametrize("channel_dim", [0, 1, -1])
def test_each_channel_has_its_factor(channel_dim: int) -> None:
    """The factors lie along the dimension asked for."""
    factors = torch.tensor([0.1, 0.25, 3.0], dtype=torch.float64)
    made = FixedPoint.of(factors)
    x = torch.arange(-40, 41).reshape(3, 3, 3, 3) * 1000
    found = made.multiply(x, channel_dim).movedim(channel_dim, 0)
    for c in range(3):
        alone = FixedPoint.of(factors[c])
        assert torch.equal(found[c], alone.multiply(x.movedim(channel_dim, 0)[c]))


@pytest.mark.parametrize(
    "factor", [0.0, -1.0, float("nan"), float("inf"), 2.0**30, 2.0**30 * (1 - 2**-40)]
)
def test_other_factors_are_refused(factor: float) -> None:
    """What has no mantissa and shift is named, one among many too."""
    factors = torch.tensor([0.5, factor], dtype=torch.float64)
    with pytest.raises(InputError, match="no factor that requantises"):
        FixedPoint.of(factors)


@pytest.mark.parametrize("x", [2**31, -(2**31) - 1])
def test_more_than_32_bits_are_refused(x: int) -> None:
    """A product that would not fit 64 bits is an error, never a wrong number."""
    with pytest.raises(InputError, match=f"{x} is more than the 32 bits"):
        FixedPoint.of(torch.tensor(1.0)).multiply(torch.tensor([0, x]))


def test_nothing_is_multiplied() -> None:
    """An empty tensor stays one."""
    assert FixedPoint.of(torch.tensor([0.5, 2.0])).multiply(torch.zeros(0, 2)).shape == (0, 2)


@given(
    bias=st.floats(-(2.0**40), 2.0**40, width=32),
    scale=st.floats(2.0**-20, 2.0**10, width=32),
)
@settings(derandomize=True, deadline=None)
def test_a_bias_is_rounded_half_to_even_and_saturates(bias: float, scale: float) -> None:
    """As Python rounds the quotient, held within int32."""
    wanted = max(-(2**31), min(2**31 - 1, round(bias / scale)))
    assert integer_bias(torch.tensor([bias]), torch.tensor(scale)).tolist() == [wanted]


def test_halves_of_a_bias_go_to_even() -> None:
    """One scale for each channel."""
    scale = torch.tensor([2.0, 2.0, 2.0, 1.0])
    bias = torch.tensor([1.0, 3.0, -5.0, -5.0])
    assert integer_bias(bias, scale).tolist() == [0, 2, -2, -5]
