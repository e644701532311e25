"""A known-wrong table of a real circuit, against a checkout named by ``APPROXHUB_TEST_EVO``."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from approxhub.formats import read_table, write_table
from approxhub.multiplier import Multiplier
from approxhub.registry import load
from approxhub.registry.arrival import recognise
from approxhub.registry.index import read_index

CHECKOUT = os.environ.get("APPROXHUB_TEST_EVO")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKOUT, reason="APPROXHUB_TEST_EVO names no checkout of EvoApproxLib"),
]


def test_absolute_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mul8s_1L2H with absolute values where both operands are negative: 12,414 wrong entries."""
    import multipliers_index

    indexes = [read_index(Path(p)) for p in multipliers_index.index_paths()]
    index = next(i for i in indexes if (i.source, i.release) == ("evoapproxlib", "v1.1"))
    path = index.circuits["v1.1/mul8s_1L2H"].path
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(
        subprocess.run(
            ["git", "-C", str(CHECKOUT), "show", f"{index.commit}:{path}"],
            capture_output=True,
            check=True,
        ).stdout
    )
    monkeypatch.setenv("APPROXHUB_MIRROR", str(tmp_path))
    right = load("evoapproxlib:v1.1/mul8s_1L2H", offline=True)
    assert read_table(tmp_path / path) == right

    values = np.arange(-128, 128)
    negative = values < 0
    both = negative[:, None] & negative[None, :]
    # |-128| wraps round in eight bits, as it does in C.
    size = np.where(values == -128, -128, np.abs(values))
    table = np.where(
        both,
        right(size[:, None], size[None, :]),
        right(values[:, None], values[None, :]),
    )
    wrong = Multiplier.from_table(
        table, name="mul8s_1L2H", a_signed=True, b_signed=True, order="offset"
    )
    write_table(wrong, tmp_path / "mul8s_1L2H.h", index_order="offset")
    again = read_table(tmp_path / "mul8s_1L2H.h", operands="8s", index_order="offset")
    claims = recognise(again, ["mul8s_1L2H"], offline=True).contradicted
    claim = next(c for c in claims if c.id == right.id)
    assert claim.comparison is not None
    assert claim.comparison.differing == 12_414
    assert "all of them where both operands are negative" in claim.why
