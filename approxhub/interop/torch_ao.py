"""Models that :mod:`torch.ao.quantization` has prepared, and our layers in its ``prepare_qat``."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.nn.intrinsic import qat as qat_fused
from torch.ao.quantization import FakeQuantizeBase, ObserverBase

from approxhub.errors import CalibrationError, ConversionError, InputError, MappingError
from approxhub.interop.imported import (
    LAYERS,
    QuantizerParameters,
    duplicate,
    exchange,
    fitting_mapping,
    has_like,
    named,
    take_over,
)
from approxhub.interop.provenance import inputs_of
from approxhub.model.convert import carry_hooks
from approxhub.multiplier import Multiplier, resolved
from approxhub.nn import ApproxLayer
from approxhub.nn.folding import NORMALIZED
from approxhub.quantization import CodeRange, OperandMapping, Quantizer

__all__ = ["ObservedQuantizer", "import_model", "mapping", "read"]

_HAS_RELU = tuple(
    kind for name, kind in vars(qat_fused).items() if "ReLU" in name and isinstance(kind, type)
)


def _observer(quantizer: nn.Module) -> Any:
    return getattr(quantizer, "activation_post_process", quantizer)


def read(quantizer: nn.Module) -> QuantizerParameters:
    """Scale, zero point and codes of an observer or fake-quantiser of ``torch.ao``, as they are.

    Of a fake-quantiser these are the numbers that its own forward pass uses, of an observer those
    that it would give to the converted model. Codes are those in use: with `reduce_range`
    ``0..127`` of ``0..255``.

    Raises
    ------
    CalibrationError
        If it has seen no data.
    ConversionError
        If it is of a kind that gives no static integers.
    """
    observer = _observer(quantizer)
    name = type(quantizer).__name__
    scale: Any
    zero_point: Any
    low = getattr(observer, "min_val", None)
    if isinstance(low, Tensor) and (low.numel() == 0 or bool(torch.isinf(low).all())):
        raise CalibrationError(f"{name} has seen no data; run the prepared model first")
    qmin, qmax = (getattr(observer, end, None) for end in ("quant_min", "quant_max"))
    if qmin is None or qmax is None:
        qmin, qmax = (getattr(quantizer, end, None) for end in ("quant_min", "quant_max"))
    if qmin is None or qmax is None:
        raise ConversionError(f"{name} gives no static integers (dynamic and float ones do not)")
    if hasattr(quantizer, "scale") and hasattr(quantizer, "zero_point"):
        scale, zero_point = quantizer.scale, quantizer.zero_point
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scale, zero_point = observer.calculate_qparams()
    if getattr(observer, "ch_axis", 0) not in (0, -1) and scale.numel() > 1:
        raise ConversionError(
            f"{name} has scales along axis {observer.ch_axis}; here they are along outputs, axis 0"
        )
    assert isinstance(scale, Tensor)
    if zero_point.is_floating_point() and "Learnable" not in name:
        raise ConversionError(f"{name} has zero points that are not integers")
    one = scale.numel() == 1 and "PerChannel" not in type(observer).__name__
    shape = () if one else (-1,)
    return QuantizerParameters(
        scale.detach().reshape(shape), zero_point.detach().reshape(shape), int(qmin), int(qmax)
    )


# --- models that have been prepared -----------------------------------------------------


def _attempt(quantizer: nn.Module) -> QuantizerParameters | Exception:
    """What :func:`read` gives, or why it gives nothing."""
    try:
        return read(quantizer)
    except (ConversionError, CalibrationError) as error:
        return error


def _had(result: QuantizerParameters | Exception) -> QuantizerParameters:
    if isinstance(result, Exception):
        raise result
    return result


def _is_quantizer(module: nn.Module) -> bool:
    return isinstance(module, (FakeQuantizeBase, ObserverBase))


def import_model(
    model: nn.Module,
    multiplier: Multiplier | str,
    *example_inputs: Any,
    mapping: OperandMapping | str | None = None,
    **options: Any,
) -> nn.Module:
    """Take over a model that ``torch.ao.quantization`` has prepared and that has seen data.

    Made by ``prepare``, ``prepare_qat``, ``prepare_fx`` or ``prepare_qat_fx``, before ``convert``.
    Linear layers, convolutions and transposed convolutions become ours, fused ones included, with
    the scales, zero points and codes that were found: nothing is calibrated, and no value differs.
    The quantiser of a layer's activations is found by running the model once: it is the one that
    gave the values that reach the layer, through functions that only move values. The remaining
    fake-quantisers stay, with their observers off; remaining observers go.

    Codes are rounded here as everywhere in ApproxHub, ``round(x / s)``; torch.ao multiplies by
    ``1 / s``, so a value half-way between two codes may get the other one.

    Parameters
    ----------
    model : torch.nn.Module
        It is left as it is.
    multiplier : Multiplier or str
        For all layers; :func:`approxhub.set_multiplier` changes it afterwards.
    *example_inputs
        What `model` is called with, of any values.
    mapping : OperandMapping or str, optional
        The one under which the codes enter the circuit as they are when not given.
    **options
        Keywords of our layers, as `gradient`.

    Returns
    -------
    torch.nn.Module
        A copy. Activations whose quantiser was not found are named in a warning, as ranges are
        that are narrower than the operand.

    Raises
    ------
    ConversionError
        If nothing in it is quantised, or it is converted already, or in a way that has no like.
    MappingError
        If codes do not fit the circuit's operands.
    CalibrationError
        If a quantiser has seen no data.

    Examples
    --------
    >>> import torch, warnings
    >>> from torch.ao.quantization import get_default_qat_qconfig, prepare_qat, QuantStub
    >>> warnings.simplefilter("ignore")
    >>> _ = torch.manual_seed(1)
    >>> net = torch.nn.Sequential(QuantStub(), torch.nn.Linear(4, 2)).train()
    >>> net.qconfig = get_default_qat_qconfig("x86")
    >>> x = torch.randn(8, 4)
    >>> _ = prepare_qat(net, inplace=True)(x)
    >>> model = import_model(net, "drum:8u/k=4", x)
    >>> model[1].mapping.name, torch.equal(
    ...     model[1].weight_quantizer.scale, net[1].weight_fake_quant.scale
    ... )
    ('signmag-weights', True)
    """
    for module in model.modules():
        if "quantized" in type(module).__module__ and isinstance(module, nn.Module):
            raise ConversionError(
                f"{type(module).__name__} holds packed integers: this model has been converted; "
                "import the prepared one, before convert()"
            )
    model, m = duplicate(model, multiplier)
    inner = {_observer(q) for q in model.modules() if isinstance(q, FakeQuantizeBase)}
    quantizers = {q: q for q in model.modules() if _is_quantizer(q) and q not in inner}
    modules: list[Any] = list(model.modules())
    weights = {la: la.weight_fake_quant for la in modules if hasattr(la, "weight_fake_quant")}
    layers: dict[nn.Module, nn.Module] = {}
    for module in modules:
        if not has_like(module):
            continue
        if module in weights:
            layers[module] = weights[module]
        elif getattr(module, "qconfig", None) is not None:
            observer = module.qconfig.weight()  # as convert() would
            observer(module.weight.detach())
            layers[module] = observer
    # Running the model would move what they have found, even in evaluation.
    found = {q: _attempt(q) for q in {*quantizers, *layers.values()}}
    for quantizer in found:
        if isinstance(quantizer, FakeQuantizeBase):
            quantizer.disable_observer()
    if example_inputs:
        marks = inputs_of(model, layers, quantizers, lambda: model(*example_inputs))
    else:
        raise InputError("import_model needs example inputs, to find which quantiser feeds what")
    made: dict[nn.Module, nn.Module] = {}
    for layer, weight in layers.items():
        try:
            x = _had(found[marks[layer]]) if layer in marks else None
            new = _taken_over(layer, m, x, _had(found[weight]), mapping, options)
        except (ConversionError, CalibrationError, MappingError) as error:
            raise type(error)(named(error, model, layer)) from None
        made[layer] = new
    observers = [q for q in quantizers if not isinstance(q, FakeQuantizeBase)]
    made.update({observer: nn.Identity() for observer in observers} if made else {})
    return exchange(model, made, "torch.ao.quantization")


def _taken_over(
    layer: nn.Module,
    m: Multiplier,
    x: QuantizerParameters | None,
    w: QuantizerParameters,
    mapping: OperandMapping | str | None,
    options: dict[str, Any],
) -> nn.Module:
    """A layer of ours, with what torch.ao has fused to it, and hooks that observe its output."""
    norm = getattr(layer, "bn", None)
    if norm is None:
        new: nn.Module = take_over(layer, m, x, w, mapping, **options)
    else:
        kind = NORMALIZED[next(t for t in NORMALIZED if isinstance(layer, t))]
        new = take_over(
            layer, m, x, w, mapping,
            make=lambda la, *args, **kw: kind.from_pair(la, norm, *args, **kw), **options,
        )  # fmt: skip
    if isinstance(layer, _HAS_RELU):
        new = nn.Sequential(new, nn.ReLU()).train(layer.training)
    carry_hooks(layer, new)
    if "activation_post_process" in layer._modules:
        new.add_module("activation_post_process", layer._modules["activation_post_process"])
    return new


# --- our layers in prepare_qat --------------------------------------------------------------


class ObservedQuantizer(Quantizer):
    """A quantiser whose scale and zero point an observer of ``torch.ao`` finds.

    Parameters
    ----------
    codes : CodeRange
        Of the operand; those in use are the observer's.
    observed_by : torch.nn.Module
        An observer, or a fake-quantiser with one, whose ``disable_observer`` holds here too.
    channels : int, optional
        As in :class:`approxhub.quantization.Quantizer`.
    device : torch.device, optional
    """

    observed_by: nn.Module

    def __init__(
        self,
        codes: CodeRange,
        observed_by: nn.Module,
        *,
        channels: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(codes, channels=channels, device=device)
        self.observed_by = observed_by.to(device)
        self.code_range = self._limited(codes)

    def _limited(self, codes: CodeRange) -> CodeRange:
        observer = _observer(self.observed_by)
        return self._inside(codes, (int(observer.quant_min), int(observer.quant_max)))

    def restart(self, calibrator: str | None = None) -> None:
        """Forget what the observer has seen; another calibrator is refused.

        Raises
        ------
        InputError
        """
        if "observed_by" in self._modules:
            if calibrator is not None:
                raise InputError(
                    f"an observer of torch.ao finds this range, not calibrator {calibrator!r}"
                )
            _observer(self.observed_by).reset_min_max_vals()
        super().restart(None if hasattr(self, "calibrator_name") else "minmax")

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Show a tensor to the observer, and take over what it finds.

        Raises
        ------
        CalibrationError
            If `x` holds NaN or infinity.
        """
        enabled = getattr(self.observed_by, "observer_enabled", None)
        if x.is_meta or x.numel() == 0 or (enabled is not None and not bool(enabled[0])):
            return
        if not torch.isfinite(x).all():
            raise CalibrationError("NaN or infinity in a tensor that a range is taken from")
        observer = _observer(self.observed_by)
        observer(x.detach())
        self._take(*observer.calculate_qparams())

    def _take(self, scale: Tensor, zero_point: Tensor) -> None:
        self.scale.copy_(scale.reshape(self.scale.shape))
        self.zero_point.copy_(zero_point.reshape(self.scale.shape))
        codes = self.code_range
        for end, code in ((self.range_min, codes.qmin), (self.range_max, codes.qmax)):
            end.copy_((code - self.zero_point) * self.scale)
        self.calibrated = True

    def fit(self, x: Tensor) -> None:
        """As :meth:`observe`: the observer says what it forgets."""
        self.observe(x)

    def resume(self) -> None:
        """Do nothing: the observer has its own state."""

    def merge(self) -> None:
        """Refuse: nothing is known of how to take observers together.

        Raises
        ------
        CalibrationError
        """
        raise CalibrationError(
            "observers of torch.ao cannot be taken together; calibrate(..., synchronize=False)"
        )

    def set_codes(self, codes: CodeRange, power_of_two: bool | None = None) -> None:
        """Keep the observer's codes, for another operand.

        Raises
        ------
        MappingError
            If it does not hold them, or scales shall be powers of two.
        """
        if power_of_two:
            raise MappingError("observers of torch.ao find scales that are not powers of two")
        self.code_range = self._limited(codes)


