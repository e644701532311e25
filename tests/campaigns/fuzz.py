"""Fuzzing of all that reads a stranger's bytes: a campaign, not a test.

    python tests/campaigns/fuzz.py c-reader --seconds 3600
    python tests/campaigns/fuzz.py --all --inputs 1000000 --seconds 240
    python tests/campaigns/fuzz.py --all --blind --inputs 300   # without a fuzzer
    python tests/campaigns/fuzz.py npz --input finding.bin      # one input again

Atheris (libFuzzer for Python) guides by coverage of the Python code; it is needed for this script
alone: ``pip install atheris``. With ``--blind``, and always for HDF5, whose code is libhdf5's and
runs in a process of its own, sound files are changed at random places instead. Whatever the bytes,
a reader gives a sound result or an error of ours, within time and memory, and opens no file for
writing, no connection and no process. Exit code 1: one did not; the input that shows it is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import json
import mmap
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

GUIDED = "--guided" in sys.argv

if GUIDED:
    import atheris

    # The loader of an editable install cannot be instrumented: the package is put on the path.
    FOUND = importlib.util.find_spec("approxhub")
    assert FOUND is not None
    assert FOUND.origin is not None
    sys.path.insert(0, str(Path(FOUND.origin).parents[1]))
    sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in type(f).__module__]
    instrumented = atheris.instrument_imports(include=["approxhub", "pycparser"])
else:
    instrumented = contextlib.nullcontext()

with instrumented, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import approxhub as ah
    from approxhub.cmodel import CModel, Header, Limits
    from approxhub.cmodel import model as cmodel_model
    from approxhub.errors import ApproxHubError, PluginError
    from approxhub.factorization import factorize, from_bytes, to_bytes
    from approxhub.formats import all_formats, hdf5, read_table, write_table
    from approxhub.ids import MultiplierId
    from approxhub.registry import Store, objects, pins, refs
    from approxhub.registry.index import decode_json, parse_index

SECONDS = 30  # of a processor that one input may take
HANG = 20 * SECONDS  # on the clock, after which it is ended: other work makes no reader a bad one
MEMORY = 4 << 30
MAX_LENGTH = 8192
# Loops of the default length would let a fuzzer try ten inputs a minute.
LIMITS = Limits(
    nodes=20_000,
    operations=20_000,
    iterations=20_000,
    array_elements=1 << 16,
    array_bytes=1 << 20,
    seconds=5.0,
)
FORBIDDEN = (
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.system"),
    *("os.exec", "os.posix_spawn", "os.remove", "os.rename", "os.mkdir", "os.rmdir"),
    *("os.link", "os.symlink", "os.chmod", "pickle.find_class", "shutil.rmtree"),
)
U3, S2 = ah.OperandFormat.parse("3u"), ah.OperandFormat.parse("2s")


class Finding(Exception):
    """A reader did what none may do."""


# --- what is fuzzed ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Target:
    """One reader: what it does with bytes, files that it takes, and words of its language."""

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    words: tuple[str, ...] = ()
    guided: bool = True


def _folder() -> Path:
    return Path(os.environ["APPROXHUB_HOME"])


def _multiplier() -> ah.Multiplier:
    """A table that does not commute, with 64 at T[0][0]."""
    a, b = U3.values()[:, None], S2.values()[None, :]
    table = a * b - (a & 1) * 2 + 64
    return ah.Multiplier.from_table(table, name="seed", a_signed=False, b_signed=True)


def _c_reader(data: bytes) -> object:
    return CModel.parse(data, a=U3, b=S2).tabulate()


def _header(data: bytes) -> object:
    return Header.parse(data.decode("latin-1"))


C_SEEDS = (
    "int f(int a, int b) { return a * b; }",
    "#include <stdint.h>\nint32_t mul(const uint8_t B, int8_t A)\n{ /* c */ uint64_t O = 0;\n"
    "O |= (A & 1u) << 3; // x\nreturn (int16_t)(O ^ ~B) % 7; }",
    "static const int t[4] = {1, 2, 0x3, '\\n'};\nint g(int x) { return x ? t[x & 3] : -1; }\n"
    "int f(int a, int b) { int s = 0; for (int i = 0; i < 4; i++) { if (a == i) continue; "
    "s += g(i) >> 1; } while (s > 9) { s -= b | 1; if (!s) break; } return s; }",
    "#include <stdlib.h>\ntypedef unsigned long u; u f(u a, u b) { char *p = NULL; int k, i;\n"
    "if (p == NULL) { p = (char *)malloc(16 * sizeof(char)); }\n"
    "for (i = 0; i < 4; i++) for (k = 0; k < 4; k++) p[i * 4 + k] = i * k;\n"
    "do { a--; } while (a > 3 && b < 2 || 0); return p[(a & 3) * 4 + (b & 3)]; }",
    "int f(int a, int b) { static int n = 3; int x[4], y; x[0] = a, x[1] = b; x[a & 1] += 2;\n"
    "y = x[0]++; { int y = sizeof y; x[1] <<= y / 2; } return x[b & 1] + y; }",
)
C_WORDS = (
    *("char", "unsigned", "const ", "static ", "return ", "if (", "else ", "for ("),
    *("while (", "do {", "break;", "continue;", "sizeof ", "typedef ", "struct ", "goto "),
    *(
        "switch (",
        "malloc(",
        "calloc(",
        "NULL",
        "int8_t",
        "uint64_t",
        "void",
        "#include <stdint.h>",
    ),
    *("<<", "<=", "==", "!=", "&&", "||", "++", "+="),
    *("0x", "ull", "/*", "*/", "//", "?1:2", "[4]", "{1,2}"),
)


def _formatted(name: str, *, said: bool = True) -> Target:
    """A table format, through the way that files take."""
    suffix = next(f.suffixes[0] for f in all_formats() if f.name == name)
    words = {"c-model": C_WORDS, "c-array": ("int16_t", "][", "{", "},", "};", "0x", "#define")}

    def run(data: bytes) -> object:
        path = _folder() / f"input{suffix}"
        path.write_bytes(data)
        options: dict[str, Any] = {"format": name} if said else {}
        return read_table(path, operands=(U3, S2), index_order="pattern", name="x", **options)

    def seeds() -> list[bytes]:
        if name == "c-model":
            return [text.encode() for text in C_SEEDS]
        return [_written(name, suffix, order) for order in ("pattern", "offset")]

    return Target(run, seeds, words.get(name, ()))


def _written(name: str, suffix: str, order: str) -> bytes:
    path = _folder() / f"seed{suffix}"
    with contextlib.suppress(ApproxHubError):
        write_table(_multiplier(), path, format=name, index_order=order)
    return path.read_bytes()


def _sniffed(data: bytes) -> object:
    """A file whose format nobody says; not HDF5, which is read in a process of its own."""
    if any(f.sniff(data) for f in all_formats() if f.name in ("h5", "hdf5")):
        return None
    path = _folder() / "input"
    path.write_bytes(data)
    return read_table(path, operands=(U3, S2), index_order="pattern", name="x")


INDEX: dict[str, Any] = {
    **{"schema_version": 2, "source": "lab", "release": "r1", "revision": 3, "commit": "1" * 40},
    "urls": ["https://example.org/{commit}/{path}"],
    "format": "c-model",
    "licence": {"spdx": "MIT"},
    "technology": "45 nm",
    "citations": {"us": {"text": "Us, 2024", "doi": "10.1/us"}},
    "multipliers": [
        {
            **{"name": "m_1", "a": "8u", "b": "4s", "path": "x/m_1.c", "function": "m_1"},
            **{"source_sha256": "0" * 64, "table_sha256": None, "citation": "us"},
            "printed": {"mae": "1.2e-3", "wce": "7"},
            "hardware": {"power_mw": 0.5, "area_um2": 10, "delay_ns": 1.0, "luts": 3},
        },
        {
            **{"name": "t", "a": "2u", "b": "2u", "path": "t.csv", "format": "csv"},
            **{"source_sha256": "1" * 64, "index_order": "offset", "operand_order": "ba"},
            **{"printed": {}, "hardware": {}},
        },
    ],
}


def _index(data: bytes) -> object:
    index = parse_index(decode_json(data, "input"), "input")
    store = Store()
    for key, circuit in index.circuits.items():
        _inside(store.ref_path(f"{index.source}:{key}"))
        _inside(store.root / circuit.path)
        for url in index.urls_of(circuit):
            if not url.startswith(("http://", "https://")):
                raise Finding(f"an address {url!r}")
    return index


def _inside(path: Path) -> None:
    """The path leaves the cache nowhere."""
    root = str(_folder())
    if not os.path.normpath(path).startswith(root + os.sep):
        raise Finding(f"{path} lies outside of the cache")


def _resealed_ref(data: bytes) -> object:
    """A ref whose checksum is right, whatever it holds."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return refs.decode_ref(data)
    sealed = {"sha256": refs._checksum(content), "ref": content}
    ref = refs.decode_ref(json.dumps(sealed).encode())
    _inside(Store().object_path(ref.object))
    return ref


