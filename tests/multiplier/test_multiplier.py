"""Multipliers: identity, orientation, values, modifiers, and how they are made."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from approxhub.errors import InputError, MultiplierIdError, OperandRangeError, TableError
from approxhub.multiplier import (
    Circuit,
    Hardware,
    Multiplier,
    Provenance,
    exact,
    format_pair,
    parse_format_pair,
    table_sha256,
)
from approxhub.operands import OperandFormat

# The exact unsigned 8x8 table, which is also that of EvoApproxLib's mul8u_1JFF.
EXACT_8U = "f8085fc34b4305c0ded5ce102ee273302045b00677f0504933593571822db644"

formats = st.builds(OperandFormat, st.integers(1, 6), st.booleans())


def odd_table(bits_a: int = 8, bits_b: int = 8, seed: int = 0) -> np.ndarray:
    """A table that is neither commutative nor zero at zero: T[0, 0] = 64."""
    table = np.random.default_rng(seed).integers(-30000, 30000, (1 << bits_a, 1 << bits_b))
    table[0, 0] = 64
    return table


def random_multiplier(a: str, b: str, seed: int = 0) -> Multiplier:
    """Wrap a random table in the formats."""
    fa, fb = OperandFormat.parse(a), OperandFormat.parse(b)
    table = odd_table(fa.bits, fb.bits, seed)
    return Multiplier.from_table(table, name="odd", a_signed=fa.signed, b_signed=fb.signed)


# --- identity -------------------------------------------------------------------


def test_the_hash_of_the_exact_table_is_known():
    """The hash of the exact 8u table is the published circuit's."""
    assert exact(8, signed=False).table_sha256 == EXACT_8U


def test_the_hash_is_over_little_endian_int32_in_c_order():
    """Layout and type of the array that is hashed do not matter, its numbers do."""
    table = odd_table()
    expected = hashlib.sha256(
        b"".join(int(v).to_bytes(4, "little", signed=True) for row in table for v in row)
    ).hexdigest()
    for same in (table, table.astype(">i4"), np.asfortranarray(table), table.astype(np.int16)):
        assert table_sha256(same) == expected
    assert table_sha256(table.T) != expected


def test_two_ids_with_one_table_are_equal():
    """Equality and hash are those of formats and table; id and hardware do not count."""
    one = Multiplier.from_table(np.outer(range(16), range(16)), name="mine")
    two = Multiplier.from_function(
        lambda a, b: b * a, name="other", a="4u", b="4u", hardware=Hardware(power_mw=1.0)
    )
    assert one.id != two.id
    assert one == two == exact(4, False)
    assert len({one, two, exact(4, False)}) == 1
    assert one.identity == f"4ux4u-{one.table_sha256}"


def test_operand_formats_are_part_of_the_identity():
    """One table under other signs, or its entries in another shape, is another multiplier."""
    table = odd_table(4, 4)
    made = [
        Multiplier.from_table(table, name="m", a_signed=s, b_signed=t)
        for s, t in product((False, True), repeat=2)
    ]
    made.append(Multiplier.from_table(table.reshape(8, 32), name="m"))
    assert len(set(made)) == 5
    assert len({m.table_sha256 for m in made}) == 1


def test_one_wrong_entry_is_another_multiplier():
    """Changing a single product by one changes hash and equality."""
    table = odd_table()
    one = Multiplier.from_table(table, name="m")
    table[200, 3] += 1
    assert one != Multiplier.from_table(table, name="m")
    assert one != "local:m"


def test_a_table_is_copied_and_read_only():
    """Neither the array that was passed nor the one that is handed out changes a multiplier."""
    table = odd_table().astype(np.int32)  # the stored type, so nothing but a copy parts them
    m = Multiplier.from_table(table, name="m")
    table[0, 0] = 1
    assert m(0, 0) == 64
    assert m.table.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        m.table[0, 0] = 1


# --- orientation and values -----------------------------------------------------


