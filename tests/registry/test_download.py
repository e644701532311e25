"""Downloads: whatever a server does, the right bytes or a named error, in bounded time."""

from __future__ import annotations

import gzip
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from approxhub import errors
from approxhub.registry import FetchContext

GOOD = b"int f(int a, int b) { return a * b; }\n"
SHA = hashlib.sha256(GOOD).hexdigest()


def get(lab: Any, *, timeout: float = 10.0, max_bytes: int = 1 << 20, sha: str = SHA) -> bytes:
    """Download ``/file``."""
    context = FetchContext(timeout=timeout)
    url = f"{lab.server.url}/file"
    return context.download(path="file", sha256=sha, urls=[url], max_bytes=max_bytes).content


def test_good_file(lab: Any, misbehave: Any) -> None:
    """The file comes with one request."""
    lab.server.behave["/file"] = misbehave.body(GOOD)
    assert get(lab) == GOOD
    assert lab.server.asked == ["/file"]
    assert lab.server.headers[0]["Accept-Encoding"] == "identity"


def test_no_announced_length(lab: Any, misbehave: Any) -> None:
    """A server need not say how long the file is."""
    lab.server.behave["/file"] = misbehave.body(GOOD, length=-1)
    assert get(lab) == GOOD


@pytest.mark.parametrize("code", [429, 500, 503])
def test_passing_failure_is_retried(lab: Any, misbehave: Any, code: int) -> None:
    """A status that may pass is asked again, and the second answer counts."""
    answers = [misbehave.status(code), misbehave.body(GOOD)]
    lab.server.behave["/file"] = lambda request: answers.pop(0)(request)
    assert get(lab) == GOOD
    assert len(lab.server.asked) == 2


def test_retries_end(lab: Any, misbehave: Any) -> None:
    """A server that keeps failing is asked three times."""
    lab.server.behave["/file"] = misbehave.status(503)
    with pytest.raises(errors.NetworkError, match="status 503"):
        get(lab)
    assert len(lab.server.asked) == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_final_failure_is_not_retried(lab: Any, misbehave: Any, code: int) -> None:
    """A status that says no is believed at once."""
    lab.server.behave["/file"] = misbehave.status(code)
    with pytest.raises(errors.NetworkError, match=f"status {code}"):
        get(lab)
    assert len(lab.server.asked) == 1


def test_different_file(lab: Any, misbehave: Any) -> None:
    """Another file is refused by its hash."""
    lab.server.behave["/file"] = misbehave.body(b"something else")
    with pytest.raises(errors.VerificationError, match=SHA):
        get(lab)


def test_truncated_body(lab: Any, misbehave: Any) -> None:
    """A body that ends early is a network error, after retries."""
    lab.server.behave["/file"] = misbehave.body(GOOD[:10], length=len(GOOD))
    with pytest.raises(errors.NetworkError, match=r"after 10 bytes|10 of 38"):
        get(lab)
    assert len(lab.server.asked) == 3


def test_length_too_short(lab: Any, misbehave: Any) -> None:
    """A length shorter than the body cuts it, and the hash tells."""
    lab.server.behave["/file"] = misbehave.body(GOOD, length=10)
    with pytest.raises(errors.VerificationError):
        get(lab)


def test_length_too_long_to_take(lab: Any, misbehave: Any) -> None:
    """A body announced beyond the cap is refused before it is read."""
    lab.server.behave["/file"] = misbehave.body(GOOD, length=10 << 30)
    with pytest.raises(errors.NetworkError, match="announced"):
        get(lab)


def test_nonsense_length(lab: Any, misbehave: Any) -> None:
    """A length that is no number does not confuse anything."""
    lab.server.behave["/file"] = misbehave.body(GOOD, length=-1, Content_Length="many")
    assert get(lab) == GOOD


def test_endless_body(lab: Any, misbehave: Any) -> None:
    """A body without end is cut off at the cap."""
    lab.server.behave["/file"] = misbehave.endless
    with pytest.raises(errors.NetworkError, match="more than 1048576 bytes"):
        get(lab)


def test_compressed_answer_is_not_unpacked(lab: Any, misbehave: Any) -> None:
    """A small answer that unpacks to much is taken as it is, and the hash refuses it."""
    bomb = gzip.compress(bytes(50 << 20))
    lab.server.behave["/file"] = misbehave.body(bomb, Content_Encoding="gzip")
    with pytest.raises(errors.VerificationError, match=hashlib.sha256(bomb).hexdigest()):
        get(lab)


def test_stalled_server(lab: Any, misbehave: Any) -> None:
    """A server that falls silent is given up soon, and not asked again."""
    lab.server.behave["/file"] = misbehave.stalled
    start = time.monotonic()
    with pytest.raises(errors.NetworkError, match=r"stalled|no answer"):
        get(lab, timeout=0.9)
    assert time.monotonic() - start < 2
    assert len(lab.server.asked) == 1


def test_dripping_headers(lab: Any, misbehave: Any) -> None:
    """Headers that come byte by byte, never silent, still end with the time allowed."""
    lab.server.behave["/file"] = misbehave.dripping
    start = time.monotonic()
    with pytest.raises(errors.NetworkError, match=r"not done after 0\.\d s"):
        get(lab, timeout=0.6)
    assert time.monotonic() - start < 2


