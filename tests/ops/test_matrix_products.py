"""ah.linear and ah.bmm against loops over a table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import approxhub as ah
from approxhub.errors import InputError, OperandRangeError
from approxhub.multiplier import Multiplier

TABLE = np.random.default_rng(3).integers(-30000, 30000, (256, 256))
TABLE[0, 0] = 64
M = Multiplier.from_table(TABLE, name="odd", a_signed=False, b_signed=True)


def _operands(a_shape, b_shape):
    rng = np.random.default_rng(4)
    return rng.integers(0, 256, a_shape), rng.integers(-128, 128, b_shape)


@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [
        ((2, 3, 4), (2, 4, 5)),
        ((5, 1, 147), (5, 147, 2)),
        ((1, 3, 1), (1, 1, 3)),
        ((0, 3, 4), (0, 4, 5)),
        ((2, 0, 4), (2, 4, 5)),
        ((2, 3, 0), (2, 0, 5)),
    ],
    ids=str,
)
def test_bmm_equals_the_loop(a_shape, b_shape):
    """Each pair of matrices is multiplied through the table, the left one being operand a."""
    a, b = _operands(a_shape, b_shape)
    want = np.zeros((a_shape[0], a_shape[1], b_shape[2]), np.int64)
    for k in range(a_shape[2]):
        want += TABLE[a[:, :, k, None], b[:, k, None, :] & 255]
    got = ah.bmm(torch.from_numpy(a), torch.from_numpy(b), M)
    assert got.dtype == torch.int32
    np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 7)], ids=str)
def test_linear_equals_the_loop(shape):
    """Rows of the weight are outputs, and the activation is operand a."""
    x, w = _operands(shape, (4, 7))
    want = TABLE[x[..., None, :], w & 255].sum(-1)
    got = ah.linear(torch.from_numpy(x), torch.from_numpy(w), M)
    np.testing.assert_array_equal(got.numpy(), want)


def test_exported():
    """All integer products are names of the package."""
    names = ["bmm", "linear", "matmul", "conv1d", "conv2d", "conv3d",
             "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]  # fmt: skip
    assert all(getattr(ah, n) is getattr(ah.functional, n) for n in names)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda z: ah.bmm(z(2, 3, 4), z(2, 5, 4), M), InputError, r"\(2, 3, 4\) x \(2, 5, 4\)"),
        (lambda z: ah.bmm(z(2, 3, 4), z(3, 4, 4), M), InputError, "bmm takes"),
        (lambda z: ah.bmm(z(3, 4), z(4, 4), M), InputError, "bmm takes"),
        (lambda z: ah.bmm(z(1, 1, 1).float(), z(1, 1, 1), M), InputError, "integers"),
        (lambda z: ah.bmm(z(1, 1, 1) - 1, z(1, 1, 1), M), OperandRangeError, "operand a"),
        (lambda z: ah.linear(z(4), z(4), M), InputError, "linear takes"),
        (lambda z: ah.linear(z(3, 4), z(2, 5), M), InputError, "matmul takes"),
        (lambda z: ah.linear(z(3, 4), [1], M), InputError, "list"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, says):
    """Shapes, types and values that do not fit are refused with what would."""
    with pytest.raises(error, match=says):
        call(lambda *shape: torch.zeros(shape, dtype=torch.int64))
