/* AVX-512 with VBMI and VNNI: a table row is eight registers, a product four bytes a lane. */
#include "kernels.h"
#define AH_OWN_PUT
#include "portable.h"

#include <immintrin.h>
#include <string.h>

static int32_t supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vnni");
}

/* Which quarter of 256 entries each index lies in. */
typedef struct {
    __mmask64 odd, upper, last; /* quarters 1 and 3, 2 and 3, 3 */
} quarters;

static inline quarters quarter(__m512i index) {
    const __mmask64 odd = _mm512_movepi8_mask(_mm512_add_epi8(index, index));
    const __mmask64 upper = _mm512_movepi8_mask(index);
    return (quarters){odd, upper, _kand_mask64(odd, upper)};
}

/* 64 bytes out of 256: a permutation looks at the low 6 bits of the index, masks at the others. */
static inline __m512i pick(__m512i index, quarters q, const __m512i *t) {
    __m512i found = _mm512_permutexvar_epi8(index, t[0]);
    found = _mm512_mask_permutexvar_epi8(found, q.odd, index, t[1]);
    found = _mm512_mask_permutexvar_epi8(found, q.upper, index, t[2]);
    return _mm512_mask_permutexvar_epi8(found, q.last, index, t[3]);
}

/* The same with permutations out of 128 bytes, which look at 7 bits. */
static inline __m512i pick_pairs(__m512i index, quarters q, const __m512i *t) {
    return _mm512_mask_blend_epi8(q.upper, _mm512_permutex2var_epi8(t[0], index, t[1]),
                                  _mm512_permutex2var_epi8(t[2], index, t[3]));
}

/* On AMD's cores the wide permutation is as quick as the other; on Intel's it is three
 * instructions inside (https://uops.info). */
#ifndef AH_PAIRS
#define AH_PAIRS __builtin_cpu_is("amd")
#endif

static int32_t reach(void) {
    __builtin_cpu_init();
    return AH_PAIRS ? 128 : 64;
}

/* Adds 64 sums of low and of high bytes to sums of 32 bits, or begins with them. In 16-bit lanes,
 * `both` is the sum of the even byte and 256 times the odd one, modulo 2^16, and `odd` that of the
 * odd one: what is left of `both` is the sum of the even one, for it fits 16 bits too. Pairs of a
 * low and a high sum become low + 256 * high in one signed product, 2^15 less each for its sake. */
static inline void widen(uint32_t *acc, int first, __m512i low_both, __m512i low_odd,
                         __m512i high_both, __m512i high_odd) {
    const __m512i flip = _mm512_set1_epi16(-0x8000), pair = _mm512_set1_epi32(0x01000001);
    const __m512i back = _mm512_set1_epi32(0x8000 * 257);
    const __m512i low[2] = {_mm512_sub_epi16(low_both, _mm512_slli_epi16(low_odd, 8)), low_odd};
    const __m512i high[2] = {_mm512_sub_epi16(high_both, _mm512_slli_epi16(high_odd, 8)),
                             high_odd};
    __m512i front[2], rear[2]; /* of 16 bytes the first and the last 8, even and odd ones */
    AH_UNROLL
    for (int odd = 0; odd < 2; odd++) {
        const __m512i l = _mm512_xor_si512(low[odd], flip);
        const __m512i h = _mm512_xor_si512(high[odd], flip);
        front[odd] = _mm512_madd_epi16(_mm512_unpacklo_epi16(l, h), pair);
        rear[odd] = _mm512_madd_epi16(_mm512_unpackhi_epi16(l, h), pair);
    }
    const __m512i p0 = _mm512_unpacklo_epi32(front[0], front[1]);
    const __m512i p1 = _mm512_unpackhi_epi32(front[0], front[1]);
    const __m512i p2 = _mm512_unpacklo_epi32(rear[0], rear[1]);
    const __m512i p3 = _mm512_unpackhi_epi32(rear[0], rear[1]);
    const __m512i a = _mm512_shuffle_i32x4(p0, p1, 0x44), b = _mm512_shuffle_i32x4(p2, p3, 0x44);
    const __m512i c = _mm512_shuffle_i32x4(p0, p1, 0xee), d = _mm512_shuffle_i32x4(p2, p3, 0xee);
    const __m512i sums[4] = {
        _mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd),
        _mm512_shuffle_i32x4(c, d, 0x88), _mm512_shuffle_i32x4(c, d, 0xdd)};
    AH_UNROLL
    for (int i = 0; i < 4; i++) {
        const __m512i before =
            first ? back : _mm512_add_epi32(_mm512_loadu_si512(acc + 16 * i), back);
        _mm512_storeu_si512(acc + 16 * i, _mm512_add_epi32(before, sums[i]));
    }
}