def test_the_table_is_indexed_activation_first():
    """T[a, b]: the first operand is the row, on a table that is not commutative."""
    table = odd_table()
    m = Multiplier.from_table(table, name="m")
    assert m(3, 200) == table[3, 200] != table[200, 3] == m(200, 3)
    a, b = np.array([[1], [255]]), np.array([0, 7, 9])
    assert m(a, b).tolist() == table[a, b].tolist()


@pytest.mark.parametrize(("a", "b"), [("8s", "8s"), ("8u", "4s"), ("3s", "7u"), ("1s", "1u")])
def test_operands_are_values_not_patterns(a, b):
    """Calling looks up the pattern of each value, for every pair."""
    m = random_multiplier(a, b)
    va, vb = range(m.a.min, m.a.max + 1), range(m.b.min, m.b.max + 1)
    found = m(np.array(va)[:, None], np.array(vb)[None, :])
    assert found.dtype == np.int64
    assert found.tolist() == [[int(m.table[x % m.a.size, w % m.b.size]) for w in vb] for x in va]


@pytest.mark.parametrize(("a", "b"), [(128, 0), (-129, 0), (0, 16), (0, -1), ([0, 255], 0)])
def test_values_out_of_range_are_refused(a, b):
    """A pattern such as 255 for -1, or a value of the other operand's range, is an error."""
    with pytest.raises(OperandRangeError, match="operands are values, not bit patterns"):
        random_multiplier("8s", "4u")(a, b)


@pytest.mark.parametrize("value", [1.0, np.float32(1), True, "1"])
def test_operands_must_be_integers(value):
    """Other types than integers are refused for either operand."""
    with pytest.raises(InputError, match="operand a must hold integers"):
        exact(8)(value, 1)
    with pytest.raises(InputError, match="operand b must hold integers"):
        exact(8)(1, value)


def test_scalars_give_a_plain_int():
    """Two scalars give int; an array of one element stays an array."""
    assert type(exact(8)(-3, 5)) is int
    assert type(exact(16)(-3, np.int8(5))) is int
    assert exact(8)([3], 5).shape == (1,)
    assert exact(8)(np.empty((0, 2), dtype=int), 5).shape == (0, 2)


# --- exact ------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=30)
@given(formats, formats)
def test_exact_is_exact(a, b):
    """Every product of every pair of small formats is the exact one, extremes included."""
    m = exact(a.bits, a.signed, b_bits=b.bits, b_signed=b.signed)
    va, vb = np.arange(a.min, a.max + 1), np.arange(b.min, b.max + 1)
    assert (m(va[:, None], vb[None, :]) == np.outer(va, vb)).all()
    assert m.is_exact
    assert m.preserves_zero
    assert m.id == f"exact:{format_pair(a, b)}"
    assert parse_format_pair(m.id.partition(":")[2]) == (a, b)


def test_one_wrong_product_is_not_exact():
    """`is_exact` and `preserves_zero` look at every entry."""
    table = np.outer(np.arange(256), np.arange(256))
    table[255, 0] = 1
    m = Multiplier.from_table(table, name="m")
    assert not m.is_exact
    assert not m.preserves_zero
    assert not m.is_commutative
    table[0, 255] = 1
    assert Multiplier.from_table(table, name="m").is_commutative


@pytest.mark.parametrize(("bits", "kw"), [(0, {}), (17, {}), (8, {"b_bits": 17}), ("8", {})])
def test_exact_refuses_bad_widths(bits, kw):
    """Widths other than 1 to 16 are refused."""
    with pytest.raises(InputError, match="operand width"):
        exact(bits, **kw)


# --- wide -------------------------------------------------------------------------


def test_wide_multipliers_have_no_table():
    """16x16 evaluates through its circuit; what needs a table says so or is None."""
    m = exact(16)
    assert not m.has_table
    assert (m.table_sha256, m.preserves_zero, m.is_commutative) == (None, None, None)
    assert m.max_abs == 1 << 32
    assert m(-32768, -32768) == 1 << 30
    with pytest.raises(TableError, match="too many for a table"):
        _ = m.table
    assert repr(m) == "<Multiplier exact:16s: 16s x 16s>"


