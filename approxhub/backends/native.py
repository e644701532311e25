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
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from approxhub.errors import BackendUnavailableError, EngineError

__all__ = ["NativeLibrary", "load_library"]

ABI = 6
_NAME = "libapproxhub_cpu.so"

_i32, _i64, _pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
_NO_MEMORY, _NOT_FINITE = 1, 3


class Geometry(ctypes.Structure):
    """Where the lanes lie; ``ah_geometry`` in ``csrc/approxhub_cpu.h``."""

    _fields_ = (
        *((name, _i64) for name in ("images", "groups", "channels")),
        *((name, _i64 * 3) for name in ("size", "before", "out", "kernel", "stride", "dilation")),
        ("step", _i64 * 5),
        ("pad", _i32),
    )


Steps: TypeAlias = "ctypes.Array[ctypes.c_int64]"


def steps(*elements: int) -> Steps:
    """Elements of the result from one image, row, depth, line and column to the next."""
    return (_i64 * 5)(*elements)


class Sizes(ctypes.Structure):
    """What a geometry takes; ``ah_sizes`` in ``csrc/approxhub_cpu.h``."""

    _fields_ = tuple(
        (name, _i64)
        for name in (
            "taps", "lookup_lanes", "product_lanes", "code_bytes", "plane_bytes", "sums",
            "row_bytes",
        )
    )  # fmt: skip


class _Planes(ctypes.Structure):
    _fields_ = (
        ("planes", _i32),
        *((name, _pointer) for name in ("left", "right", "low", "high", "weight")),
    )


class Planes:
    """A sum of byte products, as ``ah_planes`` in ``csrc/approxhub_cpu.h`` describes it.

    Parameters
    ----------
    left : ndarray of uint8, (planes, 256)
        What a row's code stands for, plus `low`.
    right : ndarray of int8, (planes, 256)
        What a lane's code stands for, less `high`.
    low, high : ndarray of int32, (planes,)
        Offsets that bring them into a byte.
    weight : ndarray of int64, (planes,)
        Of each product in the sum; equal ones stand together.
    """

    def __init__(
        self,
        left: npt.NDArray[np.uint8],
        right: npt.NDArray[np.int8],
        low: npt.NDArray[np.int32],
        high: npt.NDArray[np.int32],
        weight: npt.NDArray[np.int64],
    ) -> None:
        self.arrays = (left, right, low, high, weight)
        self.needs_sums = bool(low.any())
        self.struct = _Planes(len(left), *[_address(t) for t in self.arrays])

    def __len__(self) -> int:
        return int(self.struct.planes)


def _address(t: Tensor | npt.NDArray[np.generic]) -> int:
    return t.data_ptr() if isinstance(t, Tensor) else t.ctypes.data


