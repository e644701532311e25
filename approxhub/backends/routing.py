"""Chooses the backend for a request, and keeps what backends prepare."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from approxhub.backends.patches import convolve_patches, padded
from approxhub.backends.protocol import Backend, ConvRequest, GemmRequest, RealNumbers
from approxhub.errors import BackendUnavailableError, PluginError
from approxhub.multiplier import Multiplier
from approxhub.plugins import BackendInfo, PluginHost, host
from approxhub.plugins.guard import guarded
from approxhub.plugins.host import cause_of

__all__ = [
    "available_backends",
    "choose",
    "clear_prepared",
    "estimate",
    "forced_backend",
    "prepared_for",
    "real_numbers",
    "run_conv",
    "run_gemm",
    "use_backend",
]

Request = GemmRequest | ConvRequest

_PREPARED_LIMIT = 64
_CHOICES_LIMIT = 4096
_COPY = 2e-9  # seconds to copy one code into a patch

_forced: ContextVar[str | None] = ContextVar("approxhub_backend", default=None)
_lock = threading.RLock()
_loaded: dict[str, tuple[PluginHost, BackendInfo, Backend | None, str | None]] = {}
# With the backend that made it: another one of the same name may come later.
_prepared: OrderedDict[tuple[str, str, str], tuple[Backend, Any]] = OrderedDict()
# What was chosen for equal requests: it holds until plug-ins or `_loaded` change.
_choices: dict[tuple[Any, ...], _Choice] = {}
_real: dict[tuple[str, str | None], tuple[tuple[PluginHost, int, int], RealNumbers | None]] = {}
_changes = 0  # of `_loaded`


class _Choice(NamedTuple):
    """What was chosen for a request, and when."""

    when: tuple[PluginHost, int, int]
    name: str
    backend: Backend
    convolves: bool  # itself, not as a product of patches
    shape: tuple[int, ...]  # of the result of a convolution


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
        _remember(info, (plugins, info, None if reason else backend, reason))
        return _loaded[info.name][2:]


def _remember(
    info: BackendInfo, loaded: tuple[PluginHost, BackendInfo, Backend | None, str | None]
) -> None:
    global _changes
    _loaded[info.name] = loaded
    _changes += 1


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


def forced_backend() -> str | None:
    """Name of the backend that must be taken here, if one must."""
    return _forced.get() or os.environ.get("APPROXHUB_BACKEND") or None


def _require(name: str) -> tuple[BackendInfo, Backend]:
    info = host().get("approxhub_backends", BackendInfo, name)
    backend, reason = _load(info)
    if backend is None:
        raise BackendUnavailableError(f"backend {name!r} is unavailable: {reason}")
    return info, backend


def _fits(info: BackendInfo, request: Request) -> bool:
    return info.device_type in ("any", request.device.type)


def choose(request: Request) -> tuple[str, Backend]:
    """Name and backend for a request: the forced one, else the cheapest that supports it.

    Raises
    ------
    BackendUnavailableError
        If none supports the request, or the forced one does not.
    """
    choice = _chosen(request)
    return choice.name, choice.backend


def _chosen(request: Request) -> _Choice:
    forced, plugins = forced_backend(), host()
    now = (plugins, plugins.generation, _changes)  # before anything is asked
    key = (*_key(request), forced, torch.get_num_threads())
    known = _choices.get(key)
    if known is not None and known.when == now:
        return known
    name, backend = _choose(request, forced)
    choice = _Choice(now, name, backend, False, ())
    if isinstance(request, ConvRequest):
        with guarded(f"backend {name!r}", _WITHOUT):
            convolves = _convolves(backend, request)
        choice = choice._replace(convolves=convolves, shape=request.output_shape)
    with _lock:
        if len(_choices) >= _CHOICES_LIMIT:
            _choices.clear()
        _choices[key] = choice
    return choice


def _key(request: Request) -> tuple[Any, ...]:
    """All of a request, with the multiplier's content in place of its table."""
    r = request
    shape = (r.m, r.k, r.n) if isinstance(r, GemmRequest) else (r.x_shape, r.w_shape, r.convolution)
    return (r.multiplier.identity, *shape, r.device, r.dtype)


def _choose(request: Request, forced: str | None) -> tuple[str, Backend]:
    if forced:
        info, backend = _require(forced)
        if not _fits(info, request) or not _can(backend, request):
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


def _convolves(backend: Backend, request: ConvRequest) -> bool:
    """Whether it does this convolution itself, not as a product of patches."""
    return callable(getattr(backend, "conv", None)) and backend.supports(request)  # type: ignore[arg-type]


def _can(backend: Backend, request: Request) -> bool:
    if isinstance(request, GemmRequest):
        return backend.supports(request)
    return _convolves(backend, request) or backend.supports(request.gemm)


