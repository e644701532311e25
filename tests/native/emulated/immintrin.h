/* AVX-512 for machines without it: SIMDe's portable C in place of the compiler's header, with what
 * SIMDe 0.7.4 lacks. Only kernels_avx512.c is compiled with this folder before the system's. */
#ifndef APPROXHUB_EMULATED_IMMINTRIN_H
#define APPROXHUB_EMULATED_IMMINTRIN_H

#define SIMDE_NO_INLINE /* or compiling takes minutes */
#define SIMDE_NO_NATIVE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <string.h>

/* What runs anywhere is supported anywhere. */
#define __builtin_cpu_init() ((void)0)
#define __builtin_cpu_supports(name) 1

#undef _mm512_madd_epi16 /* there with the arguments of another one */
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)

typedef simde__mmask16 __mmask16;
typedef simde__mmask64 __mmask64;

static inline __mmask64 emulated_and(__mmask64 a, __mmask64 b) { return a & b; }

/* Masked loads and stores: what is masked out is neither read nor written, as on a machine, so
 * that a sanitizer sees just the bytes that one would touch. */
#define LOAD(BITS, COUNT)                                                                      \
    static inline __m512i emulated_load_##BITS(__mmask64 live, const void *from) {             \
        uint##BITS##_t lanes[COUNT] = {0};                                                     \
        for (int i = 0; i < COUNT; i++)                                                        \
            if (live >> i & 1)                                                                 \
                memcpy(lanes + i, (const char *)from + i * sizeof *lanes, sizeof *lanes);      \
        return _mm512_loadu_si512(lanes);                                                      \
    }
#define STORE(BITS, COUNT)                                                                     \
    static inline void emulated_store_##BITS(void *to, __mmask64 live, __m512i value) {        \
        uint##BITS##_t lanes[COUNT];                                                           \
        _mm512_storeu_si512(lanes, value);                                                     \
        for (int i = 0; i < COUNT; i++)                                                        \
            if (live >> i & 1) memcpy((char *)to + i * sizeof *lanes, lanes + i, sizeof *lanes); \
    }
LOAD(8, 64)
LOAD(32, 16)
STORE(8, 64)
STORE(32, 16)
#undef LOAD
#undef STORE

#define _kand_mask64(a, b) emulated_and(a, b)
#define _mm512_maskz_loadu_epi8(live, from) emulated_load_8(live, from)
#define _mm512_maskz_loadu_epi32(live, from) emulated_load_32(live, from)
#define _mm512_mask_storeu_epi8(to, live, value) emulated_store_8(to, live, value)
#define _mm512_mask_storeu_epi32(to, live, value) emulated_store_32(to, live, value)

#endif
