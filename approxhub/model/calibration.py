"""Calibration: showing a converted model data, so that its quantisers find their ranges."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from approxhub.errors import CalibrationError, InputError
from approxhub.model.layers import require_layers
from approxhub.model.modes import mode

__all__ = ["calibrate"]

_log = logging.getLogger("approxhub")


def _default_forward(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, (tuple, list)):
        return model(batch[0])
    return model(batch)


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    calibrator: str | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> nn.Module:
    """Let a converted model's quantisers find their ranges, in place.

    Runs the float model on every batch, in evaluation mode and without gradients, and restores
    the model's own modes. Earlier ranges are forgotten.

    Parameters
    ----------
    model : torch.nn.Module
        A converted model.
    batches : iterable
        Batches of inputs: tensors; tuples or lists whose first element is the input (as data
        loaders with labels give them); or mappings of keyword arguments.
    calibrator : str, optional
        Name of the calibrator for activations, e.g. ``'minmax'``; each layer's own when not
        given. Layers keep it: training goes on with it.
    forward : callable, optional
        ``forward(model, batch)``, for models that take their input in another way.

    Returns
    -------
    torch.nn.Module
        `model`.

    Raises
    ------
    InputError
        If `batches` is one tensor or one mapping.
    CalibrationError
        If there is no batch, or a batch or weight holds NaN or infinity. The model is as it
        was before then.
    ConversionError
        If the model has no approximate layer.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = ah.approximate(torch.nn.Sequential(torch.nn.Linear(4, 2)), "drum:8s/k=4")
    >>> net = ah.calibrate(net, [torch.randn(16, 4)]).eval()
    >>> net(torch.randn(3, 4)).shape
    torch.Size([3, 2])
    """
    layers = require_layers(model)
    if isinstance(batches, (torch.Tensor, Mapping)) or not isinstance(batches, Iterable):
        raise InputError(
            f"calibrate takes an iterable of batches, got {type(batches).__name__}; "
            "for a single batch x write [x]"
        )
    run = forward or _default_forward
    kept = [
        (q, copy.deepcopy(q.__dict__))
        for layer in layers.values()
        for q in {*layer.data_quantizers(), layer.weight_quantizer}
    ]
    training = [(m, m.training) for m in model.modules()]
    for m, _ in training:
        m.training = False
    try:
        for layer in layers.values():
            for quantizer in layer.data_quantizers():
                quantizer.restart(calibrator)
            layer._observing = True
        seen = 0
        with torch.no_grad(), mode(model, "float"):
            for batch in batches:
                run(model, batch)
                seen += 1
        if not seen:
            raise CalibrationError("calibrate needs at least one batch; the iterable was empty")
        for layer in layers.values():
            layer.observe_weight()
    except BaseException:
        for quantizer, state in kept:
            quantizer.__dict__.update(state)
        raise
    finally:
        for layer in layers.values():
            layer._observing = False
        for m, was in training:
            m.training = was
    unseen = [
        name
        for name, layer in layers.items()
        if not all(q.calibrated for q in layer.data_quantizers())
    ]
    if unseen:
        _log.warning("no batch reached these layers, they have no range yet: %s", ", ".join(unseen))
    return model
