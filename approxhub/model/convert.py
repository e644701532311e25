"""Putting a multiplier into a model's layers."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from approxhub.errors import ConversionError, InputError, PluginError
from approxhub.model.folding import find_pairs, refuse, replace
from approxhub.model.layers import (
    approx_layers,
    computed_parameter,
    is_approximate,
    is_pattern,
    is_skipped,
    matches,
    module_names,
    name_layers,
    require_layers,
)
from approxhub.model.leftovers import Leftover, find_calls, has_products
from approxhub.multiplier import Multiplier, resolved
from approxhub.nn import ApproxLayer, CompositeLayer
from approxhub.nn.base import guard_loading
from approxhub.nn.folding import NORMALIZED, BatchNorm
from approxhub.plugins import LayerConverter, host
from approxhub.plugins.guard import guarded
from approxhub.quantization import Datapath, OperandMapping

__all__ = ["approximate", "carry_hooks", "leftovers", "set_multiplier"]

_log = logging.getLogger("approxhub")

Choice = Multiplier | str
Approximate = ApproxLayer | CompositeLayer
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def _type_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _converter(module: nn.Module) -> LayerConverter | None:
    name = _type_name(module)
    offered = host().all("approxhub_converters", LayerConverter)
    return next((c for c in offered if c.source_type == name), None)


def _why_not(module: nn.Module) -> str | None:
    """Why a module cannot be converted, or None if it can."""
    if is_approximate(module):
        return "it is approximate already; use approxhub.set_multiplier"
    if any(nn.parameter.is_lazy(p) for p in module._parameters.values() if p is not None):
        return "its parameters are not initialised yet; run the model once"
    if _converter(module) is None:
        kind = type(module).__name__
        if any(True for _ in module.children()) and not has_products(module):
            return f"{kind} is a container; name the layers inside it, e.g. with '.*'"
        return (
            f"no converter takes {_type_name(module)}; a plug-in can bring one through the hook "
            "approxhub_converters"
        )
    return computed_parameter(module)


def _patterns(multiplier: Choice | Mapping[str, Choice]) -> dict[str, Choice]:
    if isinstance(multiplier, Mapping):
        if not multiplier:
            raise InputError("a mapping from name patterns to multipliers must not be empty")
        return dict(multiplier)
    return {"*": multiplier}


def approximate(
    model: nn.Module,
    multiplier: Choice | Mapping[str, Choice],
    *,
    skip: str | Sequence[str] = (),
    mapping: OperandMapping | str | None = None,
    gradient: str = "straight-through",
    calibrator: str = "moving-average",
    per_channel: bool = True,
    datapath: Datapath | str | None = None,
    attention_products: bool = False,
    fold_batch_norm: bool = False,
    strict: bool = False,
    inplace: bool = False,
) -> nn.Module:
    """Let a model's layers multiply through a multiplier.

    Converts every layer that a converter takes (linear, convolutional, recurrent and attention
    layers, and what plug-ins bring), wherever it is nested; a shared layer stays shared, and
    parameters stay the same objects within the returned model. What is left exact, products
    called as functions included, is logged as a warning; :func:`leftovers` lists it and
    :func:`summary` counts it.

    Parameters
    ----------
    model : torch.nn.Module
        A float model.
    multiplier : Multiplier, str, or mapping of str to those
        One for all layers, or one for each pattern of module names (``fnmatch``; ``*`` also
        matches dots). The first pattern that fits a layer decides; layers that none fits are
        left.
    skip : str or sequence of str
        Patterns of names to leave exact; naming a container skips everything in it.
    mapping : OperandMapping or str, optional
        How activations and weights become operands; the multiplier's default when not given.
    gradient, calibrator : str
        Names of the gradient and of the activations' calibrator.
    per_channel : bool
        One weight scale for each output channel, or one for each layer.
    datapath : Datapath or str, optional
        What hardware does with zero points, padding, bias and scales, as
        ``'zero_point=before,bias=int32'``; see :class:`approxhub.quantization.Datapath`.
    attention_products : bool
        Whether the two inner products of :class:`torch.nn.MultiheadAttention` go through the
        multiplier as its projections do.
    fold_batch_norm : bool
        Whether batch normalisation becomes part of the layer before it, so that the folded
        weight is quantised: :class:`approxhub.nn.NormalizedConv2d` and its like. All of it has
        to be foldable, but what `skip` names and what follows layers that are left.
    strict : bool
        Refuse to leave any product exact that is not named in `skip`.
    inplace : bool
        Change `model` itself rather than a copy. (A model that is itself one layer is returned
        anew.)

    Returns
    -------
    torch.nn.Module
        In approximate mode, not calibrated yet: see :func:`calibrate`.

    Raises
    ------
    ConversionError
        If a layer named without wildcards cannot be converted, nothing can be, batch
        normalisation cannot be folded, or something is left although `strict`. The model is
        unchanged then.
    InputError
        If a pattern fits no module.
    MappingError
        If a multiplier does not fit the mapping and the datapath.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> net = ah.approximate(net, {"0": ah.exact(8), "*": "drum:8s/k=4"})
    >>> net[2].multiplier.id
    'drum:8s/k=4'
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"a torch.nn.Module is needed, got {type(model).__name__}")
    skip = [skip] if isinstance(skip, str) else list(skip)
    patterns = {p: resolved(c) for p, c in _patterns(multiplier).items()}
    if not inplace:
        try:
            model = copy.deepcopy(model)
        except RuntimeError as error:  # e.g. a weight that a hook computes from others
            raise ConversionError(
                f"{type(model).__name__} cannot be copied ({error}); convert it with inplace=True"
            ) from error
    names = module_names(model)
    for pattern in [*patterns, *skip]:
        if not any(matches(n, pattern) for n in names.values()):
            raise InputError(f"no module of {type(model).__name__} is called {pattern!r}")

    options: dict[str, Any] = {
        "mapping": mapping,
        "gradient": gradient,
        "calibrator": calibrator,
        "per_channel": per_channel,
    }
    if datapath is not None:  # which not every plug-in's layer has to know
        options["datapath"] = datapath
    norms: Mapping[nn.Module, BatchNorm] = {}
    if fold_batch_norm:
        norms, others = find_pairs(model)
        refuse({m: why for m, why in others.items() if not is_skipped(names[m], skip)}, names)
        norms = {la: norm for la, norm in norms.items() if not is_skipped(names[norm], skip)}
    new: dict[nn.Module, Approximate] = {}
    for module, called in names.items():
        if is_skipped(called, skip):
            continue
        choice = _choose([(name,) for name in called], patterns)
        if choice is None:
            continue
        pattern, chosen = choice
        reason = _why_not(module)
        if reason is None:
            if module in norms:
                kind = NORMALIZED[type(module)]
                made: Approximate = kind.from_pair(module, norms[module], chosen, **options)
            elif isinstance(module, nn.MultiheadAttention):
                made = _made(module, chosen, approximate_products=attention_products, **options)
            else:
                made = _made(module, chosen, **options)
            carry_hooks(module, made)
            new[module] = made
        elif not is_pattern(pattern):
            raise ConversionError(f"{called[0] or '(root)'} cannot be converted: {reason}")
    if not new:
        if ready := approx_layers(model):
            raise ConversionError(
                f"{type(model).__name__} is converted already ({len(ready)} approximate layers), "
                "and nothing else could be; use approxhub.set_multiplier(model, id)"
            )
        raise ConversionError(
            f"{type(model).__name__} has no layer that could be converted; "
            "linear, convolutional, recurrent and attention layers can, and what "
            "'approxhub plugins' adds"
        )

    left = _leftovers(names, new, skip)
    unwanted = [entry for entry in left if entry.reason != _SKIPPED]
    if strict and unwanted:
        raise ConversionError(
            "strict: these products would stay exact: " + "; ".join(map(str, unwanted))
        )
    folded: dict[nn.Module, nn.Module] = {
        norm: nn.Identity() for layer, norm in norms.items() if layer in new
    }
    replace(model, {**new, **folded})
    for parent in names:
        if isinstance(parent, nn.TransformerEncoderLayer):
            # Its fast path reads the weights of its layers and never calls them.
            parent.activation_relu_or_gelu = 0
        elif isinstance(parent, nn.TransformerEncoder):
            # Nested tensors are for that path alone.
            parent.use_nested_tensor = False
    _log.info("converted %s", ", ".join(names[m][0] or "(root)" for m in new))
    if unwanted:
        _log.warning("left exact:\n  %s", "\n  ".join(map(str, unwanted)))
    model = new.get(model, model)
    guard_loading(model)
    name_layers(model)
    return model


