"""Servers that misbehave, against ``fetch`` and ``index add``: a named error in time, and no harm.

    python tests/campaigns/servers.py
    python tests/campaigns/servers.py --only "endless body" --timeout 1

Every case is a true process of the command line that asks a loopback server which does one thing
wrong. It must end within its time and its memory, with an error of ours of the right class (or
with the right table, where the fault is one that a hash can forgive), and leave the cache as it
was; then the server is well again, and the same command must succeed. Prints counts as JSON. Exit
code 1: something was wrong.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from conftest import Behaviour, Misbehave
from store import Bench, environment

from approxhub.registry import Store, fetch
from approxhub.registry.download import MAX_BYTES
from approxhub.registry.index import MAX_INDEX_BYTES

NAME = "mul4u_CUT"
ID = f"lab:r1/{NAME}"
MEMORY = 64 << 20  # more than a good fetch takes
SLACK = 30.0  # seconds on top of the timeout and of what a good fetch takes, on a busy machine
Request = BaseHTTPRequestHandler


@dataclass(frozen=True)
class Case:
    """One misbehaviour, and what may come of it: classes of errors, or 'right' for the table."""

    behaviour: Behaviour
    outcomes: tuple[str, ...] = ("NetworkError",)


# --- misbehaviours -----------------------------------------------------------------------


def raw(*pieces: bytes, pause: float = 0.0, forever: bool = False) -> Behaviour:
    """Send bytes as they are, the last of them for as long as somebody listens."""

    def behaviour(request: Request) -> None:
        for piece in pieces:
            request.wfile.write(piece)
            request.wfile.flush()
            time.sleep(pause)
        while forever:
            request.wfile.write(pieces[-1])
            time.sleep(pause)

    return behaviour


def silent(request: Request) -> None:
    """Take the request, and say nothing for a long time."""
    time.sleep(60)


def reset(sent: bytes) -> Behaviour:
    """Send something, and break the connection off hard."""

    def behaviour(request: Request) -> None:
        request.wfile.write(sent)
        request.wfile.flush()
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.connection.close()

    return behaviour


def cases(content: bytes, elsewhere: str) -> dict[str, Case]:
    """All misbehaviours, for a file of that content; `elsewhere` is another host that has it."""
    head = b"HTTP/1.1 200 OK\r\n"
    said = head + b"Content-Length: %d\r\n\r\n" % len(content)
    half = content[: len(content) // 2]
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    body, redirect = Misbehave.body, Misbehave.redirect
    bomb = gzip.compress(bytes(1 << 30), 1)[: MAX_BYTES - 1]
    wrong, either = ("VerificationError",), ("NetworkError", "VerificationError")
    return {
        # stalling
        "silent from the start": Case(silent),
        "stalls in the body": Case(lambda r: Misbehave.stalled(r, 60.0)),
        "headers byte by byte": Case(raw(head, b"X", pause=0.05, forever=True)),
        "body byte by byte": Case(raw(said, content[:1], pause=0.2, forever=True)),
        "endless 100 Continue": Case(raw(b"HTTP/1.1 100 Continue\r\n\r\n", forever=True)),
        "endless headers": Case(raw(head, b"X-A: b\r\n", forever=True)),
        "a header of 10 MB": Case(raw(head, b"X: " + b"a" * (10 << 20))),
        # dropping
        "drops before an answer": Case(raw(b"")),
        "drops in the headers": Case(raw(head + b"Content-Le"), either),
        "drops in the body": Case(raw(said + half)),
        "resets before an answer": Case(reset(b"")),
        "resets in the body": Case(reset(said + half)),
        "drops in a chunk": Case(raw(chunked + b"ff\r\n" + half)),
        # lying about length
        "announces less": Case(body(content, len(half)), wrong),
        "announces more": Case(body(content, len(content) + 1)),
        "announces a negative length": Case(body(content, -1, Content_Length="-5"), ("right",)),
        "announces nonsense": Case(body(content, -1, Content_Length="many"), ("right",)),
        "announces two lengths": Case(
            raw(head + b"Content-Length: 5\r\nContent-Length: 9\r\n\r\n" + content), either
        ),
        "no length at all": Case(body(content, -1), ("right",)),
        "chunks of nonsense": Case(raw(chunked + b"xyz\r\n" + content)),
        "a chunk of 2**64 bytes": Case(raw(chunked + b"f" * 16 + b"\r\n" + content)),
        "a chunk of a negative length": Case(raw(chunked + b"-8\r\n" + content), either),
        "a chunk's length of 10 MB": Case(raw(chunked + b"0" * (10 << 20)), either),
        # sending too much, 10 GB and more
        "announces 10 GB": Case(body(content, 10 << 30)),
        "endless body": Case(Misbehave.endless),
        "endless chunks": Case(raw(chunked, b"10000\r\n" + bytes(1 << 16) + b"\r\n", forever=True)),
        "gzip bomb of 1 GB": Case(body(bomb, Content_Encoding="gzip"), wrong),
        "the right file, packed": Case(
            body(gzip.compress(content), Content_Encoding="gzip"), wrong
        ),
        "claims to be packed": Case(body(content, Content_Encoding="gzip"), ("right",)),
        # sending something else
        "another file": Case(body(content.replace(b"12", b"13")), wrong),
        "an empty file": Case(body(b""), wrong),
        "the file and a byte more": Case(body(content + b"\n"), wrong),
        "a page of HTML": Case(body(b"<html>404</html>"), wrong),
        "status 500": Case(Misbehave.status(500)),
        "status 404": Case(Misbehave.status(404)),
        "status 204": Case(Misbehave.status(204)),
        "status 206": Case(raw(b"HTTP/1.1 206 Partial\r\nContent-Length: 2\r\n\r\nin")),
        "not HTTP": Case(raw(b"SSH-2.0-OpenSSH\r\n" * 9)),
        "a status that is none": Case(raw(b"HTTP/1.1 abc\r\n\r\n")),
        # redirecting
        "redirects in a circle": Case(redirect(f"/{NAME}.c")),
        "redirects to a file": Case(redirect("file:///etc/passwd")),
        "redirects to ftp": Case(redirect("ftp://127.0.0.1/x")),
        "redirects to data": Case(redirect("data:,int")),
        "redirects to nowhere": Case(raw(b"HTTP/1.1 302 F\r\nContent-Length: 0\r\n\r\n")),
        "redirects to nonsense": Case(redirect("http://[::1")),
        "redirects to a closed port": Case(redirect("http://127.0.0.1:1/x")),
        "redirects to a name of nobody": Case(redirect("http://nobody.invalid/x")),
        "redirects to another host": Case(redirect(f"{elsewhere}/right"), ("right",)),
        "redirects to another host's file": Case(redirect(f"{elsewhere}/wrong"), wrong),
    }


# --- the campaign -------------------------------------------------------------------------


@dataclass
class Ended:
    """How a process ended: its exit code, output, seconds, and largest memory in bytes."""

    code: int
    text: str
    seconds: float
    memory: int


def run(argv: list[str], timeout: float, most: float) -> Ended:
    """Run the command line in a process; one that takes more than `most` seconds is killed."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "approxhub.cli", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment() | {"APPROXHUB_TIMEOUT": str(timeout)},
        cwd=os.environ["APPROXHUB_HOME"],
    )
    assert process.stdout is not None
    timer = threading.Timer(most, process.kill)
    timer.start()
    with process.stdout as pipe:
        text = pipe.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, text, time.monotonic() - began, usage.ru_maxrss << 10)


