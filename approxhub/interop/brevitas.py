"""Models that Brevitas has quantised."""

from __future__ import annotations

import logging
from typing import Any

import torch
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer
from brevitas.quant_tensor import IntQuantTensor, QuantTensor
from torch import Tensor, nn

from approxhub.errors import CalibrationError, ConversionError, InputError, MappingError
from approxhub.interop.imported import (
    QuantizerParameters,
    duplicate,
    exchange,
    has_like,
    named,
    take_over,
)
from approxhub.model.convert import carry_hooks
from approxhub.multiplier import Multiplier
from approxhub.nn import ApproxLayer
from approxhub.quantization import OperandMapping

__all__ = ["import_model", "read"]

_log = logging.getLogger("approxhub")


def _parameters(
    scale: Tensor, zero_point: Tensor, bits: Tensor, signed: bool, narrow: bool
) -> QuantizerParameters:
    width = int(bits)
    if width != float(bits):
        raise ConversionError(f"a width of {float(bits)} bits is being learned; round it first")
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if signed else (0, 2**width - 1)
    if narrow:
        low, high = (low + 1, high) if signed else (low, high - 1)
    shape = () if scale.dim() == 0 else (-1,)
    return QuantizerParameters(scale.reshape(shape), zero_point, low, high)


def read(quantized: Any, narrow: bool = False) -> QuantizerParameters:
    """Scale, zero point and codes of an ``IntQuantTensor`` of Brevitas, as they are.

    Parameters
    ----------
    quantized : IntQuantTensor
    narrow : bool
        Whether its quantiser leaves out the last code, which the tensor does not say.

    Raises
    ------
    ConversionError
        If it is another kind of tensor, or its width is being learned.
    """
    if not isinstance(quantized, IntQuantTensor):
        raise ConversionError(
            f"{type(quantized).__name__} has no like here; integers with one scale, or one for "
            "each output channel, have"
        )
    return _parameters(
        quantized.scale, quantized.zero_point, quantized.bit_width, quantized.signed, narrow
    )


def _read_proxy(proxy: Any) -> QuantizerParameters:
    """The quantiser of a layer's own input."""
    try:
        scale, zero_point, bits = proxy.scale(), proxy.zero_point(), proxy.bit_width()
    except Exception as error:  # of another kind: it has no such thing
        raise ConversionError(f"its input quantiser gives no integers: {error}") from error
    return _parameters(scale, zero_point, bits, proxy.is_signed, proxy.is_narrow_range)


def _plain(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.value if isinstance(a, QuantTensor) else a for a in args)


def _requantized(module: Any, args: tuple[Any, ...], y: Tensor) -> Any:
    quantized = module.output_quant(y)
    return quantized if module.return_quant_tensor else quantized.value


def import_model(
    model: nn.Module,
    multiplier: Multiplier | str,
    *example_inputs: Any,
    mapping: OperandMapping | str | None = None,
    **options: Any,
) -> nn.Module:
    """Take over a model of ``brevitas.nn`` layers that has been trained or calibrated.

    Linear layers, convolutions and transposed convolutions with quantised weights become ours,
    with their scales, zero points, widths and codes: no value differs. The quantiser of a layer's
    activations is its own, or that of the quantised tensor that reaches it when the model is run
    once. Other modules (``QuantIdentity``, ``QuantReLU``, ...) and quantisers of outputs stay as
    they are. Biases stay real: a quantiser of them is left out, and a warning says so.

    Parameters
    ----------
    model : torch.nn.Module
        It is left as it is.
    multiplier : Multiplier or str
    *example_inputs
        What `model` is called with, of any values.
    mapping : OperandMapping or str, optional
        The one under which the codes enter the circuit as they are when not given.
    **options
        Keywords of our layers, as `gradient`.

    Returns
    -------
    torch.nn.Module
        A copy, in evaluation.

    Raises
    ------
    ConversionError
        If nothing in it is quantised, or in a way that has no like: a width that is being learned,
        codes that are not rounded weights, float8.
    MappingError
        If codes do not fit the circuit's operands.
    """
    if not example_inputs:
        raise InputError("import_model needs example inputs, to find which quantiser feeds what")
    model, m = duplicate(model, multiplier)
    model.eval()
    modules: list[Any] = list(model.modules())
    layers = [
        layer
        for layer in modules
        if isinstance(layer, QuantWeightBiasInputOutputLayer)
        and has_like(layer)
        and layer.weight_quant.is_quant_enabled
    ]
    seen: dict[nn.Module, Any] = {}

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen[module] = args[0]

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        with torch.no_grad():
            model(*example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    made: dict[nn.Module, nn.Module] = {}
    for layer in layers:
        try:
            made[layer] = _taken_over(layer, seen.get(layer), m, mapping, options)
        except (ConversionError, CalibrationError, MappingError) as error:
            raise type(error)(named(error, model, layer)) from None
        if layer.bias_quant.is_quant_enabled:
            _log.warning("%s", named(InputError("its bias quantiser is left out"), model, layer))
    return exchange(model, made, "Brevitas")


def _taken_over(
    layer: Any,
    given: Any,
    m: Multiplier,
    mapping: OperandMapping | str | None,
    options: dict[str, Any],
) -> ApproxLayer:
    with torch.no_grad():
        weight = layer.quant_weight()
        weights = read(weight, layer.weight_quant.is_narrow_range)
        activations = None
        if layer.input_quant.is_quant_enabled:
            activations = _read_proxy(layer.input_quant)
        elif isinstance(given, QuantTensor):
            activations = read(given)
    new = take_over(layer, m, activations, weights, mapping, **options)
    codes = new.weight_quantizer.codes(new.quantized_weight().detach())
    theirs = weight.int(float_datatype=True)
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        theirs = theirs.transpose(0, 1) if layer.groups == 1 else theirs
    if layer.weight.shape == theirs.shape and not torch.equal(codes, theirs.to(torch.float32)):
        raise ConversionError("its codes are not its weights, divided by their scales and rounded")
    new.register_forward_pre_hook(_plain)
    if layer.output_quant.is_quant_enabled:
        new.add_module("output_quant", layer.output_quant)
        new.return_quant_tensor = layer.return_quant_tensor
        new.register_forward_hook(_requantized)
    carry_hooks(layer, new)
    return new
