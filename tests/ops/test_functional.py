"""Integer matrix products through a multiplier, against slow loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import approxhub as ah
from approxhub.errors import InputError, OperandRangeError, UnknownMultiplierError

S8 = ah.exact(8)


# --- matmul -----------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=60, derandomize=True, deadline=None)
def test_matmul_of_any_widths_and_signs(data):
    """For all operand formats up to 8 bits, sums are those of a loop over m(a, b)."""
    bits = st.integers(1, 8)
    signs = data.draw(st.tuples(st.booleans(), st.booleans()))
    m = _any_table(data.draw(bits), data.draw(bits), *signs)
    rows, k, n = (data.draw(st.integers(0, 4)) for _ in "mkn")

    def matrix(f, height, width):
        row = st.lists(st.integers(f.min, f.max), min_size=width, max_size=width)
        values = data.draw(st.lists(row, min_size=height, max_size=height))
        return torch.tensor(values, dtype=torch.int64).reshape(height, width)

    a, b = matrix(m.a, rows, k), matrix(m.b, k, n)
    want = [
        [sum(m(x, w) for x, w in zip(row, col, strict=True)) for col in b.t().tolist()]
        for row in a.tolist()
    ]
    assert ah.matmul(a, b, m).tolist() == want


def _any_table(a_bits, b_bits, a_signed, b_signed):
    table = [[64 + 7 * x * (y + 3) - 11 * y for y in range(2**b_bits)] for x in range(2**a_bits)]
    return ah.Multiplier.from_table(table, name="any", a_signed=a_signed, b_signed=b_signed)


def test_matmul_takes_values_not_patterns():
    """-1 is the value minus one, whose pattern indexes the table."""
    m = ah.Multiplier.from_table([[64, 1], [2, 3]], name="bit", a_signed=True, b_signed=False)
    assert ah.matmul(torch.tensor([[-1]]), torch.tensor([[0]]), m).tolist() == [[2]]
    with pytest.raises(OperandRangeError, match=r"operand a: value 1 is outside -1..0"):
        ah.matmul(torch.tensor([[1]]), torch.tensor([[0]]), m)
    with pytest.raises(OperandRangeError, match=r"operand b: value -1 is outside 0..1"):
        ah.matmul(torch.tensor([[-1]]), torch.tensor([[-1]]), m)


def test_matmul_operand_order_peers_defect_1(random_multiplier):
    """The left operand is the activation; with the operands exchanged, use +swap."""
    m = random_multiplier(8, 8, False, False)
    a, b = torch.tensor([[5, 250]]), torch.tensor([[9], [17]])
    want = int(m.table[5, 9]) + int(m.table[250, 17])
    assert ah.matmul(a, b, m).item() == want
    assert ah.matmul(b.t(), a.t(), m.swap()).item() == want
    assert ah.matmul(b.t(), a.t(), m).item() != want


@pytest.mark.parametrize("a_shape", [(5,), (3, 5), (2, 3, 5), (2, 1, 3, 5), (0, 5), (2, 0, 5)])
@pytest.mark.parametrize("b_shape", [(5,), (5, 4), (5, 0)])
def test_matmul_shapes_are_those_of_torch(a_shape, b_shape, values):
    """Leading dimensions and one-dimensional operands give the shapes of torch.matmul."""
    a, b = values(S8.a, *a_shape), values(S8.b, *b_shape, seed=1)
    out = ah.matmul(a, b, S8)
    assert torch.equal(out.to(torch.int64), torch.matmul(a, b))


def test_matmul_without_products_is_zero():
    """A sum over nothing is zero, also with T[0][0] = 64."""
    m = ah.Multiplier.from_table([[64, 0], [0, 1]], name="corner")
    out = ah.matmul(torch.zeros(2, 0, dtype=torch.int8), torch.zeros(0, 3, dtype=torch.int8), m)
    assert out.tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    "shapes",
    [((2, 3), (4, 2)), ((3,), (4,)), ((2, 3), (2, 3, 4)), ((), (3, 4)), ((3,), ()), ((4,), (3, 4))],
)
def test_matmul_shapes_that_do_not_fit(shapes):
    """Other shapes are refused with both, as they were passed."""
    a, b = (torch.zeros(s, dtype=torch.int8) for s in shapes)
    with pytest.raises(InputError) as caught:
        ah.matmul(a, b, S8)
    assert f"{shapes[0]} x {shapes[1]}" in str(caught.value)


def test_matmul_of_what_is_no_integer_tensor():
    """Floats, bools, lists and arrays are refused, with the operand's name."""
    ok = torch.zeros(2, 2, dtype=torch.int8)
    for bad in (ok.float(), ok.bool(), [[0, 0], [0, 0]], ok.numpy(), 0):
        with pytest.raises(InputError, match="operand a must"):
            ah.matmul(bad, ok, S8)
        with pytest.raises(InputError, match="operand b must"):
            ah.matmul(ok, bad, S8)


def test_matmul_of_sparse_tensors():
    """Sparse tensors are refused, with the way out."""
    ok = torch.ones(2, 2, dtype=torch.int8)
    with pytest.raises(InputError, match=r"operand a is a sparse tensor .*to_dense"):
        ah.matmul(ok.to_sparse(), ok, S8)
    with pytest.raises(InputError, match="operand b is a sparse tensor"):
        ah.matmul(ok, ok.to_sparse(), S8)


def test_matmul_takes_an_id():
    """Whatever takes a multiplier takes an id; an unknown one is named."""
    a = torch.tensor([[-3]])
    assert ah.matmul(a, a, "exact:8s").item() == 9
    with pytest.raises(UnknownMultiplierError, match="exact:8t"):
        ah.matmul(a, a, "exact:8t")


def test_matmul_accumulates_in_the_smallest_proven_type():
    """The result is int32 as long as K x max|T| fits it, and int64 from the next K on."""
    m = ah.exact(8, signed=False)
    last = (2**31 - 1) // (255 * 255)
    for k, dtype in ((last, torch.int32), (last + 1, torch.int64)):
        a = torch.full((1, k), 255, dtype=torch.uint8)
        out = ah.matmul(a, a.t(), m)
        assert (out.dtype, out.item()) == (dtype, k * 255 * 255)


def test_matmul_without_a_table():
    """16 x 16 bits have a circuit only, and sums beyond 2**53 are exact."""
    bent = ah.Multiplier.from_function(
        lambda a, b: a * b - (a & 1), name="bent", a="16u", b="16s", fingerprint="bent 1"
    )
    a, b = torch.tensor([[65535, 3, 0]]), torch.tensor([[-32768], [32767], [5]])
    assert ah.matmul(a, b, bent).item() == 65535 * -32768 - 1 + 3 * 32767 - 1
    wide = ah.exact(16, signed=False)
    ones = torch.full((1, 2**22 + 1), 65535)
    assert ah.matmul(ones, ones.t(), wide).item() == (2**22 + 1) * 65535**2


def test_matmul_leaves_its_operands(values):
    """Operands are as before, and the result is new memory."""
    a, b = values(S8.a, 3, 4), values(S8.b, 4, 2, seed=1)
    kept = a.clone(), b.clone()
    ah.matmul(a, b, S8).fill_(7)
    assert torch.equal(a, kept[0])
    assert torch.equal(b, kept[1])
