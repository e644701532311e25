"""C compiled at run time with gcc: the loop that one writes first, and loops of one instruction.

They are yardsticks only; nothing of ApproxHub uses them.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from approxhub.bench.names import C_LOOP, C_LOOP_NATIVE
from approxhub.multiplier import Multiplier

__all__ = ["LOOPS", "PEAKS", "PlainLoop", "compiled", "compiled_peak"]

LOOPS = {C_LOOP: ("-O2",), C_LOOP_NATIVE: ("-O3", "-march=native")}
"""Options of each plain loop, by its name."""

_LOOP = r"""
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

# The empty asm statements keep each accumulator, so that no compiler folds the loop away.
_PEAK = r"""
#include <stdint.h>
#include <immintrin.h>
#define COUNT 12
#define EACH for (int i = 0; i < COUNT; i++)
#define UNROLL _Pragma("GCC unroll 16")

#ifdef DOT_AVX512
long loop(long steps) {
    __m512i sum[COUNT], x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(5);
    UNROLL EACH sum[i] = _mm512_setzero_si512();
    for (long s = 0; s < steps; s++)
        UNROLL EACH {
            sum[i] = _mm512_dpbusd_epi32(sum[i], x, y);
            __asm__ volatile("" : "+v"(sum[i]));
        }
    return COUNT * 64; /* products a step */
}
#endif
#ifdef DOT_AVX2
long loop(long steps) {
    __m256i sum[COUNT], x = _mm256_set1_epi16(3), y = _mm256_set1_epi16(5);
    UNROLL EACH sum[i] = _mm256_setzero_si256();
    __asm__ volatile("" : "+x"(y));
    for (long s = 0; s < steps; s++)
        UNROLL EACH {
            __m256i z = x;
            __asm__ volatile("" : "+x"(z));
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(z, y));
            __asm__ volatile("" : "+x"(sum[i]));
        }
    return COUNT * 16;
}
#endif
#ifdef LOOKUP_AVX512
long loop(long steps) { /* two permutations give 64 entries of one of the two byte planes */
    __m512i index[COUNT], low = _mm512_set1_epi8(3), high = _mm512_set1_epi8(5);
    UNROLL EACH index[i] = _mm512_set1_epi8(i);
    for (long s = 0; s < steps; s++)
        UNROLL EACH {
            index[i] = _mm512_permutex2var_epi8(low, index[i], high);
            __asm__ volatile("" : "+v"(index[i]));
        }
    return COUNT * 16; /* 64 entries for 4 permutations */
}
#endif
#ifdef LOOKUP_AVX2
long loop(long steps) { /* two additions and a shift for 16 entries that were made neighbours */
    __m256i both[COUNT], high[COUNT], found = _mm256_set1_epi8(3);
    UNROLL EACH both[i] = high[i] = _mm256_setzero_si256();
    for (long s = 0; s < steps; s++)
        UNROLL for (int i = 0; i < COUNT / 2; i++) {
            __m256i z = found;
            __asm__ volatile("" : "+x"(z));
            both[i] = _mm256_add_epi16(both[i], z);
            high[i] = _mm256_add_epi16(high[i], _mm256_srli_epi16(z, 8));
            __asm__ volatile("" : "+x"(both[i]), "+x"(high[i]));
        }
    return COUNT / 2 * 16;
}
#endif
"""

PEAKS = {
    ("product", "avx512"): ("DOT_AVX512", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"),
    ("product", "avx2"): ("DOT_AVX2", "-mavx2"),
    ("lookup", "avx512"): ("LOOKUP_AVX512", "-mavx512f", "-mavx512bw", "-mavx512vbmi"),
    ("lookup", "avx2"): ("LOOKUP_AVX2", "-mavx2"),
}
"""Macro and options of a loop over the instructions that bound a kernel, by kernel and set."""


def compiled(folder: Path, name: str, source: str, options: tuple[str, ...]) -> ctypes.CDLL | None:
    """Compile C into a library of `folder`, or None where gcc is missing or does not take it."""
    if shutil.which("gcc") is None:
        return None
    text, library = folder / f"{name}.c", folder / f"{name}.so"
    text.write_text(source, encoding="utf-8")
    done = subprocess.run(
        ["gcc", *options, "-shared", "-fPIC", str(text), "-o", str(library)],
        capture_output=True,
        check=False,
    )
    return None if done.returncode else ctypes.CDLL(str(library))


class PlainLoop:
    """One accumulator, one table look-up a product, one thread: what one would write first.

    Parameters
    ----------
    folder : Path
        Where it is compiled.
    name : str
        One of :data:`LOOPS`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        options = LOOPS[name]
        self._library = compiled(folder, f"loop{options[0]}", _LOOP, options)

    @property
    def available(self) -> bool:
        """Whether there is a compiler that took it."""
        return self._library is not None

    def on(self, a: Tensor, b: Tensor, multiplier: Multiplier) -> Callable[[], Tensor]:
        """A call on operands (M, K) and (K, N) of a multiplier of up to 8 x 8 bits."""
        assert self._library is not None
        (m, k), n = a.shape, b.shape[1]
        # 256 x 256 entries of int32, patterns as indices, whatever the widths are.
        table = torch.zeros((256, 256), dtype=torch.int32)
        rows, columns = (torch.from_numpy(f.values() & 255) for f in (multiplier.a, multiplier.b))
        table[rows[:, None], columns[None, :]] = torch.tensor(multiplier.table, dtype=torch.int32)
        x = a.to(torch.uint8).contiguous()
        w = b.to(torch.uint8).t().contiguous()
        out = torch.empty((m, n), dtype=torch.int32)
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, w, table, out)]
        sizes = [ctypes.c_long(s) for s in (m, k, n)]
        loop, keep = self._library.loop, (x, w, table)

        def run() -> Tensor:
            assert keep
            loop(*pointers, *sizes)
            return out

        return run


def compiled_peak(folder: Path, kernel: str, isa: str) -> Callable[[int], int] | None:
    """A loop of the instruction that bounds a kernel: takes steps, returns products of a step.

    None where there is no such loop for the instruction set, or no gcc. The caller makes sure
    that the machine has the instruction set.
    """
    found = PEAKS.get((kernel, isa))
    if found is None:
        return None
    macro, *options = found
    library = compiled(folder, macro.lower(), _PEAK, ("-O2", f"-D{macro}", *options))
    if library is None:
        return None
    loop = library.loop
    loop.restype, loop.argtypes = ctypes.c_long, (ctypes.c_long,)
    return lambda steps: int(loop(steps))