def test_wide_multipliers_are_equal_by_their_circuit():
    """Formats and the circuit's source decide, not the id."""
    assert exact(16) == exact(16)
    assert exact(16) != exact(16, False)

    def function(a, b):
        return a * b & ~1

    def make(name, fingerprint):
        return Multiplier.from_function(
            function, name=name, a="16u", b="9u", fingerprint=fingerprint
        )

    assert make("x", "even 1") == make("y", "even 1")
    assert make("x", "even 1") != make("x", "even 2")
    assert make("x", "even 1")([3, 65535], 511).tolist() == [1532, 65535 * 511 - 1]


def test_the_limit_of_a_table_is_24_bits():
    """16x8 has a table, 16x9 has none."""
    assert exact(16, b_bits=8).has_table
    assert not exact(16, b_bits=9).has_table


def test_wide_metrics_are_sampled_and_say_so():
    """Without a table metrics come from a sample and carry intervals."""
    metrics = exact(16).metrics
    assert (metrics.method, metrics.mae, metrics.wce) == ("sampled", 0, 0)
    assert set(metrics.interval) == {"mae", "mse", "mre_pct", "ep_pct", "bias"}


# --- from_table ---------------------------------------------------------------------


def test_widths_are_read_off_the_shape():
    """A (16, 4) table has an activation of 4 bits and a weight of 2."""
    m = Multiplier.from_table(np.zeros((16, 4), dtype=int), name="m", b_signed=True)
    assert (str(m.a), str(m.b), m.id) == ("4u", "2s", "local:m")


def test_offset_order_starts_at_the_smallest_value():
    """With order='offset' row and column 0 are the most negative values, per operand."""
    va, vb = np.arange(-8, 8), np.arange(0, 4)
    table = va[:, None] * 10 + vb[None, :]
    m = Multiplier.from_table(table, name="m", a_signed=True, order="offset")
    assert m(va[:, None], vb[None, :]).tolist() == table.tolist()
    both = Multiplier.from_table(table.T, name="m", a_signed=False, b_signed=True, order="offset")
    assert both(2, -8) == -78
    with pytest.raises(InputError, match="'pattern' or 'offset'"):
        Multiplier.from_table(table, name="m", order="value")


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (np.zeros((255, 256), dtype=int), "a table needs the shape"),
        (np.zeros((16, 1), dtype=int), "a table needs the shape"),
        (np.zeros((0, 16), dtype=int), "a table needs the shape"),
        (np.zeros(256, dtype=int), "a table needs the shape"),
        (np.zeros((4, 4, 4), dtype=int), "a table needs the shape"),
        (np.zeros((1 << 17, 2), dtype=np.int8), "at most 16 bits"),
        (np.broadcast_to(np.int8(0), (1 << 13, 1 << 12)), "at most 2\\*\\*24 entries"),
        (np.zeros((4, 4)), "holds integers, got dtype float64; round and convert"),
        (np.zeros((4, 4), dtype=bool), "holds integers"),
        (np.full((4, 4), 1 << 31), "32-bit"),
        (np.full((4, 4), -(1 << 31) - 1), "32-bit"),
        (np.full((4, 4), 2**64 - 1, dtype=np.uint64), "32-bit"),
        ([[1, 2], [3]], "array of integers"),
    ],
)
def test_bad_tables_are_refused(table, text):
    """Wrong shapes, types and entries each have their own error."""
    with pytest.raises(TableError, match=text):
        Multiplier.from_table(table, name="m")


@pytest.mark.parametrize("name", ["", "a b", "a+swap", "..", "a:b", "ä", "a\n/.."])
def test_bad_names_are_refused(name):
    """A name that cannot stand in an id is refused."""
    with pytest.raises(InputError, match="cannot name a multiplier"):
        Multiplier.from_table(np.zeros((4, 4), dtype=int), name=name)