#define LOOKUP(NAME, GROUPS, PICK)                                                             \
    static void NAME(const uint8_t *lanes, const int64_t *offset, int64_t k,                   \
                     const uint8_t *row, const uint8_t *image, uint32_t *acc) {                \
        for (int64_t start = 0; start < k; start += AH_FLUSH) {                                \
            const int64_t stop = start + AH_FLUSH < k ? start + AH_FLUSH : k;                  \
            __m512i low[GROUPS], low_odd[GROUPS], high[GROUPS], high_odd[GROUPS];              \
            AH_UNROLL                                                                          \
            for (int g = 0; g < GROUPS; g++)                                                   \
                low[g] = low_odd[g] = high[g] = high_odd[g] = _mm512_setzero_si512();          \
            for (int64_t i = start; i < stop; i++) {                                           \
                const uint8_t *entries = image + (int64_t)row[i] * 512;                        \
                __m512i t[8];                                                                  \
                AH_UNROLL                                                                      \
                for (int j = 0; j < 8; j++) t[j] = _mm512_loadu_si512(entries + 64 * j);       \
                AH_UNROLL                                                                      \
                for (int g = 0; g < GROUPS; g++) {                                             \
                    /* One group after the other, or there are too few registers. */           \
                    __asm__ volatile("" ::: "memory");                                         \
                    const __m512i code = _mm512_loadu_si512(lanes + offset[i] + 64 * g);       \
                    const quarters q = quarter(code);                                          \
                    const __m512i lo = PICK(code, q, t), hi = PICK(code, q, t + 4);            \
                    low[g] = _mm512_add_epi16(low[g], lo);                                     \
                    low_odd[g] = _mm512_add_epi16(low_odd[g], _mm512_srli_epi16(lo, 8));       \
                    high[g] = _mm512_add_epi16(high[g], hi);                                   \
                    high_odd[g] = _mm512_add_epi16(high_odd[g], _mm512_srli_epi16(hi, 8));     \
                }                                                                              \
            }                                                                                  \
            AH_UNROLL                                                                          \
            for (int g = 0; g < GROUPS; g++)                                                   \
                widen(acc + 64 * g, start == 0, low[g], low_odd[g], high[g], high_odd[g]);     \
        }                                                                                      \
    }

/* As wide as the registers allow, for each of `count` rows. */
#define LOOKUPS(NAME, PICK)                                                                    \
    LOOKUP(NAME##_1, 1, PICK)                                                                  \
    LOOKUP(NAME##_2, 2, PICK)                                                                  \
    LOOKUP(NAME##_4, 4, PICK)                                                                  \
    static void NAME(const uint8_t *lanes, const int64_t *offset, int64_t k,                   \
                     const uint8_t *rows, int64_t stride, int64_t count, const uint8_t *image, \
                     int64_t width, uint32_t *acc) {                                           \
        for (int64_t r = 0; r < count; r++, rows += stride, acc += AH_LANES) {                 \
            int64_t l = 0;                                                                     \
            for (; width - l >= 256; l += 256)                                                 \
                NAME##_4(lanes + l, offset, k, rows, image, acc + l);                          \
            for (; width - l >= 128; l += 128)                                                 \
                NAME##_2(lanes + l, offset, k, rows, image, acc + l);                          \
            for (; width - l >= 64; l += 64)                                                   \
                NAME##_1(lanes + l, offset, k, rows, image, acc + l);                          \
        }                                                                                      \
    }

LOOKUPS(lookup_quarters, pick)
LOOKUPS(lookup_pairs, pick_pairs)

static void lookup(const uint8_t *lanes, const int64_t *offset, int64_t k, const uint8_t *rows,
                   int64_t stride, int64_t count, const uint8_t *image, int64_t width,
                   uint32_t *acc) {
    (AH_PAIRS ? lookup_pairs : lookup_quarters)(lanes, offset, k, rows, stride, count, image,
                                                width, acc);
}

#define RECODE(NAME, PICK)                                                                     \
    static void NAME(const uint8_t *in, int64_t n, const uint8_t *table, uint8_t *out) {       \
        __m512i t[4];                                                                          \
        for (int j = 0; j < 4; j++) t[j] = _mm512_loadu_si512(table + 64 * j);                 \
        for (int64_t i = 0; i < n; i += 64) {                                                  \
            const __mmask64 live = n - i >= 64 ? ~0ULL : (1ULL << (n - i)) - 1;                \
            const __m512i code = _mm512_maskz_loadu_epi8(live, in + i);                        \
            _mm512_mask_storeu_epi8(out + i, live, PICK(code, quarter(code), t));              \
        }                                                                                      \
    }

RECODE(recode_quarters, pick)
RECODE(recode_pairs, pick_pairs)

static void recode(const uint8_t *in, int64_t n, const uint8_t *table, uint8_t *out) {
    (AH_PAIRS ? recode_pairs : recode_quarters)(in, n, table, out);
}

/* ROWS rows by 16 * VECS lanes in registers. */
#define PRODUCT(ROWS, VECS)                                                                    \
    static void product_##ROWS##_##VECS(const uint8_t *rows, int64_t stride,                   \
                                        const int8_t *lanes, const int64_t *offset,            \
                                        int64_t steps, int32_t *acc) {                         \
        __m512i sum[ROWS][VECS];                                                               \
        AH_UNROLL                                                                              \
        for (int r = 0; r < ROWS; r++)                                                         \
            AH_UNROLL                                                                          \
            for (int v = 0; v < VECS; v++)                                                     \
                sum[r][v] = _mm512_loadu_si512(acc + r * AH_WIDTH + 16 * v);                   \
        for (int64_t s = 0; s < steps; s++) {                                                  \
            __m512i right[VECS];                                                               \
            AH_UNROLL                                                                          \
            for (int v = 0; v < VECS; v++)                                                     \
                right[v] = _mm512_loadu_si512(lanes + offset[s] + 64 * v);                     \
            AH_UNROLL                                                                          \
            for (int r = 0; r < ROWS; r++) {                                                   \
                int32_t four;                                                                  \
                memcpy(&four, rows + r * stride + 4 * s, 4);                                   \
                const __m512i left = _mm512_set1_epi32(four);                                  \
                AH_UNROLL                                                                      \
                for (int v = 0; v < VECS; v++)                                                 \
                    sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], left, right[v]);                \
            }                                                                                  \
        }                                                                                      \
        AH_UNROLL                                                                              \
        for (int r = 0; r < ROWS; r++)                                                         \
            AH_UNROLL                                                                          \
            for (int v = 0; v < VECS; v++)                                                     \
                _mm512_storeu_si512(acc + r * AH_WIDTH + 16 * v, sum[r][v]);                   \
    }

