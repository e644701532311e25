"""The library of kernels: finding it, loading it, calling it; see csrc/approxhub_cuda.h.

Imports the core's errors, and nothing heavy.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.resources
import os
from typing import Any

from approxhub.errors import BackendUnavailableError, EngineError

__all__ = [
    "Card",
    "Combine",
    "Dequantize",
    "Library",
    "Lookup",
    "Operand",
    "Pass",
    "Product",
    "Quantize",
    "Recode",
    "Sums",
    "load_library",
]

ABI = 2
_NAME = "libapproxhub_cuda.so"

_i32, _i64, _pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
STAGED, CACHED, SHARED, PLAIN = range(4)
MOST_PASSES, MOST_TERMS = 64, 4
Pointers = _pointer * MOST_TERMS


class Card(ctypes.Structure):
    """What is known of a card; ``ah_card``."""

    _fields_ = (
        *((name, _i32) for name in ("major", "minor", "processors", "clock_khz", "shared_bytes")),
        ("driver", _i32),
        ("runtime", _i32),
        ("name", ctypes.c_char * 256),
    )


class Operand(ctypes.Structure):
    """Codes of an operand; ``ah_operand``."""

    _fields_ = (
        ("data", _pointer),
        *((name, _i64) for name in ("rows", "group_step", "row_step", "k_step")),
        ("step", _i64 * 5),
        ("image", _i32),
        ("channels", _i32),
        *((name, _i32 * 3) for name in ("size", "out", "kernel", "stride", "dilation", "before")),
        ("pad", _i32),
        ("pad_from", _pointer),
    )


class Sums(ctypes.Structure):
    """Where sums go; ``ah_sums``."""

    _fields_ = (
        ("data", _pointer),
        *(
            (name, _i64)
            for name in ("count", "group_step", "block", "block_step", "row_step", "column_step")
        ),
        ("wide", _i32),
    )


class Lookup(ctypes.Structure):
    """Sums that are looked up; ``ah_lookup``."""

    _fields_ = (
        ("a", Operand),
        ("b", Operand),
        ("sums", Sums),
        *((name, _i64) for name in ("k", "columns", "groups")),
        ("table", _pointer),
        ("bias", _i64),
        *((name, _i32) for name in ("a_bits", "b_bits", "entry_bytes", "code_bytes", "way")),
    )


class Pass(ctypes.Structure):
    """Planes that are summed with one weight; ``ah_pass``."""

    _fields_ = (("weight", _i64), ("planes", _i32), ("signs", _i32))


class Product(ctypes.Structure):
    """Sums of products of recoded codes; ``ah_product``."""

    _fields_ = (
        ("a", Operand),
        ("b", Operand),
        ("sums", Sums),
        *((name, _i64) for name in ("k", "columns", "groups")),
        ("left", _pointer),
        ("right", _pointer),
        ("passes", _i32),
        ("pass", Pass * MOST_PASSES),
    )


_DENSE = tuple((name, _i64) for name in ("outer", "channels", "inner"))


class Quantize(ctypes.Structure):
    """Codes of real numbers; ``ah_quantize``."""

    _fields_ = (
        ("x", _pointer),
        *_DENSE,
        *((name, _pointer) for name in ("scale", "zero", "codes", "real", "inside", "finite")),
        *((name, _i32) for name in ("least", "most", "code_bytes")),
    )


class Dequantize(ctypes.Structure):
    """Real numbers of sums; ``ah_dequantize``."""

    _fields_ = (
        ("acc", _pointer),
        *_DENSE,
        ("groups", _i64),
        *((name, _pointer) for name in ("term", "zero", "sums", "scale", "bias", "out")),
        ("wide", _i32),
    )


class Recode(ctypes.Structure):
    """Terms of a gradient's table, for numbers on a grid; ``ah_recode``."""

    _fields_ = (
        ("x", _pointer),
        *_DENSE,
        *((name, _pointer) for name in ("scale", "zero", "table", "out")),
        *((name, _i32) for name in ("mask", "terms", "whole")),
    )


class Combine(ctypes.Structure):
    """Products of such terms, summed up; ``ah_combine``."""

    _fields_ = (
        ("x", _pointer),
        *_DENSE,
        *((name, _pointer) for name in ("scale", "zero", "table")),
        ("products", Pointers),
        ("sum", _pointer),
        ("mask", _i32),
        ("terms", _i32),
    )


