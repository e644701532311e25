"""Downloads: one file whose hash is known, from whichever place has it.

Folders and addresses are tried in order, and the hash decides. Sizes, redirects and time are
bounded whatever a server does. Imports requests only when an address is asked.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from approxhub.errors import InputError, NetworkError, OfflineError, VerificationError

if TYPE_CHECKING:
    import requests

    from approxhub.registry.context import FetchContext

__all__ = ["MAX_BYTES", "Download", "download", "retrieve"]

MAX_BYTES = 4 << 20
"""Size at which a download is cut off; the largest C model of EvoApproxLib has a tenth of it."""

_ATTEMPTS = 3
_BACKOFF = 0.5  # seconds before the second attempt, doubled for each one after it
_REDIRECTS = 5
_SILENCE = 10.0  # seconds without a byte
_CHUNK = 1 << 16
_AGAIN = (429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Download:
    """Bytes with the right hash, and the folder or address that had them."""

    content: bytes
    url: str


class _Again(Exception):
    """An attempt failed in a way that may pass."""


def download(
    context: FetchContext,
    *,
    path: str,
    sha256: str,
    urls: Sequence[str] = (),
    source: str = "",
    commit: str = "",
    max_bytes: int = MAX_BYTES,
) -> Download:
    """Get a file; see :meth:`approxhub.registry.FetchContext.download`."""
    deadline = time.monotonic() + context.timeout
    failures: list[str] = []
    wrong = skipped = False
    places = _candidates(context.mirrors, source, commit, path, urls)
    for place in places:
        try:
            if isinstance(place, Path):
                content = _from_folder(place, max_bytes)
                if content is None:
                    failures.append(f"{place}: no such file")
                    continue
            elif context.offline:
                skipped = True
                continue
            else:
                content = _from_address(place, max_bytes, deadline, context.timeout)
        except NetworkError as error:
            failures.append(str(error))
            continue
        found = hashlib.sha256(content).hexdigest()
        shown = place if isinstance(place, Path) else _shown(place)
        if found == sha256:
            return Download(content, str(shown))
        wrong = True
        failures.append(f"{shown}: SHA-256 is {found}, not {sha256}")
    tried = "; ".join(failures) or "nothing was tried"
    asked = " or ".join(dict.fromkeys(map(_host, places)))
    wanted = f"{path} of commit {commit}" if commit else path
    if wrong:
        raise VerificationError(
            f"source hash: no place has the file that the index names, {wanted} ({tried}). "
            "If a mirror is named in APPROXHUB_MIRROR, check it; else the index or the library has "
            "changed"
        )
    if skipped:
        raise OfflineError(
            f"download: offline, so {asked} cannot be asked for {wanted}"
            + (f" ({tried})" if failures else "")
            + "; allow the network (APPROXHUB_OFFLINE, --offline), or set APPROXHUB_MIRROR to a "
            "folder with the library"
        )
    if places and all(isinstance(place, Path) for place in places):
        raise NetworkError(
            f"download: no folder has {wanted} ({tried}), and no address is known; look whether "
            "the folder is where it was, or set APPROXHUB_MIRROR to one with the library"
        )
    raise NetworkError(
        f"download: nothing comes from {asked or 'anywhere'}: {tried}. Wanted was {wanted}. Check "
        f"the connection and the proxy, raise APPROXHUB_TIMEOUT ({context.timeout:g} s), or set "
        "APPROXHUB_MIRROR to a folder or address with the library"
    )


def retrieve(context: FetchContext, url: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Get a file from one address, whatever it holds: nothing says what it must hash to.

    Raises
    ------
    NetworkError, OfflineError
        If it cannot be had.
    """
    if context.offline:
        raise OfflineError(f"{_shown(url)}: offline; unset APPROXHUB_OFFLINE to ask it")
    return _from_address(url, max_bytes, time.monotonic() + context.timeout, context.timeout)


def _candidates(
    mirrors: Sequence[str], source: str, commit: str, path: str, urls: Sequence[str]
) -> list[str | Path]:
    tails = [[source, commit, path], [commit, path], [path]]
    tails = [[part for part in tail if part] for tail in tails]
    found: list[str | Path] = []
    for mirror in mirrors:
        scheme = urlsplit(mirror).scheme if "://" in mirror else ""
        if scheme in ("http", "https"):
            found += [_joined(mirror, tail) for tail in tails]
        elif scheme in ("", "file"):
            folder = Path(unquote(urlsplit(mirror).path) if scheme else mirror).expanduser()
            found += [folder.joinpath(*tail) for tail in tails]
        else:
            raise InputError(
                f"APPROXHUB_MIRROR: {mirror!r} is neither a folder nor an http(s) address"
            )
    return list(dict.fromkeys([*found, *urls]))


def _host(place: str | Path) -> str:
    return str(place) if isinstance(place, Path) else urlsplit(place).hostname or _shown(place)


def _joined(base: str, parts: Sequence[str]) -> str:
    return "/".join([base.rstrip("/"), *map(quote, parts)])


