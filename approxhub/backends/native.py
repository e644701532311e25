"""The native CPU library: finding it, loading it, calling it. Plain ctypes.

torch is imported first, so that its OpenMP runtime serves the library too: one pool of threads.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.resources
import os
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from approxhub.errors import BackendUnavailableError

__all__ = ["NativeLibrary", "load_library"]

ABI = 1
_NAME = "libapproxhub_cpu.so"

_i32, _i64, _pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
_NO_MEMORY = 1


def _address(t: Tensor | npt.NDArray[np.generic]) -> int:
    return t.data_ptr() if isinstance(t, Tensor) else t.ctypes.data


class NativeLibrary:
    """The loaded library.

    Attributes
    ----------
    isas : dict of str to int
        Instruction sets that this machine can run, by name, the best one last.
    """

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        library.ah_abi.restype = _i32
        found = library.ah_abi()
        if found != ABI:
            raise BackendUnavailableError(
                f"{path} has interface {found}, this approxhub needs {ABI}; install again"
            )
        library.ah_isa_count.restype = _i32
        library.ah_isa_name.restype = ctypes.c_char_p
        library.ah_isa_supported.restype = _i32
        self.isas: dict[str, int] = {
            library.ah_isa_name(i).decode(): i
            for i in range(library.ah_isa_count())
            if library.ah_isa_supported(i)
        }
        self._lookup = library.ah_lookup
        self._lookup.restype = _i32
        self._lookup.argtypes = [
            _i32, _pointer, _i64, _pointer, _i64, _i64, _pointer, _i64, _pointer, _i32, _i64, _i64,
            _i32,
        ]  # fmt: skip
        self._factored = library.ah_factored
        self._factored.restype = _i32
        self._factored.argtypes = [
            _i32, _pointer, _i64, _pointer, _i64, _i64, _i32, _pointer, _pointer, _pointer,
            _pointer, _pointer, _pointer, _i32, _i32,
        ]  # fmt: skip

    def lookup(
        self,
        isa: int,
        x: Tensor,
        w: Tensor,
        image: npt.NDArray[np.uint8],
        bias: int,
        out: Tensor,
        strides: tuple[int, int],
        threads: int,
    ) -> None:
        """Sum table entries; see ``ah_lookup`` in ``csrc/approxhub_cpu.h``."""
        (rows, k), columns = x.shape, w.shape[0]
        _check(
            self._lookup(
                isa, _address(x), rows, _address(w), columns, k, _address(image), bias,
                _address(out), out.dtype == torch.int64, *strides, threads,
            )
        )  # fmt: skip

    def factored(
        self,
        isa: int,
        x: Tensor,
        w: Tensor,
        tables: Sequence[npt.NDArray[np.generic]],
        out: Tensor,
        threads: int,
    ) -> None:
        """Sum products of recoded operands; see ``ah_factored`` in ``csrc/approxhub_cpu.h``."""
        (rows, k), columns = x.shape, w.shape[1]
        _check(
            self._factored(
                isa, _address(x), rows, _address(w), columns, k, len(tables[0]),
                *map(_address, tables), _address(out), out.dtype == torch.int64, threads,
            )
        )  # fmt: skip


def _check(status: int) -> None:
    if status == _NO_MEMORY:
        raise MemoryError("the CPU engine found no memory for its packed operands")
    if status:
        raise RuntimeError(f"the CPU engine refused its arguments (status {status})")


@functools.cache
def load_library() -> NativeLibrary:
    """Load the library, once.

    Raises
    ------
    BackendUnavailableError
        If it was not built, or cannot be loaded; the message says what to do.
    """
    if sys.byteorder != "little":
        raise BackendUnavailableError("the CPU engine is for little-endian machines")
    path = importlib.resources.files("approxhub").joinpath("_native").joinpath(_NAME)
    if not path.is_file():
        raise BackendUnavailableError(
            "approxhub was installed without its CPU engine; install a C compiler (gcc or clang) "
            "and approxhub again"
        )
    try:
        return NativeLibrary(os.fspath(str(path)))
    except OSError as error:
        raise BackendUnavailableError(f"the CPU engine cannot be loaded: {error}") from error