class Library:
    """The loaded library.

    Parameters
    ----------
    path : str
        Of the shared object.

    Attributes
    ----------
    emulated : bool
        Whether its kernels run on the host, on memory of the host.

    Raises
    ------
    BackendUnavailableError
        If it cannot be loaded, or is of another version.
    """

    def __init__(self, path: str) -> None:
        try:
            loaded = ctypes.CDLL(path)
        except OSError as error:
            raise BackendUnavailableError(f"the kernels cannot be loaded: {error}") from error
        loaded.ah_cuda_abi.restype = _i32
        found = loaded.ah_cuda_abi()
        if found != ABI:
            raise BackendUnavailableError(
                f"{path} has interface {found}, not {ABI}; install approxhub_cuda again"
            )
        loaded.ah_cuda_error.restype = ctypes.c_char_p
        loaded.ah_cuda_error.argtypes = (_i32,)
        loaded.ah_cuda_devices.argtypes = (_pointer,)
        loaded.ah_cuda_card.argtypes = (_i32, _pointer)
        for name in ("lookup", "product", "quantize", "dequantize", "recode", "combine"):
            getattr(loaded, f"ah_cuda_{name}").argtypes = (_i32, _pointer, _pointer)
        self._loaded: Any = loaded
        self.emulated = bool(loaded.ah_cuda_emulated())

    def _check(self, status: int, what: str) -> None:
        if status:
            raise EngineError(f"{what}: {self._loaded.ah_cuda_error(status).decode()}")

    def devices(self) -> int:
        """Count the cards that the driver offers."""
        count = _i32()
        self._check(self._loaded.ah_cuda_devices(ctypes.byref(count)), "asking for cards")
        return count.value

    def card(self, device: int) -> Card:
        """Describe a card, and load all kernels there; the first time that takes a while."""
        card = Card()
        what = f"loading the kernels onto card {device}"
        self._check(self._loaded.ah_cuda_card(device, ctypes.byref(card)), what)
        return card

    def lookup(self, device: int, stream: int, work: Lookup) -> None:
        """Put a sum of looked-up products on a stream."""
        status = self._loaded.ah_cuda_lookup(device, stream, ctypes.byref(work))
        self._check(status, "looking products up")

    def product(self, device: int, stream: int, work: Product) -> None:
        """Put a sum of products of recoded codes on a stream."""
        status = self._loaded.ah_cuda_product(device, stream, ctypes.byref(work))
        self._check(status, "multiplying recoded codes")

    def quantize(self, device: int, stream: int, work: Quantize) -> None:
        """Put the quantising of real numbers on a stream."""
        status = self._loaded.ah_cuda_quantize(device, stream, ctypes.byref(work))
        self._check(status, "quantising")

    def dequantize(self, device: int, stream: int, work: Dequantize) -> None:
        """Put the dequantising of sums on a stream."""
        status = self._loaded.ah_cuda_dequantize(device, stream, ctypes.byref(work))
        self._check(status, "dequantising")

    def recode(self, device: int, stream: int, work: Recode) -> None:
        """Put the recoding of an operand of a gradient on a stream."""
        status = self._loaded.ah_cuda_recode(device, stream, ctypes.byref(work))
        self._check(status, "recoding for a gradient")

    def combine(self, device: int, stream: int, work: Combine) -> None:
        """Put the summing up of a gradient's products on a stream."""
        status = self._loaded.ah_cuda_combine(device, stream, ctypes.byref(work))
        self._check(status, "summing up a gradient")


@functools.cache
def load_library() -> Library:
    """Load the installed library, once.

    Raises
    ------
    BackendUnavailableError
        If it was not built, or cannot be loaded; the message says what to do.
    """
    path = importlib.resources.files("approxhub_cuda").joinpath("_native").joinpath(_NAME)
    if not path.is_file():
        raise BackendUnavailableError(
            "approxhub_cuda was installed without its kernels, for no nvcc that works was found; "
            "put the nvcc of a CUDA toolkit on the PATH, beside a C++ compiler, and install "
            "approxhub_cuda again"
        )
    return Library(os.fspath(str(path)))
