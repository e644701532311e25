"""Backends that tests make up, and none of what they prepared left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from approxhub.backends import clear_prepared
from approxhub.plugins import BackendInfo, hookimpl, host


@pytest.fixture(autouse=True)
def _built_in_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("APPROXHUB_DISABLE_PLUGINS", "all")  # what happens to be installed
    clear_prepared()
    yield
    clear_prepared()


@pytest.fixture
def offer() -> Callable[..., None]:
    """Register backends as one plug-in: ``offer("plugin", BackendInfo(...), ...)``."""

    def register(plugin: str, *infos: BackendInfo) -> None:
        hook = hookimpl(lambda: list(infos))
        host().register(SimpleNamespace(approxhub_backends=hook), plugin)

    return register