def _pin(data: bytes) -> object:
    """A pinned index, as it is and with the right checksum."""
    store = Store()
    path = store.index_path("lab")
    path.parent.mkdir(exist_ok=True)
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(data)
        data = json.dumps({"sha256": pins._checksum(body), "pin": body}).encode()
    path.write_bytes(data)
    pin = pins.read_pin(store, "lab")
    assert pin is not None
    return pin.releases()


def _id(data: bytes) -> object:
    """An id: what is read prints as what reads the same, and names no file outside."""
    id = MultiplierId.parse(data.decode("utf-8", "surrogateescape"))
    if MultiplierId.parse(str(id)) != id:
        raise Finding(f"{id} is read as another id")
    if id.source is not None:
        _inside(Store().ref_path(str(id.base)))
    return id


def _ref_seeds() -> list[bytes]:
    sealed = refs.encode_ref(refs.Ref.of(_multiplier()))
    return [sealed, json.dumps(json.loads(sealed)["ref"]).encode()]


def _pin_seeds() -> list[bytes]:
    body = {"schema_version": 1, "name": "lab", "origin": "/x/index.json"}
    return [json.dumps({**body, "contents": {"r1": INDEX}}).encode()]


def _header_seeds() -> list[bytes]:
    lines = ("MAE% = 1.2 %", "MAE = 3", "WCE% = 1e-3 %", "WCE = 7", "WCRE% = 9 %", "EP% = 5 %")
    lines += ("MRE% = 2 %", "MSE = 4.5e4", "PDK45_PWR = 0.1 mW", "PDK45_AREA = 5 um2")
    text = "/* please cite the following article(s): A, doi: 10.1/x */\n"
    return [(text + "".join(f"// {x}\n" for x in (*lines, "PDK45_DELAY = 1.2 ns"))).encode()]