_SKIPPED = "skipped by name"


def _made(module: nn.Module, multiplier: Multiplier, **options: Any) -> Approximate:
    """What the converter of a module's type makes of it."""
    converter = _converter(module)
    assert converter is not None
    with guarded(f"the converter of {converter.source_type}"):
        made = converter.convert(module, multiplier, **options)
    if not is_approximate(made):
        raise PluginError(
            f"the converter of {converter.source_type} returned {type(made).__name__}, "
            "not an approxhub.nn.ApproxLayer or CompositeLayer"
        )
    approximate_layer: Approximate = made
    return approximate_layer


def _choose(
    called: Sequence[tuple[str, ...]], patterns: Mapping[str, Multiplier]
) -> tuple[str, Multiplier] | None:
    """The first pattern for a module; the names of a shared one must agree.

    Each of its names comes with those of the layers that it is a part of.
    Where patterns without wildcards name it, only those count.
    """
    found: dict[str, tuple[str, Multiplier]] = {}
    for names in called:
        for pattern, multiplier in patterns.items():
            if matches(names, pattern):
                found[names[0]] = (pattern, multiplier)
                break
    named = {n: v for n, v in found.items() if not is_pattern(v[0])}
    found = named or found
    if len({(m.id, m) for _, m in found.values()}) > 1:
        raise ConversionError(
            "one layer is shared under several names that are given different multipliers: "
            + ", ".join(f"{n} -> {m.id}" for n, (_, m) in found.items())
        )
    return next(iter(found.values()), None)


