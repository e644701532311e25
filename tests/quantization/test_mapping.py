"""Operand mappings: which codes they allow, which circuit they use, what they refuse."""

from __future__ import annotations

import pytest

from approxhub.errors import InputError, MappingError
from approxhub.multiplier import Multiplier, exact
from approxhub.quantization import MAPPINGS, CodeRange, OperandMapping

U8, S8 = exact(8, signed=False), exact(8, signed=True)
U8S8 = exact(8, signed=False, b_signed=True)
S6U4 = exact(6, signed=True, b_bits=4, b_signed=False)


def _described(m: Multiplier, *codes: CodeRange) -> tuple[object, ...]:
    return (m.id, *((str(c.format), c.qmin, c.qmax, c.affine) for c in codes))


@pytest.mark.parametrize(
    ("mapping", "circuit", "expected"),
    [
        ("symmetric", S8, ("exact:8s", ("8s", -127, 127, False), ("8s", -127, 127, False))),
        ("affine", U8, ("exact:8u", ("8u", 0, 255, True), ("8u", 0, 255, True))),
        ("affine-signed", S8, ("exact:8s", ("8s", -128, 127, True), ("8s", -127, 127, False))),
        (
            "signmag-weights",
            U8,
            ("exact:8u+signmag(weights,8)", ("8u", 0, 255, True), ("8s", -127, 127, False)),
        ),
        (
            "signmag-weights(9)",
            U8,
            ("exact:8u+signmag(weights,9)", ("8u", 0, 255, True), ("9s", -255, 255, False)),
        ),
        (
            "signmag-weights(4)",
            U8,
            ("exact:8u+signmag(weights,4)", ("8u", 0, 255, True), ("4s", -7, 7, False)),
        ),
        (
            "signmag-both",
            U8,
            ("exact:8u+signmag(both,8)", ("8s", -127, 127, False), ("8s", -127, 127, False)),
        ),
        (
            "signmag-both(9)",
            U8,
            ("exact:8u+signmag(both,9)", ("9s", -255, 255, False), ("9s", -255, 255, False)),
        ),
        ("mixed", U8S8, ("exact:8ux8s", ("8u", 0, 255, True), ("8s", -127, 127, False))),
        ("mixed", S6U4, ("exact:6sx4u", ("6s", -31, 31, False), ("4u", 0, 15, True))),
        ("symmetric", exact(2), ("exact:2s", ("2s", -1, 1, False), ("2s", -1, 1, False))),
        ("affine", exact(1, False), ("exact:1u", ("1u", 0, 1, True), ("1u", 0, 1, True))),
        (
            "affine",
            exact(16, False),
            ("exact:16u", ("16u", 0, 65535, True), ("16u", 0, 65535, True)),
        ),
        (
            "signmag-both",
            exact(16, False),
            (
                "exact:16u+signmag(both,16)",
                ("16s", -32767, 32767, False),
                ("16s", -32767, 32767, False),
            ),
        ),
    ],
)
def test_codes_and_effective_multiplier(mapping, circuit, expected):
    """Each mapping gives the documented ranges of codes and names the circuit it uses."""
    assert _described(*OperandMapping.parse(mapping).resolve(circuit)) == expected


@pytest.mark.parametrize("mapping", ["signmag-weights(5)", "signmag-weights(4)"])
def test_sign_magnitude_products(mapping):
    """Behind the wrapper the magnitudes enter the circuit and the signs join its product."""
    circuit = Multiplier.from_function(lambda a, b: 16 * a + b + 64, name="t", a="4u", b="4u")
    m, _, w = OperandMapping.parse(mapping).resolve(circuit)
    for a in range(16):
        for b in range(w.qmin, w.qmax + 1):
            assert m(a, b) == (-1 if b < 0 else 1) * circuit(a, abs(b))


