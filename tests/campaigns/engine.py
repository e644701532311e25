"""The CPU engine against the slow loop, over its whole grid: a campaign, not a test.

    python tests/campaigns/engine.py --seconds 180
    python tests/campaigns/engine.py --seed 7 --start 5000   # the same order again, from there on

Every case is a matrix product and a convolution on one instruction set, way, table and number of
threads. Their order is drawn from the seed, so any stretch of it is a sample of the whole grid. It
takes the tables of EvoApproxLib too with ``--evo`` (their checkout stands in
``APPROXHUB_TEST_EVO``). Exit code 1: some sums are wrong; each case says how to run it again.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import approxhub as ah
import multipliers_index
from approxhub.backends import Convolution, ConvRequest, GemmRequest, use_backend
from approxhub.backends.cpu import CpuBackend, CpuTables
from approxhub.backends.native import load_library
from approxhub.cmodel import CModel
from approxhub.ops import accumulator_dtype, code_dtype, lut_gemm, register
from approxhub.testing.backend import conv_loop, gemm_loop
from multipliers_index import build

CPU = torch.device("cpu")
WAYS = ("lookup", "factored")
SIZES = (0, 1, 2, 3, 17, 64, 65, 255, 1152, 4608)
LONG = (16_385, 32_769, 65_541, 140_003)  # past every flush, and past int32
RANKS = tuple(f"rank-{r}" for r in range(17))
KINDS = (*RANKS, "exact", "full-rank", "corner", "digits", "offsets", "constant")
FORMATS = ("8ux8u", "8sx8s", "8ux8s", "8sx8u", "4ux8s", "7sx3u", "1ux1s")
LAYOUTS = ("plain", "turned", "every second", "expanded")
CODES = ("random", "ends", "largest", "smallest")


# --- tables and operands --------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def multiplier(kind: str, formats: str) -> ah.Multiplier:
    """A table that does not commute, 64 at T[0][0] but for exact products.

    Parameters
    ----------
    kind : {'exact', 'rank-r', 'full-rank', 'corner', 'digits', 'offsets', 'constant'}
        The exact products; those and an error of rank r; random ones; 64 for two zeros and 0
        else; products of factors that take several digits, or bytes with an offset; one value.
    formats : str
        Of both operands, as ``'8ux8s'``.
    """
    a, b = (ah.OperandFormat.parse(f) for f in formats.split("x"))
    if kind == "exact":
        return ah.exact(a.bits, a.signed, b_bits=b.bits, b_signed=b.signed)
    rng = np.random.default_rng(list(f"{kind} {formats}".encode()))
    shape = a.size, b.size
    table = a.values()[:, None] * b.values()[None, :]
    if kind == "full-rank":
        table = rng.integers(-32_700, 32_700, shape)
    elif kind == "corner":
        table = np.zeros(shape, dtype=np.int64)
    elif kind == "digits":
        table = rng.integers(-4000, 4000, (a.size, 1)) * rng.integers(-8, 8, (1, b.size))
    elif kind == "offsets":
        table = rng.integers(-180, 76, (a.size, 1)) * rng.integers(-30, 200, (1, b.size))
    elif kind == "constant":
        return ah.Multiplier.from_table(
            np.full(shape, 65_535), name=kind, a_signed=a.signed, b_signed=b.signed
        )
    else:
        rank = int(kind.removeprefix("rank-"))
        most = math.isqrt(500 // max(1, rank))  # so that all entries span 16 bits
        left = rng.integers(0, most, (a.size, rank), endpoint=True)
        right = rng.integers(0, most, (rank, b.size), endpoint=True)
        if rank:
            left[0], right[:, 0] = 0, 0
            left[0, 0] = right[0, 0] = 8
        table = table + left @ right
    if kind != "rank-0":
        table[0, 0] = 64
    return ah.Multiplier.from_table(table, name=kind, a_signed=a.signed, b_signed=b.signed)


def operand(f: ah.OperandFormat, shape: tuple[int, ...], codes: str, seed: int) -> Tensor:
    """Values of an operand: random ones with both ends among them, or ends alone."""
    rng = np.random.default_rng(seed)
    if codes == "largest":
        values = np.full(shape, f.max)
    elif codes == "smallest":
        values = np.full(shape, f.min)
    elif codes == "ends":
        values = rng.choice([f.min, f.max], shape)
    else:
        values = rng.integers(f.min, f.max, shape, endpoint=True)
        if values.size:
            values.flat[0], values.flat[-1] = f.min, f.max
    dtype = torch.int64 if seed % 4 == 0 else code_dtype(f)
    return torch.from_numpy(np.asarray(values, dtype=np.int64)).to(dtype)


def laid(t: Tensor, layout: str) -> Tensor:
    """The tensor in another layout: channels last or transposed, sliced, or one for all."""
    if layout == "turned":
        return t.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "every second":
        return torch.stack([t, t ^ 1], -1)[..., 0]
    return t[:1].expand(t.shape) if layout == "expanded" else t


# --- the grid ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """One point of the grid; `seed` draws what it does not say.

    Parameters
    ----------
    isa, way : str
        Instruction set, and the way that is taken if the table allows it.
    kind, formats : str
        As in :func:`multiplier`; or ``'evo'`` and the name of a circuit.
    m, k, n : int
        Sizes of the matrix product.
    seed : int
        Of operands, layouts, threads and of the convolution.
    """

    isa: str
    way: str
    kind: str
    formats: str
    m: int
    k: int
    n: int
    seed: int


def cases(seed: int, tables: list[tuple[str, str]] | None = None) -> Iterator[Case]:
    """The whole grid in an order of the seed: each pair of sizes, the third one small."""
    isas = list(load_library().isas)
    tables = tables or list(itertools.product(KINDS, FORMATS))
    small = {True: (1, 2, 3), False: (1, 3, 17, 66)}  # whether the other two sizes are large
    sizes = [(p, q, -1) for p in SIZES for q in SIZES]
    sizes += [(p, -1, q) for p in SIZES for q in SIZES]
    sizes += [(-1, p, q) for p in SIZES for q in SIZES]
    sizes += [(-2, k, -2) for k in LONG]
    lengths = len(isas), len(WAYS), len(tables), len(sizes)
    rng = random.Random(seed)
    order = list(range(math.prod(lengths)))
    rng.shuffle(order)
    for number in order:
        i, w, t, s = (int(v) for v in np.unravel_index(number, lengths))
        draw = random.Random(number)
        third = draw.choice(small[-math.prod(sizes[s]) > 1 << 17])
        m, k, n = ({-1: third, -2: 2}.get(v, v) for v in sizes[s])
        yield Case(isas[i], WAYS[w], *tables[t], m, k, n, number)


EVO: dict[str, ah.Multiplier] = {}


def evo_tables() -> list[tuple[str, str]]:
    """The circuits of EvoApproxLib up to 8x8 that the engine takes; their tables go to `EVO`."""
    checkout = Path(os.environ["APPROXHUB_TEST_EVO"])
    narrow = {f"{bits}{sign}" for bits in range(1, 9) for sign in "us"}
    for path in multipliers_index.index_paths("evoapproxlib"):
        index = json.loads(path.read_text(encoding="utf-8"))
        rows = [m for m in index["multipliers"] if {m["a"], m["b"]} <= narrow]
        sources = build._read(checkout, index["commit"], [m["path"] for m in rows])
        for row, source in zip(rows, sources, strict=True):
            a, b = ah.OperandFormat.parse(row["a"]), ah.OperandFormat.parse(row["b"])
            circuit = CModel.parse(source, a=a, b=b, function=row["function"])
            m = ah.Multiplier("local:made", a, b, circuit=circuit)
            if _backend("scalar", "lookup").supports(_request(m, 1, 1, 1)):
                EVO[f"{index['release']}/{row['name']}"] = m
    return [("evo", name) for name in EVO]


# --- one case -----------------------------------------------------------------------------


@functools.cache
def _backend(isa: str, way: str) -> CpuBackend:
    return CpuBackend(isa, way)


@functools.lru_cache(maxsize=256)
def _tables(kind: str, formats: str) -> CpuTables:
    return _backend("scalar", "lookup").prepare(_table(kind, formats), CPU)


def _table(kind: str, formats: str) -> ah.Multiplier:
    return EVO[formats] if kind == "evo" else multiplier(kind, formats)


def _request(m: ah.Multiplier, rows: int, k: int, n: int) -> GemmRequest:
    return GemmRequest(m, rows, k, n, CPU, accumulator_dtype(m, k))


def check(case: Case) -> Counter[str]:
    """Run one case.

    Returns
    -------
    Counter
        Products checked, under the way that was taken.

    Raises
    ------
    AssertionError
        If a sum is wrong.
    """
    m = _table(case.kind, case.formats)
    draw = random.Random(case.seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(draw.randint(1, 4))
    try:
        return _check_gemm(case, m, draw) + _check_conv(case, m, draw)
    finally:
        torch.set_num_threads(threads)


def _taken(case: Case) -> str:
    """Instruction set and way of a case; without factors it is always the lookup."""
    factored = _tables(case.kind, case.formats).planes is not None
    return f"{case.isa} {case.way if factored else 'lookup'}"


def _equal(got: Tensor, want: np.ndarray, what: str) -> None:
    wrong = got.numpy().astype(np.int64) != want
    if wrong.any():
        at = tuple(int(v) for v in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.size} sums are wrong; {list(at)} is "
            f"{int(got[at])}, not {int(want[at])}"
        )


def _check_gemm(case: Case, m: ah.Multiplier, draw: random.Random) -> Counter[str]:
    codes, layouts = draw.choice(CODES), (draw.choice(LAYOUTS), draw.choice(LAYOUTS))
    a = operand(m.a, (case.m, case.k), codes, draw.randrange(1 << 30))
    b = operand(m.b, (case.k, case.n), draw.choice(CODES), draw.randrange(1 << 30))
    if min(case.m, case.k, case.n) == 0:  # the core answers, no engine is asked
        with use_backend("cpu"):
            out = lut_gemm(a, b, register(m), torch.int64)
        _equal(out, np.zeros((case.m, case.n), dtype=np.int64), "empty product")
        return Counter(empty=1)
    a, b = laid(a, layouts[0]), laid(b, layouts[1])
    backend, tables = _backend(case.isa, case.way), _tables(case.kind, case.formats)
    dtype = accumulator_dtype(m, case.k) if draw.random() < 0.5 else torch.int64
    out = backend.gemm(a, b, tables, dtype)
    want = gemm_loop(m, a.numpy().astype(np.int64), b.numpy().astype(np.int64))
    _equal(out, want, f"{codes} codes, layouts {layouts}, {dtype}, product")
    return Counter({f"gemm {_taken(case)}": 1, "products": case.m * case.k * case.n})


def _check_conv(case: Case, m: ah.Multiplier, draw: random.Random) -> Counter[str]:
    dims, groups = draw.randint(1, 3), draw.choice([1, 1, 1, 2, 5])
    size = tuple(draw.choice([1, 2, 3, 5, 8, 17, 40 // dims]) for _ in range(dims))
    kernel = tuple(draw.randint(1, 3 if dims > 1 else 7) for _ in range(dims))
    stride, dilation = (tuple(draw.choice([1, 1, 2, 3]) for _ in size) for _ in "sd")
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(
        (before, max(0, span - before - n) + draw.randint(0, 2))
        for span, n in zip(spans, size, strict=True)
        for before in [draw.randint(0, span)]
    )
    c = Convolution(stride, padding, dilation, groups, draw.randint(m.a.min, m.a.max))
    channels, outputs = (draw.choice([1, 1, 2, 3, 4, 5, 9, 33]) for _ in "co")
    x_shape = (draw.choice([1, 1, 2, 3, 7]), channels * groups, *size)
    w_shape = (outputs * groups, channels, *kernel)
    x = operand(m.a, x_shape, draw.choice(CODES), draw.randrange(1 << 30))
    w = operand(m.b, w_shape, draw.choice(CODES), draw.randrange(1 << 30))
    layouts = (draw.choice(LAYOUTS), draw.choice(LAYOUTS))
    x, w = laid(x, layouts[0]), laid(w, layouts[1])
    k = math.prod(w_shape[1:])
    dtype = accumulator_dtype(m, k) if draw.random() < 0.5 else torch.int64
    request = ConvRequest(m, x_shape, w_shape, c, CPU, dtype)
    backend = _backend(case.isa, case.way)
    out = backend.conv(x, w, _tables(case.kind, case.formats), dtype, c)
    want = conv_loop(m, x.numpy().astype(np.int64), w.numpy().astype(np.int64), c)
    _equal(out, want, f"{request}, layouts {layouts}")
    return Counter({f"conv {_taken(case)}": 1, "products": out.numel() * k})


# --- the command ----------------------------------------------------------------------------


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="draws the order of cases")
    parser.add_argument("--start", type=int, default=0, help="cases to leave out at the beginning")
    parser.add_argument("--count", type=int, help="most cases to run")
    parser.add_argument("--seconds", type=float, help="stop after that time")
    parser.add_argument("--evo", action="store_true", help="EvoApproxLib's tables instead of ours")
    options = parser.parse_args()
    order = list(cases(options.seed, evo_tables() if options.evo else None))
    stop = len(order) if options.count is None else min(len(order), options.start + options.count)
    began = told = time.monotonic()
    total: Counter[str] = Counter()
    failed, number = 0, options.start
    for number in range(options.start, stop):
        try:
            total += check(order[number])
        except AssertionError as error:
            failed += 1
            again = f"--seed {options.seed} --start {number} --count 1"
            print(f"{again}{' --evo' * options.evo}: {asdict(order[number])}: {error}", flush=True)
        now = time.monotonic()
        if now - told > 5:
            told = now
            print(f"{number + 1} of {stop} cases, {failed} failed", file=sys.stderr, flush=True)
        if options.seconds is not None and now - began > options.seconds:
            break
    counts = dict(sorted(total.items()))
    print(json.dumps({"cases": number + 1 - options.start, "failed": failed, **counts}))
    if number + 1 < len(order):
        print(f"go on with --seed {options.seed} --start {number + 1}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