def test_a_multiplier_needs_a_table_or_a_circuit():
    """A table of another shape than the formats', or nothing at all, is refused."""
    f = OperandFormat(4, False)
    with pytest.raises(TableError, match="needs a table or a circuit"):
        Multiplier("local:m", f, f)
    with pytest.raises(TableError, match=r"needs a table of shape \(16, 16\)"):
        Multiplier("local:m", f, f, table=np.zeros((16, 8), dtype=int))
    with pytest.raises(TableError, match=r"at most 2\*\*24"):
        Multiplier("local:m", OperandFormat(16, True), OperandFormat(16, True), table=[[0]])
    with pytest.raises(MultiplierIdError):
        Multiplier("not an id", f, f, table=np.zeros((16, 16), dtype=int))


def test_a_bad_entry_is_named_where_the_caller_has_it():
    """Row, column and value of an entry beyond 32 bits are in the caller's own order."""
    table = np.zeros((4, 4), dtype=np.int64)
    table[0, 3] = 1 << 40
    with pytest.raises(TableError, match=rf"row 0, column 3 \(counted from 0\): entry {1 << 40}"):
        Multiplier.from_table(table, name="m", a_signed=True, b_signed=True, order="offset")


# --- from_function ------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a * b if a > 3 else 0,
        lambda a, b: sum(int(a) for _ in range(int(b))),
        lambda a, b: sum(a for _ in range(b)),
    ],
)
def test_a_function_of_single_numbers_is_told(function):
    """A function that cannot take arrays is an error of ours with the way out; others pass."""
    with pytest.raises(InputError, match=r"whole arrays .*np\.where.*np\.vectorize"):
        Multiplier.from_function(function, name="m", a="4u", b="3u")
    made = Multiplier.from_function(
        np.vectorize(function, otypes=[np.int64]), name="m", a="4u", b="3u"
    )
    assert made(5, 3) == 15

    def broken(a, b):
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        Multiplier.from_function(broken, name="m", a="4u", b="3u")


def test_a_function_is_called_on_values():
    """A function sees values in the order activation, weight."""
    m = Multiplier.from_function(
        lambda a, b: 10 * a - b, name="m", a="4s", b=OperandFormat(3, False)
    )
    assert m(-8, 7) == -87
    assert [m(a, b) for a, b in ((7, 0), (0, 7))] == [70, -7]


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda a, b: a * 0.5, "must return integers of shape"),
        (lambda a, b: np.int64(1), "must return integers of shape"),
        (lambda a, b: (a * b).T[:1], "must return integers of shape"),
        (lambda a, b: a * b > 3, "must return integers of shape"),
        (lambda a, b: a * b + (1 << 31), "beyond"),
        (lambda a, b: np.full(a.shape, 2**64 - 1, dtype=np.uint64), "beyond"),
    ],
)
def test_functions_that_return_something_else_are_refused(function, text):
    """Wrong types, shapes and sizes of what a function returns are refused by its name."""
    with pytest.raises(InputError, match=f"'m' .*{text}"):
        Multiplier.from_function(function, name="m", a="4u", b="3u")


@pytest.mark.parametrize("formats", [{"a": 8, "b": "8u"}, {"a": "8u", "b": None}])
def test_functions_need_operand_formats(formats):
    """Anything else than a format or its text is refused."""
    with pytest.raises(InputError, match="is not an operand format"):
        Multiplier.from_function(lambda a, b: a * b, name="m", **formats)


def test_a_wide_function_needs_a_fingerprint():
    """Without a table nothing else identifies it; beyond its bound it is refused when called."""
    with pytest.raises(InputError, match="pass fingerprint="):
        Multiplier.from_function(lambda a, b: a * b, name="m", a="16u", b="16u")
    m = Multiplier.from_function(
        lambda a, b: a * b + (1 << 40), name="m", a="16u", b="16u", fingerprint="f"
    )
    with pytest.raises(InputError, match="beyond"):
        m(1, 1)


