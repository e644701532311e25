"""The contract of backends, on the kernels: on the host by emulation, and on a card."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from approxhub_cuda.backend import CudaBackend
from approxhub_cuda.native import Library

from approxhub.testing import BackendConformance


@pytest.mark.slow
class TestEmulated(BackendConformance):
    """Every clause, with the ways that the planner takes."""

    way: ClassVar[str | None] = None
    built: ClassVar[Path]

    # Millions of products, in one sum or in many, take minutes here; the class below has them.
    test_sums_beyond_float64 = None
    test_sums_at_the_bounds_of_int32 = None

    @pytest.fixture(autouse=True)
    def _built(self, kernels: Path) -> None:
        type(self).built = kernels

    def make_backend(self) -> CudaBackend:
        """The backend on the host."""
        return CudaBackend(Library(str(self.built)), self.way)


class TestEmulatedCached(TestEmulated):
    """Every clause, with products looked up in the whole table through the caches."""

    way = "cached"
    test_sums_beyond_float64 = BackendConformance.test_sums_beyond_float64
    test_sums_at_the_bounds_of_int32 = BackendConformance.test_sums_at_the_bounds_of_int32


class TestEmulatedFactored(TestEmulated):
    """Every clause, on the matrix units wherever a table has factors."""

    way = "factored"


@pytest.mark.gpu
@pytest.mark.slow
class TestCard(BackendConformance):
    """Every clause, on a card."""

    device = "cuda"

    @pytest.fixture(autouse=True)
    def _card(self) -> None:
        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA card")

    def make_backend(self) -> CudaBackend:
        """The installed backend."""
        return CudaBackend()
