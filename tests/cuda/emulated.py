"""Builds the kernels for the host: the unmodified sources of approxhub_cuda/csrc with emulation/.

No GPU and no CUDA toolkit is needed, only g++.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "approxhub_cuda"
FLAGS = (
    "-std=c++17", "-g1", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
    "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off",
)  # fmt: skip
RACES = ("-fsanitize=thread",)
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


def need() -> None:
    """Skip a test where the kernels cannot be built for the host."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("needs g++ on Linux, to build the kernels for the host")
    if not (PACKAGE / "csrc").is_dir():
        pytest.skip("needs a checkout: no approxhub_cuda/csrc")


def build(
    to: Path, *flags: str, package: Path = PACKAGE, known: Path | None = None, changed: str = ""
) -> Path:
    """Compile the sources of `package`, each by itself, and link them.

    Of another build, `known`, all is taken that is there but the source called `changed`.
    """
    sources = [*sorted((package / "csrc").glob("*.cu")), package / "emulation" / "emulation.cpp"]
    include = [f"-I{package / 'emulation'}", f"-I{package / 'csrc'}"]
    to.parent.mkdir(parents=True, exist_ok=True)

    def flags_of(source: Path) -> tuple[str, ...]:
        # The scheduler tells the thread sanitizer what threads do; it is none of them.
        if source.stem == "emulation" and flags[:1] == RACES:
            return ("-DEMULATION_SEES_RACES", *flags[1:])
        return flags

    def compile_one(source: Path) -> str:
        made = to.with_name(f"{to.stem}-{source.stem}.o")
        old = None if known is None else known.with_name(f"{known.stem}-{source.stem}.o")
        if old is not None and source.name != changed and old.is_file():
            return str(old)
        command = [
            "g++",
            *FLAGS,
            *flags_of(source),
            *include,
            "-x",
            "c++",
            "-c",
            str(source),
            "-o",
            str(made),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return str(made)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    subprocess.run(["g++", *flags, "-shared", *objects, "-o", str(to)], check=True)
    return to


def configure(
    path: Path,
    *,
    seed: int = 1,
    capability: tuple[int, int] = (9, 0),
    processors: int = 4,
    shared: int = 227 * 1024,
    refused: int = 0,
) -> None:
    """Say what the emulated card is like, in which order threads run, and what it refuses."""
    loaded = ctypes.CDLL(str(path))
    loaded.ah_emulation_configure.argtypes = (ctypes.c_uint64, *[ctypes.c_int] * 5)
    loaded.ah_emulation_configure(seed, *capability, processors, shared, refused)


def sanitizers(races: bool = False) -> dict[str, str]:
    """Environment in which Python can load a sanitized library."""
    names = ("libtsan.so",) if races else ("libasan.so", "libubsan.so")
    found = [
        subprocess.run(["g++", f"-print-file-name={n}"], capture_output=True, text=True).stdout
        for n in (*names, "libstdc++.so")
    ]
    return {
        "LD_PRELOAD": " ".join(path.strip() for path in found),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        # What other libraries do, locks keep in order that are not seen.
        "TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1",
    }