def _from_folder(path: Path, max_bytes: int) -> bytes | None:
    try:
        if not path.is_file():  # never a pipe or a device, which may not end
            return None
        with open(path, "rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise NetworkError(f"{path}: {error.strerror or error}") from error
    if len(content) > max_bytes:
        raise NetworkError(f"{path}: more than {max_bytes} bytes")
    return content


def _from_address(url: str, max_bytes: int, deadline: float, timeout: float) -> bytes:
    """Ask one address, some times if need be, until the deadline."""
    silence = min(_SILENCE, timeout / 3)
    last = "the time was up before it was asked"
    for attempt in range(_ATTEMPTS):
        pause = _BACKOFF * 2 ** (attempt - 1) if attempt else 0.0
        left = deadline - time.monotonic()
        if left <= pause:
            break
        time.sleep(pause)
        try:
            return _within(left - pause, lambda stop: _get(url, max_bytes, silence, stop), url)
        except _Again as error:
            last = str(error)
    raise NetworkError(f"{_shown(url)}: {last}")


def _shown(url: str) -> str:
    """An address without the name and password that may stand in it."""
    return re.sub(r"^(https?://)[^/@]*@", r"\1", url)


def _within(seconds: float, work: Callable[[threading.Event], bytes], url: str) -> bytes:
    """Run `work` for at most `seconds`.

    In a thread, because neither the lookup of a name nor headers that drip in byte by byte obey
    a socket's timeout; one that is late is told to stop, and left alone.
    """
    stop = threading.Event()
    outcome: list[bytes | BaseException] = []

    def run() -> None:
        try:
            outcome.append(work(stop))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, name="approxhub-download", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        stop.set()
        raise NetworkError(f"{_shown(url)}: not done after {seconds:.1f} s")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _get(url: str, max_bytes: int, silence: float, stop: threading.Event) -> bytes:
    import requests

    try:
        with requests.Session() as session, _follow(session, url, silence) as response:
            return _body(response, url, max_bytes, stop)
    except requests.Timeout as error:
        raise NetworkError(f"{_shown(url)}: no answer for {silence:.1f} s") from error
    except requests.ConnectionError as error:
        raise _Again(f"connection failed: {_root(error)}") from error
    except (requests.RequestException, ValueError) as error:
        text = str(error).replace(url, _shown(url))
        raise NetworkError(f"{_shown(url)}: {type(error).__name__}: {text}") from error


def _follow(session: requests.Session, url: str, silence: float) -> requests.Response:
    """Follow redirects by hand: requests would read each one's body, however long."""
    here = url
    for _ in range(_REDIRECTS + 1):
        if urlsplit(here).scheme not in ("http", "https"):
            raise NetworkError(
                f"{_shown(url)}: redirected to {here!r}, which is not an http(s) address"
            )
        if urlsplit(url).scheme == "https" and urlsplit(here).scheme != "https":
            raise NetworkError(f"{_shown(url)}: redirected from https to {here!r}")
        response = session.get(
            here,
            timeout=(silence, silence),
            stream=True,
            allow_redirects=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "approxhub"},
        )
        if response.is_redirect:
            here = urljoin(here, response.headers["location"])
            response.close()
            continue
        if response.status_code in _AGAIN:
            response.close()
            raise _Again(f"status {response.status_code}")
        if response.status_code != 200:
            response.close()
            raise NetworkError(f"{_shown(url)}: status {response.status_code} {response.reason}")
        return response
    raise NetworkError(f"{_shown(url)}: more than {_REDIRECTS} redirects")


def _body(response: requests.Response, url: str, max_bytes: int, stop: threading.Event) -> bytes:
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    said = response.headers.get("content-length", "")
    length = int(said) if said.isascii() and said.isdigit() else None
    if length is not None and length > max_bytes:
        raise NetworkError(f"{_shown(url)}: {length} bytes announced, more than {max_bytes}")
    content = bytearray()
    raw: Any = response.raw
    try:
        while len(content) <= max_bytes:
            if stop.is_set():
                raise NetworkError(f"{_shown(url)}: stopped")
            # What is on the wire, never unpacked: a small answer cannot become a huge one.
            piece = raw.read(_CHUNK, decode_content=False)
            if not piece:
                break
            content += piece
    except ReadTimeoutError as error:
        raise NetworkError(f"{_shown(url)}: stalled after {len(content)} bytes") from error
    except (HTTPError, OSError) as error:
        raise _Again(f"the connection broke after {len(content)} bytes: {error}") from error
    if len(content) > max_bytes:
        raise NetworkError(f"{_shown(url)}: more than {max_bytes} bytes")
    if length is not None and len(content) != length:  # urllib3 before version 2 does not tell
        raise _Again(f"{len(content)} of {length} bytes arrived")
    return bytes(content)


def _root(error: BaseException) -> str:
    """The innermost reason of a failed connection, without urllib3's wrapping."""
    reason: Any = error
    while True:
        inner = getattr(reason, "reason", None) or (reason.args[0] if reason.args else None)
        if not isinstance(inner, BaseException):
            return str(reason)
        reason = inner
