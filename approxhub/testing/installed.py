"""The kits for what is installed: a test class for a plug-in's offer, by its kind and name.

Imports the kits, the plug-in host and, for layers, torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from approxhub.errors import ApproxHubError, InputError, NotFoundError, PluginError
from approxhub.nn.gradients import make_gradient
from approxhub.plugins import (
    BackendInfo,
    CalibratorInfo,
    LayerConverter,
    MultiplierSource,
    TableFormat,
    host,
)
from approxhub.testing.backend import BackendConformance
from approxhub.testing.calibrator import CalibratorConformance
from approxhub.testing.format import FormatConformance
from approxhub.testing.gradient import GradientConformance
from approxhub.testing.layer import LayerConformance
from approxhub.testing.source import SourceConformance

__all__ = ["KITS", "installed_kit"]

KITS: dict[str, type] = {
    "backend": BackendConformance,
    "source": SourceConformance,
    "format": FormatConformance,
    "layer": LayerConformance,
    "gradient": GradientConformance,
    "calibrator": CalibratorConformance,
}

# What the built-in ones claim beyond the contract, or do not hold of it; others say it in a kit.
_CLAIMS: dict[str, dict[str, bool]] = {
    "straight-through": {"straight_through": True},
    "approximate-backward": {"linear": False, "random": True},
    "minmax": {"covers": True},
}

# A float layer and an input for classes that are a plain sum of products; others need a kit.
_LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "torch.nn.modules.linear.Linear": (lambda: nn.Linear(5, 3), (4, 2, 5)),
    "torch.nn.modules.conv.Conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, groups=2), (2, 4, 9)),
    "torch.nn.modules.conv.Conv2d": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 2), dilation=(1, 2), groups=2),
        (2, 4, 5, 6),
    ),
    "torch.nn.modules.conv.Conv3d": (lambda: nn.Conv3d(2, 3, (2, 1, 3)), (2, 2, 3, 2, 4)),
    "torch.nn.modules.conv.ConvTranspose1d": (
        lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2),
        (2, 4, 5),
    ),
    "torch.nn.modules.conv.ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)),
        (2, 2, 3, 4),
    ),
    "torch.nn.modules.conv.ConvTranspose3d": (
        lambda: nn.ConvTranspose3d(2, 3, (2, 1, 2), stride=(1, 2, 1)),
        (1, 2, 2, 2, 3),
    ),
}


def installed_kit(kind: str, name: str, kit: str | None = None) -> type:
    """Make the test class for what an installed plug-in offers.

    Parameters
    ----------
    kind : str
        A key of :data:`KITS`.
    name : str
        Its name; of a layer converter the full name of the class it takes.
    kit : str, optional
        ``'module:class'``, a subclass of the kit that says more: a layer to convert, what a
        calibrator claims. Needed for converters of classes that ApproxHub does not know.

    Raises
    ------
    NotFoundError, PluginError
        If nothing offers it, or what offers it has failed.
    InputError
        If a kit is needed, or is none.
    """
    made = {} if kit is not None else _found(kind, name)
    base = KITS[kind] if kit is None else _named(kit, KITS[kind])
    return type("TestInstalled", (base,), made)


def _found(kind: str, name: str) -> dict[str, Any]:
    """Like :func:`_from_host`; says so when the name is known as another kind."""
    try:
        return _from_host(kind, name)
    except NotFoundError as error:
        others = [other for other in KITS if other != kind and _is_known(other, name)]
        if others:
            error.args = (f"{error}; it is a {others[0]}: --kind {others[0]}", *error.args[1:])
        raise


def _is_known(kind: str, name: str) -> bool:
    try:
        _from_host(kind, name)
    except ApproxHubError as error:  # one that is known, and needs a kit or has failed
        return not isinstance(error, (NotFoundError, PluginError))
    return True


def _from_host(kind: str, name: str) -> dict[str, Any]:
    """Give the methods that a kit of a kind needs, from what the host knows by a name."""
    if kind == "backend":
        info = host().get("approxhub_backends", BackendInfo, name)
        device = "cpu" if info.device_type == "any" else info.device_type
        return {"device": device, "make_backend": lambda _: info.load()}
    if kind == "source":
        source = host().get("approxhub_multiplier_sources", MultiplierSource, name)
        return {"make_source": lambda _: source}
    if kind == "format":
        format = host().get("approxhub_formats", TableFormat, name)
        return {"make_format": lambda _: format}
    if kind == "gradient":
        gradient = make_gradient(name)  # with its options, if it is named with some
        return {"make_gradient": lambda _: gradient, **_CLAIMS.get(name.partition("(")[0], {})}
    if kind == "calibrator":
        calibrator = host().get("approxhub_calibrators", CalibratorInfo, name)
        return {"make_calibrator": lambda _: calibrator.load()(), **_CLAIMS.get(name, {})}
    converter = host().get("approxhub_converters", LayerConverter, name)
    if name not in _LAYERS:
        raise InputError(
            f"how a {name} is made is not known here; name a subclass of LayerConformance that "
            "makes one, with --kit module:class"
        )
    layer, shape = _LAYERS[name]
    return {
        "make_converter": lambda _: converter,
        "make_layer": lambda _: layer(),
        "make_input": lambda _: torch.randn(shape),
    }


def _named(kit: str, base: type) -> type:
    module, _, name = kit.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{kit!r} is no kit, written module:class: {error}") from error
    if not isinstance(found, type) or not issubclass(found, base):
        raise InputError(f"{kit} is no subclass of approxhub.testing.{base.__name__}")
    return found
