"""The contract of backends, on the kernels: on the host by emulation, and on a card."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from approxhub_cuda.backend import CudaBackend
from approxhub_cuda.native import Library

from approxhub.testing import BackendConformance


def only(*kinds: str) -> Callable[[type], type]:
    """Leave a class the cases of its clauses that have tables of such a kind."""

    def fewer(kit: type) -> type:
        for name in dir(kit):
            test = getattr(kit, name)
            marks = getattr(test, "pytestmark", [])
            cases = [m for m in marks if m.name == "parametrize" and m.args[0] == "case"]
            if not cases:
                continue
            [case] = cases

            @functools.wraps(test)
            def narrowed(self: Any, test: Any = test, **arguments: Any) -> None:
                test(self, **arguments)

            kept = [c for c in case.args[1] if c.kind in kinds]
            again = pytest.mark.parametrize("case", kept, ids=str).mark
            narrowed.pytestmark = [again if m is case else m for m in marks]  # type: ignore[attr-defined]
            setattr(kit, name, narrowed)
        return kit

    return fewer


@pytest.mark.slow
class TestEmulated(BackendConformance):
    """Every clause, with the ways that the planner takes."""

    way: ClassVar[str | None] = None
    built: ClassVar[Path]

    # Its six million products take a minute here, and its table has entries of 32 bits, for which
    # there is one way whatever is asked for: tests/campaigns/kernels.py has it, once.
    if not os.environ.get("APPROXHUB_TEST_LONG"):
        test_sums_beyond_float64 = None

    @pytest.fixture(autouse=True)
    def _built(self, kernels: Path) -> None:
        type(self).built = kernels

    def make_backend(self) -> CudaBackend:
        """The backend on the host."""
        return CudaBackend(Library(str(self.built)), self.way)


# Other tables go the same way whatever is asked for.
@only("near")
class TestEmulatedCached(TestEmulated):
    """Every clause, with products looked up in the whole table through the caches."""

    way = "cached"
    test_sums_beyond_float64 = None


@only("rank", "exact")
class TestEmulatedFactored(TestEmulated):
    """Every clause, on the matrix units wherever a table has factors."""

    way = "factored"
    test_sums_beyond_float64 = None


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
