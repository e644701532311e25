"""The datapath's choices, by name."""

from __future__ import annotations

import itertools

import pytest

from approxhub.errors import MappingError
from approxhub.operands import OperandFormat
from approxhub.quantization import CodeRange, Datapath

ALL = [
    Datapath(*choice)
    for choice in itertools.product(("after", "before"), ("code", "skip"), ("float", "int32"))
]


@pytest.mark.parametrize("datapath", ALL, ids=str)
def test_text_and_choices_are_the_same(datapath: Datapath) -> None:
    """Its text reads back, spaces or not; the default's is empty."""
    assert Datapath.parse(str(datapath)) == datapath
    assert Datapath.parse(str(datapath).replace("=", " = ").replace(",", " , ")) == datapath
    assert (str(datapath) == "") == (datapath == Datapath())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("padding=zero", "padding is one of code, skip, got 'zero'"),
        ("bias=int16", "bias is one of float, int32"),
        ("before", "'before' is not a choice"),
        ("pad=skip", "'pad=skip' is not a choice"),
        ("padding=skip,padding=code", "'padding=code' is given twice"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    """The error names the part that is wrong."""
    with pytest.raises(MappingError, match=message):
        Datapath.parse(text)


@pytest.mark.parametrize("bits", range(2, 17))
def test_differences_to_a_zero_point_fit_the_operand(bits: int) -> None:
    """For all codes and zero points, with no bit to spare."""
    f = OperandFormat(bits, signed=True)
    codes = Datapath(zero_point="before").codes(CodeRange.full(f), "activations")
    assert codes.qmax - codes.qmin + 1 == 1 << (bits - 1)
    assert f.min <= codes.qmin - codes.qmax
    assert codes.qmax - codes.qmin == f.max


def test_unsigned_operands_take_no_differences() -> None:
    """The error says which widths would fit."""
    codes = CodeRange.full(OperandFormat(8, signed=False))
    with pytest.raises(
        MappingError, match=r"of 9 bits, but the operand is unsigned \(8u\).*codes of 7"
    ):
        Datapath(zero_point="before").codes(codes, "activations")


@pytest.mark.parametrize("signed", [False, True])
def test_nothing_changes_where_there_is_nothing_to_subtract(signed: bool) -> None:
    """Zero points after the product, and codes without one, keep all codes of the mapping."""
    f = OperandFormat(8, signed)
    assert Datapath().codes(CodeRange.full(f), "activations") == CodeRange.full(f)
    plain = CodeRange.symmetric(f)
    assert Datapath(zero_point="before").codes(plain, "weights") == plain
