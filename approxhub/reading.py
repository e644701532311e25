"""When data may be looked at: on a CPU always, on a device where somebody wants to wait for it.

What a device computes is known to Python once the device has come that far. A check of values
that waits for that holds up every layer, and cannot stand inside a CUDA graph. So on a device the
hot path checks nothing, and lets NaN become NaN. Imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ["capturing", "eager_checks", "may_read", "observed", "on_host"]

_eager: ContextVar[bool | None] = ContextVar("approxhub_eager_checks", default=None)


@contextmanager
def eager_checks(on: bool = True) -> Iterator[None]:
    """Let layers look at data on a device too, and wait for it: NaN is an error where it arises.

    On a CPU layers always refuse NaN and infinity, with an error that names the layer. On a device
    they do not wait to find out: whatever meets NaN or infinity becomes NaN, and ranges stay as
    they are. In this context they wait, and raise, but for passes that a CUDA graph captures.
    ``APPROXHUB_EAGER_CHECKS=1`` does the same for a whole process. :func:`approxhub.calibrate`
    always checks.

    Parameters
    ----------
    on : bool
        False lets them not wait again.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> layer = ah.nn.Linear(3, 2, multiplier="exact:8s")
    >>> with ah.eager_checks():
    ...     y = layer(torch.randn(5, 3))
    """
    token = _eager.set(on)
    try:
        yield
    finally:
        _eager.reset(token)


def may_read(t: Tensor) -> bool:
    """Whether a check may look at what a tensor holds."""
    if on_host(t):
        return True
    if t.is_meta or torch.compiler.is_compiling():
        return False
    asked = _eager.get()
    if asked is None:
        asked = os.environ.get("APPROXHUB_EAGER_CHECKS", "") not in ("", "0")
    return asked and not capturing(t)


def on_host(t: Tensor) -> bool:
    """Whether Python can read a tensor without waiting for anything."""
    return t.device.type == "cpu"


def observed(t: Tensor) -> bool:
    """Whether a tensor's memory is not all there is to it: a subclass, a wrapper, a tracer."""
    return (
        torch._C._is_tracing()
        or _get_current_dispatch_mode() is not None
        or type(t) not in (Tensor, torch.nn.Parameter)
        or torch._C._functorch.is_functorch_wrapped_tensor(t)
    )


def capturing(t: Tensor) -> bool:
    """Whether a CUDA graph is being captured on a tensor's device, so that nothing can be read."""
    return t.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