def test_signmag_both_products():
    """With both operands wrapped the product is negative where exactly one operand is."""
    circuit = Multiplier.from_function(lambda a, b: 16 * a + b + 64, name="t", a="4u", b="4u")
    m, x, w = OperandMapping.parse("signmag-both(5)").resolve(circuit)
    for a in range(x.qmin, x.qmax + 1):
        for b in range(w.qmin, w.qmax + 1):
            assert m(a, b) == (-1 if (a < 0) != (b < 0) else 1) * circuit(abs(a), abs(b))


@pytest.mark.parametrize(
    ("circuit", "name"), [(S8, "symmetric"), (U8, "affine"), (U8S8, "mixed"), (S6U4, "mixed")]
)
def test_default(circuit, name):
    """Signed circuits default to symmetric codes, unsigned to affine, mixed signs to mixed."""
    assert str(OperandMapping.default(circuit)) == name


@pytest.mark.parametrize(
    ("mapping", "circuit", "advice"),
    [
        ("symmetric", U8, "'affine', 'signmag-weights' or 'signmag-both'"),
        ("affine-signed", U8, "'affine', 'signmag-weights' or 'signmag-both'"),
        ("affine", S8, "'symmetric' or 'affine-signed'"),
        ("signmag-weights", S8, "'symmetric' or 'affine-signed'"),
        ("signmag-both", S8, "'symmetric' or 'affine-signed'"),
        ("symmetric", U8S8, "'mixed'"),
        ("affine", U8S8, "'mixed'"),
        ("affine-signed", S6U4, "'mixed'"),
        ("signmag-weights", U8S8, "'mixed'"),
        ("signmag-both", S6U4, "'mixed'"),
    ],
)
def test_refusals_say_what_would_fit(mapping, circuit, advice):
    """A circuit of the wrong sign is refused; the message names it, its operands and a mapping."""
    with pytest.raises(MappingError) as caught:
        OperandMapping.parse(mapping).resolve(circuit)
    text = str(caught.value)
    assert circuit.id in text
    assert mapping in text
    assert f"{circuit.a} x {circuit.b}" in text
    assert f"use the mapping {advice}" in text


@pytest.mark.parametrize(
    ("mapping", "circuit", "says"),
    [
        ("signmag-weights(10)", U8, "2 to 9 bits"),
        ("signmag-weights(1)", U8, "2 to 9 bits"),
        ("signmag-both(6)", exact(8, False, b_bits=4), "2 to 5 bits"),
        ("mixed", exact(8, False, b_bits=1, b_signed=True), "no positive code"),
        ("mixed", S8, "'symmetric'"),
        ("mixed", U8, "'affine'"),
        ("symmetric", exact(1), "no positive code"),
    ],
)
def test_widths_that_do_not_fit(mapping, circuit, says):
    """A wrapper wider than its circuit, and signed operands of one bit, are refused."""
    with pytest.raises(MappingError, match=says):
        OperandMapping.parse(mapping).resolve(circuit)


@pytest.mark.parametrize("text", ["", "Affine", "affine ", "signmag", "signmag-weights()", "x(1)"])
def test_unknown_names_list_the_known(text):
    """A name that is no mapping is refused with the names that are."""
    with pytest.raises(MappingError, match="affine-signed") as caught:
        OperandMapping.parse(text)
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize("name", [m for m in MAPPINGS if not m.startswith("signmag")])
def test_only_signmag_takes_a_width(name):
    """A width on any other mapping is refused."""
    with pytest.raises(MappingError, match="take a width"):
        OperandMapping.parse(f"{name}(8)")


@pytest.mark.parametrize("text", [*MAPPINGS, "signmag-weights(9)", "signmag-both(2)"])
def test_text_round_trip(text):
    """A mapping reads back from its own text and is then equal."""
    mapping = OperandMapping.parse(text)
    assert str(mapping) == text
    assert OperandMapping.parse(str(mapping)) == mapping
    assert hash(OperandMapping.parse(text)) == hash(mapping)
