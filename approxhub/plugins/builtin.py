"""What ApproxHub itself brings, through the same hooks as everyone else.

Nothing heavy is imported here: every descriptor loads what it stands for when asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from approxhub.plugins.descriptors import (
    BackendInfo,
    CalibratorInfo,
    GradientInfo,
    LayerConverter,
    MultiplierSource,
)
from approxhub.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from approxhub.backends import Backend
    from approxhub.nn import ApproxLayer, Gradient
    from approxhub.quantization import Calibrator


@hookimpl
def approxhub_multiplier_sources() -> list[MultiplierSource]:
    """EvoApproxLib's index, and the families with closed formulas."""
    from approxhub.families import family_sources
    from approxhub.registry.sources import index_sources

    return [*index_sources(), *family_sources()]


def _reference() -> Backend:
    from approxhub.backends.reference import ReferenceBackend

    return ReferenceBackend()


def _cpu() -> Backend:
    from approxhub.backends.cpu import CpuBackend

    return CpuBackend()


@hookimpl
def approxhub_backends() -> list[BackendInfo]:
    """The native CPU engine, and the plain torch reference on any device."""
    return [BackendInfo("cpu", "cpu", _cpu), BackendInfo("reference", "any", _reference)]


def _linear(layer: Any, multiplier: Any, **options: Any) -> ApproxLayer:
    from approxhub.nn import Linear

    return Linear.from_float(layer, multiplier, **options)


def _conv2d(layer: Any, multiplier: Any, **options: Any) -> ApproxLayer:
    from approxhub.nn import Conv2d

    return Conv2d.from_float(layer, multiplier, **options)


@hookimpl
def approxhub_converters() -> list[LayerConverter]:
    """Linear and Conv2d."""
    return [
        LayerConverter("torch.nn.modules.linear.Linear", _linear),
        LayerConverter("torch.nn.modules.conv.Conv2d", _conv2d),
    ]


def _straight_through() -> Gradient:
    from approxhub.nn.gradients import StraightThrough

    return StraightThrough()


@hookimpl
def approxhub_gradients() -> list[GradientInfo]:
    """The straight-through estimator."""
    return [GradientInfo("straight-through", _straight_through)]


def _minmax() -> Callable[[], Calibrator]:
    from approxhub.quantization.calibrators import MinMax

    return MinMax


def _moving_average() -> Callable[[], Calibrator]:
    from approxhub.quantization.calibrators import MovingAverage

    return MovingAverage


@hookimpl
def approxhub_calibrators() -> list[CalibratorInfo]:
    """Minimum and maximum, and their moving average."""
    return [
        CalibratorInfo("minmax", _minmax),
        CalibratorInfo("moving-average", _moving_average),
    ]
