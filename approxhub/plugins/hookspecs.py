"""All hooks of ApproxHub on one page.

A plug-in implements any of them with ``@approxhub.hookimpl`` and is found through the entry-point
group ``approxhub``. Hooks return lists of small frozen descriptors, so that discovering a plug-in
imports nothing heavy. Imports pluggy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from approxhub.plugins.descriptors import (
        BackendInfo,
        CalibratorInfo,
        GradientInfo,
        HealthCheck,
        LayerConverter,
        MultiplierSource,
        TableFormat,
    )

PROJECT = "approxhub"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def approxhub_backends() -> Sequence[BackendInfo]:  # type: ignore[empty-body]
    """Backends that run integer matrix products through a multiplier."""


@hookspec
def approxhub_multiplier_sources() -> Sequence[MultiplierSource]:  # type: ignore[empty-body]
    """Sources of named multipliers: libraries, families, a group's own tables."""


@hookspec
def approxhub_formats() -> Sequence[TableFormat]:  # type: ignore[empty-body]
    """File formats that hold product tables."""


@hookspec
def approxhub_converters() -> Sequence[LayerConverter]:  # type: ignore[empty-body]
    """Converters from a layer type to one that multiplies through a multiplier."""


@hookspec
def approxhub_gradients() -> Sequence[GradientInfo]:  # type: ignore[empty-body]
    """Gradients of an approximate product, by name."""


@hookspec
def approxhub_calibrators() -> Sequence[CalibratorInfo]:  # type: ignore[empty-body]
    """Calibrators that choose the range of a quantiser, by name."""


@hookspec
def approxhub_commands(cli: click.Group) -> None:
    """Commands to add to the ``approxhub`` command line."""


@hookspec
def approxhub_checks() -> Sequence[HealthCheck]:  # type: ignore[empty-body]
    """Health checks for ``approxhub doctor``."""
