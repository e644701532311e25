"""What every test stands on: a cache of its own, a clean environment, no network but loopback.

Also `lab`: a small library of C models of our own, with its index and a loopback server.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

# Workers share the cores: a pool of threads each would only get in the others' way. Before torch
# is imported, or it is too late.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

from approxhub.operands import OperandFormat
from approxhub.plugins import PluginHost, hookimpl, host, reset_host
from approxhub.registry import index_source

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _cover(cases: list[tuple[int, ...]], strength: int) -> set[int]:
    """Indices of cases that hold every combination of `strength` values found among all cases."""

    held = [
        set(itertools.combinations(enumerate(case), min(strength, len(case)))) for case in cases
    ]
    chosen, left = set(), set().union(*held)
    while left:
        best = max(range(len(cases)), key=lambda i: len(held[i] & left))
        chosen.add(best)
        left -= held[best]
    return chosen


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what ``cover(strength)`` leaves out of the product of a test's parameters."""
    tests: dict[str, list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("cover"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for same in tests.values():
        [strength] = same[0].get_closest_marker("cover").args  # type: ignore[union-attr]
        if hasattr(same[0], "callspec"):
            # Each value is one object in all cases, whatever it is.
            cases = [tuple(map(id, item.callspec.params.values())) for item in same]
            for left_out in set(range(len(same))) - _cover(cases, strength):
                same[left_out].add_marker("slow")


def pytest_collection_finish() -> None:
    """Make each test cheaper to begin and to end."""
    # The collector of garbage need not walk all modules and tests, again and again.
    gc.collect()
    gc.freeze()
    # pytest adds its handlers to each logger that does not propagate, thrice a test; torch has 50.
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("torch") and isinstance(logger, logging.Logger):
            logger.propagate = True


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders for caches: `mktemp` lists all that it ever made, and so takes longer each time."""
    root = tmp_path_factory.mktemp("homes")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(scope="session", autouse=True)
def _installed_once() -> Iterator[None]:
    """Look once for the plug-ins of the installed distributions: it takes 10 ms each time.

    A test with a path of its own, or with a hand on importlib.metadata, has its own look.
    """
    look, usual = PluginHost._installed, (metadata.entry_points, metadata.distributions)
    known: dict[tuple[str, ...], list[metadata.EntryPoint]] = {}

    def installed(self: PluginHost) -> list[metadata.EntryPoint]:
        path = tuple(sys.path)
        if "" in path or (metadata.entry_points, metadata.distributions) != usual:
            return look(self)
        if path in known:
            return known[path]
        found = look(self)
        if path == start and not self._status:  # all could be read
            known[path] = found
        return found

    start = tuple(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginHost, "_installed", installed)
        yield


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, _homes: Iterator[Path]) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("APPROXHUB_") and not name.startswith("APPROXHUB_TEST_"):
            monkeypatch.delenv(name)
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    here = next(_homes)
    here.mkdir()
    monkeypatch.setenv("APPROXHUB_HOME", str(here / "cache"))
    reset_host()
    yield
    reset_host()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def only_loopback(self: socket.socket, address: Any) -> Any:
        if self.family != getattr(socket, "AF_UNIX", None) and address[0] not in LOOPBACK:
            raise OSError(f"tests may not connect to {address}")
        return connect(self, address)

    def only_local(name: Any, *args: Any, **kwargs: Any) -> Any:
        if name not in (*LOOPBACK, None, ""):
            raise socket.gaierror(f"tests may not look up {name}")
        return lookup(name, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", only_loopback)
    monkeypatch.setattr(socket, "getaddrinfo", only_local)


@pytest.fixture
def home() -> Path:
    """Folder of this test's cache, not made yet."""
    return Path(os.environ["APPROXHUB_HOME"])


@pytest.fixture
def snapshot(home: Path) -> Callable[[], dict[str, str]]:
    """All files of the cache with their hashes."""

    def look() -> dict[str, str]:
        files = (p for p in home.rglob("*") if p.is_file())
        return {str(p.relative_to(home)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    return look


Behaviour = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """A loopback web server that serves a folder, and misbehaves where it is told to.

    `behave` maps the end of a path to what is done instead of serving the file; `asked` are the
    paths of all requests, `headers` what came with them.
    """

    def __init__(self, folder: Path) -> None:
        self.behave: dict[str, Behaviour] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.close_connection = True
                server.asked.append(self.path)
                server.headers.append(dict(self.headers))
                for end, behaviour in server.behave.items():
                    if self.path.endswith(end):
                        return behaviour(self)
                file = folder / self.path.lstrip("/")
                if not file.is_file():
                    return self.send_error(404)
                body = file.read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:  # clients that go away are the point
                pass

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def c_text(name: str, expression: str, signed: bool = False, bits: int = 4) -> str:
    """A C model of ours, in the dialect of the library."""
    kind = f"int{16 if bits > 8 else 8}_t" if signed else f"uint{16 if bits > 8 else 8}_t"
    wide = f"{'' if signed else 'u'}int{32 if bits > 8 else 16}_t"
    return textwrap.dedent(f"""\
        /* a fixture of ApproxHub's own */
        #include <stdint.h>
        {wide} {name}({kind} A, {kind} B)
        {{
          {wide} O = {expression};
          return O;
        }}
        """)


def hash_of(function: Callable[[Any, Any], Any], f: OperandFormat) -> str:
    """Table hash of a function, counted without any of our own tabulation."""
    v = f.to_value(np.arange(f.size))
    table = function(v[:, None], v[None, :]) + np.zeros((f.size, f.size), int)
    return hashlib.sha256(table.astype("<i4").tobytes()).hexdigest()


class Finished(NamedTuple):
    """What a process gave."""

    code: int
    stdout: str
    stderr: str


class Lab:
    """A library of ours: C files under ``tree/<commit>/``, indexes, a server, and the source."""

    commits = {"r1": "1" * 40, "r2": "2" * 40}  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self.tree.mkdir()
        self._folder = folder
        self._rows: dict[str, list[dict[str, Any]]] = {r: [] for r in self.commits}
        self.server = Server(self.tree)

    def add(
        self,
        name: str,
        expression: str,
        function: Callable[[int, int], int] | None,
        release: str = "r1",
        fmt: str = "4u",
        **changes: Any,
    ) -> None:
        """Put a circuit into the tree and the index; `changes` override fields of its entry."""
        f = OperandFormat.parse(fmt)
        path = f"multipliers/{name}.c"
        file = self.tree / self.commits[release] / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(c_text(name, expression, f.signed, f.bits))
        row = {
            "name": name,
            "a": fmt,
            "b": fmt,
            "path": path,
            "function": name,
            "source_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "table_sha256": None if function is None else hash_of(function, f),
            "printed": {},
            "hardware": {"power_mw": 0.25, "area_um2": 10.0, "delay_ns": 1.0},
            "citation": "us",
        }
        self._rows[release].append({**row, **changes})

    def file(self, name: str, release: str = "r1") -> Path:
        """The C file of a circuit."""
        return self.tree / self.commits[release] / "multipliers" / f"{name}.c"

    def index(self, release: str) -> dict[str, Any]:
        """Content of an index file."""
        return {
            "schema_version": 1,
            "source": "lab",
            "release": release,
            "repository": self.server.url,
            "commit": self.commits[release],
            "urls": [self.server.url + "/{commit}/{path}"],
            "format": "c-model",
            "licence": {"spdx": "MIT", "holder": "us"},
            "technology": "LAB1",
            "citations": {"us": {"text": "Us, 2024", "doi": "10.1/us"}},
            "multipliers": self._rows[release],
        }

    def paths(self) -> list[Path]:
        """Write the index files."""
        found = []
        for release in self.commits:
            path = self._folder / f"lab-{release}.json"
            path.write_text(json.dumps(self.index(release)))
            found.append(path)
        return found

    def install(self) -> None:
        """Make the lab a source of this process, with what was added so far."""
        sources = [index_source("lab", self.paths())]

        class Plugin:
            @staticmethod
            @hookimpl
            def approxhub_multiplier_sources() -> list[Any]:
                return sources

        reset_host()
        host().register(Plugin, "lab")

    def script(self, body: str) -> str:
        """Python text that has the lab as a source and then does `body`."""
        return textwrap.dedent("""\
            import sys
            from pathlib import Path
            from approxhub.plugins import hookimpl, host
            from approxhub.registry import index_source

            class Plugin:
                @staticmethod
                @hookimpl
                def approxhub_multiplier_sources():
                    return [index_source("lab", [Path(p) for p in {paths!r}])]

            host().register(Plugin, "lab")
            """).format(paths=[str(p) for p in self.paths()]) + textwrap.dedent(body)

    def start(self, body: str, *arguments: str) -> subprocess.Popen[str]:
        """Start `body` in a process of its own that has the lab as a source."""
        return subprocess.Popen(
            [sys.executable, "-c", self.script(body), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self._folder,  # not in the source tree, which Python would import from
        )

    def run(self, body: str, *arguments: str) -> Finished:
        """Like `start`, and wait for its end."""
        process = self.start(body, *arguments)
        out, err = process.communicate(timeout=60)
        return Finished(process.returncode, out, err)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A library with one circuit of every kind that the registry must tell apart."""
    monkeypatch.setattr("approxhub.registry.download._BACKOFF", 0.01)
    made = Lab(tmp_path)
    made.add("mul4u_CUT", "(A & 12) * B", lambda a, b: (a & 12) * b)
    made.add("mul4s_NEG", "A * B - 1", lambda a, b: a * b - 1, fmt="4s")
    made.add("mul8u_BIG", "(A & 0xF0) * B", lambda a, b: (a & 0xF0) * b, fmt="8u")
    made.add("mul16u_WIDE", "(uint32_t)A * (B & 0xFFF0)", None, fmt="16u")
    made.add("mul4u_SAME", "A * B", lambda a, b: a * b)
    made.add("mul4u_SAME", "B * A", lambda a, b: a * b, release="r2")
    made.add("mul4u_TWO", "A * B + 1", lambda a, b: a * b + 1)
    made.add("mul4u_TWO", "A * B + 2", lambda a, b: a * b + 2, release="r2")
    made.add("mul4u_WHO", "A * B", lambda a, b: a * b)
    made.add("mul4u_WHO", "A * B", None, release="r2")
    made.add("mul4u_GOTO", "0; goto end; end:", None)
    made.add("mul4u_LIE", "A * B + 3", lambda a, b: a * b)
    made.add("mul4u_PRINT", "A * B + 4", lambda a, b: a * b + 4, printed={"mae": "4", "wce": "9"})
    made.install()
    yield made
    made.server.close()


class Misbehave:
    """The ways in which a server can misbehave."""

    @staticmethod
    def status(code: int) -> Behaviour:
        """Answer with a status and nothing else."""

        def behaviour(request: BaseHTTPRequestHandler) -> None:
            request.send_response(code)
            request.send_header("Content-Length", "0")
            request.end_headers()

        return behaviour

    @staticmethod
    def body(content: bytes, length: int | None = None, **headers: str) -> Behaviour:
        """Answer with content, and a length that may lie."""

        def behaviour(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            if length != -1:
                request.send_header(
                    "Content-Length", str(len(content) if length is None else length)
                )
            for key, value in headers.items():
                request.send_header(key.replace("_", "-"), value)
            request.end_headers()
            request.wfile.write(content)

        return behaviour

    @staticmethod
    def endless(request: BaseHTTPRequestHandler) -> None:
        """Send zeros for as long as somebody listens."""
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(bytes(1 << 16))

    @staticmethod
    def stalled(request: BaseHTTPRequestHandler, seconds: float = 3.0) -> None:
        """Promise ten bytes, send one, and fall silent."""
        request.send_response(200)
        request.send_header("Content-Length", "10")
        request.end_headers()
        request.wfile.write(b"x")
        request.wfile.flush()
        time.sleep(seconds)

    @staticmethod
    def dripping(request: BaseHTTPRequestHandler) -> None:
        """Send the headers byte by byte: never silent, never done."""
        for _ in range(200):
            request.wfile.write(b"X")
            request.wfile.flush()
            time.sleep(0.02)

    @staticmethod
    def redirect(to: str) -> Behaviour:
        """Send the client elsewhere, with an endless page on the way."""

        def behaviour(request: BaseHTTPRequestHandler) -> None:
            request.send_response(302)
            request.send_header("Location", to)
            request.end_headers()
            for _ in range(100):
                request.wfile.write(bytes(1 << 16))

        return behaviour


@pytest.fixture
def misbehave() -> type[Misbehave]:
    """The ways in which a server can misbehave."""
    return Misbehave
