"""Errors of reading and writing a file say which file. Imports the errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from approxhub.errors import ApproxHubError, TableFileError

__all__ = ["about"]


@contextmanager
def about(path: Path, done: str) -> Iterator[None]:
    """Put a file's name before our errors, and make the system's ours.

    Parameters
    ----------
    path : Path
        The file.
    done : {'read', 'written'}
        What could not be done with it.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise TableFileError(f"{path}: cannot be {done}: {why}") from error
    except ApproxHubError as error:
        error.args = (f"{path}: {error}", *error.args[1:])
        raise
