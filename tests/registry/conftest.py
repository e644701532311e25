"""What the registry's tests need: no factors that an earlier test has made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from approxhub.factorization.cache import forget


@pytest.fixture(autouse=True)
def _no_known_factors() -> Iterator[None]:
    """This process has seen no factors yet: what is made is put into this test's cache."""
    forget()
    yield
    forget()
