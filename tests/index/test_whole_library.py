"""Every multiplier of the library itself; needs a git checkout of it, which is not shipped."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multipliers_index
from approxhub.cmodel import CModel
from approxhub.operands import OperandFormat
from multipliers_index import build

CHECKOUT = os.environ.get("APPROXHUB_TEST_EVO")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CHECKOUT, reason="set APPROXHUB_TEST_EVO to a git checkout of EvoApproxLib"
    ),
]


def test_index_is_what_the_library_gives() -> None:
    """Rebuilding from the checkout gives the shipped bytes: all hashes, printed numbers, paths."""
    assert build.main(["--checkout", str(CHECKOUT), "--check"]) == 0


def entries() -> list[tuple[Any, dict[str, Any], bytes]]:
    """Index, entry and source of every multiplier."""
    found = []
    for path in multipliers_index.index_paths():
        index = json.loads(path.read_text(encoding="utf-8"))
        paths = [m["path"] for m in index["multipliers"]]
        sources = build._read(Path(str(CHECKOUT)), index["commit"], paths)
        found += [(index, m, s) for m, s in zip(index["multipliers"], sources, strict=True)]
    return found


def test_small_circuits_are_fast() -> None:
    """Reading and tabulating a circuit of up to 8 x 8 bits takes at most half a second of work."""
    for _, m, source in entries():
        if m["table_sha256"] is None:
            continue
        a, b = OperandFormat.parse(m["a"]), OperandFormat.parse(m["b"])
        start = time.process_time()
        CModel.parse(source, a=a, b=b, function=m["function"]).tabulate()
        assert time.process_time() - start < 0.5, m["name"]


def test_wide_circuits_have_about_their_printed_error() -> None:
    """Up to 16 bits, the mean error over random pairs is the printed one within 5 % or noise."""
    rng = np.random.default_rng(5)
    for _, m, source in entries():
        if m["table_sha256"] is not None:
            continue
        a, b = OperandFormat.parse(m["a"]), OperandFormat.parse(m["b"])
        model = CModel.parse(source, a=a, b=b)
        assert model.function == m["function"]
        x, y = (rng.integers(f.min, f.max + 1, 20_000) for f in (a, b))
        error = np.abs(model.evaluate(x, y) - x * y)
        printed = float(m["printed"]["mae"])
        noise = 6 * error.std() / np.sqrt(error.size)
        assert abs(error.mean() - printed) <= 0.05 * printed + noise + 1, m["name"]
        assert error.max() <= float(m["printed"]["wce"]) * 1.0001 + 1, m["name"]
