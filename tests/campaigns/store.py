"""Campaigns against the store: whatever happens to a fetch or a file, the right table or none.

    python tests/campaigns/store.py --kills 1000 --flips 10000
    python tests/campaigns/store.py --only flips --flips 500 --seed 7

A loopback server has a small library of ours, whose index is pinned as a user would pin it. Each
case starts from a cache that is right, empty or has gaps, does its damage, and then demands that
every file under a final name is to the byte the right one, that what goes wrong is an error of ours
within the time, and that the next run makes all of it right again. Prints counts as JSON. Exit
code 1: something was wrong; each case says what.

True processes are ``python -m approxhub.cli``. The rest are forks of a process that has imported
the same modules and then calls the same entry point: the imports are most of what a fetch takes.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import faulthandler
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import Lab

import approxhub
from approxhub import errors
from approxhub.factorization import factorize_cached, from_bytes, known_factors
from approxhub.factorization.cache import forget
from approxhub.multiplier import Multiplier
from approxhub.registry import Store, fetch, refs, verify
from approxhub.registry.pins import add_index, read_pin, remove_index

HANG = 60.0  # seconds after which a process that has not ended hangs
NOBODY = 65534
LEFTOVERS = (".tmp-", ".lock-")
CIRCUITS: dict[str, tuple[str, Callable[[Any, Any], Any] | None, str]] = {
    "mul4u_CUT": ("(A & 12) * B + 64", lambda a, b: (a & 12) * b + 64, "4u"),
    "mul4s_NEG": ("A * B - (A & 1) - 1", lambda a, b: a * b - (a & 1) - 1, "4s"),
    "mul8u_BIG": ("(A & 0xF0) * B + (B & 7)", lambda a, b: (a & 0xF0) * b + (b & 7), "8u"),
    "mul16u_WIDE": ("(uint32_t)A * (B & 0xFFF0)", None, "16u"),
}
QUICK = [f"lab:r1/{name}" for name in CIRCUITS if name != "mul16u_WIDE"]
FACTORED = "lab:r1/mul8u_BIG"

ZYGOTE = """
import contextlib, json, os, resource, shutil, sys, traceback
import filelock, h5py, idna, numpy, pycparser, requests, urllib3
import approxhub.cli.fetch, approxhub.cli.progress, approxhub.families, approxhub.cmodel
import approxhub.registry.acquisition, approxhub.registry.download, approxhub.registry.pins
import approxhub.registry.publishing, approxhub.registry.selection, approxhub.registry.store
from approxhub.cli import main

