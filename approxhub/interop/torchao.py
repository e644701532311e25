"""Models that torchao has quantised, and our layers as a configuration of its ``quantize_``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchao.core.config import AOBaseConfig
from torchao.quantization.qat.fake_quantizer import IntxFakeQuantizer
from torchao.quantization.qat.linear import FakeQuantizedLinear
from torchao.quantization.quant_primitives import _DTYPE_TO_QVALUE_BOUNDS
from torchao.quantization.quantize_.workflows import Int8Tensor
from torchao.quantization.transform_module import register_quantize_module_handler

from approxhub.errors import ApproxHubError, ConversionError, MappingError
from approxhub.interop.imported import (
    LAYERS,
    QuantizerParameters,
    duplicate,
    exchange,
    named,
    take_over,
)
from approxhub.model.convert import carry_hooks
from approxhub.multiplier import Multiplier, resolved
from approxhub.nn import ApproxLayer
from approxhub.quantization import OperandMapping

__all__ = ["ApproximateConfig", "import_model", "read"]


def _is_theirs(weight: object) -> bool:
    return type(weight).__module__.startswith("torchao.")


def read(weight: Tensor) -> tuple[Tensor, QuantizerParameters, QuantizerParameters | None]:
    """Codes and quantisers of a weight that ``quantize_`` has made int8.

    Parameters
    ----------
    weight : Int8Tensor
        Of torchao, with one scale, or one for each output.

    Returns
    -------
    codes : Tensor of int8
    weights : QuantizerParameters
    activations : QuantizerParameters or None
        None where activations are not quantised, or anew for each input.

    Raises
    ------
    ConversionError
        If it is another kind of tensor, or has scales of groups.
    """
    if not isinstance(weight, Int8Tensor):
        raise ConversionError(
            f"{type(weight).__name__} of torchao has no like here; Int8Tensor, which the Int8 "
            "configurations make, can be imported"
        )
    if weight.act_pre_scale is not None:
        raise ConversionError("activations are scaled channel by channel first (SmoothQuant)")
    codes, scale, zero = weight.qdata, weight.scale, weight.zero_point
    if scale.numel() not in (1, codes.shape[0]):
        raise ConversionError(f"weights have scales of shape {tuple(scale.shape)}, of groups")
    shape = () if scale.numel() == 1 and codes.shape[0] != 1 else (-1,)
    weights = QuantizerParameters(
        scale.reshape(shape).float(), torch.zeros(()) if zero is None else zero, -128, 127
    )
    scale, zero = weight.act_quant_scale, weight.act_quant_zero_point
    if scale is None:
        return codes, weights, None
    if scale.numel() != 1:
        raise ConversionError(f"activations have {scale.numel()} static scales")
    activations = QuantizerParameters(
        scale.reshape(()).float(), torch.zeros(()) if zero is None else zero, -128, 127
    )
    return codes, weights, activations


def _read_fake(quantizer: Any, x: Tensor) -> QuantizerParameters:
    """What a fake-quantiser of torchao's QAT does to a weight as it is now."""
    if not isinstance(quantizer, IntxFakeQuantizer):
        raise ConversionError(f"{type(quantizer).__name__} gives no integers that we have")
    with torch.no_grad():
        quantizer(x)
    qmin, qmax = _DTYPE_TO_QVALUE_BOUNDS[quantizer.config.dtype]
    scale, zero = quantizer.scale, quantizer.zero_point
    assert scale is not None
    if scale.numel() not in (1, x.shape[0]):
        raise ConversionError(f"weights have scales of shape {tuple(scale.shape)}, of groups")
    zero = torch.zeros(()) if zero is None else zero
    return QuantizerParameters(scale.reshape(-1).float(), zero, qmin, qmax)