# --- modifiers ----------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), [("8u", "8u"), ("8s", "8s"), ("5u", "3s")])
def test_swap_exchanges_the_operands(a, b):
    """m.swap()(x, w) is m(w, x); formats are exchanged and the table transposed."""
    m = random_multiplier(a, b)
    s = m.swap()
    assert (s.a, s.b, s.id) == (m.b, m.a, "local:odd+swap")
    assert (s.table == m.table.T).all()
    assert s(m.b.min, m.a.max) == m(m.a.max, m.b.min)
    assert s != m


@pytest.mark.parametrize(("a", "b"), [("8u", "8u"), ("8s", "8s"), ("5u", "3s")])
def test_zerogate_clears_zero_operands_only(a, b):
    """A zero operand gives zero, everything else is as it was."""
    m = random_multiplier(a, b)
    z = m.zerogate()
    assert (m(0, 0), z(0, 0)) == (64, 0)
    assert not z.table[0].any()
    assert not z.table[:, 0].any()
    assert (z.table[1:, 1:] == m.table[1:, 1:]).all()
    assert z.preserves_zero
    assert z.id == "local:odd+zerogate"


def magnitude_product(m: Multiplier, x: int, w: int) -> int:
    """Sign-magnitude by hand: magnitudes saturate at the circuit's largest value."""
    product_ = int(m.table[min(abs(x), m.a.max), min(abs(w), m.b.max)])
    return -product_ if (x < 0) != (w < 0) else product_


@pytest.mark.parametrize("bits", [2, 7, 8, 9])
def test_signmag_of_both_operands(bits):
    """Magnitudes enter the circuit and the signs join, for every code up to 9 bits.

    At 9 bits the single code -256 saturates at 255; at 8 bits -128 enters as 128.
    """
    m = random_multiplier("8u", "8u")
    s = m.signmag("both", bits)
    assert (str(s.a), str(s.b), s.id) == (f"{bits}s", f"{bits}s", f"local:odd+signmag(both,{bits})")
    codes = np.arange(s.a.min, s.a.max + 1)
    found = s(codes[:, None], codes[None, :])
    assert found.tolist() == [[magnitude_product(m, x, w) for w in codes] for x in codes]


@pytest.mark.parametrize("bits", [2, 8, 9])
def test_signmag_of_weights_keeps_the_activation(bits):
    """Only the weight gets a sign; the activation stays what it is."""
    m = random_multiplier("8u", "8u")
    s = m.signmag("weights", bits)
    assert (s.a, str(s.b)) == (m.a, f"{bits}s")
    acts, codes = np.arange(256), np.arange(s.b.min, s.b.max + 1)
    found = s(acts[:, None], codes[None, :])
    assert found.tolist() == [[magnitude_product(m, x, w) for w in codes] for x in acts]


def test_signmag_of_the_most_negative_codes():
    """-128 has the magnitude 128 in 8 bits, and 9-bit -256 saturates at 255."""
    m = exact(8, False)
    assert m.signmag("both")(-128, -128) == 16384
    assert m.signmag("both", 9)(-256, 1) == -255
    assert m.signmag("weights")(255, -128) == -32640
    assert m.signmag("weights").id == "exact:8u+signmag(weights,8)"
    assert exact(16, False).signmag("both")(-32768, -32768) == 1 << 30


def test_signmag_zero_has_no_sign():
    """Zero counts as positive: T[0, w] joins the sign of the other operand only."""
    m = random_multiplier("8u", "8u")
    s = m.signmag("both", 8)
    assert s(0, 0) == 64
    assert s(0, -5) == -m(0, 5)
    assert s(-5, 0) == -m(5, 0)


def test_modifiers_stack_in_their_order():
    """swap, then signmag, then zerogate, each on what is inside."""
    m = random_multiplier("8u", "8u")
    all_three = m.swap().signmag("weights", 8).zerogate()
    assert all_three.id == "local:odd+swap+signmag(weights,8)+zerogate"
    assert all_three(200, -100) == -m(100, 200)
    assert all_three(0, -100) == 0


