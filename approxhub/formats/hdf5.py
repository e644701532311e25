"""HDF5: the objects of ApproxHub's cache, and any other file that holds one table.

libhdf5 is not safe on a stranger's bytes, and a digest that stands in the file itself proves no
good will: both are read in a process of its own, with limits on memory and time, no filter
plug-ins and no way out of the file (:mod:`approxhub.formats.hdf5_child`). Imports numpy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from approxhub.errors import InputError, TableFileError
from approxhub.formats.assembly import assemble
from approxhub.formats.data import MAX_ENTRIES, Operands, TableData
from approxhub.multiplier import Circuit, Multiplier
from approxhub.operands import OperandFormat
from approxhub.plugins.descriptors import TableFormat

__all__ = ["FORMAT", "OBJECT_FORMAT"]

_CHILD = Path(__file__).with_name("hdf5_child.py")
# Isolated, so that no module beside the script or in the folder stands in for a library; but
# with the libraries of this process, wherever they are installed.
_START = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
)
_SECONDS = 60.0
_MAX_ANSWER = 8 * MAX_ENTRIES + (1 << 16)
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_OURS = b"APPROXHUB-OBJECT"
# A user block of any power of two may stand before the signature.
_OFFSETS = (0, *(512 << i for i in range(8)))


def _sniff_object(head: bytes) -> bool:
    return head.startswith(_OURS)


def _sniff(head: bytes) -> bool:
    return not _sniff_object(head) and any(head.startswith(_SIGNATURE, i) for i in _OFFSETS)


def _ask(path: Path, *wanted: str) -> tuple[dict[str, Any], npt.NDArray[Any]]:
    """What the child says of a file, and its entries."""
    if os.name != "posix":
        raise TableFileError(
            "HDF5 files are read only where a process can be limited (Linux, macOS); save the "
            "table as .npy"
        )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HDF5_")}
    environment |= {
        "HDF5_PLUGIN_PATH": "",
        "HDF5_PLUGIN_PRELOAD": "::",  # libhdf5's own word for: load none
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "OPENBLAS_NUM_THREADS": "1",  # its threads would count as memory
        "OMP_NUM_THREADS": "1",
    }
    libraries = json.dumps([p for p in sys.path if p])
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _START, libraries, str(_CHILD), str(path.resolve()), *wanted],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert process.stdout is not None
    timer = threading.Timer(_SECONDS, process.kill)
    timer.start()
    try:
        said = process.stdout.read(_MAX_ANSWER)
    finally:
        timer.cancel()
        process.kill()
        process.stdout.close()
        process.wait()
    return _answer(said, process.returncode)


def _answer(said: bytes, code: int) -> tuple[dict[str, Any], npt.NDArray[Any]]:
    """Check what a child says that a file may have taken over."""
    line, _, body = said.partition(b"\n")
    try:
        about = json.loads(line)
        if "error" in about:
            raise TableFileError(str(about["error"]))
        dtype = np.dtype(about["dtype"])
        if dtype.kind not in "iu":
            raise ValueError("no integers")
        return about, np.frombuffer(body, dtype).reshape(about["shape"])
    except (ValueError, TypeError, KeyError):
        raise TableFileError(
            f"the process that reads it ended ({code}) without an answer: the file is damaged, or "
            "takes too much time or memory"
        ) from None


def _read(path: Path, operands: Operands | None) -> TableData:
    about, entries = _ask(path)
    return TableData(entries, name=about["path"].rpartition("/")[2])


def _read_object(path: Path, operands: Operands | None) -> TableData:
    from approxhub.registry.framing import unseal
    from approxhub.registry.objects import SCHEMA_VERSION

    version = unseal(path.read_bytes(), _OURS, "an object")
    if version > SCHEMA_VERSION:
        raise TableFileError(
            f"it has schema version {version}, of a newer ApproxHub; this one reads up to "
            f"{SCHEMA_VERSION}: upgrade"
        )
    about, entries = _ask(path, "table", "source")
    said = about["attributes"]
    sides = (OperandFormat.parse(said.get("a", "")), OperandFormat.parse(said.get("b", "")))
    known: dict[str, Any] = {"operands": sides, "index_order": "pattern", "operand_order": "ab"}
    if about["path"] == "table":
        return TableData(entries, **known)
    return TableData(circuit=_circuit(entries, sides, said.get("function")), **known)


def _circuit(source: npt.NDArray[Any], sides: Operands, function: str | None) -> Circuit:
    from approxhub.cmodel import CModel

    text = source.astype(np.uint8).tobytes()
    return CModel.parse(text, a=sides[0], b=sides[1], function=function)


def _write_object(data: TableData, path: Path) -> None:
    from approxhub.registry.objects import StoredObject, encode

    if (data.index_order, data.operand_order) != ("pattern", "ab"):
        raise InputError("ApproxHub's own files have one order, 'pattern' and 'ab'; leave both")
    (a, b), table, circuit = assemble(data, operands=None, index_order=None, operand_order=None)
    multiplier = Multiplier("local:export", a, b, table=table, circuit=circuit)
    path.write_bytes(encode(StoredObject.of(multiplier)))


FORMAT = TableFormat("hdf5", (".hdf5", ".h5", ".hdf", ".he5"), _sniff, _read)
OBJECT_FORMAT = TableFormat("h5", (".h5",), _sniff_object, _read_object, _write_object)
