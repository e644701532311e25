"""ApproxHub: name an approximate multiplier, and see what it does to a neural network.

Public names are loaded on first use, so that ``import approxhub`` needs neither torch nor h5py.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "ApproxHubError": "approxhub.errors",
    "Multiplier": "approxhub.multiplier",
    "OperandFormat": "approxhub.operands",
    "exact": "approxhub.multiplier",
    "load": "approxhub.registry",
    "hookimpl": "approxhub.plugins",
    "matmul": "approxhub.functional",
    "approximate": "approxhub.model",
    "calibrate": "approxhub.model",
    "mode": "approxhub.model",
    "set_mode": "approxhub.model",
    "set_multiplier": "approxhub.model",
    "summary": "approxhub.model",
    "use_backend": "approxhub.backends",
}
_MODULES = (
    "backends",
    "errors",
    "factorization",
    "functional",
    "model",
    "nn",
    "plugins",
    "quantization",
    "registry",
)

__all__ = ["__version__", *sorted(_HOMES), *_MODULES]

if TYPE_CHECKING:
    from approxhub import nn as nn
    from approxhub.backends import use_backend as use_backend
    from approxhub.errors import ApproxHubError as ApproxHubError
    from approxhub.functional import matmul as matmul
    from approxhub.model import approximate as approximate
    from approxhub.model import calibrate as calibrate
    from approxhub.model import mode as mode
    from approxhub.model import set_mode as set_mode
    from approxhub.model import set_multiplier as set_multiplier
    from approxhub.model import summary as summary
    from approxhub.multiplier import Multiplier as Multiplier
    from approxhub.multiplier import exact as exact
    from approxhub.operands import OperandFormat as OperandFormat
    from approxhub.plugins import hookimpl as hookimpl
    from approxhub.registry import load as load


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"approxhub.{name}")
    raise AttributeError(f"module 'approxhub' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