def _hdf5(data: bytes) -> object:
    """An unknown HDF5 file, read by the code of the process that reads them, in a fork of ours."""
    path = _folder() / "input.hdf5"
    path.write_bytes(data)
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(HANG)
        os.dup2(send, 1)
        os.close(receive)
        os.close(2)
        try:
            _CHILD.sys.argv = ["child", str(path)]
            _CHILD.sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb"))
            _CHILD.main()
            _CHILD.sys.stdout.flush()
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        said = pipe.read()
    _, status, used = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if used.ru_utime + used.ru_stime > SECONDS + 5 or code == -signal.SIGALRM:
        raise Finding("the process that reads HDF5 was not stopped in time")
    return hdf5._answer(said, code)


def _child() -> Any:
    path = Path(str(hdf5.__file__)).with_name("hdf5_child.py")
    spec = importlib.util.spec_from_file_location("hdf5_child", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_CHILD = _child()


def _hdf5_seeds() -> list[bytes]:
    import h5py
    import numpy as np

    found = []
    for options in ({}, {"chunks": (2, 2), "compression": "gzip", "shuffle": True}):
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file.create_dataset("g/t", data=np.arange(32, dtype="i2").reshape(8, 4), **options)
        found.append(buffer.getvalue())
    return found


def _quick(names: list[str]) -> dict[str, Target]:
    return {name: _formatted(name) for name in names}


JSON_WORDS = ("null", "true", "1e999", "-1", '"', "\\u0000", "..", "NaN", "[[", "{}")
TARGETS: dict[str, Target] = {
    "c-reader": Target(_c_reader, lambda: [t.encode() for t in C_SEEDS], C_WORDS),
    "header": Target(_header, _header_seeds),
    **_quick(["npy", "npz", "raw", "text", "triples", "csv", "c-array", "c-model"]),
    "sniffed": Target(
        _sniffed,
        lambda: [
            _written(f.name, f.suffixes[0], "offset")
            for f in all_formats()
            if f.write is not None and f.name != "h5"
        ],
    ),
    "hdf5": Target(_hdf5, _hdf5_seeds, guided=False),
    "index": Target(_index, lambda: [json.dumps(INDEX).encode()], JSON_WORDS),
    "pin": Target(_pin, _pin_seeds, JSON_WORDS),
    "ref": Target(refs.decode_ref, _ref_seeds, JSON_WORDS),
    "resealed-ref": Target(_resealed_ref, _ref_seeds, JSON_WORDS),
    "object": Target(
        objects.decode, lambda: [objects.encode(objects.StoredObject.of(_multiplier()))]
    ),
    "factors": Target(from_bytes, lambda: [to_bytes(factorize(_multiplier()))]),
    "id": Target(
        _id,
        lambda: [b"lab:r1/m_1+swap", b"drum:8u/k=4,t=5+signmag(both,5)", b"mul8u_1JFF"],
        ("..", "/", "+swap", "+signmag(", "local:", "\\"),
    ),
}


# --- the oracle -------------------------------------------------------------------------------


class Tally:
    """What came of the inputs, in files as it comes: a fuzzer ends its process when it likes.

    Counts lie in a file that is mapped into memory, which the system keeps whatever the process
    dies of; their names and the findings, which are few, in one that is replaced.
    """

    _SLOTS = 64

    def __init__(self, path: Path) -> None:
        self.findings: dict[str, str] = {}
        self._path = path
        self._slots: dict[str, int] = {}
        with open(path.with_suffix(".counts"), "w+b") as stream:
            stream.truncate(8 * self._SLOTS)
            self._counts = memoryview(mmap.mmap(stream.fileno(), 8 * self._SLOTS)).cast("Q")
        self._write()

    def add(self, outcome: str) -> None:
        """Count one input."""
        if outcome not in self._slots:
            self._slots[outcome] = len(self._slots)
            self._write()
        self._counts[self._slots[outcome]] += 1

    def find(self, key: str, finding: str) -> None:
        """Keep a finding."""
        self.findings[key] = finding
        self._write()

    def _write(self) -> None:
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps([list(self._slots), list(self.findings.values())]))
        beside.replace(self._path)

    @classmethod
    def take(cls, path: Path) -> tuple[Counter[str], list[str]]:
        """Outcomes and findings that a process has left, once; nothing if it left none."""
        if not path.exists():
            return Counter(), []
        names, findings = json.loads(path.read_text())
        counts = memoryview(path.with_suffix(".counts").read_bytes()).cast("Q")
        path.unlink()
        return Counter(dict(zip(names, counts, strict=False))), findings


