"""Calls into plug-ins: what comes out of them says whose it is."""

from __future__ import annotations

from types import TracebackType

from approxhub.errors import ApproxHubError, PluginError
from approxhub.plugins.host import cause_of

__all__ = ["guarded"]


class guarded:
    """Turn an error of a plug-in's into a :class:`PluginError` that names it.

    Our own errors, and a lack of memory, pass as they are. A class, for it stands around every
    product, and a generator would take longer than a small one.

    Parameters
    ----------
    what : str
        What is called, e.g. ``"backend 'mine'"``.
    advice : str
        What the user can do.
    """

    __slots__ = ("advice", "what")

    def __init__(self, what: str, advice: str = "") -> None:
        self.what, self.advice = what, advice

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, (ApproxHubError, MemoryError)):
            return
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            return
        hint = f"; {self.advice}" if self.advice else ""
        raise PluginError(f"{self.what} failed: {cause_of(error)}{hint}") from error