for line in sys.stdin:
    order = json.loads(line)
    said, out = os.pipe()  # not a file, which a limit on the size of files would cut
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            for handle in (1, 2):
                os.dup2(out, handle)
            if order["fsize"] is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (order["fsize"],) * 2)
            os.environ.update(order["env"])
            sys.argv = ["approxhub", *order["argv"]]
            if order["uid"] is not None:  # who may not be able to read what is yet to be imported
                home = os.environ["APPROXHUB_HOME"]
                os.environ["APPROXHUB_HOME"] = shutil.copytree(home, order["out"] + "-warm")
                with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None):
                    main()
                shutil.rmtree(os.environ["APPROXHUB_HOME"])
                os.environ["APPROXHUB_HOME"] = home
                os.setgroups([])
                os.setgid(order["uid"])
                os.setuid(order["uid"])
            main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(out)
    print(pid, flush=True)
    with open(said, "rb") as pipe, open(order["out"], "wb") as file:
        file.write(pipe.read())
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Forks:
    """A process that has imported everything, and forks for each command that it is given."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._out = folder / f"out-{id(self)}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=folder,
        )

    def start(
        self, *argv: str, uid: int | None = None, fsize: int | None = None, **env: str
    ) -> int:
        """Start a command; returns its process id. `wait` must follow."""
        order = {"argv": argv, "env": env, "out": str(self._out), "uid": uid, "fsize": fsize}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._number()

    def wait(self) -> tuple[int, str]:
        """Exit code (negative: the signal that ended it) and output of what was started."""
        return self._number(), self._out.read_text(errors="replace")

    def run(self, *argv: str, **options: Any) -> tuple[int, str]:
        """Start a command, and wait; one that hangs is killed, and ends with -9."""
        pid = self.start(*argv, **options)
        with _alarm(lambda: os.kill(pid, signal.SIGKILL)):
            return self.wait()

    def _number(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(HANG)
        self._process.stdout.close()


@contextlib.contextmanager
def _alarm(act: Callable[[], None]) -> Iterator[None]:
    """Do something if what follows hangs."""
    before = signal.signal(signal.SIGALRM, lambda *_: act())
    signal.setitimer(signal.ITIMER_REAL, HANG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """End this process, with a traceback, if what follows hangs, even inside a C library."""
    faulthandler.dump_traceback_later(HANG, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def environment() -> dict[str, str]:
    """What the environment of a true process should be."""
    source = str(Path(approxhub.__file__).parents[1])
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return kept | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class Bench:
    """A cache with the lab's index pinned, what it must hold in the end, and what went wrong.

    Attributes
    ----------
    golden : dict of str to bytes
        Every file of the complete cache; equal tables give equal bytes.
    failures : list of str
        What was wrong; empty at the end, or the campaign has failed.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.home = folder / "cache"
        self.rng = random.Random(seed)
        self.failures: list[str] = []
        self._before = {k: os.environ.get(k) for k in ("APPROXHUB_HOME", "APPROXHUB_TIMEOUT")}
        os.environ.update(APPROXHUB_HOME=str(self.home), APPROXHUB_TIMEOUT="20")
        (folder / "lab").mkdir()
        self.lab = Lab(folder / "lab")
        for name, (expression, function, fmt) in CIRCUITS.items():
            self.lab.add(name, expression, function, fmt=fmt)
        index = self.lab.tree / self.lab.commits["r1"] / "index.json"
        index.write_text(json.dumps(self.lab.index("r1")))
        self.origin = f"{self.lab.server.url}/{self.lab.commits['r1']}/index.json"
        add_index("lab", self.origin)
        self.ids = [f"lab:r1/{name}" for name in CIRCUITS]
        made = fetch(self.ids)
        for result, (_, function, _) in zip(made, CIRCUITS.values(), strict=True):
            assert result.multiplier is not None, result.error
            if function is not None:
                m = result.multiplier
                want = function(m.a.values()[:, None], m.b.values()[None, :])
                assert np.array_equal(m.table, want)
        self.multipliers: dict[str, Multiplier] = {r.id: r.multiplier for r in made if r.multiplier}
        self.factors = factorize_cached(self.multipliers[FACTORED])
        self.golden = self.files()
        assert len(self.golden) == 2 * len(CIRCUITS) + 2

    def close(self) -> None:
        """Stop the server and put the environment back."""
        self.lab.server.close()
        for key, value in self._before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})

    def files(self) -> dict[str, bytes]:
        """Every file under a final name."""
        return {
            str(path.relative_to(self.home)): path.read_bytes()
            for path in self.home.rglob("*")
            if path.is_file() and not path.name.startswith(LEFTOVERS)
        }

    def leftovers(self) -> int:
        """How many temporary files lie about."""
        return sum(1 for _ in self.home.rglob(".tmp-*"))

    def reset(self, missing: str = "nothing") -> None:
        """The complete cache, without `missing`: 'nothing', 'objects', 'refs', 'some' or 'all'."""
        for name, data in self.golden.items():
            path = self.home / name
            kind = name.partition("/")[0]
            gone = kind in ("objects", "refs", "factors") and (
                missing in ("all", kind) or (missing == "some" and self.rng.random() < 0.5)
            )
            if gone:
                path.unlink(missing_ok=True)
            elif not path.is_file() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def check(self, what: str) -> None:
        """Every file under a final name is the right one."""
        for name, data in self.files().items():
            if self.golden.get(name) != data:
                self.failures.append(f"{what}: {name} is wrong ({len(data)} bytes)")

    def check_whole(self, what: str, ids: list[str]) -> None:
        """The cache is complete again for some ids, and sound."""
        self.check(what)
        found = self.files()
        store = Store()
        for id in ids:
            wanted = [store.ref_path(id), store.object_path(self.multipliers[id].identity)]
            for path in wanted:
                if str(path.relative_to(self.home)) not in found:
                    self.failures.append(f"{what}: {path.relative_to(self.home)} was not healed")

    def expect(self, what: str, said: tuple[int, str], codes: tuple[int, ...], *words: str) -> None:
        """A command ended with one of these codes, and said one of these words."""
        code, text = said
        if code not in codes or (words and not any(w in text for w in words)):
            self.failures.append(f"{what}: exit code {code}: {text[-300:]}")

    def is_right(self, multiplier: Multiplier, id: str) -> bool:
        """Whether a multiplier that was read is the right one."""
        return multiplier == self.multipliers[id]