class Oracle:
    """Runs a target on inputs, and remembers each new way in which one misbehaves."""

    def __init__(self, name: str, keep: Path) -> None:
        self.name = name
        self.target = TARGETS[name]
        self.keep = keep
        self.tally = Tally(tally_path(name, keep))
        self._watching = False
        self._seen: list[str] = []
        cmodel_model.LIMITS = LIMITS
        for seed in self.target.seeds():  # everything is imported before anything is forbidden
            with contextlib.suppress(ApproxHubError):
                self.target.run(seed)
        sys.addaudithook(self._audit)

    def check(self, data: bytes) -> None:
        """Run one input, and count it once."""
        self._seen.clear()
        began = time.process_time()
        found = self._run(data)
        used = time.process_time() - began
        if self._seen:
            found = Finding(self._seen[0])
        elif used > SECONDS:
            found = Finding(f"it took {used:.0f} s of a processor")
        if found is None:
            self.tally.add("read")
        elif isinstance(found, ApproxHubError):
            self.tally.add(type(found).__name__)
        else:
            self._found(data, found)

    def _run(self, data: bytes) -> BaseException | None:
        """What the target raises: an error of ours, or something that it must not."""
        self._watching = True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.target.run(data)
        except PluginError as error:  # our own format has crashed
            return error.__cause__ or Finding(str(error))
        except Exception as error:
            return error
        finally:
            self._watching = False
        return None

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if (arguments[2] or 0) & writes and not path.startswith(f"{_folder()}{os.sep}"):
                self._seen.append(f"it opened {path} for writing")
        elif event in FORBIDDEN and not str(arguments[:1]).startswith(f"('{_folder()}"):
            self._seen.append(f"it did {event} {str(arguments)[:80]}")

    def _found(self, data: bytes, error: BaseException) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "approxhub" in f.filename] or frames
        at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
        key = f"{type(error).__name__} at {at}" if at else str(error)
        self.tally.add("FINDING")
        if key not in self.tally.findings:
            path = self.keep / f"{self.name}-{hashlib.sha256(data).hexdigest()[:12]}"
            path.write_bytes(data)
            self.tally.find(key, f"{key}: {str(error)[:200]}: {path}")
            print(self.tally.findings[key], file=sys.stderr, flush=True)