@pytest.mark.parametrize(
    "modify",
    [
        lambda m: m.zerogate().swap(),
        lambda m: m.zerogate().zerogate(),
        lambda m: m.swap().swap(),
        lambda m: m.signmag("both").swap(),
        lambda m: m.zerogate().signmag("both"),
    ],
)
def test_modifiers_out_of_order_are_refused(modify):
    """A second modifier of a kind, or one too late, has no id and is refused."""
    with pytest.raises(InputError, match="in the order"):
        modify(exact(8, False))


@pytest.mark.parametrize(
    ("m", "args", "text"),
    [
        (exact(8), ("both",), "has a signed operand already"),
        (exact(8, False, b_signed=True), ("weights",), "has a signed operand already"),
        (exact(8, False), ("activations",), "target must be"),
        (exact(8, False), ("both", 10), "signmag takes 2 to 9 bits"),
        (exact(8, False), ("both", 1), "signmag takes 2 to 9 bits"),
        (exact(8, False, b_bits=4), ("weights", 6), "signmag takes 2 to 5 bits"),
        (exact(4, False, b_bits=8), ("both", 6), "signmag takes 2 to 5 bits"),
        (exact(16, False), ("both", 17), "signmag takes 2 to 16 bits"),
    ],
)
def test_wrappers_that_do_not_fit_are_refused(m, args, text):
    """A signed circuit, an unknown target and codes wider than the circuit are refused."""
    with pytest.raises(InputError, match=text):
        m.signmag(*args)


def test_the_default_width_of_a_wrapper_fits():
    """Unless given, the codes are as wide as the circuit, for both operands as the narrower."""
    for a, b in ((4, 8), (8, 4)):
        m = exact(a, False, b_bits=b)
        assert str(m.signmag("both").a) == str(m.signmag("both").b) == "4s"
        assert m.signmag("weights").b.bits == b


def test_a_wrapper_may_sign_one_operand_of_a_mixed_circuit():
    """Weights may be wrapped where only the activation is signed."""
    m = exact(8, True, b_bits=4, b_signed=False).signmag("weights", 5)
    assert m(-128, -15) == 1920


def test_wide_modifiers_work_on_values_and_have_their_own_identity():
    """Modified wide circuits evaluate, differ from each other, and equal themselves."""
    m = Multiplier.from_function(
        lambda a, b: 2 * a + b, name="m", a="16u", b="12u", fingerprint="2a+b"
    )
    assert m.swap()(4095, 65535) == 2 * 65535 + 4095
    assert m.zerogate()([0, 1], 5).tolist() == [0, 7]
    assert m.signmag("weights", 12)(65535, -2048) == -(131070 + 2048)
    made = [m, m.swap(), m.zerogate(), m.signmag("weights", 12), m.signmag("weights", 13)]
    assert len(set(made)) == len(made)
    assert m.swap() == m.swap()


def test_modifiers_keep_where_a_circuit_comes_from():
    """Hardware and provenance are those of the circuit inside."""
    hardware, provenance = Hardware(power_mw=0.4), Provenance(licence="MIT")
    m = Multiplier.from_table(
        odd_table(), name="m", hardware=hardware, provenance=provenance
    ).swap()
    assert (m.hardware, m.provenance) == (hardware, provenance)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.data(), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_any_modifier_equals_its_definition(data, bits_a, bits_b, seed):
    """On any small unsigned circuit each modifier is its one-line definition."""
    m = Multiplier.from_table(odd_table(bits_a, bits_b, seed), name="m")
    x, w = (data.draw(st.integers(f.min, f.max)) for f in (m.a, m.b))
    assert m.swap()(w, x) == m(x, w)
    assert m.zerogate()(x, w) == (m(x, w) if x and w else 0)
    bits = data.draw(st.integers(2, min(bits_a, bits_b) + 1))
    s = m.signmag("both", bits)
    x, w = (data.draw(st.integers(s.a.min, s.a.max)) for _ in range(2))
    assert s(x, w) == magnitude_product(m, x, w)


# --- being an object ----------------------------------------------------------------