# --- killed ------------------------------------------------------------------------------


def kills(bench: Bench, forks: tuple[Forks, ...], count: int, processes: int) -> Counter[str]:
    """Kill fetches at moments spread over all that they take, some of them two at a time.

    Parameters
    ----------
    bench : Bench
    forks : tuple of Forks
        One, or two for two fetches at a time.
    count : int
        Kills; a fetch that has ended before is none.
    processes : int
        How many of them are of true processes, with their imports.
    """
    rng, found = bench.rng, Counter[str]()
    argv = ["fetch", *QUICK, "--force", "--jobs", "2"]
    starts = range(min(3, processes))
    true_time = statistics.median(_timed(lambda: process(argv).wait(HANG)) for _ in starts or [0])
    fork_time = statistics.median(
        _timed(lambda: (bench.reset("all"), forks[0].run(*argv))) for _ in range(5)
    )
    killed, number = {"a process": 0, "a fork": 0, "one of two forks": 0}, 0
    while sum(killed.values()) < count:
        number += 1
        missing = rng.choice(["all", "all", "some", "objects", "refs"])
        bench.reset(missing)
        if killed["a process"] < processes:
            victim = process(argv)
            time.sleep(rng.uniform(0, true_time))
            victim.kill()
            kind, said = "a process", [(victim.wait(HANG), "")]
        else:
            pair = forks if rng.random() < 0.3 and count - sum(killed.values()) > 1 else forks[:1]
            pids = [f.start(*argv) for f in pair]
            for pid in pids:
                time.sleep(rng.uniform(0, fork_time * (1 if len(pair) == 1 else 0.9)))
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    os.kill(pid, signal.SIGKILL)
            kind = "a fork" if len(pair) == 1 else "one of two forks"
            said = [f.wait() for f in pair]
        for one in said:
            killed[kind] += one[0] == -signal.SIGKILL
            found["ended before"] += one[0] == 0
            bench.expect(f"kill {number}", one, (0, -signal.SIGKILL))
        if missing == "all":
            kept = sum(1 for name in bench.files() if name.startswith(("objects", "refs")))
            found[f"from none, {kept} of {2 * len(QUICK)} files there afterwards"] += 1
        bench.check(f"kill {number}")
        bench.expect(f"after kill {number}", forks[0].run("fetch", *QUICK), (0,))
        bench.check_whole(f"after kill {number}", QUICK)
    found.update({f"killed, {kind}": times for kind, times in killed.items()})
    found["temporary files left behind"] = bench.leftovers()
    _sweep(bench, found)
    return found


def process(argv: list[str]) -> subprocess.Popen[bytes]:
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "approxhub.cli", *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        cwd=os.environ["APPROXHUB_HOME"],
    )