def tally_path(name: str, keep: Path) -> Path:
    """Where the tally of a target lies."""
    return keep / f"tally-{name}.json"


def mutations(seeds: list[bytes], rng: random.Random) -> Iterator[bytes]:
    """Sound files, each with a few bytes changed, cut, doubled, or put elsewhere."""
    special = [b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f", b"-1", b"99999999999", b" ", b"\n"]
    while True:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 1, 2, 2, 4, 8))):
            at, length = rng.randrange(len(data) + 1), rng.randrange(1, 16)
            kind = rng.randrange(6)
            if kind == 0 and data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            elif kind == 1:
                data[at : at + length] = rng.randbytes(length)
            elif kind == 2:
                del data[at : at + length]
            elif kind == 3:
                data[at:at] = data[at : at + length] * rng.randrange(1, 4)
            elif kind == 4:
                data[at:at] = rng.choice(special)
            else:
                other = rng.choice(seeds)
                start = rng.randrange(len(other) + 1)
                data[at : at + length] = other[start : start + length]
        yield bytes(data[:MAX_LENGTH])


# --- the command ------------------------------------------------------------------------------


def blind(name: str, inputs: int, seconds: float, seed: int, keep: Path) -> dict[str, Any]:
    """Run a target on sound files with changes."""
    oracle = Oracle(name, keep)
    began = time.monotonic()
    count = 0
    for data in mutations(oracle.target.seeds(), random.Random(seed)):
        if count >= inputs or time.monotonic() - began > seconds:
            break
        oracle.check(data)
        count += 1
    outcomes, findings = Tally.take(tally_path(name, keep))
    return {
        "inputs": count,
        "seconds": round(time.monotonic() - began),
        "findings": findings,
        "outcomes": dict(outcomes.most_common()),
    }


