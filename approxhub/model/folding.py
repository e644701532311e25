"""Finding batch normalisation that a layer before it can take in, and folding it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from approxhub.errors import ConversionError, InputError
from approxhub.model.layers import computed_parameter, is_skipped, module_names
from approxhub.nn.folding import NORMALIZED, BatchNorm
from approxhub.nn.gradients.products import exchanged

__all__ = ["find_pairs", "fold_batch_norm", "refuse"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def find_pairs(model: nn.Module) -> tuple[dict[nn.Module, BatchNorm], dict[nn.Module, str]]:
    """Layers and the batch normalisation that takes their output, alone and at once.

    Read off the graph of the model, or of those of its modules that can be traced.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    pairs : dict of Module to BatchNorm1d, BatchNorm2d or BatchNorm3d
        The batch normalisation of each layer that can take one in.
    others : dict of Module to str
        Why each of the rest cannot be folded.
    """
    names = module_names(model)
    nodes = list(_calls(model))
    calls: dict[nn.Module, int] = {}
    for module, _ in nodes:
        calls[module] = calls.get(module, 0) + 1
    pairs: dict[nn.Module, BatchNorm] = {}
    others: dict[nn.Module, str] = {
        m: "its place in the model could not be traced" for m in names if isinstance(m, _BatchNorm)
    }
    for module, before in nodes:
        if module not in others:
            continue
        reason = _why_not(module, before, calls, names)
        if reason is None:
            assert before is not None
            assert isinstance(module, _NORMS)
            pairs[before] = module
            del others[module]
        else:
            others[module] = reason
    return pairs, others


def _why_not(
    norm: nn.Module,
    before: nn.Module | None,
    calls: dict[nn.Module, int],
    names: dict[nn.Module, list[str]],
) -> str | None:
    if type(norm) not in _NORMS:
        return f"{type(norm).__name__} is not one of torch's plain ones"
    assert isinstance(norm, _NORMS)
    if norm.running_mean is None:
        return "it keeps no running statistics"
    if before is None or type(before) not in NORMALIZED:
        return "what it normalises is not the output of one linear or convolutional layer alone"
    if any(calls[m] > 1 or len(names[m]) > 1 for m in (before, norm)):
        return "it, or the layer before it, is used more than once"
    if norm._forward_hooks or norm._forward_pre_hooks:
        return "it has hooks, which would not be called any more"
    return computed_parameter(before)


def _calls(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    """Calls of modules, each with the module whose output it alone takes, if there is one."""
    try:
        graph = fx.Tracer().trace(model)
    except Exception:  # whatever a user's forward does when it is traced
        for child in model.children():
            yield from _calls(child)
        return
    if not any(True for _ in model.children()):
        return
    modules = dict(model.named_modules(remove_duplicate=False))
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        source = node.args[0] if node.args else None
        before = None
        if isinstance(source, fx.Node) and source.op == "call_module" and len(source.users) == 1:
            before = modules[str(source.target)]
        yield modules[str(node.target)], before


def refuse(others: dict[nn.Module, str], names: dict[nn.Module, list[str]]) -> None:
    """Say which batch normalisation cannot be folded.

    Raises
    ------
    ConversionError
        If there is any.
    """
    if others:
        raise ConversionError(
            "batch normalisation cannot be folded; name it in skip to leave it: "
            + "; ".join(f"{names[m][0] or '(root)'}: {why}" for m, why in others.items())
        )


def fold_batch_norm(
    model: nn.Module, *, skip: str | Sequence[str] = (), inplace: bool = False
) -> nn.Module:
    """Fold batch normalisation into the weights before it, as evaluation computes it.

    The weight of a layer becomes ``w * gamma / sqrt(var + eps)`` for each output channel, the
    bias ``(b - mean) * gamma / sqrt(var + eps) + beta``, and the normalisation
    :class:`torch.nn.Identity`. To go on training with it, convert with
    ``approximate(..., fold_batch_norm=True)`` instead.

    Parameters
    ----------
    model : torch.nn.Module
        A float model in evaluation.
    skip : str or sequence of str
        Patterns of names of batch normalisation to leave.
    inplace : bool
        Change `model` itself rather than a copy.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ConversionError
        If batch normalisation that is not skipped cannot be folded, each named with the reason,
        or the model is training. The model is unchanged then.
    InputError
        If `model` is no module.

    Examples
    --------
    >>> import torch, approxhub as ah
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).eval()
    >>> ah.fold_batch_norm(net)[1]
    Identity()
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"a torch.nn.Module is needed, got {type(model).__name__}")
    if not inplace:
        model = copy.deepcopy(model)
    names = module_names(model)
    skip = [skip] if isinstance(skip, str) else list(skip)
    pairs, others = find_pairs(model)
    refuse({m: why for m, why in others.items() if not is_skipped(names[m], skip)}, names)
    chosen = {la: n for la, n in pairs.items() if not is_skipped(names[n], skip)}
    if any(norm.training for norm in chosen.values()):
        raise ConversionError(
            "in training batch normalisation follows the batch: call model.eval() first, or fold "
            "it with approximate(..., fold_batch_norm=True)"
        )
    for layer, norm in chosen.items():
        _fold(layer, norm)
    replace(model, {norm: nn.Identity() for norm in chosen.values()})
    return model


@torch.no_grad()
def _fold(layer: Any, norm: Any) -> None:
    gamma = 1 if norm.weight is None else norm.weight
    scale = torch.rsqrt(norm.running_var + norm.eps) * gamma
    transposed = getattr(layer, "transposed", False)
    weight = exchanged(layer.weight, layer.groups) if transposed else layer.weight
    weight = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    layer.weight.copy_(exchanged(weight, layer.groups) if transposed else weight)
    shift = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
    shift = shift * scale if norm.bias is None else shift * scale + norm.bias
    layer.bias = nn.Parameter(shift.to(layer.weight.dtype), layer.weight.requires_grad)


def replace(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Put other modules in the places of some."""
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is not None and child in new:
                parent._modules[key] = new[child]
