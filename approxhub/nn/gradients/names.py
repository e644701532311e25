"""Gradients by name: ``'lre'``, or with options ``'table-2d(half_window=8)'``."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, cast

from approxhub.errors import InputError
from approxhub.nn.gradients.estimators import Gradient
from approxhub.plugins import GradientInfo, host
from approxhub.plugins.guard import guarded

__all__ = ["make_gradient"]

_TEXT = re.compile(r"([^()\s]+)(?:\(([^()]*)\))?")
_OPTION = re.compile(r"\s*([a-z_]+)\s*=\s*(\S+)\s*")


def make_gradient(text: str) -> Gradient:
    """The gradient of that name, with its options; those that plug-ins bring too.

    Options are the fields of a gradient that is a dataclass, written as ``field=value`` in
    parentheses after its name.

    Raises
    ------
    NotFoundError
        If none has that name.
    InputError
        If it takes no such option, or not that value.

    Examples
    --------
    >>> make_gradient("table-2d(half_window=8)").half_window
    8
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise InputError(
            f"{text!r} is not a gradient; write a name, with options as 'name(option=value, ...)'"
        )
    name, options = match.groups()
    info = host().get("approxhub_gradients", GradientInfo, name)
    with guarded(f"gradient {name!r}"):
        found = info.load()
    return found if options is None else _with_options(name, found, options)


def _with_options(name: str, gradient: Gradient, text: str) -> Gradient:
    given: dict[str, Any] = {}
    fields = getattr(gradient, "__dataclass_fields__", {})
    known = [name for name, option in fields.items() if option.init]
    for part in text.split(","):
        match = _OPTION.fullmatch(part)
        if match is None:
            raise InputError(f"gradient {name!r}: {part.strip()!r} is not option=value")
        key, value = match.groups()
        if key not in known or key in given:
            what = "is given twice" if key in given else "is not an option of it"
            raise InputError(
                f"gradient {name!r}: {key!r} {what}; options: {', '.join(known) or 'none'}"
            )
        kind = type(getattr(gradient, key))
        try:
            given[key] = kind(value)
        except ValueError:
            raise InputError(
                f"gradient {name!r}: {key} must be of type {kind.__name__}, got {value!r}"
            ) from None
    made: Gradient = dataclasses.replace(cast(Any, gradient), **given)
    return made
