"""Calibration: showing a converted model data, so that its quantisers find their ranges."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from approxhub.errors import CalibrationError, InputError
from approxhub.model.layers import name_layers, require_layers
from approxhub.model.modes import mode
from approxhub.quantization import MinMax
from approxhub.quantization.ranks import all_reduce, in_a_group
from approxhub.reading import eager_checks

__all__ = ["calibrate", "require_batches", "run_batches", "synchronize_ranges"]

_log = logging.getLogger("approxhub")
_NO_BATCH = "at least one batch is needed; the iterable was empty"


def _default_forward(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    x = batch[0] if isinstance(batch, (tuple, list)) else batch
    if isinstance(x, np.ndarray):
        raise InputError("a batch is a numpy array; a tensor is needed: torch.from_numpy(x)")
    return model(x)


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    calibrator: str | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    synchronize: bool = True,
) -> nn.Module:
    """Let a converted model's quantisers find their ranges, in place.

    Runs the float model on every batch, in evaluation mode and without gradients, and restores
    the model's own modes. Earlier ranges are forgotten, except those of quantisers that
    are :attr:`~approxhub.quantization.Quantizer.fixed`, as imported ones are.

    Where :mod:`torch.distributed` is initialised all processes must call this, each with its own
    batches, of which one may have more than another, or none. At the end what their calibrators
    have seen is taken together, and all have the same ranges: those of one process that sees all
    batches for ``minmax`` and the calibrators that count (``percentile``, ``mse``, ``entropy``),
    the mean of the processes' averages for ``moving-average``, and for what a plug-in brings,
    unless it is :class:`~approxhub.quantization.Mergeable`, the hull of the ranges.

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
    synchronize : bool
        Whether processes that have joined a group calibrate together, if there are any.

    Returns
    -------
    torch.nn.Module
        `model`.

    Raises
    ------
    InputError
        If `batches` is one tensor or one mapping, or a batch is a numpy array.
    CalibrationError
        If there is no batch, or a batch or weight holds NaN or infinity, here or in another
        process of the group: it names the layer, and the batch counted from 0. The model is as
        it was before then.
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
    require_batches(batches)
    name_layers(model)
    kept = [
        (q, copy.deepcopy(q.__dict__))
        for layer in layers.values()
        for q in {*layer.data_quantizers(), layer.weight_quantizer}
    ]
    together = synchronize and in_a_group()
    data_quantizers = [
        q for layer in layers.values() for q in layer.data_quantizers() if not q.fixed
    ]
    device = next(iter(layers.values())).input_quantizer.scale.device
    followed = [(q, q.synchronized) for q in data_quantizers]
    try:
        for quantizer in data_quantizers:
            quantizer.restart(calibrator)
            quantizer.synchronized = False  # one process may have more batches than another
        for layer in layers.values():
            layer._observing = True
        with _agreement(together, device), eager_checks():
            with mode(model, "float"):
                seen = run_batches(model, batches, forward, least=0 if together else 1)
            for layer in layers.values():
                layer.observe_weight()
        if together:
            if not all_reduce(torch.tensor(seen, device=device), "sum"):
                raise CalibrationError(_NO_BATCH)
            for quantizer in data_quantizers:
                quantizer.merge()
    except BaseException:
        for quantizer, state in kept:
            quantizer.__dict__.update(state)
        raise
    finally:
        for quantizer, value in followed:
            quantizer.synchronized = value
        for layer in layers.values():
            layer._observing = False
    unseen = [
        name
        for name, layer in layers.items()
        if not all(q.calibrated for q in layer.data_quantizers())
    ]
    if unseen:
        _log.warning("no batch reached these layers, they have no range yet: %s", ", ".join(unseen))
    return model


@contextmanager
def _agreement(together: bool, device: torch.device) -> Iterator[None]:
    """Make an error of one process one of all, which would wait for it for ever."""
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        if not together:
            raise
        failed = error
    if together and all_reduce(torch.tensor(int(failed is not None), device=device), "max"):
        raise failed or CalibrationError(
            "calibration failed in another process of the group, which says why"
        )


def synchronize_ranges(model: nn.Module, on: bool = True) -> None:
    """Let ranges follow the batches of all processes in training, as if they were one batch.

    With data-parallel training each process sees its own part of a batch. Without this its ranges
    are those of its own part, and models drift apart. With it each pass in training exchanges two
    numbers for each quantiser, and every process has the ranges of one that trains on the whole
    batch. As :class:`torch.nn.SyncBatchNorm`, it needs all processes to make the same passes.
    Nothing happens where :mod:`torch.distributed` is not initialised, and in evaluation.

    Parameters
    ----------
    model : torch.nn.Module
        A converted model, before or after it is wrapped.
    on : bool
        False lets each process go its own way again.

    Raises
    ------
    InputError
        If an activation's calibrator is neither ``moving-average`` nor ``minmax``.
    ConversionError
        If the model has no approximate layer.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = ah.approximate(torch.nn.Sequential(torch.nn.Linear(4, 2)), "drum:8s/k=4")
    >>> ah.synchronize_ranges(net)
    >>> net[0].input_quantizer.synchronized
    True
    """
    layers = require_layers(model)
    quantizers = [q for layer in layers.values() for q in layer.data_quantizers()]
    for q in quantizers:
        if on and not isinstance(q.calibrator, MinMax):
            raise InputError(
                f"calibrator {q.calibrator_name!r} cannot follow several processes in training; "
                "calibrate with 'moving-average' or 'minmax' first"
            )
    for q in quantizers:
        q.synchronized = on


def require_batches(batches: Any) -> None:
    """Refuse one batch in place of several.

    Raises
    ------
    InputError
        If that is what it is.
    """
    if isinstance(batches, (torch.Tensor, np.ndarray, Mapping)) or not isinstance(
        batches, Iterable
    ):
        raise InputError(
            f"an iterable of batches is needed, got {type(batches).__name__}; "
            "for a single batch x write [x]"
        )


def run_batches(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], Any] | None = None,
    training: Collection[nn.Module] = (),
    least: int = 1,
) -> int:
    """Run a model on batches without gradients, in evaluation but for the modules in `training`.

    Its own modes come back. Returns how many batches there were.

    Raises
    ------
    InputError
        If it is one batch.
    CalibrationError
        If there are fewer than `least`.
    """
    require_batches(batches)
    run = forward or _default_forward
    before = [(m, m.training) for m in model.modules()]
    for m, _ in before:
        m.training = m in training
    try:
        seen = 0
        with torch.no_grad():
            for batch in batches:
                try:
                    run(model, batch)
                except CalibrationError as error:
                    raise CalibrationError(f"batches[{seen}]: {error}") from error
                seen += 1
    finally:
        for m, was in before:
            m.training = was
    if seen < least:
        raise CalibrationError(_NO_BATCH)
    return seen