#define PRODUCTS(MOST, HALF, VECS)                                                             \
    PRODUCT(MOST, VECS)                                                                        \
    PRODUCT(HALF, VECS)                                                                        \
    PRODUCT(1, VECS)                                                                           \
    static void products_##VECS(const uint8_t *rows, int64_t stride, int64_t count,            \
                                const int8_t *lanes, const int64_t *offset, int64_t steps,     \
                                int32_t *acc) {                                                \
        for (; count >= MOST; count -= MOST, rows += MOST * stride, acc += MOST * AH_WIDTH)    \
            product_##MOST##_##VECS(rows, stride, lanes, offset, steps, acc);                  \
        for (; count >= HALF; count -= HALF, rows += HALF * stride, acc += HALF * AH_WIDTH)    \
            product_##HALF##_##VECS(rows, stride, lanes, offset, steps, acc);                  \
        for (; count; count--, rows += stride, acc += AH_WIDTH)                                \
            product_1_##VECS(rows, stride, lanes, offset, steps, acc);                         \
    }

PRODUCTS(6, 2, 4)
PRODUCTS(8, 2, 3)
PRODUCTS(12, 4, 2)
PRODUCTS(12, 4, 1)

static void product(const uint8_t *rows, int64_t stride, int64_t count, const int8_t *lanes,
                    const int64_t *offset, int64_t steps, int64_t width, int32_t *acc) {
    switch (width / 16) {
    case 4: products_4(rows, stride, count, lanes, offset, steps, acc); break;
    case 3: products_3(rows, stride, count, lanes, offset, steps, acc); break;
    case 2: products_2(rows, stride, count, lanes, offset, steps, acc); break;
    case 1: products_1(rows, stride, count, lanes, offset, steps, acc); break;
    }
}

/* As in portable.h: short stretches are the rule here, and a masked one is one instruction. */
static void put(int32_t *out, int64_t step, int64_t rows, const int32_t *acc, int64_t pitch,
                int64_t n, const int64_t *row_term, const int32_t *lane_term) {
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 live = n - i >= 16 ? 0xffff : (__mmask16)((1u << (n - i)) - 1);
        const __m512i lane = lane_term == NULL ? _mm512_setzero_si512()
                                               : _mm512_maskz_loadu_epi32(live, lane_term + i);
        for (int64_t r = 0; r < rows; r++) {
            const __m512i term =
                _mm512_add_epi32(_mm512_set1_epi32((int32_t)row_term[r]), lane);
            const __m512i sum = _mm512_maskz_loadu_epi32(live, acc + r * pitch + i);
            _mm512_mask_storeu_epi32(out + r * step + i, live, _mm512_add_epi32(sum, term));
        }
    }
}

const ah_kernels ah_avx512 = {"avx512", supported, reach, lookup, NULL, recode, product, AH_PORTABLE};
