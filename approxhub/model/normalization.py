"""Taking the statistics of batch normalisation anew, through the multiplier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from approxhub.errors import InputError
from approxhub.model.calibration import require_batches, run_batches
from approxhub.nn.folding import NORMALIZED

__all__ = ["reestimate_batch_norm"]


def reestimate_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> nn.Module:
    """Take the running statistics of batch normalisation anew, in the model's mode, in place.

    A multiplier shifts and widens what reaches a normalisation, whose statistics are those of
    exact products. Runs the model on every batch, normalises each with its own statistics, and
    keeps their averages over the batches. Nothing is trained. Batches should be as large as
    those of training.

    Parameters
    ----------
    model : torch.nn.Module
        A converted, calibrated model. What is folded into a layer
        (:class:`approxhub.nn.NormalizedConv2d`) has a part in the codes of its weight and stays as
        it is; see :func:`compensate` for that.
    batches : iterable
        As :func:`approxhub.calibrate` takes them.
    forward : callable, optional
        As :func:`approxhub.calibrate` takes it.

    Returns
    -------
    torch.nn.Module
        `model`.

    Raises
    ------
    InputError
        If the model has no batch normalisation with running statistics that is not folded.
    CalibrationError
        If there is no batch.

    Whatever is raised, the model is as it was before.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8))
    >>> net, x = ah.approximate(net, "truncation:8s/a=3,b=3"), torch.rand(64, 4)
    >>> net = ah.calibrate(net, [x]).eval()
    >>> _ = ah.reestimate_batch_norm(net, [x])
    >>> bool(net(x).mean().abs() < 1e-6)
    True
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"a torch.nn.Module is needed, got {type(model).__name__}")
    require_batches(batches)
    norms = batch_norms(model)
    before = [({n: b.clone() for n, b in norm.named_buffers()}, norm.momentum) for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the average over all batches
        run_batches(model, batches, forward, training=norms)
    except BaseException:
        for norm, (buffers, _) in zip(norms, before, strict=True):
            for name, value in buffers.items():
                norm.get_buffer(name).copy_(value)
        raise
    finally:
        for norm, (_, momentum) in zip(norms, before, strict=True):
            norm.momentum = momentum
    return model


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Batch normalisation with running statistics that is not folded into a layer.

    Raises
    ------
    InputError
        If there is none.
    """
    folded = {
        id(part)
        for module in model.modules()
        if isinstance(module, tuple(NORMALIZED.values()))
        for part in module.modules()
    }
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and id(module) not in folded
    ]
    if not norms:
        raise InputError(
            f"{type(model).__name__} has no batch normalisation with running statistics that is "
            "not folded into a layer; approxhub.compensate corrects the means of any layer"
        )
    return norms