def _seconds(backend: Backend, request: Request) -> float:
    if isinstance(request, GemmRequest):
        return float(backend.cost(request))
    if _convolves(backend, request):
        return float(backend.cost(request))  # type: ignore[arg-type]
    patches = request.gemm.m * request.gemm.k * request.convolution.groups
    return request.convolution.groups * float(backend.cost(request.gemm)) + patches * _COPY


def _cost(info: BackendInfo, backend: Backend, request: Request) -> float | None:
    """Its estimate, or None if it does not support the request; one that raises is out."""
    try:
        if not _can(backend, request):
            return None
        cost = _seconds(backend, request)
        if math.isfinite(cost):
            return cost
        reason = f"its cost() returned {cost}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # third-party code: the others can still do it
        reason = f"supports() or cost() raised {cause_of(error)}"
    plugins = host()
    with _lock:
        _remember(info, (plugins, info, None, reason))
    return None


def estimate(name: str, request: Request) -> float | None:
    """Seconds that the backend of that name expects to take, or None if it cannot do it."""
    info = host().get("approxhub_backends", BackendInfo, name)
    backend = _load(info)[0]
    if backend is None or not _fits(info, request):
        return None
    return _cost(info, backend, request)


def _describe(request: Request) -> str:
    m = request.multiplier
    if isinstance(request, GemmRequest):
        size = f"({request.m}, {request.k}) x ({request.k}, {request.n})"
    else:
        size = f"convolution of {request.x_shape} with {request.w_shape}"
    return f"{m.id} ({m.a} x {m.b}) on {request.device.type}, {size} to {request.dtype}"


def run_gemm(request: GemmRequest, a: Tensor, b: Tensor) -> Tensor:
    """Do a product on the backend chosen for it, and check what comes back."""
    name, backend = choose(request)
    with guarded(f"backend {name!r}", _WITHOUT):
        prepared = prepared_for(name, backend, request.multiplier, request.device)
        out = backend.gemm(a, b, prepared, request.dtype)
    return _checked(name, out, (*a.shape[:-1], request.n), request)


def run_conv(request: ConvRequest, x: Tensor, w: Tensor, pad: Tensor | None = None) -> Tensor:
    """Do a convolution on the backend chosen for it, and check what comes back.

    `pad` is the padding's value where only the device knows it. A backend that takes it from there
    is given it; for the others the image is padded before.
    """
    _, name, backend, convolves, shape = _chosen(request)
    c = request.convolution
    if pad is not None:
        c = replace(c, pad=pad)
        if not (convolves and getattr(backend, "reads_pad", False)):
            x = padded(x, c)
            c = replace(c, padding=((0, 0),) * len(c.padding), pad=None)
            return run_conv(replace(request, x_shape=tuple(x.shape), convolution=c), x, w)
    with guarded(f"backend {name!r}", _WITHOUT):
        prepared = prepared_for(name, backend, request.multiplier, request.device)
        if convolves:
            out = backend.conv(x, w, prepared, request.dtype, c)  # type: ignore[attr-defined]
        else:
            out = convolve_patches(
                x, w, c, request.dtype,
                lambda a, b: backend.gemm(a, b, prepared, request.dtype),
            )  # fmt: skip
    return _checked(name, out, shape, request)


_WITHOUT = "leave it out with APPROXHUB_BACKEND=reference"


def _checked(name: str, out: object, shape: tuple[int, ...], request: Request) -> Tensor:
    if not isinstance(out, Tensor):
        raise PluginError(f"backend {name!r} returned {type(out).__name__}, not a tensor")
    if tuple(out.shape) != shape or out.dtype != request.dtype or out.device != request.device:
        raise PluginError(
            f"backend {name!r} returned {out.dtype} of shape {tuple(out.shape)} on {out.device}, "
            f"not {request.dtype} of shape {shape} on {request.device}"
        )
    return out.contiguous()  # as the fake kernels promise to compiled code


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


def real_numbers(device_type: str) -> RealNumbers | None:
    """A backend that quantises on a type of device: the forced one, else the first that can.

    None where there is none, or the forced one does not.
    """
    forced, plugins = forced_backend(), host()
    now = (plugins, plugins.generation, _changes)  # before anything is asked
    key = (device_type, forced)
    known = _real.get(key)
    if known is not None and known[0] == now:
        return known[1]
    found: RealNumbers | None = None
    for info in host().all("approxhub_backends", BackendInfo):
        if info.device_type == device_type and forced in (None, info.name):
            backend: object = _load(info)[0]
            if isinstance(backend, RealNumbers):
                found = backend
                break
    _real[key] = (now, found)
    return found


def clear_prepared() -> None:
    """Free all prepared tables and forget which backends were loaded."""
    global _changes
    with _lock:
        _prepared.clear()
        _loaded.clear()
        _choices.clear()
        _real.clear()
        _changes += 1
