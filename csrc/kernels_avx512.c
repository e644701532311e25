/* AVX-512 with VBMI and VNNI: a table row is eight registers, a product four bytes a lane. */
#include "kernels.h"

#include <immintrin.h>
#include <string.h>

static int32_t supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vnni");
}

/* 64 bytes out of 256: two halves of 128 entries, chosen by the top bit of the index. */
static inline __m512i pick(__m512i index, __mmask64 upper, const __m512i *t) {
    return _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(t[0], index, t[1]),
                                  _mm512_permutex2var_epi8(t[2], index, t[3]));
}

/* Adds a vector of unsigned 16-bit sums of every other lane, from `first`, to 32-bit sums. */
static void widen(uint32_t *acc, __m512i sums, int first, int shift) {
    uint16_t part[32];
    _mm512_storeu_si512(part, sums);
    for (int j = 0; j < 32; j++) acc[2 * j + first] += (uint32_t)part[j] << shift;
}

#define LOOKUP(NAME, GROUPS)                                                                   \
    static void NAME(const uint8_t *x, const uint8_t *w, int64_t k, const uint8_t *image,      \
                     uint32_t *acc) {                                                          \
        const __m512i byte = _mm512_set1_epi16(0x00ff);                                        \
        memset(acc, 0, GROUPS * 64 * sizeof *acc);                                             \
        for (int64_t start = 0; start < k; start += AH_FLUSH) {                                \
            const int64_t stop = start + AH_FLUSH < k ? start + AH_FLUSH : k;                  \
            __m512i low[GROUPS][2], high[GROUPS][2];                                           \
            for (int g = 0; g < GROUPS; g++)                                                   \
                low[g][0] = low[g][1] = high[g][0] = high[g][1] = _mm512_setzero_si512();      \
            for (int64_t i = start; i < stop; i++) {                                           \
                const uint8_t *entries = image + (int64_t)w[i] * 512;                          \
                __m512i t[8];                                                                  \
                for (int j = 0; j < 8; j++) t[j] = _mm512_loadu_si512(entries + 64 * j);       \
                for (int g = 0; g < GROUPS; g++) {                                             \
                    const __m512i code = _mm512_loadu_si512(x + i * AH_LANES + 64 * g);        \
                    const __mmask64 upper = _mm512_movepi8_mask(code);                         \
                    const __m512i lo = pick(code, upper, t), hi = pick(code, upper, t + 4);    \
                    low[g][0] = _mm512_add_epi16(low[g][0], _mm512_and_si512(lo, byte));       \
                    low[g][1] = _mm512_add_epi16(low[g][1], _mm512_srli_epi16(lo, 8));         \
                    high[g][0] = _mm512_add_epi16(high[g][0], _mm512_and_si512(hi, byte));     \
                    high[g][1] = _mm512_add_epi16(high[g][1], _mm512_srli_epi16(hi, 8));       \
                }                                                                              \
            }                                                                                  \
            for (int g = 0; g < GROUPS; g++)                                                   \
                for (int odd = 0; odd < 2; odd++) {                                            \
                    widen(acc + 64 * g, low[g][odd], odd, 0);                                  \
                    widen(acc + 64 * g, high[g][odd], odd, 8);                                 \
                }                                                                              \
        }                                                                                      \
    }

LOOKUP(lookup_1, 1)
LOOKUP(lookup_2, 2)
LOOKUP(lookup_4, 4)

static void lookup(const uint8_t *x, const uint8_t *w, int64_t k, const uint8_t *image,
                   int64_t lanes, uint32_t *acc) {
    if (lanes == 256) {
        lookup_4(x, w, k, image, acc);
        return;
    }
    if (lanes >= 128) {
        lookup_2(x, w, k, image, acc);
        x += 128, acc += 128, lanes -= 128;
    }
    if (lanes) lookup_1(x, w, k, image, acc);
}

static void recode(const uint8_t *in, int64_t n, const uint8_t *table, uint8_t *out) {
    __m512i t[4];
    for (int j = 0; j < 4; j++) t[j] = _mm512_loadu_si512(table + 64 * j);
    for (int64_t i = 0; i < n; i += 64) {
        const __mmask64 live = n - i >= 64 ? ~0ULL : (1ULL << (n - i)) - 1;
        const __m512i code = _mm512_maskz_loadu_epi8(live, in + i);
        _mm512_mask_storeu_epi8(out + i, live, pick(code, _mm512_movepi8_mask(code), t));
    }
}

#define PRODUCT(ROWS)                                                                          \
    static void product_##ROWS(const uint8_t *a, int64_t stride, const int8_t *b, int64_t n,   \
                               int32_t *acc) {                                                 \
        __m512i sum[ROWS][2];                                                                  \
        for (int r = 0; r < ROWS; r++)                                                         \
            for (int h = 0; h < 2; h++)                                                        \
                sum[r][h] = _mm512_loadu_si512(acc + r * AH_COLUMNS + 16 * h);                 \
        for (int64_t i = 0; i < n; i += 4) {                                                   \
            const __m512i b0 = _mm512_loadu_si512(b + i * AH_COLUMNS);                         \
            const __m512i b1 = _mm512_loadu_si512(b + i * AH_COLUMNS + 64);                    \
            for (int r = 0; r < ROWS; r++) {                                                   \
                int32_t four;                                                                  \
                memcpy(&four, a + r * stride + i, 4);                                          \
                const __m512i left = _mm512_set1_epi32(four);                                  \
                sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], left, b0);                          \
                sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], left, b1);                          \
            }                                                                                  \
        }                                                                                      \
        for (int r = 0; r < ROWS; r++)                                                         \
            for (int h = 0; h < 2; h++)                                                        \
                _mm512_storeu_si512(acc + r * AH_COLUMNS + 16 * h, sum[r][h]);                 \
    }

PRODUCT(12)
PRODUCT(4)
PRODUCT(1)

static void product(const uint8_t *a, int64_t stride, int64_t rows, const int8_t *b, int64_t n,
                    int32_t *acc) {
    if (rows == 12) {
        product_12(a, stride, b, n, acc);
        return;
    }
    for (; rows >= 4; rows -= 4, a += 4 * stride, acc += 4 * AH_COLUMNS)
        product_4(a, stride, b, n, acc);
    for (; rows; rows--, a += stride, acc += AH_COLUMNS) product_1(a, stride, b, n, acc);
}

const ah_kernels ah_avx512 = {"avx512", supported, lookup, recode, product};
