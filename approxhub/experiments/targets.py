"""Functions given as text: ``package.module:function``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from approxhub.errors import EvaluationError, InputError, TargetNotFoundError

__all__ = ["call", "find", "split", "where"]


def split(text: str) -> tuple[str, str]:
    """Module and name of a target.

    Raises
    ------
    InputError
        If it is not of the form ``package.module:function``.

    Examples
    --------
    >>> split("package.module:function")
    ('package.module', 'function')
    """
    module, colon, name = text.partition(":")
    parts = [*module.split("."), *name.split(".")]
    file = module.endswith(".py") or "/" in module
    if file or not colon or not all(part.isidentifier() for part in parts):
        hint = "; name a module as Python imports it, not a file" if file else ""
        raise InputError(f"{text!r} is not of the form package.module:function{hint}")
    return module, name


def find(text: str) -> Callable[..., Any]:
    """Import a function; the working folder is looked in first.

    Parameters
    ----------
    text : str
        ``package.module:function``.

    Raises
    ------
    InputError
        If the text is not of that form, or names what cannot be called.
    TargetNotFoundError
        If there is no such module, or no such name in it.
    EvaluationError
        If importing the module raises.

    Examples
    --------
    >>> find("torch.nn:Linear").__name__
    'Linear'
    """
    module_name, name = split(text)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise TargetNotFoundError(
                f"{text}: there is no module {missing!r}; it was looked for in {here} and where "
                "Python's packages are"
            ) from error
        raise _raised(f"importing {module_name}", error) from error
    except Exception as error:
        raise _raised(f"importing {module_name}", error) from error
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            there = [n for n, v in vars(value).items() if callable(v) and not n.startswith("_")]
            found = f"; it has {', '.join(there)}" if 0 < len(there) <= 10 else ""
            raise TargetNotFoundError(
                f"{text}: {getattr(value, '__name__', value)} has no {part!r}{found}"
            ) from None
    if not callable(value):
        raise InputError(f"{text} is no function, but a {type(value).__name__}")
    function: Callable[..., Any] = value
    return function


def call(text: str) -> Any:
    """Call a function that takes nothing.

    Raises
    ------
    EvaluationError
        If it raises.
    InputError, TargetNotFoundError
        As :func:`find`.
    """
    function = find(text)
    try:
        return function()
    except Exception as error:
        raise _raised(text, error) from error


def _raised(what: str, error: Exception) -> EvaluationError:
    return EvaluationError(f"{what} raised {type(error).__name__}: {error}{where(error)}")


def where(error: BaseException) -> str:
    """File and line of the innermost frame of an error, to append to a message."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"