def test_redirect(lab: Any, misbehave: Any) -> None:
    """A redirect is followed without reading the endless page that comes with it."""
    lab.server.behave["/file"] = misbehave.redirect("/other")
    lab.server.behave["/other"] = misbehave.body(GOOD)
    assert get(lab) == GOOD
    assert lab.server.asked == ["/file", "/other"]


def test_redirect_loop(lab: Any, misbehave: Any) -> None:
    """A circle of redirects ends."""
    lab.server.behave["/file"] = misbehave.redirect("/file")
    with pytest.raises(errors.NetworkError, match="redirects"):
        get(lab)
    assert len(lab.server.asked) == 6


def test_redirect_to_a_file(lab: Any, misbehave: Any, tmp_path: Path) -> None:
    """A server cannot send the client to its own disk."""
    (tmp_path / "x").write_bytes(GOOD)
    lab.server.behave["/file"] = misbehave.redirect((tmp_path / "x").as_uri())
    with pytest.raises(errors.NetworkError, match="not an http"):
        get(lab)


def test_places_are_tried_in_order(lab: Any, misbehave: Any, tmp_path: Path) -> None:
    """Mirrors come before a source's own address, each in its three layouts."""
    lab.server.behave["/own/file"] = misbehave.body(GOOD)
    context = FetchContext(mirrors=(f"{lab.server.url}/m/", str(tmp_path)))
    got = context.download(
        path="file", sha256=SHA, source="s", commit="c", urls=[f"{lab.server.url}/own/file"]
    )
    assert lab.server.asked == ["/m/s/c/file", "/m/c/file", "/m/file", "/own/file"]
    assert got.url == f"{lab.server.url}/own/file"


def test_password_is_not_shown(lab: Any, misbehave: Any) -> None:
    """A password in an address is used, and neither kept nor printed."""
    secret = lab.server.url.replace("://", "://me:hush@") + "/file"
    lab.server.behave["/file"] = misbehave.body(GOOD)
    got = FetchContext().download(path="file", sha256=SHA, urls=[secret])
    assert got.url == f"{lab.server.url}/file"
    for behaviour in (misbehave.status(404), misbehave.status(503), misbehave.body(b"x")):
        lab.server.behave["/file"] = behaviour
        with pytest.raises(errors.ApproxHubError) as caught:
            FetchContext().download(path="file", sha256=SHA, urls=[secret])
        assert "hush" not in str(caught.value)
        assert lab.server.url in str(caught.value)


def test_big_file_in_a_folder(tmp_path: Path) -> None:
    """The cap holds for folders too."""
    (tmp_path / "file").write_bytes(bytes(1001))
    context = FetchContext(mirrors=(str(tmp_path),))
    with pytest.raises(errors.NetworkError, match="more than 1000 bytes"):
        context.download(path="file", sha256=SHA, max_bytes=1000)


def test_a_missing_file_comes_with_its_commit(lab: Any, tmp_path: Path) -> None:
    """Whoever has no such file learns which commit is needed, however it failed."""
    wanted = f"file of commit {'1' * 40}"
    for offline, urls in ((True, [lab.server.url]), (False, [])):
        context = FetchContext(mirrors=(str(tmp_path),), offline=offline)
        with pytest.raises(errors.NetworkError, match=wanted):
            context.download(path="file", sha256=SHA, commit="1" * 40, urls=urls)
    (tmp_path / "file").write_bytes(b"of another commit")
    with pytest.raises(errors.VerificationError, match=wanted):
        context.download(path="file", sha256=SHA, commit="1" * 40)


def test_what_was_asked_comes_first(lab: Any) -> None:
    """The message begins with the host that gave nothing, and ends with what to do."""
    url = "http://nowhere.invalid/file"
    for offline, first in (
        (True, "download: offline, so nowhere.invalid cannot"),
        (False, "download: nothing comes from nowhere.invalid: "),
    ):
        with pytest.raises(errors.NetworkError) as caught:
            FetchContext(offline=offline, timeout=1).download(path="file", sha256=SHA, urls=[url])
        assert str(caught.value).startswith(first)
        assert str(caught.value).endswith("with the library")


def test_mirrors_from_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mirrors are separated by commas; a folder that exists may have one in its name."""
    folder = tmp_path / "a,b"
    folder.mkdir()
    monkeypatch.setenv("APPROXHUB_MIRROR", str(folder))
    assert FetchContext.from_environment().mirrors == (str(folder),)
    monkeypatch.setenv("APPROXHUB_MIRROR", "/x, http://y ,")
    assert FetchContext.from_environment().mirrors == ("/x", "http://y")


@pytest.mark.parametrize(
    ("text", "offline"),
    [
        *(("1", True), ("yes", True), ("0", False), ("", False)),
        *(("no", False), ("False", False), ("OFF", False)),
    ],
)
def test_offline_from_environment(
    text: str, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``APPROXHUB_OFFLINE`` is on unless empty, 0, no, false or off; an argument wins."""
    monkeypatch.setenv("APPROXHUB_OFFLINE", text)
    assert FetchContext.from_environment().offline is offline
    assert FetchContext.from_environment(not offline).offline is not offline


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x"])
def test_timeout_from_environment(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``APPROXHUB_TIMEOUT`` must be a finite number above 0."""
    monkeypatch.setenv("APPROXHUB_TIMEOUT", text)
    with pytest.raises(errors.InputError, match="APPROXHUB_TIMEOUT"):
        FetchContext.from_environment()
