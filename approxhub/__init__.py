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
    "bmm": "approxhub.functional",
    "conv1d": "approxhub.functional",
    "conv2d": "approxhub.functional",
    "conv3d": "approxhub.functional",
    "conv_transpose1d": "approxhub.functional",
    "conv_transpose2d": "approxhub.functional",
    "conv_transpose3d": "approxhub.functional",
    "explain": "approxhub.functional",
    "linear": "approxhub.functional",
    "matmul": "approxhub.functional",
    "read_table": "approxhub.formats",
    "write_table": "approxhub.formats",
    "approximate": "approxhub.model",
    "calibrate": "approxhub.model",
    "capture_statistics": "approxhub.model",
    "compensate": "approxhub.model",
    "eager_checks": "approxhub.reading",
    "fold_batch_norm": "approxhub.model",
    "integer_training": "approxhub.model",
    "mode": "approxhub.model",
    "reestimate_batch_norm": "approxhub.model",
    "set_datapath": "approxhub.model",
    "set_mode": "approxhub.model",
    "set_gradient": "approxhub.model",
    "set_multiplier": "approxhub.model",
    "set_noise": "approxhub.model",
    "summary": "approxhub.model",
    "sensitivity": "approxhub.experiments",
    "sweep": "approxhub.experiments",
    "synchronize_ranges": "approxhub.model",
    "to_integers": "approxhub.model",
    "use_backend": "approxhub.backends",
}
_MODULES = (
    "backends",
    "errors",
    "experiments",
    "factorization",
    "formats",
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
    from approxhub.experiments import sensitivity as sensitivity
    from approxhub.experiments import sweep as sweep
    from approxhub.formats import read_table as read_table
    from approxhub.formats import write_table as write_table
    from approxhub.functional import bmm as bmm
    from approxhub.functional import conv1d as conv1d
    from approxhub.functional import conv2d as conv2d
    from approxhub.functional import conv3d as conv3d
    from approxhub.functional import conv_transpose1d as conv_transpose1d
    from approxhub.functional import conv_transpose2d as conv_transpose2d
    from approxhub.functional import conv_transpose3d as conv_transpose3d
    from approxhub.functional import explain as explain
    from approxhub.functional import linear as linear
    from approxhub.functional import matmul as matmul
    from approxhub.model import approximate as approximate
    from approxhub.model import calibrate as calibrate
    from approxhub.model import capture_statistics as capture_statistics
    from approxhub.model import compensate as compensate
    from approxhub.model import fold_batch_norm as fold_batch_norm
    from approxhub.model import integer_training as integer_training
    from approxhub.model import mode as mode
    from approxhub.model import reestimate_batch_norm as reestimate_batch_norm
    from approxhub.model import set_datapath as set_datapath
    from approxhub.model import set_gradient as set_gradient
    from approxhub.model import set_mode as set_mode
    from approxhub.model import set_multiplier as set_multiplier
    from approxhub.model import set_noise as set_noise
    from approxhub.model import synchronize_ranges as synchronize_ranges
    from approxhub.model import to_integers as to_integers
    from approxhub.model.summary import summary as summary
    from approxhub.multiplier import Multiplier as Multiplier
    from approxhub.multiplier import exact as exact
    from approxhub.operands import OperandFormat as OperandFormat
    from approxhub.plugins import hookimpl as hookimpl
    from approxhub.reading import eager_checks as eager_checks
    from approxhub.registry import load as load


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"approxhub.{name}")
    raise AttributeError(f"module 'approxhub' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
