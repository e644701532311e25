"""Calls into plug-ins: what comes out of them says whose it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from approxhub.errors import ApproxHubError, PluginError
from approxhub.plugins.host import cause_of

__all__ = ["guarded"]


@contextmanager
def guarded(what: str, advice: str = "") -> Iterator[None]:
    """Turn an error of a plug-in's into a :class:`PluginError` that names it.

    Our own errors, and a lack of memory, pass as they are.

    Parameters
    ----------
    what : str
        What is called, e.g. ``"backend 'mine'"``.
    advice : str
        What the user can do.
    """
    try:
        yield
    except (ApproxHubError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            raise
        hint = f"; {advice}" if advice else ""
        raise PluginError(f"{what} failed: {cause_of(error)}{hint}") from error
