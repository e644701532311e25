"""Acquisition: from an index entry to a verified multiplier.

Download, source hash, C model, table, table hash, metrics against the printed ones; each step
that fails names itself. Imports numpy; requests and pycparser through what it calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from decimal import Decimal

from approxhub.cmodel import CModel
from approxhub.errors import ApproxHubError, VerificationError
from approxhub.metrics import Metrics
from approxhub.multiplier import MAX_TABLE_BITS, Multiplier, Provenance
from approxhub.registry.context import FetchContext
from approxhub.registry.index import Circuit, Index

__all__ = ["acquire", "disagreements"]

_COMPARED_BITS = 16
_UNITS = Decimal("1.1")  # of the last printed digit: the library rounds, and sometimes cuts


def acquire(index: Index, circuit: Circuit, context: FetchContext) -> Multiplier:
    """Fetch and verify one circuit of an index.

    Raises
    ------
    NetworkError, VerificationError, CModelError
        If a step fails; the message names the id and the step.
    """
    entry = circuit.entry
    with _step(entry.id):
        got = context.download(
            source=index.source,
            commit=index.commit,
            path=circuit.path,
            urls=index.urls_of(circuit),
            sha256=circuit.source_sha256,
        )
    with _step(entry.id, "C model: "):
        model = CModel.parse(got.content, a=entry.a, b=entry.b, function=circuit.function)
        has_table = entry.a.bits + entry.b.bits <= MAX_TABLE_BITS
        table = model.tabulate() if has_table else None

    def made(notes: tuple[str, ...] = ()) -> Multiplier:
        return Multiplier(
            entry.id,
            entry.a,
            entry.b,
            table=table,
            circuit=None if has_table else model,
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
                f"{entry.table_sha256}; please report this: the interpreter or the index is wrong"
            )
    if entry.a.bits + entry.b.bits <= _COMPARED_BITS:
        notes = disagreements(entry.printed, multiplier.metrics)
        if notes:
            return made(notes)
    return multiplier


@contextlib.contextmanager
def _step(id: str, name: str = "") -> Iterator[None]:
    """Say in an error what was being done; its class and attributes stay."""
    try:
        yield
    except ApproxHubError as error:
        error.args = (f"fetch {id}: {name}{error}", *error.args[1:])
        raise


def disagreements(printed: Mapping[str, str], computed: Metrics) -> tuple[str, ...]:
    """Printed metrics that are more than 1.1 units of their last digit off the computed ones.

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
        if key in numbers and abs(Decimal(numbers[key]) - said) > _UNITS * unit:
            found.append(f"printed {key} {text}, computed {numbers[key]:.6g}")
    return tuple(found)
