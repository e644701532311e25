"""Finding approximate layers in a model by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from approxhub.errors import ConversionError, InputError
from approxhub.nn import ApproxLayer, CompositeLayer

__all__ = [
    "approx_layers",
    "computed_parameter",
    "is_approximate",
    "is_pattern",
    "is_skipped",
    "matches",
    "module_names",
    "name_layers",
    "require_layers",
]


def module_names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """All names of each module, the shared ones with several; the root is ``''``."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def is_approximate(module: object) -> bool:
    """Whether a module multiplies through a multiplier, itself or in its parts."""
    return isinstance(module, (ApproxLayer, CompositeLayer))


def approx_layers(model: nn.Module) -> dict[str, ApproxLayer]:
    """The approximate layers of a model by their first name, in the model's order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, ApproxLayer)}


def name_layers(model: nn.Module) -> None:
    """Tell approximate layers their names in a model, for messages."""
    for name, layer in approx_layers(model).items():
        layer._path = name


def require_layers(model: nn.Module) -> dict[str, ApproxLayer]:
    """As :func:`approx_layers`, but none is an error."""
    if not isinstance(model, nn.Module):
        raise InputError(f"a torch.nn.Module is needed, got {type(model).__name__}")
    layers = approx_layers(model)
    if not layers:
        raise ConversionError(
            f"{type(model).__name__} has no approximate layer; convert it first: "
            "model = approxhub.approximate(model, id)"
        )
    return layers


def is_pattern(text: str) -> bool:
    """Whether a name has wildcards."""
    return any(c in text for c in "*?[")


def matches(names: Iterable[str], pattern: str) -> bool:
    """Whether any of a module's names fits a pattern."""
    return any(fnmatchcase(name, pattern) for name in names)


def is_skipped(called: Sequence[str], skip: Sequence[str]) -> bool:
    """Whether a pattern fits a module or anything that it is in, under any of its names."""
    split = [name.split(".") for name in called]
    around = {".".join(parts[:i]) for parts in split for i in range(1, len(parts) + 1)}
    return any(matches(around, pattern) for pattern in skip)


def computed_parameter(module: nn.Module) -> str | None:
    """Why a module cannot be changed whose weight is not a parameter, or None if all are."""
    for name, value in vars(module).items():
        if isinstance(value, Tensor):  # in the place of a parameter
            return (
                f"its {name} is computed by a hook before each pass; make it a parameter first "
                "(remove_weight_norm, remove_spectral_norm, prune.remove)"
            )
    return None
