"""Circuits too wide to tabulate quickly, against the compiler; needs checkouts of the libraries.

``APPROXHUB_TEST_EVO`` and ``APPROXHUB_TEST_FPGAS`` name those of EvoApproxLib and approx-fpgas.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multipliers_index
from approxhub.cmodel import CModel
from approxhub.registry.index import read_index
from multipliers_index import build

CHECKOUTS = {
    "evoapproxlib": os.environ.get("APPROXHUB_TEST_EVO"),
    "approx-fpgas": os.environ.get("APPROXHUB_TEST_FPGAS"),
}
PAIRS = 1 << 16

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("source", CHECKOUTS)
def test_wide_circuits_equal_the_compiled_ones(
    source: str, compile_c: Callable[..., Any], tmp_path: Path
) -> None:
    """Every circuit wider than 8 bits gives what gcc's code gives, on 65,536 random pairs."""
    checkout = CHECKOUTS[source]
    if not checkout:
        pytest.skip(f"no checkout of {source} is named")
    rng = np.random.default_rng(17)
    seen = set()
    for path in multipliers_index.index_paths(source):
        index = read_index(Path(str(path)), source)
        wide = [c for c in index.circuits.values() if c.entry.a.bits > 8]
        assert index.commit is not None
        texts = build._read(Path(checkout), index.commit, [c.path for c in wide])
        for circuit, text in zip(wide, texts, strict=True):
            if circuit.source_sha256 in seen:  # the same file in two releases
                continue
            seen.add(circuit.source_sha256)
            e, function = circuit.entry, circuit.function
            assert function is not None
            a, b = (rng.integers(f.min, f.max + 1, PAIRS) for f in (e.a, e.b))
            compiled = compile_c(text.decode(), [function], tmp_path / str(len(seen)))
            expected = _product(compiled(function, a, b), e.a.bits + e.b.bits, e.a.signed)
            model = CModel.parse(text, a=e.a, b=e.b, function=function)
            assert np.array_equal(model.evaluate(a, b), expected), e.id
    assert len(seen) > 50


def _product(returned: Any, bits: int, signed: bool) -> Any:
    """The low bits of what a model returns, which some leave unextended."""
    low = returned & ((1 << bits) - 1)
    return np.where(signed & (low >> (bits - 1) == 1), low - (1 << bits), low)
