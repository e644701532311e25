"""Fixtures of the interpreter's tests: gcc as an oracle, and the hand-written C files."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

GCC = shutil.which("gcc")

Integers = npt.NDArray[np.int64]


class Compiled:
    """Functions of a C text, called for whole arrays of operand values."""

    def __init__(self, source: str, functions: list[str], folder: Path) -> None:
        assert GCC is not None
        folder.mkdir(parents=True, exist_ok=True)
        drivers = "".join(
            f"\nvoid run_{f}(const long *a, const long *b, long n, long *out)"
            f"{{ for (long i = 0; i < n; i++) out[i] = (long){f}(a[i], b[i]); }}\n"
            for f in functions
        )
        text, library = folder / "model.c", folder / "model.so"
        text.write_text(source + drivers, newline="")
        # -fwrapv: overflow of signed integers wraps, as the interpreter has it.
        command = [GCC, "-w", "-O1", "-fwrapv", "-std=gnu11", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", str(library), str(text)], check=True, capture_output=True)
        self._library = ctypes.CDLL(str(library))

    def __call__(self, function: str, a: Integers, b: Integers) -> Integers:
        """What the function returns, as a long."""
        a, b = (np.ascontiguousarray(x, dtype=np.int64) for x in np.broadcast_arrays(a, b))
        out = np.empty(a.shape, dtype=np.int64)
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (a, b, out)]
        self._library["run_" + function](
            pointers[0], pointers[1], ctypes.c_long(a.size), pointers[2]
        )
        return out


@pytest.fixture(scope="session")
def compile_c() -> Callable[[str, list[str], Path], Compiled]:
    """Compiler of C texts; its tests are skipped where there is no gcc."""
    if GCC is None:
        pytest.skip("needs gcc, which is only the oracle here")
    return Compiled


@pytest.fixture(scope="session")
def c_file() -> Callable[[str], bytes]:
    """Reader of the C files that were written for these tests."""
    folder = Path(__file__).parent / "fixtures"
    return lambda name: (folder / f"{name}.c").read_bytes()
