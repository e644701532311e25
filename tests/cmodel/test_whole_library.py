"""Every circuit of the libraries against the compiler; needs checkouts, which are not shipped.

``APPROXHUB_TEST_EVO``, ``APPROXHUB_TEST_EVO8B`` and ``APPROXHUB_TEST_FPGAS`` name those of
EvoApproxLib, evoapprox8b and approx-fpgas.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multipliers_index
from approxhub.cmodel import CModel
from approxhub.multiplier import table_sha256
from approxhub.operands import OperandFormat
from approxhub.registry.index import read_index
from multipliers_index import build

CHECKOUTS = {
    "evoapproxlib": os.environ.get("APPROXHUB_TEST_EVO"),
    "evoapprox8b": os.environ.get("APPROXHUB_TEST_EVO8B"),
    "approx-fpgas": os.environ.get("APPROXHUB_TEST_FPGAS"),
}
PAIRS = 1 << 16

#: How many multipliers each release has up to 8 x 8 bits, and how many that are wider.
COMPARED = {
    ("evoapproxlib", "v1.0"): (67, 92),
    ("evoapproxlib", "v1.1"): (243, 92),
    ("evoapproxlib", "v2022"): (246, 92),
    ("evoapprox8b", "2017"): (505, 0),
    ("approx-fpgas", "2020"): (32, 52),
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("source", CHECKOUTS)
def test_circuits_equal_the_compiled_ones(
    source: str, compile_c: Callable[..., Any], tmp_path: Path
) -> None:
    """Up to 8 x 8 bits the index has the hash of gcc's table; wider ones agree on 65,536 pairs."""
    checkout = CHECKOUTS[source]
    if not checkout:
        pytest.skip(f"no checkout of {source} is named")
    rng = np.random.default_rng(17)
    compared: Counter[tuple[str, bool]] = Counter()
    seen: dict[tuple[str, str | None], bool] = {}  # one file may be in two releases
    for path in multipliers_index.index_paths(source):
        index = read_index(Path(str(path)), source)
        circuits = list(index.circuits.values())
        assert index.commit is not None
        texts = build._read(Path(checkout), index.commit, [c.path for c in circuits])
        for circuit, text in zip(circuits, texts, strict=True):
            e = circuit.entry
            key = circuit.source_sha256, circuit.function
            full = e.a.bits + e.b.bits <= 16
            compared[index.release, full] += 1
            if key in seen:
                continue
            seen[key] = True
            compiled = compile_c(text.decode(), [circuit.function], tmp_path / str(len(seen)))
            if full:
                a, b = np.meshgrid(e.a.values(), e.b.values(), indexing="ij")
                expected = _product(compiled(circuit.function, a, b), e.a, e.b)
                assert table_sha256(expected) == e.table_sha256, e.id
            else:
                a, b = (rng.integers(f.min, f.max + 1, PAIRS) for f in (e.a, e.b))
                expected = _product(compiled(circuit.function, a, b), e.a, e.b)
                model = CModel.parse(text, a=e.a, b=e.b, function=circuit.function)
                assert np.array_equal(model.evaluate(a, b), expected), e.id
    for (library, release), counts in COMPARED.items():
        if library == source:
            assert (compared[release, True], compared[release, False]) == counts, release


def _product(returned: Any, a: OperandFormat, b: OperandFormat) -> Any:
    """The low bits of what a model returns, which some leave unextended."""
    bits = a.bits + b.bits
    low = returned & ((1 << bits) - 1)
    return np.where((a.signed | b.signed) & (low >> (bits - 1) == 1), low - (1 << bits), low)
