"""Time the CPU engine against a plain C loop and torch's fp32 product, in one run.

    python benchmarks/cpu_engine.py [--size M K N] [--threads T] [--rounds R] [ID ...]

Every row is timed in turn, round by round, and ratios are taken within a round, so that a machine
whose speed drifts does not favour one of them; printed are medians over the rounds. The plain loop
is compiled with ``gcc -O2``: one accumulator, one table look-up a product. Without ids, families
of several ranks and two tables of no low rank are timed.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import approxhub as ah
from approxhub.backends.cpu import CpuBackend
from approxhub.backends.native import load_library

IDS = ("exact:8s", "drum:8s/k=4", "roba:8s", "bam:8s/h=0,v=6", "truncation:8u/a=3,b=3")

LOOP = r"""
#include <stdint.h>
void loop(const uint8_t *a, const uint8_t *b, const int32_t *t, int32_t *out,
          long m, long k, long n) {
    for (long i = 0; i < m; i++)
        for (long j = 0; j < n; j++) {
            int32_t sum = 0;
            for (long q = 0; q < k; q++) sum += t[a[i * k + q] << 8 | b[j * k + q]];
            out[i * n + j] = sum;
        }
}
"""


def compiled(folder: Path) -> ctypes.CDLL:
    """The plain loop."""
    source, library = folder / "loop.c", folder / "loop.so"
    source.write_text(LOOP)
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", source, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def seconds(run: Callable[[], object], least: float = 0.02) -> float:
    """Seconds of one call, over as many as take `least` seconds."""
    calls, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < least:
        run()
        calls += 1
    return spent / calls


def multipliers(ids: list[str]) -> list[ah.Multiplier]:
    """Those named, or families and two tables without structure."""
    found = [ah.load(i) for i in ids or IDS]
    if not ids:
        rng = np.random.default_rng(0)
        for signed in (False, True):
            t = rng.integers(-30000, 30000, (256, 256))
            name = f"random-{'s' if signed else 'u'}"
            found.append(ah.Multiplier.from_table(t, name=name, a_signed=signed, b_signed=signed))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--size", type=int, nargs=3, default=(256, 1152, 256))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    m, k, n = args.size
    torch.set_num_threads(args.threads)
    isas = list(load_library().isas)
    print(f"{m} x {k} x {n}, {args.threads} thread(s), torch {torch.__version__}, "
          f"{os.cpu_count()} cores, {', '.join(isas)}")  # fmt: skip

    rng = np.random.default_rng(1)
    floats = torch.rand(m, k), torch.rand(k, n)
    with tempfile.TemporaryDirectory() as folder:
        loop = compiled(Path(folder)).loop
        rows: dict[str, Callable[[], object]] = {"torch fp32": lambda: floats[0] @ floats[1]}
        for multiplier in multipliers(args.ids):
            a = torch.from_numpy(rng.integers(multiplier.a.min, multiplier.a.max + 1, (m, k)))
            b = torch.from_numpy(rng.integers(multiplier.b.min, multiplier.b.max + 1, (k, n)))
            a, b = (t.to(torch.int8 if multiplier.a.signed else torch.uint8) for t in (a, b))
            expected = None
            for isa in isas:
                backend = CpuBackend(isa)
                tables = backend.prepare(multiplier, torch.device("cpu"))
                result = backend.gemm(a, b, tables, torch.int64)
                assert expected is None or torch.equal(result, expected)
                expected = result
                way = backend.plan(tables, m, k, n).way
                planes = 0 if tables.factors is None else len(tables.factors[0])
                label = f"{multiplier.id} {isa} {way}" + (f" ({planes})" if planes else "")
                rows[label] = lambda backend=backend, tables=tables, a=a, b=b: backend.gemm(
                    a, b, tables, torch.int32
                )
        table = np.ascontiguousarray(ah.load("drum:8u/k=4").table)
        x = rng.integers(0, 256, (m, k), dtype=np.uint8)
        w = rng.integers(0, 256, (n, k), dtype=np.uint8)
        out = np.empty((m, n), dtype=np.int32)
        pointers = [ctypes.c_void_p(t.ctypes.data) for t in (x, w, table, out)]
        size = [ctypes.c_long(s) for s in (m, k, n)]
        rows["plain C loop, gcc -O2, one thread"] = lambda: loop(*pointers, *size)

        times: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(args.rounds):
            for name, run in rows.items():
                times[name].append(seconds(run))
    base, fp32 = times["plain C loop, gcc -O2, one thread"], times["torch fp32"]
    print(f"\n{'':44} {'G/s':>8} {'x C loop':>9} {'x fp32':>8}")
    for name, spent in times.items():
        rate = m * k * n / statistics.median(spent) / 1e9
        over = statistics.median(b / s for b, s in zip(base, spent, strict=True))
        against = statistics.median(f / s for f, s in zip(fp32, spent, strict=True))
        print(f"{name:44} {rate:8.2f} {over:9.1f} {against:8.2f}")


if __name__ == "__main__":
    main()
