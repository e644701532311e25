"""Families as sources: ids, their strict grammar, and what all circuits have in common."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from approxhub.errors import NotFoundError, UnknownMultiplierError
from approxhub.factorization import factorize
from approxhub.families import (
    broken_array,
    broken_carry_save,
    drum,
    dsm,
    family_sources,
    kulkarni,
    mbm,
    mitchell,
    perforation,
    roba,
    ssm,
    tosam,
    truncated_mitchell,
    truncation,
)
from approxhub.families.base import (
    Family,
    FamilyCircuit,
    SignMagnitudeCircuit,
    characteristic_fraction,
    leading_one,
    leading_segment,
)
from approxhub.families.sources import FAMILIES
from approxhub.ids import MultiplierId
from approxhub.multiplier import Circuit, exact
from approxhub.operands import OperandFormat
from approxhub.plugins import MultiplierSource

SOURCES = {s.name: s for s in family_sources()}
BY_NAME = {f.name: f for f in FAMILIES}

WIDE = [
    exact(16),
    truncation(16, a=3, b=4),
    perforation(16, j=3, k=4),
    broken_array(16, h=2, v=9),
    broken_carry_save(16, h=2, v=9),
    kulkarni(16),
    ssm(16, m=8, p=3),
    dsm(16, m=6),
    drum(16, k=6),
    mitchell(16),
    truncated_mitchell(16, w=6),
    mbm(16, t=4),
    roba(16),
    tosam(16, h=2, t=6),
]
NARROW = [
    exact(4, False, b_bits=3, b_signed=True),
    truncation(4, False, a=1, b=0, b_bits=3, b_signed=True),
    perforation(4, False, j=1, k=2, b_bits=3, b_signed=True),
    broken_array(4, False, h=1, v=2, b_bits=3, b_signed=True),
    broken_carry_save(4, False, h=1, v=2, b_bits=3, b_signed=True),
    kulkarni(4, False, b_bits=3, b_signed=True),
    ssm(4, False, m=2, b_bits=3, b_signed=True),
    dsm(4, False, m=2, b_bits=3, b_signed=True),
    drum(4, False, k=2, b_bits=3, b_signed=True),
    mitchell(4, False, b_bits=3, b_signed=True),
    truncated_mitchell(4, False, w=2, b_bits=3, b_signed=True),
    mbm(4, False, b_bits=3, b_signed=True),
    roba(4, False, b_bits=3, b_signed=True),
    tosam(4, False, h=0, t=2, b_bits=3, b_signed=True),
]

formats = st.builds(OperandFormat, st.integers(1, 16), st.booleans())


def member(data: st.DataObject, name: str, a: OperandFormat, b: OperandFormat):
    """Draw the parameters of a member."""
    family = BY_NAME[name]
    values: dict[str, int] = {}
    for p in family.parameters:
        values[p.name] = data.draw(st.integers(*p.limits(a, b, values)), p.name)
    return family.multiplier(a, b, **values)


def members(family: Family, a: OperandFormat, b: OperandFormat) -> Iterator[dict[str, int]]:
    """All parameters of a family, in its order."""
    found: list[dict[str, int]] = [{}]
    for p in family.parameters:
        limits = [(values, *p.limits(a, b, values)) for values in found]
        found = [v | {p.name: n} for v, low, high in limits for n in range(low, high + 1)]
    return iter(found)


def fetch(path_or_id: str):
    """Fetch by full id."""
    name, _, path = path_or_id.partition(":")
    return SOURCES[name].fetch(path, None)


def test_there_is_a_source_for_each_family():
    """As many sources as families, whose members have no bare names and are not cached."""
    assert list(SOURCES) == [m.id.partition(":")[0] for m in WIDE]
    for source in SOURCES.values():
        assert isinstance(source, MultiplierSource)
        assert not source.bare_names
        assert not source.cache


@pytest.mark.parametrize(
    "id_",
    [
        "exact:8s",
        "exact:8ux4s",
        "truncation:8u/a=2,b=3",
        "bam:8s/h=1,v=3",
        "bam:8ux4s/h=7,v=10",
        "drum:8u/k=4",
        "drum:16sx9u/k=6",
        "mitchell:8u",
        "roba:8sx1u",
        "perforation:8ux4s/j=1,k=3",
        "bamcsa:8s/h=1,v=3",
        "kulkarni:7ux3s",
        "ssm:16u/m=8,p=2",
        "dsm:8s/m=4",
        "mitchw:8u/w=6",
        "mbm:1s/t=0",
        "tosam:1u/h=0,t=1",
    ],
)
def test_an_id_fetches_the_multiplier_that_it_names(id_):
    """The id that comes back is the id that was asked for, and it is well-formed."""
    m = fetch(id_)
    assert m.id == id_
    assert str(MultiplierId.parse(id_)) == id_


@pytest.mark.parametrize("m", [*WIDE, *NARROW], ids=lambda m: m.id)
def test_constructors_and_ids_give_equal_multipliers(m):
    """What a constructor makes is what its id fetches: id, identity, formats."""
    again = fetch(m.id)
    assert (again, again.id, again.a, again.b) == (m, m.id, m.a, m.b)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(sorted(BY_NAME)), formats, formats)
def test_every_member_survives_its_id(data, name, a, b):
    """For any formats and parameters, fetching the id of a member gives the member."""
    m = member(data, name, a, b)
    again = fetch(m.id)
    assert (again.id, again.a, again.b) == (m.id, a, b)
    x = data.draw(st.integers(a.min, a.max))
    w = data.draw(st.integers(b.min, b.max))
    assert BY_NAME[name].name == "exact" or again._circuit == m._circuit
    assert again._circuit.evaluate(np.int64(x), np.int64(w)) == m._circuit.evaluate(
        np.int64(x), np.int64(w)
    )


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.data(), st.sampled_from(sorted(BY_NAME)), formats, formats)
def test_products_stay_below_the_bound_of_the_protocol(data, name, a, b):
    """At any width and sign |product| < 2**(bits_a + bits_b), extremes included."""
    circuit = member(data, name, a, b)._circuit
    spread = st.lists(st.integers(a.min, a.max), min_size=1, max_size=8)
    x = np.array([a.min, a.max, 0, *data.draw(spread)])[:, None]
    w = np.array([b.min, b.max, 0, *data.draw(st.lists(st.integers(b.min, b.max), max_size=8))])
    out = circuit.evaluate(x, w[None, :])
    assert out.dtype == np.int64
    assert out.shape == (x.size, w.size)
    assert np.abs(out).max() < 1 << (a.bits + b.bits)


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_products_stay_below_the_bound_on_every_pair(name):
    """All members of widths up to 4, on every pair: |product| < 2**(bits_a + bits_b)."""
    family = BY_NAME[name]
    small = [OperandFormat(n, s) for n, s in product((1, 2, 4), (False, True))]
    for a, b in product(small, repeat=2):
        for values in members(family, a, b):
            m = family.multiplier(a, b, **values)
            assert m.max_abs < 1 << (a.bits + b.bits), m.id
            if name != "bamcsa":  # an omitted sign cell lacks the one that it gives for zeros
                assert m.preserves_zero, m.id


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_format_has_a_member(name):
    """At every width from 1 to 16 and every sign a family has at least one member."""
    small = [OperandFormat(n, s) for n, s in product((1, 2, 3, 15, 16), (False, True))]
    for a, b in product(small, repeat=2):
        values: dict[str, int] = {}
        for p in BY_NAME[name].parameters:
            low, high = p.limits(a, b, values)
            assert low <= high, (a, b, p.name)
            values[p.name] = high
        assert BY_NAME[name].multiplier(a, b, **values).a == a


@pytest.mark.parametrize(
    ("id_", "rank", "error_rank"),
    [
        ("perforation:8u/j=2,k=3", 1, 1),
        ("dsm:8s/m=4", 1, 2),
        ("drum:8u/k=4", 1, 2),
        ("ssm:8u/m=4,p=2", 1, 2),
        ("ssm:8s/m=4,p=3", 1, 2),
        ("kulkarni:8u", 2, 1),
        ("kulkarni:8s", 2, 1),
    ],
)
def test_ranks_that_designs_are_known_for(id_, rank, error_rank):
    """What multiplies two cut operands has rank 1, and so has the error of the 2x2 block."""
    f = factorize(fetch(id_))
    assert (f.rank_table, f.rank_error) == (rank, error_rank)


@pytest.mark.parametrize("m", [*WIDE, *NARROW], ids=lambda m: m.id)
def test_members_survive_pickling(m):
    """A pickled member is equal, has its id and provenance, and multiplies alike."""
    again = pickle.loads(pickle.dumps(m))
    assert (again, again.id, again.provenance) == (m, m.id, m.provenance)
    assert again(3, -4 if m.b.signed else 3) == m(3, -4 if m.b.signed else 3)


@pytest.mark.parametrize("m", [*WIDE[1:], *NARROW[1:]], ids=lambda m: m.id)
def test_circuits_are_immutable_values(m):
    """A circuit is hashable, follows the protocol and cannot be changed."""
    circuit = m._circuit
    assert isinstance(circuit, FamilyCircuit)
    assert isinstance(circuit, Circuit)
    assert {circuit: 1}[pickle.loads(pickle.dumps(circuit))] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        circuit.k = 5


def test_a_sign_magnitude_core_gets_the_activation_first():
    """The core sees both magnitudes in order, and the signs join its product."""

    @dataclasses.dataclass(frozen=True)
    class Core(SignMagnitudeCircuit):
        family = "core"

        def magnitude(self, a, b):
            return 1000 * a + b

    a, b = np.array([3, -3, 3, -3, -128]), np.array([2, 2, -2, -2, -128])
    assert Core().evaluate(a, b).tolist() == [3002, -3002, -3002, 3002, 128128]


def test_position_of_the_leading_one():
    """Every 17-bit magnitude has the position that its binary text has."""
    x = np.arange(1 << 17)
    assert leading_one(x).tolist() == [int(v).bit_length() - 1 for v in x]


@pytest.mark.parametrize("k", [1, 4, 9, 17])
def test_segment_at_the_leading_one(k):
    """Every 17-bit magnitude keeps the first k digits of its binary text."""
    x = np.arange(1 << 17)
    texts = [format(int(v), "b") for v in x[:: 1 if k == 4 else 37]]
    expected = [int(s[:k].ljust(len(s), "0"), 2) for s in texts]
    assert leading_segment(x[:: 1 if k == 4 else 37], k).tolist() == expected


@pytest.mark.parametrize("bits", [0, 3, 15])
def test_characteristic_and_fraction(bits):
    """They are the length of the binary text less 1 and the first digits after the leading one."""
    x = np.arange(1, 1 << 16, 7)
    texts = [format(int(v), "b") for v in x]
    p, f = characteristic_fraction(x, bits)
    assert p.tolist() == [len(s) - 1 for s in texts]
    assert f.tolist() == [int("0" + s[1:].ljust(bits, "0")[:bits], 2) for s in texts]
    assert [v.item() for v in characteristic_fraction(np.array(0), bits)] == [0, 0]


def test_the_identity_of_a_wide_member_tells_all_members_apart():
    """Without a table, family and every parameter are in the hash."""
    others = [
        truncation(16, a=4, b=3),
        broken_array(16, h=9, v=2),
        broken_array(16, h=2, v=10),
        drum(16, k=7),
        drum(16, False, k=6),
        dsm(16, m=7),
        ssm(16, m=8, p=2),
        mbm(16, t=5),
        tosam(16, h=2, t=7),
        perforation(16, j=4, k=3),
        broken_carry_save(16, h=9, v=2),
        roba(16, b_bits=15),
    ]
    assert len({m.identity for m in [*WIDE, *others]}) == len(WIDE) + len(others)


def test_members_say_where_they_come_from():
    """Every approximate family has its paper and DOI in the provenance."""
    for m in WIDE[1:]:
        assert m.provenance.source == m.id.partition(":")[0]
        assert m.provenance.citation
        assert m.provenance.doi.startswith("10.1109/")


@pytest.mark.parametrize(
    ("id_", "text"),
    [
        ("drum:8u", "k must be given"),
        ("drum:8u/", "'' is not one of its parameters"),
        ("drum:8u/k", "'k' is not one of its parameters"),
        ("drum:8u/k=", "k must be a number"),
        ("drum:8u/k=four", "k must be a number"),
        ("drum:8u/k=-1", "k must be a number"),
        ("drum:8u/k=٤", "k must be a number"),
        ("drum:8u/k=0", r"must be 1 to 8 for 8u x 8u, got 0"),
        ("drum:8u/k=9", r"must be 1 to 8 for 8u x 8u, got 9"),
        ("drum:8u/k=4,k=4", "k stands twice"),
        ("drum:8u/k=4,", "'' is not one of its parameters"),
        ("drum:8u/k=4/k=4", "k must be a number"),
        ("drum:8u/t=4", "'t=4' is not one of its parameters"),
        ("drum:8u/k=04", "write drum:8u/k=4"),
        ("drum:08u/k=4", "write drum:8u/k=4"),
        ("drum:8ux8u/k=4", "write drum:8u/k=4"),
        ("drum:17u/k=4", "1 to 16 bits"),
        ("drum:0u/k=4", "1 to 16 bits"),
        ("drum:8/k=4", "is not an operand format"),
        ("drum:8U/k=4", "is not an operand format"),
        ("drum:8ux/k=4", "is not an operand format|write drum:8u/k=4"),
        ("drum:٨u/k=4", "is not an operand format"),
        ("drum:", "is not an operand format"),
        ("mitchell:8u/k=4", "is not one of its parameters"),
        ("mitchell:8u/", "is not one of its parameters"),
        ("exact:8", "is not an operand format"),
        ("exact:8sx8s", "write exact:8s"),
        ("bam:8u/v=3,h=1", "write bam:8u/h=1,v=3"),
        ("bam:8u/h=1", "v must be given"),
        ("bam:8u", "h and v must be given"),
        ("bam:8u/h=8,v=0", "must be 0 to 7"),
        ("bam:8u/h=0,v=15", "must be 0 to 14"),
        ("truncation:8u/a=2", "b must be given"),
        ("truncation:8u/a=8,b=0", "must be 0 to 7"),
        ("roba:8u/k=1", "is not one of its parameters"),
        ("tosam:8u/h=3,t=3", "t .* must be 4 to 7 for 8u x 8u, h = 3, got 3"),
        ("perforation:8u/j=6,k=3", "k .* must be 0 to 2 for 8u x 8u, j = 6, got 3"),
        ("ssm:8u/m=3,p=2", "p .* must be 3 to 3"),
        ("kulkarni:8u/k=1", "is not one of its parameters"),
    ],
)
def test_anything_but_a_canonical_path_is_refused(id_, text):
    """A wrong id is unknown, the error says why and what is accepted, and names close ids."""
    with pytest.raises(UnknownMultiplierError, match=text) as caught:
        fetch(id_)
    assert isinstance(caught.value, NotFoundError)
    name = id_.partition(":")[0]
    assert f"It takes {name}:<formats>" in str(caught.value)
    assert caught.value.close
    for close in caught.value.close:
        assert fetch(close).id == close
        assert close in str(caught.value)


def test_close_names_come_nearest_first():
    """A slip of one character finds the id that was meant."""
    with pytest.raises(UnknownMultiplierError) as caught:
        fetch("drum:16u/K=6")
    assert caught.value.close[0] == "drum:16u/k=6"


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_listed_entries_can_be_fetched(name):
    """A source lists examples; each is the entry of the multiplier that its id fetches."""
    entries = list(SOURCES[name].list())
    assert len({e.id for e in entries}) == len(entries) >= 4
    for e in entries:
        m = fetch(e.id)
        assert (m.id, m.a, m.b) == (e.id, e.a, e.b)
        assert e.summary


def test_families_need_neither_torch_nor_h5py(tmp_path):
    """Making, fetching and listing families imports nothing heavy."""
    code = (
        "import sys\n"
        "from approxhub.families import drum, family_sources\n"
        "drum(8, k=4).metrics\n"
        "assert [len(list(s.list())) for s in family_sources()]\n"
        "heavy = {'torch', 'h5py', 'requests', 'pycparser'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
