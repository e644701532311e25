"""What a quantiser of another tool is, and how a layer of ours takes it over.

Imports torch and what stands below models; no other tool.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from approxhub.errors import ConversionError, InputError, MappingError
from approxhub.model.folding import replace
from approxhub.model.layers import module_names, require_layers
from approxhub.multiplier import Multiplier, resolved
from approxhub.nn import (
    ApproxLayer,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Linear,
)
from approxhub.quantization import OperandMapping, Quantizer

__all__ = ["LAYERS", "NarrowRange", "QuantizerParameters", "narrow_ranges"]

_log = logging.getLogger("approxhub")

LAYERS: Mapping[type[nn.Module], type[ApproxLayer]] = {
    nn.Linear: Linear,
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
    nn.ConvTranspose1d: ConvTranspose1d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.ConvTranspose3d: ConvTranspose3d,
}
"""Float layers that are taken over, and what they become."""


def has_like(module: object) -> bool:
    """Whether a module is one of :data:`LAYERS`, or of a class derived from one."""
    return isinstance(module, tuple(LAYERS))


@dataclass(frozen=True, slots=True, eq=False)
class QuantizerParameters:
    """A quantiser of another tool: ``code = clamp(round(x / scale) + zero_point, qmin, qmax)``.

    Parameters
    ----------
    scale : Tensor of float
        Of shape (), or (channels,).
    zero_point : Tensor of integers
        As `scale`.
    qmin, qmax : int
        Smallest and largest code.
    """

    scale: Tensor
    zero_point: Tensor
    qmin: int
    qmax: int

    def __post_init__(self) -> None:
        scale = self.scale.detach().reshape(-1) if self.scale.dim() else self.scale.detach()
        zero = self.zero_point.detach().reshape(-1).round().to(torch.int64)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero_point", zero.expand(scale.numel()).reshape(scale.shape))

    @property
    def signed(self) -> bool:
        """Whether it has negative codes."""
        return self.qmin < 0

    def one_for_all(self) -> QuantizerParameters:
        """The same with one scale of shape (), if it has one."""
        if self.scale.numel() == 1:
            return QuantizerParameters(
                self.scale.reshape(()), self.zero_point.reshape(()), self.qmin, self.qmax
            )
        raise ConversionError(
            f"activations have {self.scale.numel()} scales; a layer has one for all of them"
        )


@dataclass(frozen=True, slots=True)
class NarrowRange:
    """A quantiser that cannot produce every code of its operand.

    Parameters
    ----------
    layer : str
        Name of the layer.
    operand : {'activations', 'weights'}
    codes, whole : (int, int)
        Smallest and largest code, of the quantiser and of the operand.
    """

    layer: str
    operand: str
    codes: tuple[int, int]
    whole: tuple[int, int]

    def __str__(self) -> str:
        used = (self.codes[1] - self.codes[0] + 1) / (self.whole[1] - self.whole[0] + 1)
        return (
            f"{self.layer or '(root)'}: {self.operand} have the codes {self.codes[0]}.."
            f"{self.codes[1]} of {self.whole[0]}..{self.whole[1]}, {used:.0%} of the operand"
        )


def narrow_ranges(model: nn.Module) -> list[NarrowRange]:
    """Quantisers of a model whose codes leave out more than one code of their operand.

    A circuit whose table is exercised in half gives other errors than one that is exercised
    whole. (Symmetric codes, ``-127..127``, leave out one, and are not listed.)

    Parameters
    ----------
    model : torch.nn.Module
        A converted model.

    Raises
    ------
    ConversionError
        If the model has no approximate layer.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = ah.approximate(torch.nn.Sequential(torch.nn.Linear(4, 2)), ah.exact(8, signed=False))
    >>> net[0].input_quantizer.adopt(torch.tensor(0.1), torch.tensor(3), (0, 127))
    >>> print(narrow_ranges(net)[0])
    0: activations have the codes 0..127 of 0..255, 50% of the operand
    """
    found = []
    for name, layer in require_layers(model).items():
        for operand, quantizer in (
            ("activations", layer.input_quantizer),
            ("weights", layer.weight_quantizer),
        ):
            codes = quantizer.code_range
            whole = (codes.format.min, codes.format.max)
            if codes.qmax - codes.qmin < whole[1] - whole[0] - 1:
                found.append(NarrowRange(name, operand, (codes.qmin, codes.qmax), whole))
    return found


def fitting_mapping(
    m: Multiplier, x: QuantizerParameters | None, w: QuantizerParameters
) -> OperandMapping:
    """The operand mapping under which imported codes enter a circuit as they are.

    Raises
    ------
    MappingError
        If there is none.
    """
    x_signed = w.signed if x is None else x.signed
    centred = x is None or not bool(x.zero_point.any())
    kinds: dict[tuple[bool, bool], str | None] = {
        (True, True): "symmetric" if centred and x_signed else "affine-signed",
        (True, False): "mixed",
        (False, True): "mixed",
        (False, False): (
            ("signmag-both" if x_signed else "signmag-weights") if w.signed else "affine"
        ),
    }
    name = kinds[m.a.signed, m.b.signed]
    assert name is not None
    mapping = OperandMapping(name)
    _, x_codes, w_codes = mapping.resolve(m)
    for what, p, codes in (("activations", x, x_codes), ("weights", w, w_codes)):
        f = codes.format
        if p is not None and not (f.min <= p.qmin and p.qmax <= f.max):
            raise MappingError(
                f"{m.id} ({m.a} x {m.b}): {what} have the codes {p.qmin}..{p.qmax}, the operand "
                f"holds {f.min}..{f.max}; choose a circuit whose operands hold them"
            )
    return mapping


def take_over(
    layer: nn.Module,
    multiplier: Multiplier,
    x: QuantizerParameters | None,
    w: QuantizerParameters,
    mapping: OperandMapping | str | None = None,
    make: Callable[..., ApproxLayer] | None = None,
    **options: Any,
) -> ApproxLayer:
    """A layer of ours with the parameters of a float layer, and quantisers from elsewhere.

    Parameters
    ----------
    layer : torch.nn.Module
        One of :data:`LAYERS`, or of a class derived from one.
    multiplier : Multiplier
    x, w : QuantizerParameters
        Of activations, if they are known, and of weights.
    mapping : OperandMapping or str, optional
        The one that fits when not given.
    make : callable, optional
        In place of the ``from_float`` of our class.
    **options
        Keywords of our class.

    Raises
    ------
    ConversionError, MappingError, CalibrationError
        If the quantisers are of a kind that ours are not, or do not fit the circuit.
    """
    if x is not None:
        x = x.one_for_all()
    if mapping is None:
        mapping = fitting_mapping(multiplier, x, w)
    kind = next(ours for theirs, ours in LAYERS.items() if isinstance(layer, theirs))
    new = (make or kind.from_float)(layer, multiplier, mapping=mapping, **options)  # type: ignore[attr-defined]
    channels = len(new.quantized_weight())
    if w.scale.numel() not in (1, channels):
        raise ConversionError(
            f"weights have {w.scale.numel()} scales for {channels} output channels; scales of "
            "groups, blocks or input channels have no like here"
        )
    if w.scale.numel() == 1 and channels != 1:
        w = w.one_for_all()
    old = new.weight_quantizer
    per_channel = w.scale.dim() == 1
    new.weight_quantizer = Quantizer(
        old.code_range, channels=channels if per_channel else None, device=old.scale.device
    )
    new.weight_quantizer.adopt(w.scale, w.zero_point, (w.qmin, w.qmax))
    if x is not None:
        new.input_quantizer.adopt(x.scale, x.zero_point, (x.qmin, x.qmax))
    return new


def exchange(model: nn.Module, made: Mapping[nn.Module, nn.Module], tool: str) -> nn.Module:
    """Put new layers into a model, and say what is to be known of them."""
    if not made:
        raise ConversionError(
            f"{type(model).__name__} has no layer that {tool} has quantised; linear layers, "
            "convolutions and transposed convolutions are taken over"
        )
    replace(model, made)
    model = made.get(model, model)
    for entry in narrow_ranges(model):
        _log.warning("narrow range: %s", entry)
    unknown = [
        name
        for name, layer in require_layers(model).items()
        if not layer.input_quantizer.calibrated
    ]
    if unknown:
        _log.warning(
            "no quantiser was found for the activations of %s; run approxhub.calibrate, which "
            "leaves imported ones as they are",
            ", ".join(unknown),
        )
    return model


def duplicate(model: nn.Module, multiplier: Multiplier | str) -> tuple[nn.Module, Multiplier]:
    """A copy of a model to work on, and the multiplier."""
    if not isinstance(model, nn.Module):
        raise InputError(f"a torch.nn.Module is needed, got {type(model).__name__}")
    return copy.deepcopy(model), resolved(multiplier)


def named(error: Exception, model: nn.Module, module: nn.Module) -> str:
    """An error's words, with the name of the layer that it is about."""
    return f"{module_names(model)[module][0] or '(root)'}: {error}"
