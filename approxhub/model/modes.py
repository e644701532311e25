"""Switching what a forward pass does, what hardware does around it, and a backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from approxhub.errors import InputError
from approxhub.model.layers import require_layers
from approxhub.nn import MODES
from approxhub.nn.gradients import Gradient
from approxhub.quantization import Datapath

__all__ = ["mode", "set_datapath", "set_gradient", "set_mode"]


def set_mode(model: nn.Module, name: str) -> None:
    """Set what every approximate layer of a model does.

    Parameters
    ----------
    model : torch.nn.Module
        A converted model.
    name : {'approximate', 'exact', 'float', 'noise'}
        Products through the multiplier; the same integer path with exact products; the float
        layer; or exact products with noise in place of the error, see :func:`set_noise`.

    Raises
    ------
    InputError
        If there is no such mode.
    ConversionError
        If the model has no approximate layer.
    """
    if name not in MODES:
        raise InputError(f"mode must be one of {', '.join(MODES)}, got {name!r}")
    for layer in require_layers(model).values():
        layer.mode = name


@contextmanager
def mode(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """Set the mode of a model for a while.

    Parameters
    ----------
    model : torch.nn.Module
        A converted model.
    name : {'approximate', 'exact', 'float', 'noise'}
        See :func:`set_mode`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = ah.approximate(torch.nn.Sequential(torch.nn.Linear(4, 2)), "drum:8s/k=4")
    >>> with ah.mode(net, "float"):
    ...     y = net(torch.ones(1, 4))
    >>> net[0].mode
    'approximate'
    """
    before = [(layer, layer.mode) for layer in require_layers(model).values()]
    try:
        set_mode(model, name)
        yield model
    finally:
        for layer, value in before:
            layer.mode = value


def set_gradient(model: nn.Module, gradient: str | Gradient) -> None:
    """Set the gradient of every approximate layer of a model.

    Parameters
    ----------
    model : torch.nn.Module
        A converted model.
    gradient : str or Gradient
        As :meth:`approxhub.nn.ApproxLayer.set_gradient`, by which single layers are set.

    Raises
    ------
    NotFoundError, InputError
        If there is no such gradient, or it has no such option. The model is unchanged then.
    ConversionError
        If the model has no approximate layer.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = ah.approximate(torch.nn.Sequential(torch.nn.Linear(4, 2)), "drum:8s/k=4")
    >>> ah.set_gradient(net, "table-2d(half_window=8)")
    >>> net[0].gradient
    'table-2d(half_window=8)'
    """
    for layer in require_layers(model).values():
        layer.set_gradient(gradient)


def set_datapath(model: nn.Module, datapath: Datapath | str) -> None:
    """Let hardware do something else around its multipliers, in every approximate layer.

    Calibrated ranges stay; where the codes change, scales and zero points follow from them.

    Parameters
    ----------
    model : torch.nn.Module
        A converted model.
    datapath : Datapath or str
        For instance ``'zero_point=before,padding=skip'``; what is not named has its default.
        See :class:`approxhub.quantization.Datapath`.

    Raises
    ------
    MappingError
        If `datapath` is not of that form, or does not fit a layer's multiplier. The model is
        unchanged then.
    ConversionError
        If the model has no approximate layer.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = ah.approximate(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)), "drum:8s/k=4")
    >>> ah.set_datapath(net, "padding=skip,bias=int32")
    >>> str(net[0].datapath)
    'padding=skip,bias=int32'
    """
    before = [(layer, layer.datapath) for layer in require_layers(model).values()]
    try:
        for layer, _ in before:
            layer.set_datapath(datapath)
    except Exception:
        for layer, old in before:
            layer.set_datapath(old)
        raise