def carry_hooks(old: nn.Module, new: nn.Module) -> None:
    """Give a module the hooks of the one that it replaces."""
    for attribute in _HOOKS:
        getattr(new, attribute).update(getattr(old, attribute))
    new._is_full_backward_hook = old._is_full_backward_hook


def _leftovers(
    names: Mapping[nn.Module, list[str]],
    new: Mapping[nn.Module, Approximate],
    skip: Sequence[str],
) -> list[Leftover]:
    left: list[Leftover] = []
    inside: set[nn.Module] = set()
    for module, called in names.items():
        if module in inside:
            continue
        skipped = is_skipped(called, skip)
        made = new.get(module, module)
        if is_approximate(made):
            inside.update(module.modules())
            if isinstance(made, CompositeLayer):
                left += [
                    Leftover(called[0], what, _SKIPPED if skipped else why)
                    for what, why in made.exact_products()
                ]
            continue
        if has_products(module):
            inside.update(module.modules())
            why = _SKIPPED if skipped else _why_not(module) or "no pattern fits it"
            left.append(Leftover(called[0], type(module).__name__, why))
            continue
        left += [
            Leftover(called[0], call, _SKIPPED if skipped else "functional call")
            for call in find_calls(module)
        ]
    return left


def leftovers(model: nn.Module) -> list[Leftover]:
    """Products that stay exact in a converted model, as far as its source shows.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    list of Leftover
        Unconverted layers, and functional calls in the ``forward`` of its modules with file and
        line. :func:`summary` with an example input counts what really runs.
    """
    return _leftovers(module_names(model), {}, ())


def _names_of_parts(model: nn.Module) -> dict[nn.Module, list[tuple[str, ...]]]:
    """All names of each module, each with those of the layers that it is a part of."""
    every = module_names(model)
    around: dict[str, list[str]] = {}
    for module, called in every.items():
        if isinstance(module, CompositeLayer):
            for name in called:
                for part in module.parts():
                    around.setdefault(f"{name}.{part}" if name else part, []).append(name)
    return {m: [(n, *around.get(n, ())) for n in called] for m, called in every.items()}


def assigned(
    model: nn.Module, multiplier: Choice | Mapping[str, Choice]
) -> dict[ApproxLayer, Multiplier]:
    """Which of a model's converted layers get which multiplier.

    Raises
    ------
    ConversionError
        If the model has no approximate layer.
    InputError
        If a pattern fits no approximate layer.
    """
    layers = require_layers(model)
    names = _names_of_parts(model)
    patterns = {p: resolved(c) for p, c in _patterns(multiplier).items()}
    for pattern in patterns:
        if not any(matches(n, pattern) for layer in layers.values() for n in names[layer]):
            raise InputError(f"no approximate layer is called {pattern!r}")
    return {
        layer: choice[1]
        for layer in layers.values()
        if (choice := _choose(names[layer], patterns)) is not None
    }


def set_multiplier(
    model: nn.Module,
    multiplier: Choice | Mapping[str, Choice],
    *,
    mapping: OperandMapping | str | None = None,
) -> None:
    """Give converted layers another multiplier, in place.

    Weights stay, and so do the calibrated ranges: where the new multiplier's operands have
    another width or sign, scales and zero points follow from the ranges. So one calibration
    serves any number of multipliers.

    Parameters
    ----------
    model : torch.nn.Module
        A converted model.
    multiplier : Multiplier, str, or mapping of str to those
        As in :func:`approximate`. The parts of a recurrent or attention layer have names of
        their own; its name stands for all of them.
    mapping : OperandMapping or str, optional
        The mapping to use; when not given each layer's present one, or the new multiplier's
        default where that does not fit, which is logged as a warning.

    Raises
    ------
    ConversionError
        If the model has no approximate layer.
    InputError
        If a pattern fits no approximate layer.
    MappingError
        If a multiplier does not fit; the model is unchanged then.
    """
    chosen = assigned(model, multiplier)
    before = [(layer, layer.multiplier, layer.mapping) for layer in chosen]
    try:
        for layer, m in chosen.items():
            layer.set_multiplier(m, mapping)
    except Exception:
        for layer, m, old_mapping in before:
            layer.set_multiplier(m, old_mapping)
        raise
    switched = {
        f"{old} does not fit {layer.multiplier.id}, now {layer.mapping}"
        for layer, _, old in before
        if mapping is None and layer.mapping != old
    }
    if switched:
        _log.warning("operand mapping changed: %s", "; ".join(sorted(switched)))
