"""What a source is given to fetch with: network rules, mirrors, the time allowed.

Imports the standard library; the downloader only when something is downloaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from approxhub.errors import InputError

if TYPE_CHECKING:
    from approxhub.registry.download import Download

__all__ = ["FetchContext"]

DEFAULT_TIMEOUT = 60.0
_OFF = ("", "0", "no", "false", "off")


def _mirrors(text: str) -> tuple[str, ...]:
    if os.path.isdir(text):  # one folder, commas and all
        return (text,)
    return tuple(m.strip() for m in text.split(",") if m.strip())


@dataclass(frozen=True, slots=True)
class FetchContext:
    """The rules of one fetch.

    Parameters
    ----------
    offline : bool
        Whether the network is forbidden; folders named as mirrors still work.
    timeout : float
        Seconds that one file may take, over all mirrors and retries.
    mirrors : tuple of str
        Addresses or folders to try before a source's own addresses.

    Examples
    --------
    >>> FetchContext(offline=True).timeout
    60.0
    """

    offline: bool = False
    timeout: float = DEFAULT_TIMEOUT
    mirrors: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, offline: bool | None = None) -> FetchContext:
        """Read ``APPROXHUB_OFFLINE``, ``APPROXHUB_TIMEOUT`` and ``APPROXHUB_MIRROR``.

        Parameters
        ----------
        offline : bool, optional
            Overrides ``APPROXHUB_OFFLINE``.

        Raises
        ------
        InputError
            If ``APPROXHUB_TIMEOUT`` is not a positive number.
        """
        if offline is None:
            offline = os.environ.get("APPROXHUB_OFFLINE", "").strip().lower() not in _OFF
        text = os.environ.get("APPROXHUB_TIMEOUT", "")
        try:
            timeout = float(text) if text else DEFAULT_TIMEOUT
        except ValueError:
            timeout = math.nan
        if not (math.isfinite(timeout) and timeout > 0):
            raise InputError(f"APPROXHUB_TIMEOUT must be a number of seconds above 0, got {text!r}")
        return cls(offline, timeout, _mirrors(os.environ.get("APPROXHUB_MIRROR", "")))

    def download(
        self,
        *,
        path: str,
        sha256: str,
        urls: Sequence[str] = (),
        source: str = "",
        commit: str = "",
        max_bytes: int | None = None,
    ) -> Download:
        """Get one file whose hash is known, from the mirrors and then from `urls`.

        Parameters
        ----------
        path : str
            Its place under a mirror.
        sha256 : str
            What it must hash to; a candidate with another hash is passed over.
        urls : sequence of str
            Its own addresses, tried after the mirrors.
        source, commit : str, optional
            Folders that a mirror may keep it in.
        max_bytes : int, optional
            Size at which a download is cut off.

        Raises
        ------
        NetworkError, OfflineError, VerificationError
            If no candidate gave the file.
        """
        from approxhub.registry.download import MAX_BYTES, download

        return download(
            self,
            path=path,
            sha256=sha256,
            urls=urls,
            source=source,
            commit=commit,
            max_bytes=MAX_BYTES if max_bytes is None else max_bytes,
        )
