"""The reference backend passes the kit that every other backend must pass."""

from __future__ import annotations

from approxhub.backends import Backend, ReferenceBackend
from approxhub.testing import BackendConformance


class TestReference(BackendConformance):
    """The contract of a backend, on the CPU."""

    def make_backend(self) -> Backend:
        """Return the reference."""
        return ReferenceBackend()