@pytest.mark.parametrize(
    "m",
    [
        exact(8),
        exact(16),
        random_multiplier("8u", "4s"),
        random_multiplier("8u", "8u").swap().signmag("both", 9).zerogate(),
        exact(16, False).swap(),
    ],
    ids=lambda m: m.id,
)
def test_pickling_keeps_everything(m):
    """Id, identity, formats and products survive pickling; copies are the object itself."""
    again = pickle.loads(pickle.dumps(m))
    assert again is not m
    assert (again, again.id, again.identity) == (m, m.id, m.identity)
    assert again(m.a.min, m.b.max) == m(m.a.min, m.b.max)
    assert copy.deepcopy(m) is m
    assert copy.copy(m) is m


def test_pickling_keeps_hardware_provenance_and_printed_metrics():
    """What a source said about a circuit survives pickling."""
    f = OperandFormat(4, False)
    m = Multiplier(
        "lib:r/m",
        f,
        f,
        table=odd_table(4, 4),
        hardware=Hardware(0.1, 2.0, 3.0, "45 nm"),
        provenance=Provenance(source="lib", notes=("a",)),
        printed={"mae": "1.5"},
    )
    again = pickle.loads(pickle.dumps(m))
    assert (again.hardware, again.provenance, again.printed) == (
        m.hardware,
        m.provenance,
        m.printed,
    )


@pytest.mark.parametrize(
    "table",
    [
        [[0, 255], [0, 0]],
        [[-128, 127], [0, 0]],
        [[0, 65535], [0, 0]],
        [[-32768, 32767], [0, 0]],
        [[-1, 255], [0, 0]],
        [[-(1 << 31), (1 << 31) - 1], [0, 0]],
    ],
)
def test_pickles_are_small_and_lossless(table):
    """Entries at the ends of every integer type survive the type that a pickle narrows to."""
    m = Multiplier.from_table(table, name="m")
    again = pickle.loads(pickle.dumps(m))
    assert again.table.tolist() == table
    assert again.table.dtype == np.int32


def test_an_exact_8u_pickle_takes_two_bytes_an_entry():
    """A pickle holds the smallest integer type, not int32."""
    assert len(pickle.dumps(exact(8, False))) < 2 * 65536 + 2000


def test_a_pickle_opens_in_a_fresh_process(tmp_path):
    """Another process that knows nothing opens a pickle and finds the same products."""
    made = [random_multiplier("8u", "4s").zerogate(), exact(16)]
    (tmp_path / "m.pickle").write_bytes(pickle.dumps(made))
    code = (
        "import pickle\n"
        "for m in pickle.load(open('m.pickle', 'rb')):\n"
        "    print(m.id, m.identity, m(m.a.max, m.b.min))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    ).stdout
    assert out.splitlines() == [f"{m.id} {m.identity} {m(m.a.max, m.b.min)}" for m in made]


def test_a_person_can_read_the_repr():
    """Id, formats, errors and power stand in the repr; exact circuits say so."""
    assert repr(exact(8)) == "<Multiplier exact:8s: 8s x 8s, exact>"
    m = Multiplier.from_table(
        np.outer(range(256), range(256)) + 2, name="m", hardware=Hardware(power_mw=0.42)
    )
    assert repr(m) == "<Multiplier local:m: 8u x 8u, MAE 2 (0.0031 %), WCE 2, 0.42 mW>"


def test_max_abs_is_the_largest_size():
    """The largest absolute product, negative ones included."""
    assert exact(8).max_abs == 16384
    assert Multiplier.from_table([[-9, 3], [1, 2]], name="m").max_abs == 9


def test_a_multiplier_is_a_circuit():
    """Multipliers nest: they have a source hash and evaluate."""
    assert isinstance(exact(8), Circuit)
    assert len(exact(8).source_sha256) == 64


def test_shapes_that_do_not_broadcast_are_an_error() -> None:
    """Operands whose shapes do not fit are refused by name, not by numpy."""
    with pytest.raises(InputError, match=r"\(2,\) and \(3,\) do not broadcast"):
        exact(8)([1, 2], [1, 2, 3])
