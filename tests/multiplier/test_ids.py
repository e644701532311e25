"""Multiplier ids: their grammar, their modifiers, and what they refuse."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from approxhub.errors import InputError, MultiplierIdError
from approxhub.ids import Modifier, MultiplierId

segments = st.from_regex(r"[A-Za-z0-9_,=-][A-Za-z0-9_.,=-]{0,6}", fullmatch=True)
modifiers = st.tuples(
    st.sampled_from([None, Modifier("swap")]),
    st.none()
    | st.builds(
        Modifier, st.just("signmag"), st.sampled_from(["weights", "both"]), st.integers(1, 16)
    ),
    st.sampled_from([None, Modifier("zerogate")]),
).map(lambda ms: tuple(m for m in ms if m))
ids = st.builds(
    MultiplierId,
    st.none() | st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,6}", fullmatch=True),
    st.lists(segments, min_size=1, max_size=3).map("/".join),
    modifiers,
)


@pytest.mark.parametrize(
    ("text", "source", "release", "name", "mods"),
    [
        ("mul8s_1KV9", None, None, "mul8s_1KV9", []),
        ("v1.1/mul8s_1KVA", None, "v1.1", "mul8s_1KVA", []),
        ("evoapproxlib:v1.1/mul8u_1JFF", "evoapproxlib", "v1.1", "mul8u_1JFF", []),
        ("drum:8u/k=4", "drum", "8u", "k=4", []),
        ("bam:8ux4s/h=1,v=3", "bam", "8ux4s", "h=1,v=3", []),
        ("exact:8s+swap", "exact", None, "8s", ["swap"]),
        (
            "local:m+swap+signmag(both, 9)+zerogate",
            "local",
            None,
            "m",
            ["swap", "signmag(both,9)", "zerogate"],
        ),
    ],
)
def test_parts_of_known_ids(text, source, release, name, mods):
    """Source, release, name and modifiers of the ids that the documents use."""
    i = MultiplierId.parse(text)
    assert (i.source, i.release, i.name, [str(m) for m in i.modifiers]) == (
        source,
        release,
        name,
        mods,
    )
    assert i.base.modifiers == ()
    assert str(i) == text.replace(" ", "")


@settings(derandomize=True, deadline=None, max_examples=60)
@given(ids)
def test_text_and_parts_are_inverse(i):
    """Reading what an id writes gives the id."""
    assert MultiplierId.parse(str(i)) == i
    assert MultiplierId.parse(f"  {i}\n") == i


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ":",
        "drum:",
        ":8u",
        "1drum:8u",
        "a b:8u",
        "a:b:c",
        "drum:/k=4",
        "drum:8u/",
        "drum:8u//k=4",
        "drum:8u k=4",
        "../secret",
        "local:..",
        "local:a/../b",
        "local:.",
        "/etc/passwd",
        "local:a\\b",
        "+swap",
        "mul8u\x00",
        "mül8u",
        "drum:8u/k=٤",
    ],
)
def test_malformed_ids_are_refused(text):
    """Texts outside the grammar, paths upwards among them, are refused as such."""
    with pytest.raises(MultiplierIdError):
        MultiplierId.parse(text)


@pytest.mark.parametrize("value", [None, 8, b"exact:8s", ["exact:8s"]])
def test_ids_are_strings(value):
    """Anything but a string is refused with its type."""
    with pytest.raises(MultiplierIdError, match=f"got {type(value).__name__}"):
        MultiplierId.parse(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Swap",
        "sw ap",
        " swap",
        "signmag",
        "signmag()",
        "signmag(weights)",
        "signmag(activations,8)",
        "signmag(weights,8",
        "signmag(weights,-8)",
        "signmag(weights,100)",
        "signmag(weights,٨)",
        "zerogate(1)",
    ],
)
def test_unknown_modifiers_are_refused(text):
    """A modifier that is not one names those that are."""
    with pytest.raises(MultiplierIdError, match=r"known are \+swap"):
        MultiplierId.parse(f"exact:8u+{text}")


@pytest.mark.parametrize(
    "tail",
    [
        "+swap+swap",
        "+zerogate+swap",
        "+signmag(both,8)+swap",
        "+zerogate+signmag(both,8)",
        "+signmag(both,8)+signmag(weights,8)",
    ],
)
def test_modifiers_stand_once_and_in_order(tail):
    """The order is swap, signmag, zerogate, each at most once."""
    with pytest.raises(MultiplierIdError, match="once each, in the order"):
        MultiplierId.parse(f"exact:8u{tail}")


def test_adding_a_modifier():
    """`with_modifier` appends where the order allows, and refuses where not."""
    i = MultiplierId.parse("exact:8u").with_modifier(Modifier("signmag", "weights", 8))
    assert str(i) == "exact:8u+signmag(weights,8)"
    assert str(i.with_modifier(Modifier("zerogate"))) == "exact:8u+signmag(weights,8)+zerogate"
    with pytest.raises(MultiplierIdError):
        i.with_modifier(Modifier("swap"))


def test_a_malformed_id_is_bad_input():
    """The error is an InputError and a ValueError, with the exit code of bad usage."""
    assert issubclass(MultiplierIdError, InputError)
    assert issubclass(MultiplierIdError, ValueError)
    assert MultiplierIdError.exit_code == 2


def test_ids_are_values():
    """Ids with the same parts are equal and hash alike."""
    one, two = MultiplierId.parse("exact:8u+swap"), MultiplierId.parse("exact:8u+swap")
    assert one == two
    assert hash(one) == hash(two)
    assert one != one.base
