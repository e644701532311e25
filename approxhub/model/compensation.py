"""Folding the mean error of a multiplier into biases, channel by channel."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from approxhub.errors import CalibrationError, InputError, TableError
from approxhub.model.calibration import run_batches
from approxhub.model.layers import require_layers
from approxhub.model.modes import mode
from approxhub.model.statistics import LayerStatistics, capture_statistics, require_table
from approxhub.nn import ApproxLayer

__all__ = ["compensate", "require_tables"]

_log = logging.getLogger("approxhub")


def compensate(
    model: nn.Module,
    source: Iterable[Any] | Mapping[str, LayerStatistics] | None,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> dict[str, Tensor]:
    """Take the mean error of a model's multipliers out of its layers, by their biases, in place.

    A multiplier whose errors do not cancel shifts every sum. With the frequencies ``p_k(a)`` of
    the activations that the k-th weight ``w_ck`` of an output channel meets, the shift is

        mean_c = sum_k sum_a p_k(a) (T[a, w_ck] - a w_ck)

    products of codes: what the sums of the channel differ by on average, exactly, for the data
    that were captured. Its negative, times the scales, is added with the bias in mode
    ``'approximate'``; a layer needs no bias of its own for that. Mode ``'exact'`` and the bias
    itself stay as they are. (Correcting the mean of each channel by its bias is from M. Nagel et
    al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
    DOI 10.1109/ICCV.2019.00141, there for the error of quantising.)

    It is for the weights, ranges and multipliers of this moment: call it again after training
    or calibrating. With another multiplier or mapping it has no effect, until the former one is
    back.

    Parameters
    ----------
    model : torch.nn.Module
        A converted, calibrated model.
    source : iterable, mapping of str to LayerStatistics, or None
        Batches as :func:`approxhub.calibrate` takes them, on which the codes are counted in mode
        ``'exact'``. Or what ``capture_statistics(model, taps=True)`` counted: it serves any
        number of multipliers of the same formats and mapping. None takes compensation away.
    forward : callable, optional
        As :func:`approxhub.calibrate` takes it.

    Returns
    -------
    dict of str to Tensor
        What was added to each channel of each layer, float32. Products of two activations have
        no channels of weights, and are left as they are.

    Raises
    ------
    CalibrationError
        If no batch or no pass reached a layer, or the model is not calibrated.
    InputError
        If a layer has no statistics, or they were captured without ``taps=True``.
    MappingError
        If statistics were captured with codes of another format or mapping.
    TableError
        If a multiplier has no table (more than 24 bits in both operands together): before a
        batch runs.
    ConversionError
        If the model has no approximate layer. In all cases the model is unchanged.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator ...>
    >>> net = ah.approximate(torch.nn.Sequential(torch.nn.Linear(8, 2)), "truncation:8s/a=3,b=3")
    >>> x = torch.rand(256, 8)
    >>> _ = ah.calibrate(net, [x]).eval()
    >>> with ah.mode(net, "exact"):
    ...     exact = net(x)
    >>> before = (net(x) - exact).mean(0).abs().max()
    >>> added = ah.compensate(net, [x])
    >>> bool((net(x) - exact).mean(0).abs().max() < 1e-5 * before)
    True
    """
    layers = require_layers(model)
    if source is None:
        for layer in layers.values():
            layer.set_compensation(None)
        return {}
    require_tables(model)
    if not isinstance(source, Mapping):
        with capture_statistics(model, fields=0, taps=True) as captured, mode(model, "exact"):
            run_batches(model, source, forward)
        source = captured
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        if name not in source:
            raise InputError(f"there are no statistics of layer {name!r}")
        statistics = source[name]
        if not isinstance(statistics, LayerStatistics):
            raise InputError(
                f"statistics of layer {name!r} are of type {type(statistics).__name__}; "
                "approxhub.capture_statistics(model, taps=True) gives them"
            )
        try:
            shift = _shift(layer, statistics)
        except CalibrationError as error:
            raise CalibrationError(f"{name}: {error}") from None
        if shift is not None:
            found[name] = shift
    for name, layer in layers.items():
        layer.set_compensation(found.get(name))
    left = [name for name in layers if name not in found]
    if left:
        _log.info("products of two activations, not compensated: %s", ", ".join(left))
    return found


def require_tables(model: nn.Module) -> None:
    """Refuse a model that cannot be compensated, before anything of it is counted.

    Raises
    ------
    TableError
        If the multiplier of a layer with weights has no table.
    """
    for name, layer in require_layers(model).items():
        if layer.weight_quantizer in layer.data_quantizers():
            continue  # a product of two activations, which is left as it is
        try:
            require_table(layer.effective_multiplier)
        except TableError as error:
            raise TableError(f"{name}: {error}") from None


def _shift(layer: ApproxLayer, statistics: LayerStatistics) -> Tensor | None:
    """What to add to each channel; None for a product of two activations."""
    means = statistics.channel_means(layer.multiplier)
    if means is None:
        return None
    scale = layer.input_quantizer.scale * layer.weight_quantizer.scale
    shift = torch.from_numpy(-np.asarray(means)).to(scale.device)
    return (shift * scale.to(torch.float64)).to(torch.float32)