def _timed(work: Callable[[], Any]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def _sweep(bench: Bench, found: Counter[str]) -> None:
    """What was left behind goes with the first write an hour later."""
    for path in bench.home.rglob(".tmp-*"):
        os.utime(path, (0, 0))
    bench.reset("all")
    fetch(QUICK)
    found["temporary files after the next fetch, an hour later"] = bench.leftovers()
    if bench.leftovers():
        bench.failures.append(f"{bench.leftovers()} temporary files were not swept")


# --- damaged files -------------------------------------------------------------------------


def flips(bench: Bench, count: int, seconds: float | None = None) -> Counter[str]:
    """Flip one bit of one file: an object, a ref, factors, or a pinned index; read it; heal."""
    found = Counter[str]()
    began = time.monotonic()
    names = sorted(bench.golden)
    for number in range(count):
        name = names[number % len(names)]
        data = bytearray(bench.golden[name])
        bit = bench.rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        # Making a sample's metrics again takes long: that circuit is healed every tenth time.
        heal = "WIDE" not in name and "circuit" not in name
        heal = heal or number // len(names) % 10 == 0
        found += _damage(bench, name, bytes(data), f"bit {bit}", heal)
        if seconds is not None and time.monotonic() - began > seconds:
            break
    return found


def truncations(bench: Bench, every: int = 1) -> Counter[str]:
    """Cut every file at every `every`-th length, the ends and the edges of its frame among them."""
    found = Counter[str]()
    for name, data in bench.golden.items():
        edges = {0, 1, 92, 511, 512, len(data) - 1}
        for length in sorted({*range(0, len(data), every), *edges} & set(range(len(data)))):
            found += _damage(bench, name, data[:length], f"cut at {length}", length in edges)
        found += _damage(bench, name, data + b"\0", "a byte more", True)
        found["empty files"] += 1
    return found


def swaps(bench: Bench) -> Counter[str]:
    """Put every file in the place of every other of its kind: whole, but not the one named so."""
    found = Counter[str]()
    for name in bench.golden:
        for other, data in bench.golden.items():
            if other != name:
                found += _damage(bench, name, data, f"holds {other}", True)
    return found


def _damage(bench: Bench, name: str, data: bytes, what: str, heal: bool) -> Counter[str]:
    """Replace one file, read what stands in it, and let the next run make it right."""
    path, kind = bench.home / name, name.partition("/")[0]
    what = f"{name}, {what}"
    path.write_bytes(data)
    found = Counter({f"{kind} damaged": 1})
    with _watched(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            right = _reads_right(bench, name)
            # Nothing to heal: without its last line feed, say, a ref says what it said.
            found[f"{kind}: read, and right"] += 1
            heal = False
            if not right:
                bench.failures.append(f"{what}: it was read as something else")
        except errors.ApproxHubError as error:
            found[f"{kind}: {type(error).__name__}"] += 1
        except Exception as error:
            bench.failures.append(f"{what}: {type(error).__name__}: {error}")
        if heal:
            _heal(bench, name, what)
            found["healed"] += 1
    bench.reset()
    return found


def _reads_right(bench: Bench, name: str) -> bool:
    """Whether what a file is read as is right; the reader's own error where it is not read."""
    store = Store()
    kind = name.partition("/")[0]
    if kind == "indexes":
        pin = read_pin(store, "lab")
        return pin is not None and pin.contents == {"r1": bench.lab.index("r1")}
    if kind == "factors":
        data = store.get_factors(Path(name).stem)
        assert data is not None
        read = from_bytes(data)
        if read.identity != Path(name).stem:
            raise errors.VerificationError("factors of another table")
        read.verify(bench.multipliers[FACTORED])
        return read == bench.factors
    id = next(
        i
        for i, m in bench.multipliers.items()
        if m.identity == Path(name).stem or (kind == "refs" and i.endswith(f"/{Path(name).stem}"))
    )
    found = store.get(id)
    assert found is not None
    return bench.is_right(found, id) and refs.Ref.of(found) == refs.Ref.of(bench.multipliers[id])


def _heal(bench: Bench, name: str, what: str) -> None:
    """Run again what made a file, and demand that it is right."""
    kind = name.partition("/")[0]
    if kind == "indexes":  # what a user has trusted is never taken anew without being told to
        with contextlib.suppress(errors.ApproxHubError):
            remove_index("lab")
        add_index("lab", bench.origin)
    elif kind == "factors":
        forget()
        m = bench.multipliers[FACTORED]
        known = known_factors(m)
        if known is not None and known != bench.factors:
            bench.failures.append(f"{what}: the factors were taken")
        if factorize_cached(m) != bench.factors:
            bench.failures.append(f"{what}: wrong factors")
        forget()
    else:
        stem = Path(name).stem
        ids = [
            i for i, m in bench.multipliers.items() if stem in (m.identity, i.rpartition("/")[2])
        ]
        for result in fetch(ids):
            if result.multiplier is None or not bench.is_right(result.multiplier, result.id):
                bench.failures.append(f"{what}: not healed: {result.error}")
    if (bench.home / name).read_bytes() != bench.golden[name]:
        bench.failures.append(f"{what}: the next run did not heal the file")


# --- many at once ----------------------------------------------------------------------------


def crowd(bench: Bench, crew: list[Forks], rounds: int) -> Counter[str]:
    """Let processes fetch the same and different ids at once, by force or not, from any start."""
    found = Counter[str]()
    for number in range(rounds):
        bench.reset(bench.rng.choice(["all", "some", "objects", "refs", "nothing"]))
        asked = len(bench.lab.server.asked)
        orders = []
        for _ in crew:
            ids = bench.rng.sample(QUICK, bench.rng.randint(1, len(QUICK)))
            orders.append(ids + ["--force"] * (bench.rng.random() < 0.5))
        pids = [f.start("fetch", *order) for f, order in zip(crew, orders, strict=True)]

        def end(pids: list[int] = pids) -> None:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        with _alarm(end):
            for f in crew:
                bench.expect(f"round {number}", f.wait(), (0,))
        wanted = sorted({i for order in orders for i in order if i != "--force"})
        bench.check_whole(f"round {number}", wanted)
        found["processes"] += len(crew)
        found["rounds"] += 1
        found["downloads"] += len(bench.lab.server.asked) - asked
    bench.reset()
    left = [p.name for p in bench.home.iterdir() if p.name.startswith(".lock-")]
    if left:
        bench.failures.append(f"{len(left)} locks were left after all had ended")
    if not all(r.ok for r in verify()):
        bench.failures.append("verify is not content after the crowd")
    return found


# --- a disk that is full, a folder that is read-only ---------------------------------------------


def full_disk(bench: Bench, forks: Forks, count: int) -> Counter[str]:
    """Fetch onto a file system with room for a part, and with a limit on files' sizes."""
    found = Counter[str]()
    sizes = [len(d) for n, d in bench.golden.items() if n.startswith(("objects", "refs"))]
    for number in range(count):
        limit = bench.rng.randrange(max(sizes) * 5 // 4)
        bench.reset("all")
        said = forks.run("fetch", *QUICK, "--force", "--json", fsize=limit)
        bench.expect(f"at most {limit} bytes a file", said, (0, 1))
        found[_outcome(said)] += 1
        bench.check(f"limit {number}")
        bench.expect("afterwards", forks.run("fetch", *QUICK), (0,))
        bench.check_whole(f"limit {number}", QUICK)
    mounted = bench.folder / "small"
    mounted.mkdir()
    home, made = bench.home, 0
    try:
        for number in range(count):
            if not _mount(mounted):
                found["no small file system could be mounted"] += 1
                break
            made += 1
            bench.home = mounted / "cache"
            os.environ["APPROXHUB_HOME"] = str(bench.home)
            bench.reset("all")
            _fill(mounted / "ballast", bench.rng.randrange(80 << 10))
            env = {"APPROXHUB_HOME": str(bench.home)}
            said = forks.run("fetch", *QUICK, "--force", "--json", **env)
            bench.expect(f"small file system {number}", said, (0, 1))
            found[f"small file system: {_outcome(said)}"] += 1
            bench.check(f"small file system {number}")
            (mounted / "ballast").unlink()
            bench.expect("with room again", forks.run("fetch", *QUICK, **env), (0,))
            bench.check_whole(f"small file system {number}", QUICK)
            _unmount(mounted)
            made -= 1
    finally:
        bench.home = home
        os.environ["APPROXHUB_HOME"] = str(home)
        if made:
            _unmount(mounted)
    bench.reset()
    return found


def _outcome(said: tuple[int, str]) -> str:
    """Classes of the errors in the JSON that a fetch printed."""
    text = said[1]
    if "[\n" not in text:
        return "no answer"
    records = json.loads(text[text.index("[\n") : text.rindex("]") + 1])
    kinds = sorted({r["error"]["type"] for r in records if r["error"]})
    return ", ".join(kinds) or "enough room"


def _mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "approxhub", str(folder)]
    return (
        shutil.which("mount") is not None
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True)


def _fill(path: Path, room: int) -> None:
    """Fill a file system up, but for `room` bytes."""
    free = os.statvfs(path.parent)
    try:
        path.write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - room)))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def read_only(bench: Bench, forks: Forks) -> Counter[str]:
    """Fetch as an ordinary user into a cache that this user may not write, or not even read."""
    found = Counter[str]()
    uid = NOBODY if os.geteuid() == 0 else None
    id, kept = QUICK[0], QUICK[1]
    store = Store()
    for closed in (".", "objects", "refs/lab/r1"):
        bench.reset()
        for path in (store.ref_path(id), store.object_path(bench.multipliers[id].identity)):
            path.unlink()
        with _closed(bench.home, closed):
            said = forks.run("fetch", kept, id, "--json", uid=uid)
            what = f"{closed} is read-only"
            if os.access(bench.home / closed, os.W_OK) and uid is None:
                found["skipped: no way to be without rights here"] += 1
                continue
            bench.expect(what, said, (1,), "StoreReadOnlyError")
            bench.expect(what, said, (1,), '"cached"')  # what is there still loads
            found[f"{what}: {_outcome(said)}"] += 1
            bench.check(what)
        bench.expect(f"{what}, afterwards", forks.run("fetch", *QUICK), (0,))
        bench.check_whole(what, QUICK)
    for path in (store.ref_path(kept), store.object_path(bench.multipliers[kept].identity)):
        what = f"{path.parent.name}: a file that may not be read"
        bench.reset()
        with _closed(bench.home, "objects"):
            path.chmod(0)
            said = forks.run("fetch", kept, "--json", uid=uid)
            path.chmod(0o644)
        bench.expect(what, said, (1,), "StoreError", "StoreReadOnlyError")
        found[f"{what}: {_outcome(said)}"] += 1
        bench.check_whole(what, QUICK)
    return found


