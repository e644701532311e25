"""Chooses the backend for a request, and keeps what backends prepare."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from approxhub.backends.protocol import Backend, GemmRequest
from approxhub.errors import BackendUnavailableError
from approxhub.multiplier import Multiplier
from approxhub.plugins import BackendInfo, PluginHost, host
from approxhub.plugins.host import cause_of

__all__ = ["available_backends", "choose", "clear_prepared", "prepared_for", "use_backend"]

_PREPARED_LIMIT = 64

_forced: ContextVar[str | None] = ContextVar("approxhub_backend", default=None)
_lock = threading.RLock()
_loaded: dict[str, tuple[PluginHost, BackendInfo, Backend | None, str | None]] = {}
# With the backend that made it: another one of the same name may come later.
_prepared: OrderedDict[tuple[str, str, str], tuple[Backend, Any]] = OrderedDict()


def _load(info: BackendInfo) -> tuple[Backend | None, str | None]:
    """The backend of `info`, or None and why not; asked once per process."""
    plugins = host()
    with _lock:
        known = _loaded.get(info.name)
        if known is not None and known[0] is plugins and known[1] == info:
            return known[2:]
        backend: Backend | None = None
        try:
            backend = info.load()
            reason = "its load() returned None" if backend is None else None
            missing = [n for n in _METHODS if not callable(getattr(backend, n, None))]
            if backend is not None and missing:
                reason = f"it lacks {', '.join(missing)}"
            if backend is not None and reason is None:
                reason = backend.unavailable_reason()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # third-party code: the cause becomes its row
            reason = cause_of(error)
        _loaded[info.name] = (plugins, info, None if reason else backend, reason)
        return _loaded[info.name][2:]


_METHODS = ("unavailable_reason", "supports", "cost", "prepare", "gemm")


def available_backends() -> list[tuple[BackendInfo, str | None]]:
    """Every backend with the reason why it is unavailable, or None if it can be used."""
    return [(info, _load(info)[1]) for info in host().all("approxhub_backends", BackendInfo)]


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run all products in this context on one backend.

    Parameters
    ----------
    name : str
        A name that ``approxhub backends`` lists. ``APPROXHUB_BACKEND`` does the same for a
        whole process.

    Raises
    ------
    BackendUnavailableError
        If it cannot run here; the message has the reason.
    NotFoundError
        If there is no such backend.

    Examples
    --------
    >>> import approxhub as ah
    >>> with ah.use_backend("reference"):
    ...     pass
    """
    _require(name)
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def _require(name: str) -> tuple[BackendInfo, Backend]:
    info = host().get("approxhub_backends", BackendInfo, name)
    backend, reason = _load(info)
    if backend is None:
        raise BackendUnavailableError(f"backend {name!r} is unavailable: {reason}")
    return info, backend


def _fits(info: BackendInfo, request: GemmRequest) -> bool:
    return info.device_type in ("any", request.device.type)


def choose(request: GemmRequest) -> tuple[str, Backend]:
    """Name and backend for a request: the forced one, else the cheapest that supports it.

    Raises
    ------
    BackendUnavailableError
        If none supports the request, or the forced one does not.
    """
    forced = _forced.get() or os.environ.get("APPROXHUB_BACKEND") or None
    if forced:
        info, backend = _require(forced)
        if not _fits(info, request) or not backend.supports(request):
            raise BackendUnavailableError(
                f"backend {forced!r} was asked for, but it does not support {_describe(request)}"
            )
        return forced, backend
    best: tuple[float, int, str, Backend] | None = None
    for info in host().all("approxhub_backends", BackendInfo):
        if not _fits(info, request):
            continue
        candidate = _load(info)[0]
        cost = None if candidate is None else _cost(info, candidate, request)
        if candidate is None or cost is None:
            continue
        key = (cost, -info.priority, info.name)
        if best is None or key < best[:3]:
            best = (*key, candidate)
    if best is None:
        raise BackendUnavailableError(
            f"no backend supports {_describe(request)}; see 'approxhub backends'"
        )
    return best[2], best[3]


def _cost(info: BackendInfo, backend: Backend, request: GemmRequest) -> float | None:
    """Its estimate, or None if it does not support the request; one that raises is out."""
    try:
        if not backend.supports(request):
            return None
        cost = float(backend.cost(request))
        if math.isfinite(cost):
            return cost
        reason = f"its cost() returned {cost}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # third-party code: the others can still do it
        reason = f"supports() or cost() raised {cause_of(error)}"
    plugins = host()
    with _lock:
        _loaded[info.name] = (plugins, info, None, reason)
    return None


def _describe(request: GemmRequest) -> str:
    m = request.multiplier
    return (
        f"{m.id} ({m.a} x {m.b}) on {request.device.type}, "
        f"({request.m}, {request.k}) x ({request.k}, {request.n}) to {request.dtype}"
    )


def prepared_for(name: str, backend: Backend, multiplier: Multiplier, device: torch.device) -> Any:
    """What `backend` prepared for a multiplier on a device, made once and kept.

    The cache holds the 64 most recently used; the rest are made again when needed.
    """
    key = (name, multiplier.identity, str(device))
    with _lock:
        if key in _prepared and _prepared[key][0] is backend:
            _prepared.move_to_end(key)
            return _prepared[key][1]
        made = backend.prepare(multiplier, device)
        _prepared[key] = (backend, made)
        _prepared.move_to_end(key)
        while len(_prepared) > _PREPARED_LIMIT:
            _prepared.popitem(last=False)
        return made


def clear_prepared() -> None:
    """Free all prepared tables and forget which backends were loaded."""
    with _lock:
        _prepared.clear()
        _loaded.clear()