def _or_null(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


_SIGNATURES = {
    "ah_same": (_pointer, _pointer, _i64, _i32),
    "ah_measure": (_pointer, _i32, _pointer),
    "ah_lay_codes": (_i32, _pointer, _pointer, _pointer, _i32),
    "ah_lookup": (
        _i32, _pointer, _pointer, _pointer, _i64, _pointer, _i64, _pointer, _i32, _pointer, _i32,
    ),
    "ah_lay_planes": (_i32, _pointer, _pointer, _pointer, _pointer, _pointer, _i32),
    "ah_pack_rows": (
        _i32, _pointer, _pointer, _pointer, _i64, _pointer, _pointer, _pointer, _i32,
    ),
    "ah_quantize": (
        _i32, _pointer, _i64, _i64, _i64, _pointer, _pointer, ctypes.c_float, ctypes.c_float,
        _pointer, _pointer, _pointer, _i32,
    ),
    "ah_sum": (_i32, _pointer, _i64, _i64, _i64, _i32, _pointer, _i32),
    "ah_dequantize": (
        _i32, _pointer, _i64, _i64, _i64, _pointer, _pointer, _pointer, _i64, _pointer, _pointer,
        _pointer, _i32,
    ),
    "ah_product": (
        _i32, _pointer, _pointer, _pointer, _pointer, _pointer, _pointer, _i64, _pointer, _i32,
        _pointer, _i32,
    ),
}  # fmt: skip
_SIGNATURES["ah_lookup_depthwise"] = _SIGNATURES["ah_lookup"]


class NativeLibrary:
    """The loaded library; see ``csrc/approxhub_cpu.h`` for what each function does.

    Attributes
    ----------
    isas : dict of str to int
        Instruction sets that this machine can run, by name, the best one last.
    reach : dict of str to int
        How many table entries one of their permutations chooses from here; 0 without such.
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
        self.reach: dict[str, int] = {n: library.ah_isa_reach(i) for n, i in self.isas.items()}
        library.ah_digest.restype = ctypes.c_uint64
        library.ah_digest.argtypes = (_pointer, _i64, _i64)
        self._digest = library.ah_digest
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = _i32, arguments
        self._library = library

    def digest(self, codes: Tensor, every: int = 1) -> int:
        """A number that differs for nearly all different bytes in the memory of a dense tensor.

        It looks at one of `every` so many pieces of 64 bytes.
        """
        return int(self._digest(_address(codes), codes.numel(), every))

    def same(self, a: Tensor, b: Tensor, threads: int) -> bool:
        """Whether two dense tensors hold as many and the same bytes, one after the other."""
        return bool(self._library.ah_same(_address(a), _address(b), a.numel(), threads))

    def measure(self, geometry: Geometry, planes: int) -> Sizes:
        """Sizes of the buffers that a geometry takes."""
        sizes = Sizes()
        _check(self._library.ah_measure(ctypes.byref(geometry), planes, ctypes.byref(sizes)))
        return sizes

    def lay_codes(self, isa: int, geometry: Geometry, source: Tensor, threads: int) -> Tensor:
        """Lanes of a lookup."""
        lanes = torch.empty(self.measure(geometry, 1).code_bytes, dtype=torch.uint8, device="cpu")
        _check(
            self._library.ah_lay_codes(
                isa, ctypes.byref(geometry), _address(source), _address(lanes), threads
            )
        )
        return lanes

    def lookup(
        self,
        isa: int,
        geometry: Geometry,
        codes: Tensor,
        rows: Tensor,
        count: int,
        image: npt.NDArray[np.uint8],
        bias: int,
        out: Tensor,
        step: Steps,
        threads: int,
        *,
        depthwise: bool = False,
    ) -> None:
        """Sum table entries into `out`: of lanes, or, `depthwise`, of the source as it is."""
        library = self._library
        _check(
            (library.ah_lookup_depthwise if depthwise else library.ah_lookup)(
                isa, ctypes.byref(geometry), _address(codes), _address(rows), count,
                _address(image), bias, _address(out), out.dtype == torch.int64, step, threads,
            )
        )  # fmt: skip

    def lay_planes(
        self, isa: int, geometry: Geometry, planes: Planes, source: Tensor, threads: int
    ) -> tuple[Tensor, Tensor | None]:
        """Lanes of a product, and their sums where an offset makes them necessary."""
        sizes = self.measure(geometry, len(planes))
        lanes = torch.empty(sizes.plane_bytes, dtype=torch.int8, device="cpu")
        sums = (
            torch.empty(sizes.sums, dtype=torch.int64, device="cpu") if planes.needs_sums else None
        )
        _check(
            self._library.ah_lay_planes(
                isa, ctypes.byref(geometry), ctypes.byref(planes.struct), _address(source),
                _address(lanes), _or_null(sums), threads,
            )
        )  # fmt: skip
        return lanes, sums

    def pack_rows(
        self,
        isa: int,
        geometry: Geometry,
        planes: Planes,
        source: Tensor,
        count: int,
        step: Sequence[int],
        threads: int,
    ) -> tuple[Tensor, Tensor]:
        """Rows of a product (`count` of all groups together), and their terms."""
        sizes = self.measure(geometry, len(planes))
        rows = torch.empty(count * sizes.row_bytes, dtype=torch.uint8, device="cpu")
        terms = torch.empty(count, dtype=torch.int64, device="cpu")
        _check(
            self._library.ah_pack_rows(
                isa, ctypes.byref(geometry), ctypes.byref(planes.struct), _address(source), count,
                (_i64 * 3)(*step), _address(rows), _address(terms), threads,
            )
        )  # fmt: skip
        return rows, terms

    def product(
        self,
        isa: int,
        geometry: Geometry,
        planes: Planes,
        lanes: tuple[Tensor, Tensor | None],
        rows: tuple[Tensor, Tensor],
        count: int,
        out: Tensor,
        step: Steps,
        threads: int,
    ) -> None:
        """Sum products of recoded operands into `out`; `count` rows of each group."""
        _check(
            self._library.ah_product(
                isa, ctypes.byref(geometry), ctypes.byref(planes.struct), _address(lanes[0]),
                _or_null(lanes[1]), _address(rows[0]), _address(rows[1]), count,
                _address(out), out.dtype == torch.int64, step, threads,
            )
        )  # fmt: skip

    def quantize(
        self,
        isa: int,
        x: Tensor,
        shape: tuple[int, int, int],
        scale: Tensor,
        zero: Tensor,
        limits: tuple[int, int],
        codes: Tensor,
        real: Tensor | None,
        inside: Tensor | None,
        threads: int,
    ) -> bool:
        """Quantise dense float32 memory; False if a number is not finite."""
        status = self._library.ah_quantize(
            isa, _address(x), *shape, _address(scale), _address(zero), *limits, _address(codes),
            _or_null(real), _or_null(inside), threads,
        )  # fmt: skip
        if status == _NOT_FINITE:
            return False
        _check(status)
        return True

    def sum(
        self, isa: int, codes: Tensor, shape: tuple[int, int, int], sums: Tensor, threads: int
    ) -> None:
        """Sum codes over the middle of a shape."""
        signed = codes.dtype == torch.int8
        _check(self._library.ah_sum(isa, _address(codes), *shape, signed, _address(sums), threads))

    def dequantize(
        self,
        isa: int,
        acc: Tensor,
        shape: tuple[int, int, int],
        term: Tensor | None,
        zero: Tensor | None,
        sums: Tensor | None,
        groups: int,
        scale: Tensor,
        bias: Tensor | None,
        out: Tensor,
        threads: int,
    ) -> None:
        """Turn sums of 32 bits into real numbers."""
        _check(
            self._library.ah_dequantize(
                isa, _address(acc), *shape, _or_null(term), _or_null(zero), _or_null(sums), groups,
                _address(scale), _or_null(bias), _address(out), threads,
            )
        )  # fmt: skip


def _check(status: int) -> None:
    if status == _NO_MEMORY:
        raise EngineError("the CPU engine found no memory for its packed operands")
    if status:
        raise EngineError(
            f"the CPU engine refused its arguments (status {status}), which is an error of "
            "approxhub; APPROXHUB_BACKEND=reference does without it"
        )


def chosen_isa(library: NativeLibrary, name: str | None = None) -> str:
    """The instruction set of that name, of ``APPROXHUB_CPU_ISA``, or the best one here.

    Raises
    ------
    BackendUnavailableError
        If this machine cannot run it.
    """
    wanted = name or os.environ.get("APPROXHUB_CPU_ISA") or list(library.isas)[-1]
    if wanted not in library.isas:
        raise BackendUnavailableError(
            f"instruction set {wanted!r} cannot be used here; these can: {', '.join(library.isas)}"
        )
    return wanted


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
