"""Every multiplier of the libraries themselves; needs git checkouts of them, which are not shipped.

``APPROXHUB_TEST_EVO``, ``APPROXHUB_TEST_EVO8B`` and ``APPROXHUB_TEST_FPGAS`` name the checkouts of
EvoApproxLib, evoapprox8b and approx-fpgas.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

import multipliers_index
from approxhub.cmodel import CModel
from approxhub.metrics import Metrics
from approxhub.multiplier import MAX_TABLE_BITS, Multiplier
from approxhub.registry.acquisition import disagreements
from approxhub.registry.index import Circuit, read_index
from multipliers_index import build

CHECKOUTS = {
    "evoapproxlib": os.environ.get("APPROXHUB_TEST_EVO"),
    "evoapprox8b": os.environ.get("APPROXHUB_TEST_EVO8B"),
    "approx-fpgas": os.environ.get("APPROXHUB_TEST_FPGAS"),
}

#: Printed metrics that the tables do not have; docs/explanation/identity.md lists them too.
WRONGLY_PRINTED = {
    f"evoapprox8b:2017/mul8_{n}": {"mae_pct"} for n in ("006", "318", "320", "348", "400", "455")
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not any(CHECKOUTS.values()), reason="no checkout of a library is named"),
]


@pytest.fixture(params=CHECKOUTS)
def source(request: pytest.FixtureRequest) -> str:
    """Name of a library that is here."""
    if not CHECKOUTS[request.param]:
        pytest.skip(f"no checkout of {request.param} is named")
    return str(request.param)


def circuits(source: str) -> Iterator[tuple[Circuit, bytes]]:
    """Every multiplier of a library, with its C text."""
    for path in multipliers_index.index_paths(source):
        index = read_index(Path(str(path)), source)
        found = list(index.circuits.values())
        assert index.commit is not None
        checkout = Path(str(CHECKOUTS[source]))
        texts = build._read(checkout, index.commit, [c.path for c in found])
        yield from zip(found, texts, strict=True)


def has_table(circuit: Circuit, bits: int = MAX_TABLE_BITS) -> bool:
    """Whether a circuit's operands have at most so many bits together."""
    return circuit.entry.a.bits + circuit.entry.b.bits <= bits


def multiplier(circuit: Circuit, text: bytes) -> Multiplier:
    """Read a circuit's C text."""
    e = circuit.entry
    model = CModel.parse(text, a=e.a, b=e.b, function=circuit.function)
    if not has_table(circuit):
        return Multiplier(e.id, e.a, e.b, circuit=model)
    return Multiplier(e.id, e.a, e.b, table=model.tabulate())


def test_index_is_what_the_library_gives(source: str) -> None:
    """Rebuilding from the checkout gives the shipped bytes: all hashes, printed numbers, paths."""
    assert build.main(["--checkout", str(CHECKOUTS[source]), "--source", source, "--check"]) == 0


def test_small_circuits_are_fast(source: str) -> None:
    """Reading and tabulating a circuit of up to 8 x 8 bits takes at most half a second of work."""

    def seconds(circuit: Circuit, text: bytes) -> float:
        start = time.process_time()
        e = circuit.entry
        CModel.parse(text, a=e.a, b=e.b, function=circuit.function).tabulate()
        return time.process_time() - start

    for circuit, text in circuits(source):
        if has_table(circuit, 16):
            assert min(seconds(circuit, text) for _ in range(2)) < 0.5, circuit.entry.id


def test_tables_have_their_printed_metrics(source: str) -> None:
    """Over all pairs, within 1.1 units of the last printed digit up to 8 bits, and 3 above.

    A table of 12 x 12 bits is there after at most 20 s of work.
    """
    computed: dict[str, Metrics] = {}  # of many names one table
    for circuit, text in circuits(source):
        if not has_table(circuit):
            continue
        e = circuit.entry
        assert e.table_sha256 is not None
        if e.table_sha256 not in computed:
            start = time.process_time()
            made = multiplier(circuit, text)
            assert time.process_time() - start < 20, e.id
            assert made.table_sha256 == e.table_sha256
            computed[e.table_sha256] = made.metrics
        units = Decimal("1.1") if has_table(circuit, 16) else Decimal(3)
        wrong = disagreements(e.printed, computed[e.table_sha256], units)
        assert {w.split()[1] for w in wrong} == WRONGLY_PRINTED.get(e.id, set()), wrong


def test_wide_circuits_have_about_their_printed_metrics(source: str) -> None:
    """At 16 bits, the printed means lie in a sample's interval, and no sampled error is worse."""
    seen = set()
    for circuit, text in circuits(source):
        if has_table(circuit) or circuit.source_sha256 in seen:
            continue
        seen.add(circuit.source_sha256)  # what is printed is in the file too
        metrics, printed = multiplier(circuit, text).metrics, circuit.entry.printed
        assert metrics.method == "sampled"
        assert metrics.wce <= float(printed["wce"]) * 1.0001 + 1, circuit.entry.id
        for key in ("mae", "ep_pct", "mre_pct"):
            low, high = metrics.interval[key]
            said = Decimal(printed[key])
            unit = float(Decimal(1).scaleb(int(said.as_tuple().exponent)))
            # 95 % of the circuits lie within the interval; hundreds are looked at, so twice that.
            margin = (high - low) / 2 + 3 * unit
            assert low - margin <= float(said) <= high + margin, (circuit.entry.id, key)