def _taken_over(
    layer: nn.Module, m: Multiplier, mapping: OperandMapping | str | None, options: dict[str, Any]
) -> ApproxLayer:
    if isinstance(layer, FakeQuantizedLinear):
        if layer.weight_fake_quantizer is None:
            raise ConversionError("its weight is not quantised")
        weights = _read_fake(layer.weight_fake_quantizer, layer.weight)
        return take_over(layer, m, None, weights, mapping, **options)
    assert isinstance(layer.weight, Tensor)
    codes, weights, activations = read(layer.weight)
    plain = nn.Linear(codes.shape[1], codes.shape[0], layer.bias is not None, device="meta")
    steps = codes.to(torch.float32) - weights.zero_point.reshape(-1, 1)
    plain.weight = nn.Parameter(steps * weights.scale.reshape(-1, 1))
    plain.register_parameter("bias", layer._parameters["bias"])
    plain.train(layer.training)
    new = take_over(plain, m, activations, weights, mapping, **options)
    if not torch.equal(new.weight_quantizer.codes(new.weight), codes.to(torch.float32)):
        raise ConversionError("its codes are not those of its dequantised weights")
    return new


def import_model(
    model: nn.Module,
    multiplier: Multiplier | str,
    *,
    mapping: OperandMapping | str | None = None,
    **options: Any,
) -> nn.Module:
    """Take over a model that torchao has quantised to int8, or prepared for it in training.

    Linear layers whose weights ``quantize_`` has made int8 (``Int8WeightOnlyConfig`` and its like)
    or that ``QATConfig`` has made fake-quantised become ours, with their codes and scales: no value
    differs. Static scales of activations are taken over too. Most of torchao's configurations
    quantise activations anew for each input, which no quantiser here does: a warning names those
    layers, and :func:`approxhub.calibrate` gives them a range.

    Parameters
    ----------
    model : torch.nn.Module
        It is left as it is.
    multiplier : Multiplier or str
    mapping : OperandMapping or str, optional
        The one under which the codes enter the circuit as they are when not given.
    **options
        Keywords of our layers, as `gradient`.

    Returns
    -------
    torch.nn.Module
        A copy.

    Raises
    ------
    ConversionError
        If nothing in it is quantised, or in a way that has no like: scales of groups, int4, float8.
    MappingError
        If codes do not fit the circuit's operands.
    """
    model, m = duplicate(model, multiplier)
    made: dict[nn.Module, nn.Module] = {}
    for layer in model.modules():
        if not isinstance(layer, nn.Linear):
            continue
        if not (isinstance(layer, FakeQuantizedLinear) or _is_theirs(layer.weight)):
            continue
        try:
            made[layer] = _taken_over(layer, m, mapping, options)
        except (ConversionError, MappingError) as error:
            raise type(error)(named(error, model, layer)) from None
        carry_hooks(layer, made[layer])
    return exchange(model, made, "torchao")


@dataclass
class ApproximateConfig(AOBaseConfig):  # type: ignore[misc]
    """Our layers as a configuration: ``quantize_(model, ApproximateConfig("mul8s_1KV9"))``.

    ``quantize_`` changes linear layers only, unless its `filter_fn` names others. Afterwards
    :func:`approxhub.calibrate` gives activations their ranges.

    Parameters
    ----------
    multiplier : Multiplier or str
    mapping : OperandMapping or str, optional
    gradient, calibrator : str
    per_channel : bool
        As in :class:`approxhub.nn.Linear`.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> from torchao.quantization import quantize_
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> quantize_(net, ApproximateConfig("drum:8s/k=4"))
    >>> _ = ah.calibrate(net, [torch.randn(16, 4)])
    >>> net[2].multiplier.id
    'drum:8s/k=4'
    """

    multiplier: Multiplier | str
    mapping: OperandMapping | str | None = None
    gradient: str = "straight-through"
    calibrator: str = "moving-average"
    per_channel: bool = True


@register_quantize_module_handler(ApproximateConfig)  # type: ignore[untyped-decorator]
def _transform(module: nn.Module, config: ApproximateConfig) -> nn.Module:
    m = resolved(config.multiplier)
    kind = next((ours for theirs, ours in LAYERS.items() if type(module) is theirs), None)
    if kind is None or _is_theirs(module.weight):
        what = "quantised already; use import_model" if kind else "no layer that has a like here"
        raise ConversionError(f"{type(module).__name__} is {what}")
    options = {name: getattr(config, name) for name in ("gradient", "calibrator", "per_channel")}
    try:
        new: ApproxLayer = kind.from_float(module, m, mapping=config.mapping, **options)  # type: ignore[attr-defined]
    except ApproxHubError as error:
        raise type(error)(f"{type(module).__name__}: {error}") from None
    carry_hooks(module, new)
    return new