class _FromQConfig:
    """What stands in the mapping of ``prepare_qat`` for one float type."""

    @classmethod
    def from_float(cls, layer: nn.Module) -> ApproxLayer:
        raise NotImplementedError


def mapping(
    multiplier: Multiplier | str,
    *,
    mapping: OperandMapping | str | None = None,
    **options: Any,
) -> dict[type[nn.Module], Any]:
    """The mapping with which ``prepare_qat`` puts our layers into a model.

    A layer gets the observers of its `qconfig`, one for its activations and one for its weights,
    and their codes. They find ranges, and we round. Give the `qconfig` to layers, not to the model,
    unless other modules shall have fake-quantisers of their own besides.

    Parameters
    ----------
    multiplier : Multiplier or str
    mapping : OperandMapping or str, optional
        The one under which the codes enter the circuit as they are when not given.
    **options
        Keywords of our layers, as `gradient`.

    Returns
    -------
    dict
        From types of layers to what ``prepare_qat`` makes of them.

    Raises
    ------
    MappingError
        In ``prepare_qat``, if the codes of a `qconfig` do not fit the circuit.
    ConversionError
        In ``prepare_qat``, if a `qconfig` gives no static integers.

    Examples
    --------
    >>> import torch, warnings
    >>> from torch.ao.quantization import get_default_qat_qconfig, prepare_qat
    >>> warnings.simplefilter("ignore")
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> for layer in (net[0], net[2]):
    ...     layer.qconfig = get_default_qat_qconfig("x86")
    >>> model = prepare_qat(net.train(), mapping=mapping("drum:8u/k=4"))
    >>> model(torch.randn(5, 4)).shape, model[0].input_quantizer.code_range.qmax
    (torch.Size([5, 2]), 127)
    """
    m = resolved(multiplier)

    def made(layer: Any) -> ApproxLayer:
        found = {"input": layer.qconfig.activation(), "weight": layer.qconfig.weight()}
        sides = {side: _unseen(q) for side, q in found.items()}
        chosen = mapping or fitting_mapping(m, sides["input"], sides["weight"])
        kind = next(ours for theirs, ours in LAYERS.items() if isinstance(layer, theirs))
        new: ApproxLayer = kind.from_float(layer, m, mapping=chosen, **options)  # type: ignore[attr-defined]
        device = layer.weight.device
        for side, quantizer in found.items():
            name = f"{side}_quantizer"
            per_channel = hasattr(_observer(quantizer), "ch_axis")
            channels = len(new.quantized_weight()) if per_channel else None
            codes = getattr(new, name).code_range
            setattr(
                new, name, ObservedQuantizer(codes, quantizer, channels=channels, device=device)
            )
        new.observe_weight()
        new.train(layer.training)
        new.qconfig = layer.qconfig
        return new

    def entry(float_type: type[nn.Module]) -> type[_FromQConfig]:
        members = {"from_float": classmethod(lambda cls, layer: made(layer))}
        return type(f"Approximate{float_type.__name__}", (_FromQConfig,), members)

    return {float_type: entry(float_type) for float_type in LAYERS}


def _unseen(quantizer: nn.Module) -> QuantizerParameters:
    """The codes of a quantiser that has seen nothing, with a zero point if it may have one."""
    observer = _observer(quantizer)
    if getattr(observer, "quant_min", None) is None or not hasattr(observer, "calculate_qparams"):
        raise ConversionError(f"{type(observer).__name__} gives no static integers")
    affine = observer.qscheme in (torch.per_tensor_affine, torch.per_channel_affine)
    zero = int(affine or observer.quant_min == 0)
    return QuantizerParameters(
        torch.ones(()), torch.tensor(zero), int(observer.quant_min), int(observer.quant_max)
    )
