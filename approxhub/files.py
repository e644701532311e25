"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["replacing", "target_of"]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def target_of(path: str | os.PathLike[str]) -> Path:
    """Where to write what is to stand at `path`: of a symbolic link, what it points to.

    Parameters
    ----------
    path : path
        A regular file, or nothing yet.

    Returns
    -------
    Path
        The same without symbolic links, also if nothing is there.

    Raises
    ------
    OSError
        If something else is there, which a file must not take the place of: a device, a pipe,
        a folder.

    Examples
    --------
    >>> target_of(os.devnull)
    Traceback (most recent call last):
        ...
    OSError: [Errno 22] it is a device; name a regular file: '/dev/null'
    """
    # The path itself is asked: /dev/stdout resolves to a name that is none.
    with contextlib.suppress(FileNotFoundError):
        kind = stat.S_IFMT(os.stat(path).st_mode)
        if kind != stat.S_IFREG:
            what = _KINDS.get(kind, "no regular file")
            raise OSError(errno.EINVAL, f"it is {what}; name a regular file", os.fspath(path))
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`, and put what is written there in its place.

    Whatever goes wrong before that, `path` is as it was, and nothing is left behind.
    A symbolic link stays one: what it points to is replaced.

    Parameters
    ----------
    path : path
        The file to write: a regular one, if there is any.

    Yields
    ------
    Path
        Where to write it.

    Raises
    ------
    OSError
        If it cannot be written, or is a device, a pipe or a folder.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "note.txt")
    >>> with replacing(path) as temporary:
    ...     _ = temporary.write_text("all of it")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('all of it', 1)
    """
    path = target_of(path)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
