"""Acquisition: from an index entry to a verified multiplier.

Download, source hash, C model or table file, table hash, metrics against the printed ones; each
step that fails names itself. Imports numpy; requests, pycparser and the table formats through
what it calls.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy.typing as npt

from approxhub.cmodel import CModel
from approxhub.errors import ApproxHubError, NetworkError, NotFoundError, VerificationError
from approxhub.metrics import Metrics
from approxhub.multiplier import MAX_TABLE_BITS, Multiplier, Provenance
from approxhub.registry.context import FetchContext
from approxhub.registry.index import C_MODEL, Circuit, Index

__all__ = ["acquire", "disagreements", "notes_on"]

# Units of the last printed digit: the libraries round, and sometimes cut. Above 8 x 8 bits some
# digits come from single-precision sums.
_SMALL_BITS = 16
_UNITS = Decimal("1.1")
_WIDE_UNITS = Decimal(3)


def acquire(
    index: Index, circuit: Circuit, context: FetchContext, beside: str | None = None
) -> Multiplier:
    """Fetch and verify one circuit of an index.

    Parameters
    ----------
    index : Index
    circuit : Circuit
        One of the index.
    context : FetchContext
        Rules of the network.
    beside : str, optional
        Folder or http(s) address that the index itself came from: tried before its own addresses.

    Raises
    ------
    NetworkError, VerificationError, CModelError, TableFileError
        If a step fails; the message names the id and the step.
    NotFoundError
        If the folder that the index came from is gone, and nothing else has the file.
    """
    entry = circuit.entry
    urls = index.urls_of(circuit)
    if beside is not None and _is_address(beside):
        urls = (f"{beside}/{quote(circuit.path)}", *urls)
    elif beside is not None:
        context = replace(context, mirrors=(*context.mirrors, beside))
    with _step(entry.id), _library(index, beside):
        got = context.download(
            source=index.source,
            commit=index.commit or "",
            path=circuit.path,
            urls=urls,
            sha256=circuit.source_sha256,
            max_bytes=None if circuit.format == C_MODEL else _max_table_bytes(),
        )
    model: CModel | None = None
    table: npt.NDArray[Any] | None = None
    if circuit.format == C_MODEL:
        with _step(entry.id, "C model: "):
            model = CModel.parse(got.content, a=entry.a, b=entry.b, function=circuit.function)
            if entry.a.bits + entry.b.bits <= MAX_TABLE_BITS:
                table = model.tabulate()
    else:
        with _step(entry.id, "table file: "):
            table = _table(circuit, got.content)

    def made(notes: tuple[str, ...] = ()) -> Multiplier:
        return Multiplier(
            entry.id,
            entry.a,
            entry.b,
            table=table,
            circuit=model if table is None else None,
            hardware=entry.hardware,
            printed=entry.printed,
            provenance=Provenance(
                source=index.source,
                release=index.release,
                commit=index.commit,
                path=circuit.path,
                url=got.url,
                source_sha256=circuit.source_sha256,
                licence=entry.licence,
                citation=entry.citation,
                doi=entry.doi,
                notes=notes,
            ),
        )

    multiplier = made()
    with _step(entry.id, "table hash: "):
        if entry.table_sha256 not in (None, multiplier.table_sha256):
            raise VerificationError(
                f"the table hashes to {multiplier.table_sha256}, the index says "
                f"{entry.table_sha256}; please report this: what reads the file or the index is "
                "wrong"
            )
    if multiplier.has_table:
        notes = notes_on(multiplier, entry.printed)
        if notes:
            return made(notes)
    return multiplier


def _is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _max_table_bytes() -> int:
    from approxhub.formats import MAX_FILE_BYTES

    return MAX_FILE_BYTES


def _table(circuit: Circuit, content: bytes) -> npt.NDArray[Any]:
    """Read the bytes of a table file as the index says."""
    from approxhub.formats import read_table

    entry = circuit.entry
    with tempfile.TemporaryDirectory(prefix="approxhub-") as folder:
        path = Path(folder) / Path(circuit.path).name
        path.write_bytes(content)
        return read_table(
            path,
            format=circuit.format,
            operands=(entry.a, entry.b),
            index_order=circuit.index_order,
            operand_order=circuit.operand_order,
            name=entry.name,
        ).table


@contextlib.contextmanager
def _step(id: str, name: str = "") -> Iterator[None]:
    """Say in an error what was being done; its class and attributes stay."""
    try:
        yield
    except ApproxHubError as error:
        error.args = (f"fetch {id}: {name}{error}", *error.args[1:])
        raise


@contextlib.contextmanager
def _library(index: Index, beside: str | None) -> Iterator[None]:
    """Say where the library is that a mirror would hold, when the network does not give it.

    If it is not the network that fails, but the folder of the index is gone, say that.
    """
    try:
        yield
    except NetworkError as error:
        if not index.urls and beside is not None and not _is_address(beside):
            if not Path(beside).exists():
                raise NotFoundError(
                    f"the folder {beside}, where the files of the index are, is gone; put it back, "
                    f"or `approxhub index remove {index.source}` and add it from where it is now"
                ) from error
            raise
        where = f", {index.repository}" if index.repository else ""
        error.args = (f"{error}{where}; see docs/how-to/work-offline.md", *error.args[1:])
        raise


def notes_on(multiplier: Multiplier, printed: Mapping[str, str]) -> tuple[str, ...]:
    """What is to be noted of a multiplier with a table whose source prints these metrics."""
    small = multiplier.a.bits + multiplier.b.bits <= _SMALL_BITS
    return disagreements(printed, multiplier.metrics, _UNITS if small else _WIDE_UNITS)


def disagreements(
    printed: Mapping[str, str], computed: Metrics, units: Decimal = _UNITS
) -> tuple[str, ...]:
    """Printed metrics that are off the computed ones by more than some units of their last digit.

    Examples
    --------
    >>> m = Metrics(mae=1.26, wce=7, mse=0, mre_pct=0, wcre_pct=0, ep_pct=0, bias=0, range_bits=4)
    >>> disagreements({"mae": "1.2", "wce": "7"}, m)
    ()
    >>> disagreements({"mae": "1.2", "wce": "9"}, m)
    ('printed wce 9, computed 7',)
    """
    numbers = computed.to_json()
    found = []
    for key, text in printed.items():
        said = Decimal(text)
        unit = Decimal(1).scaleb(int(said.as_tuple().exponent))
        if key in numbers and abs(Decimal(numbers[key]) - said) > units * unit:
            found.append(f"printed {key} {text}, computed {numbers[key]:.6g}")
    return tuple(found)
