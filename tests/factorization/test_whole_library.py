"""Every table of EvoApproxLib up to 8x8; needs a git checkout of it, which is not shipped."""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import pytest

import multipliers_index
from approxhub.cmodel import CModel
from approxhub.factorization import Factorization, factorize
from approxhub.multiplier import Multiplier
from approxhub.operands import OperandFormat
from multipliers_index import build

CHECKOUT = os.environ.get("APPROXHUB_TEST_EVO")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CHECKOUT, reason="set APPROXHUB_TEST_EVO to a git checkout of EvoApproxLib"
    ),
]

NARROW = {f"{bits}{sign}" for bits in range(1, 9) for sign in "us"}

Found = dict[tuple[str, str], tuple[Multiplier, Factorization, float]]


@pytest.fixture(scope="module")
def found() -> Found:
    """Factors of all tables, with the seconds they took."""
    result: Found = {}
    for path in multipliers_index.index_paths("evoapproxlib"):
        index = json.loads(path.read_text(encoding="utf-8"))
        rows = [m for m in index["multipliers"] if {m["a"], m["b"]} <= NARROW]
        sources = build._read(Path(str(CHECKOUT)), index["commit"], [m["path"] for m in rows])
        for row, source in zip(rows, sources, strict=True):
            a, b = OperandFormat.parse(row["a"]), OperandFormat.parse(row["b"])
            circuit = CModel.parse(source, a=a, b=b, function=row["function"])
            m = Multiplier("local:made", a, b, circuit=circuit)
            assert m.table_sha256 == row["table_sha256"]
            start = time.process_time()
            f = factorize(m)
            result[index["release"], row["name"]] = m, f, time.process_time() - start
    return result


def of(found: Found, prefix: str) -> dict[str, Factorization]:
    """Factors of v1.1's tables of a kind."""
    return {
        name.removeprefix(prefix): f
        for (release, name), (_, f, _) in found.items()
        if release == "v1.1" and name.startswith(prefix)
    }


def test_all_are_exact_and_quick(found: Found) -> None:
    """All 556 tables, from planes alone; none takes longer than some seconds of work."""
    assert len(found) == 556
    for (_, name), (m, f, seconds) in found.items():
        total = np.zeros((m.a.size, m.b.size), np.int64)
        if f.with_exact:
            total += m.a.values()[:, None] * m.b.values()
        for p in f.digits():
            total += p.weight * p.left.astype(np.int64)[:, None] * p.right
        assert (total == m.table).all(), name
        assert seconds < 20, name


def test_ranks_are_ranks(found: Found) -> None:
    """Every rank is the one that floating point gives, whose tolerance is safe at these sizes."""
    for (_, name), (m, f, _) in found.items():
        error = m.table.astype(float) - m.a.values()[:, None] * m.b.values()
        ours = f.rank_table, f.rank_error
        assert ours == tuple(np.linalg.matrix_rank(x) for x in (m.table, error)), name


def test_signed_8x8(found: Found) -> None:
    """Error rank at most 4, cost at most 5, factors of 8 bits: all 13 signed tables of v1.1."""
    signed = of(found, "mul8s_")
    assert len(signed) == 13
    for f in signed.values():
        assert f.rank_error <= 4
        assert f.cost <= 5
        assert {*f.digits_u, *f.digits_v} <= {1}


def test_unsigned_8x8(found: Found) -> None:
    """The 36 unsigned tables of v1.1: their ranks, and costs as low as were found once."""
    unsigned = of(found, "mul8u_")
    assert len(unsigned) == 36
    errors = {name: f.rank_error for name, f in unsigned.items()}
    assert {k: errors[k] for k in ("12N4", "L40", "185Q", "YX7", "ZFB")} == {
        **{"12N4": 228, "L40": 192, "185Q": 150, "YX7": 127, "ZFB": 111}
    }
    assert statistics.median(errors.values()) == 11
    most = {"E9R": 0, "1JFF": 1, "1446": 2, "17KS": 28, "12N4": 231, "L40": 214, "YX7": 128}
    for name, cost in most.items():
        assert unsigned[name].cost <= cost, name
    assert sum(f.cost for f in unsigned.values()) <= 1480
