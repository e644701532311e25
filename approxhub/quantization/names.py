"""Calibrators by name, with options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from approxhub.errors import InputError
from approxhub.plugins import CalibratorInfo, host
from approxhub.plugins.guard import guarded
from approxhub.quantization.calibrators import Calibrator

__all__ = ["make_calibrator"]

_TEXT = re.compile(r"([^\s(),=]+)(?:\(([^()]*)\))?")
_OPTION = re.compile(r"(?:([a-z_]+)=)?([0-9.]+)")


def make_calibrator(text: str) -> Calibrator:
    """Make a fresh calibrator by name; those that plug-ins bring too.

    Options are the parameters of the class or function that makes it, where their defaults are
    numbers. They are written as ``option=number`` in parentheses after the name; the first one
    of the class may come first without its name.

    Raises
    ------
    NotFoundError
        If none has that name.
    InputError
        If `text` is no name with options, or it takes no such option.
    CalibrationError
        If it does not take that value.
    PluginError
        If it cannot be loaded.

    Examples
    --------
    >>> make_calibrator("percentile(99.9)").percent
    99.9
    >>> make_calibrator("moving-average(momentum=0.01)").momentum
    0.01
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise InputError(
            f"{text!r} is not a calibrator; write a name, with options as in 'percentile(99.9)'"
        )
    name, options = match.groups()
    info = host().get("approxhub_calibrators", CalibratorInfo, name)
    with guarded(f"calibrator {name!r}"):
        factory = info.load()
        given = {} if options is None else _options(text, factory, options)
        return factory(**given)


def _options(text: str, factory: Callable[..., Calibrator], options: str) -> dict[str, Any]:
    kinds = {
        p.name: type(p.default)
        for p in inspect.signature(factory).parameters.values()
        if type(p.default) in (int, float)
    }
    first = next(iter(kinds), None)
    given: dict[str, Any] = {}
    for place, part in enumerate(options.split(",")):
        match = _OPTION.fullmatch(part.strip())
        if match is None or not (match[1] or place == 0):
            raise InputError(f"calibrator {text!r}: {part.strip()!r} is not option=number")
        key, number = match[1] or first, match[2]
        if key not in kinds or key in given:
            what = "is given twice" if key in given else "is not an option of it"
            raise InputError(
                f"calibrator {text!r}: {key or number!r} {what}; "
                f"options: {', '.join(kinds) or 'none'}"
            )
        try:
            given[key] = kinds[key](number)
        except ValueError:
            raise InputError(
                f"calibrator {text!r}: {key} must be of type {kinds[key].__name__}, got {number!r}"
            ) from None
    return given
