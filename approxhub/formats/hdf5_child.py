"""Read one table out of an HDF5 file that nobody vouches for, in a process of its own.

Run as a script by :mod:`approxhub.formats.hdf5`, never imported: takes the file and the names of
the datasets that are wanted, limits itself, and writes a line of JSON and then raw little-endian
integers to stdout. Follows hard links only, and refuses datasets whose bytes lie outside the file
or behind a filter that libhdf5 does not bring. Imports h5py and numpy.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

import h5py
import numpy as np

_MEMORY = 2 << 30
_CPU_SECONDS = 30
_MAX_OBJECTS = 1000
_MAX_ENTRIES = 1 << 24
_MAX_CHUNK = 1 << 28
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
}


class Refusal(Exception):
    """What is wrong with the file."""


def limit() -> None:
    """Bound what this process may take, whatever the file does to it."""
    for what, most in (
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def datasets(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """All datasets that hard links lead to, by path."""
    found: dict[str, h5py.Dataset] = {}
    seen = {h5py.h5o.get_info(group.id).addr}
    pending = [(group, "")]
    while pending:
        here, prefix = pending.pop()
        for name in here:
            path = f"{prefix}{name}"
            if not isinstance(here.get(name, getlink=True), h5py.HardLink):
                raise Refusal(f"{path[:80]!r} is a soft or external link; copy what it leads to")
            item = here[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > _MAX_OBJECTS:
                raise Refusal(f"more than {_MAX_OBJECTS:,} objects; save the table alone")
            if isinstance(item, h5py.Group):
                pending.append((item, f"{path}/"))
            elif isinstance(item, h5py.Dataset):
                found[path] = item
    return found


def is_table(dataset: h5py.Dataset) -> bool:
    """Whether a dataset has two axes of integers."""
    return len(dataset.shape or ()) == 2 and dataset.dtype.kind in "iu"


def check(path: str, dataset: h5py.Dataset) -> None:
    """Refuse what reading might reach outside for, or take too much for."""
    properties = dataset.id.get_create_plist()
    if properties.get_external_count():
        raise Refusal(f"the entries of {path[:80]!r} lie in another file; copy them into this one")
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        raise Refusal(f"{path[:80]!r} is a virtual dataset; save its entries in the file itself")
    for i in range(properties.get_nfilters()):
        number = properties.get_filter(i)[0]
        if number not in _FILTERS:
            raise Refusal(
                f"{path[:80]!r} is packed with filter {number}; only gzip, shuffle and fletcher32 "
                "are read"
            )
    if dataset.dtype.kind not in "iu":
        raise Refusal(f"the entries of {path[:80]!r} are {dataset.dtype}, not integers")
    if dataset.size is None or not 1 <= dataset.size <= _MAX_ENTRIES:
        raise Refusal(f"{path[:80]!r} of shape {dataset.shape} is no table")
    if dataset.chunks and np.prod([float(n) for n in dataset.chunks]) > _MAX_CHUNK // 8:
        raise Refusal(f"the chunks {dataset.chunks} of {path[:80]!r} are too large")


def chosen(found: dict[str, h5py.Dataset], wanted: list[str]) -> tuple[str, h5py.Dataset]:
    """The dataset that is meant: one of those wanted, else the only one that may be a table."""
    for name in wanted:
        if name in found:
            return name, found[name]
    tables = {path: d for path, d in found.items() if is_table(d)}
    if wanted or len(tables) != 1:
        names = ", ".join(repr(p[:40]) for p in list(tables or found)[:8]) or "none"
        raise Refusal(
            f"one dataset of two axes of integers is needed, and it holds {len(tables)} (of "
            f"{names}); save the table alone"
        )
    return next(iter(tables.items()))


def answer(file: str, wanted: list[str]) -> tuple[dict[str, Any], bytes]:
    """What the parent is told, and the entries."""
    with h5py.File(file, "r") as opened:
        path, dataset = chosen(datasets(opened), wanted)
        check(path, dataset)
        entries = np.asarray(dataset[()])
        attributes = {}
        for name in ("a", "b", "function"):
            if wanted and name in opened.attrs:
                attributes[name] = str(opened.attrs[name])[:200]
    dtype = entries.dtype.newbyteorder("<")
    about = {
        "path": path,
        "shape": list(entries.shape),
        "dtype": dtype.str,
        "attributes": attributes,
    }
    return about, entries.astype(dtype).tobytes()


def main() -> None:
    """Answer on stdout: a line of JSON, then the entries, if there are any."""
    limit()
    entries = b""
    try:
        about, entries = answer(sys.argv[1], sys.argv[2:])
    except Refusal as error:
        about = {"error": str(error)}
    except MemoryError:
        about = {"error": "reading it takes too much memory"}
    except Exception as error:
        about = {"error": f"libhdf5 cannot read it: {type(error).__name__}: {error}"[:300]}
    sys.stdout.buffer.write(json.dumps(about).encode() + b"\n" + entries)


if __name__ == "__main__":
    main()
