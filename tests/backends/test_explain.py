"""What would run a product, and why."""

import pytest
import torch

import approxhub as ah
from approxhub.backends.native import load_library
from approxhub.errors import BackendUnavailableError, InputError

S8 = ah.exact(8, signed=True)


@pytest.fixture
def engine():
    """The native engine, or a skip where it was not built."""
    try:
        return load_library()
    except BackendUnavailableError as error:
        pytest.skip(str(error))


def test_it_names_the_backend_that_is_taken():
    """The backend is the one that runs the product; the others come with a reason."""
    with ah.use_backend("reference"):
        told = ah.explain(S8, (2, 3, 5), (5, 7))
    assert told.backend == "reference"
    assert "cpu" in dict(told.others)
    assert str(told).splitlines()[0] == "exact:8s, (6, 5) x (5, 7) on cpu"


def test_the_accumulator_is_proven():
    """int32 up to the last k that fits it, int64 beyond, with the product that decides."""
    k = (2**31 - 1) // S8.max_abs
    for inner, dtype, sign in ((k, "int32", "<="), (k + 1, "int64", ">")):
        told = ah.explain(S8, (1, inner), (inner, 1)).accumulator
        assert told.startswith(f"{dtype}, ")
        assert f"{inner * S8.max_abs} {sign} {2**31 - 1}" in told


def test_the_engine_says_what_it_compared(engine):
    """Instruction set, threads, and every way that could do it."""
    with ah.use_backend("cpu"):
        product = ah.explain("drum:8s/k=4", (256, 1152), (1152, 256)).way
        convolution = ah.explain("drum:8s/k=4", (8, 64, 16, 16), (64, 64, 3, 3), padding=1).way
        tiny = ah.explain(S8, (1, 64, 2, 2), (64, 64, 3, 3), padding=1).way
    isa = list(engine.isas)[-1]
    for way in (product, convolution):
        assert way.startswith(f"{isa}, {torch.get_num_threads()} thread(s)")
        assert "factored (4 int8 products for one)" in way
        assert "lookup" in way
    assert "as a product of patches" in tiny


def test_a_wide_multiplier_is_left_to_the_reference():
    """The engine does not support it, and says so."""
    told = ah.explain("drum:16s/k=4", (4, 8, 9), (6, 8, 3))
    assert told.backend == "reference"
    assert "convolution of (4, 8, 9) with (6, 8, 3)" in told.request


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((2, 3), (4, 5), "matmul takes"),
        ((3,), (3, 5), "matmul takes"),
        ((1, 2, 3, 4), (2,), "one to three dimensions"),
        ((1, 2, 3), (4, 3, 2), "do not fit"),
        ((1, 2, 3), (4, 2, 5), "more than the padded input"),
        ((0, 3), (3, 4), "a size is 0"),
        ((2, 0), (0, 4), "a size is 0"),
        ((0, 3, 8, 8), (4, 3, 3, 3), "a size is 0"),
        ((1, 3, 8, 8), (4, 3, 0, 3), "the kernel has no taps"),
    ],
)
def test_shapes_that_do_not_fit(a, b, message):
    """Shapes that no product has are refused."""
    with pytest.raises(InputError, match=message):
        ah.explain(S8, a, b)