def outcome(ended: Ended) -> str:
    """Class of the error of a fetch, or 'right'."""
    text = ended.text
    if "[\n" not in text:
        return f"no answer ({ended.code}): {text[-200:]}"
    record = json.loads(text[text.index("[\n") : text.rindex("]") + 1])[0]
    return str(record["error"]["type"]) if record["error"] else "right"


def campaign(bench: Bench, timeout: float, only: list[str] | None = None) -> dict[str, Any]:
    """Run the cases; what is wrong goes to the failures of the bench."""
    server = bench.lab.server
    content = bench.lab.file(NAME).read_bytes()
    other = type(server)(bench.folder)
    other.behave = {
        "/right": Misbehave.body(content),
        "/wrong": Misbehave.body(b"something else"),
    }
    ref = Store().ref_path(ID)
    paths = [ref, Store().object_path(bench.multipliers[ID].identity)]
    names = {str(p.relative_to(bench.home)) for p in paths}
    lacking = {name: data for name, data in bench.golden.items() if name not in names}
    found: Counter[str] = Counter()
    details = {}
    known = cases(content, other.url)
    bench.reset()
    for path in paths:
        path.unlink()
    good = run(["fetch", ID, "--json"], timeout, 60)
    assert outcome(good) == "right", good
    for name in only or known:
        case = known[name]
        bench.reset()
        for path in paths:
            path.unlink(missing_ok=True)
        server.behave = {f"{NAME}.c": case.behaviour, "/theirs.json": case.behaviour}
        most = timeout + 3 * good.seconds + SLACK
        ended = run(["fetch", ID, "--json"], timeout, most)
        got = outcome(ended)
        details[name] = {"outcome": got, "seconds": round(ended.seconds, 1)}
        found[got] += 1
        if got not in case.outcomes:
            bench.failures.append(f"{name}: {got}, not {case.outcomes}: {ended.text[-300:]}")
        if ended.seconds > most:
            bench.failures.append(f"{name}: it took {ended.seconds:.1f} s")
        if ended.memory > good.memory + MEMORY:
            bench.failures.append(f"{name}: {ended.memory >> 20} MiB, {good.memory >> 20} usually")
        details[name]["MiB more than usual"] = max(0, (ended.memory - good.memory) >> 20)
        if got != "right" and bench.files() != lacking:
            bench.failures.append(f"{name}: the cache is not as it was")
        pin = bench.home / "indexes" / "theirs.json"
        added = run(["index", "add", "theirs", f"{server.url}/theirs.json"], timeout, most)
        # Nothing says what an index must hash to: what is no index is refused as that.
        if added.code not in (1, 2, 4) or "Traceback" in added.text or pin.exists():
            bench.failures.append(f"{name}: index add: {added.code}: {added.text[-300:]}")
        if added.memory > good.memory + 8 * MAX_INDEX_BYTES:
            bench.failures.append(f"{name}: index add: {added.memory >> 20} MiB")
        if bench.leftovers():
            bench.failures.append(f"{name}: {bench.leftovers()} temporary files were left")
        server.behave = {}
        if fetch([ID])[0].error is not None:
            bench.failures.append(f"{name}: not healed")
        bench.check_whole(name, [ID])
        print(f"{name}: {details[name]}", file=sys.stderr, flush=True)
    other.close()
    server.behave = {}
    return {"cases": len(details), **found, "each": details}


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timeout", type=float, default=3.0, help="APPROXHUB_TIMEOUT")
    parser.add_argument("--only", action="append", help="name of a case")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="approxhub-campaign-"))
    bench = Bench(folder)
    try:
        summary = campaign(bench, options.timeout, options.only)
    finally:
        bench.close()
        shutil.rmtree(folder, ignore_errors=True)
    for failure in bench.failures:
        print(failure, file=sys.stderr)
    print(json.dumps({"failed": len(bench.failures), **summary}, indent=1))
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