@contextlib.contextmanager
def _closed(home: Path, folder: str) -> Iterator[None]:
    """All of a cache open to everybody but for one folder that nobody may write."""
    for path in (home, *home.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    (home / folder).chmod(0o555)
    try:
        yield
    finally:
        for path in (home, *home.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


# --- the command ----------------------------------------------------------------------------


def main() -> int:
    """Run the campaigns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=100, help="kills of true processes")
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=1, help="cut files at every such length")
    parser.add_argument("--rounds", type=int, default=50, help="of 8 processes at once")
    parser.add_argument("--full", type=int, default=100, help="fetches onto a full disk, each way")
    parser.add_argument("--seconds", type=float, help="most time for the flips")
    parser.add_argument("--seed", type=int, default=0)
    names = ("kills", "flips", "truncations", "swaps", "crowd", "full", "read-only")
    parser.add_argument("--only", choices=names, action="append")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="approxhub-campaign-"))
    folder.chmod(0o755)
    bench = Bench(folder, options.seed)
    crew = [Forks(folder / f"fork{i}") for i in range(8)]
    campaigns: dict[str, Callable[[], Counter[str]]] = {
        "kills": lambda: kills(bench, (crew[0], crew[1]), options.kills, options.processes),
        "flips": lambda: flips(bench, options.flips, options.seconds),
        "truncations": lambda: truncations(bench, options.every),
        "swaps": lambda: swaps(bench),
        "crowd": lambda: crowd(bench, crew, options.rounds),
        "full": lambda: full_disk(bench, crew[0], options.full),
        "read-only": lambda: read_only(bench, crew[0]),
    }
    summary: dict[str, Any] = {"seed": options.seed}
    try:
        for name in options.only or names:
            began, failed = time.monotonic(), len(bench.failures)
            counts = campaigns[name]()
            summary[name] = {
                "failed": len(bench.failures) - failed,
                "seconds": round(time.monotonic() - began),
                **dict(sorted(counts.items())),
            }
            print(f"{name}: {json.dumps(summary[name])}", file=sys.stderr, flush=True)
    finally:
        for f in crew:
            f.close()
        bench.close()
        shutil.rmtree(folder, ignore_errors=True)
    for failure in bench.failures:
        print(failure, file=sys.stderr)
    print(json.dumps(summary, indent=1))
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
