"""Switching what a forward pass does, and what a backward pass does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from approxhub.errors import InputError
from approxhub.model.layers import require_layers
from approxhub.nn import MODES
from approxhub.nn.gradients import Gradient

__all__ = ["mode", "set_gradient", "set_mode"]


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
