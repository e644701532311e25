"""The plug-in host: hooks, the records they return, and what was found."""

from __future__ import annotations

from approxhub.plugins.descriptors import (
    API_VERSION,
    BackendInfo,
    CalibratorInfo,
    GradientInfo,
    HealthCheck,
    LayerConverter,
    MultiplierSource,
    TableFormat,
)
from approxhub.plugins.hookspecs import hookimpl
from approxhub.plugins.host import PluginHost, PluginStatus, host, reset_host

__all__ = [
    "API_VERSION",
    "BackendInfo",
    "CalibratorInfo",
    "GradientInfo",
    "HealthCheck",
    "LayerConverter",
    "MultiplierSource",
    "PluginHost",
    "PluginStatus",
    "TableFormat",
    "hookimpl",
    "host",
    "reset_host",
]