def guided(name: str, inputs: int, seconds: float, seed: int, keep: Path) -> dict[str, Any]:
    """Run a target under the fuzzer, in a process of its own; again where that ends too soon."""
    began = time.monotonic()
    corpus = keep / f"corpus-{name}"
    corpus.mkdir(exist_ok=True)
    words = keep / f"words-{name}"
    words.write_text("".join(f'"{_quoted(w)}"\n' for w in TARGETS[name].words))
    for number, data in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed{number}").write_bytes(data)
    ends, outcomes, findings, cover = 0, Counter[str](), list[str](), 0
    while (count := outcomes.total()) < inputs and time.monotonic() - began < seconds and ends < 20:
        left = max(1, int(seconds - (time.monotonic() - began)))
        command = [sys.executable, __file__, name, "--guided", "--keep", str(keep)]
        limits = [f"-runs={inputs - count}", f"-max_total_time={left}", f"-timeout={HANG}"]
        limits += ["-rss_limit_mb=4096", f"-max_len={MAX_LENGTH}", f"-seed={seed + ends + 1}"]
        limits += [f"-artifact_prefix={keep}/{name}-", "-verbosity=1"]
        environment = {**os.environ, "FUZZ_ARGUMENTS": json.dumps([*limits, str(corpus)])}
        if TARGETS[name].words:
            environment["FUZZ_ARGUMENTS"] = json.dumps([*limits, f"-dict={words}", str(corpus)])
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
        cover = max([cover, *map(int, re.findall(r"cov: (\d+)", done.stderr))])
        came, found = Tally.take(tally_path(name, keep))
        outcomes += came
        findings += [f for f in found if f not in findings]
        if done.returncode:
            ends += 1
            findings.append(f"the process ended with {done.returncode}: {done.stderr[-400:]}")
    if not cover and not ends:
        findings.append("nothing was covered: the code is not instrumented, so nothing guided")
    return {
        "inputs": outcomes.total(),
        "seconds": round(time.monotonic() - began),
        "coverage": cover,
        "findings": findings,
        "outcomes": dict(outcomes.most_common()),
    }


def _quoted(word: str) -> str:
    return word.replace("\\", "\\\\").replace('"', '\\"')


def _guided_child(name: str, keep: Path) -> None:
    """The process that the fuzzer runs in; it ends with the process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    atheris.Setup(
        [sys.argv[0], *json.loads(os.environ["FUZZ_ARGUMENTS"])], Oracle(name, keep).check
    )
    atheris.Fuzz()


def main() -> int:
    """Fuzz."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", choices=list(TARGETS))
    parser.add_argument("--all", action="store_true", help="every target, one after another")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3600, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blind", action="store_true", help="without the fuzzer")
    parser.add_argument(
        "--input", type=Path, help="one file to run the target on, and nothing else"
    )
    parser.add_argument("--keep", type=Path, help="folder for inputs that show something")
    parser.add_argument("--guided", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.target is None and not options.all:
        parser.error("name a target, or give --all")
    keep = (options.keep or Path(tempfile.mkdtemp(prefix="approxhub-fuzz-"))).absolute()
    keep.mkdir(exist_ok=True)
    if not options.guided or "APPROXHUB_HOME" not in os.environ:
        home = tempfile.mkdtemp(
            prefix="approxhub-fuzz-home-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None
        )
        os.environ["APPROXHUB_HOME"] = home
    if options.guided:
        _guided_child(options.target, keep)
        return 0
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)) if options.blind else None
    if options.input is not None:
        oracle = Oracle(options.target, keep)
        oracle.check(options.input.read_bytes())
        outcomes, findings = Tally.take(tally_path(options.target, keep))
        print(dict(outcomes))
        return 1 if findings else 0
    if not options.blind and importlib.util.find_spec("atheris") is None:
        parser.error("the fuzzer is missing: pip install atheris (Linux), or give --blind")
    summary = {}
    for name in list(TARGETS) if options.all else [options.target]:
        way = blind if options.blind or not TARGETS[name].guided else guided
        summary[name] = way(name, options.inputs, options.seconds, options.seed, keep)
        print(f"{name}: {json.dumps(summary[name])}", file=sys.stderr, flush=True)
    print(json.dumps(summary, indent=1))
    if any(s["findings"] for s in summary.values()):
        print(f"inputs that show it are in {keep}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
