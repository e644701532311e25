"""The array is an exact backend wherever sums fit its accumulator, whatever its size."""

from collections.abc import Iterator

import pytest
from approxhub_systolic import SystolicArray, measure
from approxhub_systolic.backend import SystolicBackend

from approxhub.testing import BackendConformance


class TestSystolic(BackendConformance):
    """Every clause, with the array that is there by default."""

    def make_backend(self) -> SystolicBackend:
        """Make the backend to test."""
        return SystolicBackend()


class TestNarrow(TestSystolic):
    """Every clause, with 20 bits and an odd size: what does not fit is skipped, nothing is wrong.

    Convolutions with weights of one channel are left to the wide one.
    """

    @pytest.fixture(autouse=True)
    def _narrow(self) -> Iterator[None]:
        with measure(SystolicArray(rows=3, columns=5, accumulator_bits=20)):
            yield
