"""What ApproxHub itself brings, through the same hooks as everyone else.

Nothing heavy is imported here: every descriptor loads what it stands for when asked.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from approxhub.plugins.descriptors import (
    BackendInfo,
    CalibratorInfo,
    GradientInfo,
    HealthCheck,
    LayerConverter,
    MultiplierSource,
    TableFormat,
)
from approxhub.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from approxhub.backends import Backend
    from approxhub.nn import Gradient
    from approxhub.quantization import Calibrator


@hookimpl
def approxhub_multiplier_sources() -> list[MultiplierSource]:
    """The shipped indexes, the families with closed formulas, and the indexes that were added."""
    from approxhub.families import family_sources
    from approxhub.registry.pins import pin_sources
    from approxhub.registry.sources import index_sources

    return [*index_sources(), *family_sources(), *pin_sources()]


@hookimpl
def approxhub_formats() -> list[TableFormat]:
    """Table files: NumPy, HDF5, raw, text, triples, CSV, C arrays and C models."""
    from approxhub.formats.builtin import FORMATS

    return list(FORMATS)


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


_LAYERS = {
    "linear": ("Linear",),
    "conv": (
        "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
    ),
    "rnn": ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"),
    "activation": ("MultiheadAttention",),
}  # fmt: skip
"""Layers by the module of torch.nn that they are in; those of approxhub.nn have their names."""


def _convert(name: str, layer: Any, multiplier: Any, **options: Any) -> Any:
    from approxhub import nn

    return getattr(nn, name).from_float(layer, multiplier, **options)


@hookimpl
def approxhub_converters() -> list[LayerConverter]:
    """Linear, convolutions and transposed ones, recurrent layers and cells, attention."""
    return [
        LayerConverter(f"torch.nn.modules.{module}.{name}", partial(_convert, name))
        for module, names in _LAYERS.items()
        for name in names
    ]


def _straight_through() -> Gradient:
    from approxhub.nn.gradients import StraightThrough

    return StraightThrough()


def _linear_regression() -> Gradient:
    from approxhub.nn.gradients import LinearRegression

    return LinearRegression()


def _one_dimensional_tables() -> Gradient:
    from approxhub.nn.gradients import OneDimensionalTables

    return OneDimensionalTables()


def _two_dimensional_tables() -> Gradient:
    from approxhub.nn.gradients import TwoDimensionalTables

    return TwoDimensionalTables()


def _table_file() -> Gradient:
    from approxhub.nn.gradients import TableFile

    return TableFile()


def _approximate_backward() -> Gradient:
    from approxhub.nn.gradients import ApproximateBackward

    return ApproximateBackward()


@hookimpl
def approxhub_gradients() -> list[GradientInfo]:
    """Straight-through, linear regression, tables, and the backward pass through the circuit."""
    return [
        GradientInfo("straight-through", _straight_through),
        GradientInfo("lre", _linear_regression),
        GradientInfo("table-1d", _one_dimensional_tables),
        GradientInfo("table-2d", _two_dimensional_tables),
        GradientInfo("table", _table_file),
        GradientInfo("approximate-backward", _approximate_backward),
    ]


def _minmax() -> Callable[[], Calibrator]:
    from approxhub.quantization.calibrators import MinMax

    return MinMax


def _moving_average() -> Callable[[], Calibrator]:
    from approxhub.quantization.calibrators import MovingAverage

    return MovingAverage


def _percentile() -> Callable[[], Calibrator]:
    from approxhub.quantization.narrowing import Percentile

    return Percentile


def _squared_error() -> Callable[[], Calibrator]:
    from approxhub.quantization.narrowing import SquaredError

    return SquaredError


def _entropy() -> Callable[[], Calibrator]:
    from approxhub.quantization.narrowing import Entropy

    return Entropy


@hookimpl
def approxhub_calibrators() -> list[CalibratorInfo]:
    """Minimum and maximum, their moving average, percentiles, least squared error, entropy."""
    return [
        CalibratorInfo("minmax", _minmax),
        CalibratorInfo("moving-average", _moving_average),
        CalibratorInfo("percentile", _percentile),
        CalibratorInfo("mse", _squared_error),
        CalibratorInfo("entropy", _entropy),
    ]


@hookimpl
def approxhub_checks() -> list[HealthCheck]:
    """Python and packages, the CPU engine, threads, compilers, CUDA, and the cache."""
    from approxhub.health import CHECKS

    return list(CHECKS)
