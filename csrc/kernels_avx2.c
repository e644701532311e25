/* AVX2: tables in 16-byte shuffles, products in 16 bits (vpmaddubsw would saturate). */
#include "kernels.h"

#include <immintrin.h>
#include <string.h>

static int32_t supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}

/* A byte that is not in the current 16 entries gets its top bit set, and vpshufb gives 0 for it. */
static void lookup(const uint8_t *x, const uint8_t *w, int64_t k, const uint8_t *image,
                   int64_t lanes, uint32_t *acc) {
    const __m256i byte = _mm256_set1_epi16(0x00ff), limit = _mm256_set1_epi8(0x70);
    const __m256i sixteen = _mm256_set1_epi8(16), zero = _mm256_setzero_si256();
    for (int64_t l = 0; l < lanes; l += 64) {
        uint32_t *to = acc + l;
        memset(to, 0, 64 * sizeof *to);
        for (int64_t start = 0; start < k; start += AH_FLUSH) {
            const int64_t stop = start + AH_FLUSH < k ? start + AH_FLUSH : k;
            __m256i sum[2][2][2]; /* half, plane, even or odd */
            for (int h = 0; h < 2; h++)
                for (int p = 0; p < 2; p++) sum[h][p][0] = sum[h][p][1] = zero;
            for (int64_t i = start; i < stop; i++) {
                const uint8_t *entries = image + (int64_t)w[i] * 512;
                const uint8_t *codes = x + i * AH_LANES + l;
                __m256i c0 = _mm256_loadu_si256((const __m256i *)codes);
                __m256i c1 = _mm256_loadu_si256((const __m256i *)(codes + 32));
                __m256i lo0 = zero, lo1 = zero, hi0 = zero, hi1 = zero;
                for (int t = 0; t < 256; t += 16) {
                    const __m256i low = _mm256_broadcastsi128_si256(
                        _mm_loadu_si128((const __m128i *)(entries + t)));
                    const __m256i high = _mm256_broadcastsi128_si256(
                        _mm_loadu_si128((const __m128i *)(entries + 256 + t)));
                    const __m256i i0 = _mm256_adds_epu8(c0, limit);
                    const __m256i i1 = _mm256_adds_epu8(c1, limit);
                    lo0 = _mm256_or_si256(lo0, _mm256_shuffle_epi8(low, i0));
                    hi0 = _mm256_or_si256(hi0, _mm256_shuffle_epi8(high, i0));
                    lo1 = _mm256_or_si256(lo1, _mm256_shuffle_epi8(low, i1));
                    hi1 = _mm256_or_si256(hi1, _mm256_shuffle_epi8(high, i1));
                    c0 = _mm256_sub_epi8(c0, sixteen);
                    c1 = _mm256_sub_epi8(c1, sixteen);
                }
#define ADD(half, plane, v)                                                              \
    sum[half][plane][0] = _mm256_add_epi16(sum[half][plane][0], _mm256_and_si256(v, byte)); \
    sum[half][plane][1] = _mm256_add_epi16(sum[half][plane][1], _mm256_srli_epi16(v, 8))
                ADD(0, 0, lo0);
                ADD(0, 1, hi0);
                ADD(1, 0, lo1);
                ADD(1, 1, hi1);
#undef ADD
            }
            for (int h = 0; h < 2; h++)
                for (int p = 0; p < 2; p++)
                    for (int odd = 0; odd < 2; odd++) {
                        uint16_t part[16];
                        _mm256_storeu_si256((__m256i *)part, sum[h][p][odd]);
                        for (int j = 0; j < 16; j++)
                            to[32 * h + 2 * j + odd] += (uint32_t)part[j] << (8 * p);
                    }
        }
    }
}

static void recode(const uint8_t *in, int64_t n, const uint8_t *table, uint8_t *out) {
    for (int64_t i = 0; i < n; i++) out[i] = table[in[i]];
}

/* Four rows at a time; every 32-bit lane sums products of two 16-bit pairs, which is exact. */
static void product(const uint8_t *a, int64_t stride, int64_t rows, const int8_t *b, int64_t n,
                    int32_t *acc) {
    for (int64_t r = 0; r < rows; r += 4) {
        const int64_t live = rows - r < 4 ? rows - r : 4;
        for (int64_t c = 0; c < AH_COLUMNS; c += 8) {
            __m256i sum[4][2];
            for (int j = 0; j < 4; j++) sum[j][0] = sum[j][1] = _mm256_setzero_si256();
            for (int64_t i = 0; i < n; i += 4) {
                const __m128i *panel = (const __m128i *)(b + i * AH_COLUMNS + 4 * c);
                const __m256i b0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(panel));
                const __m256i b1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(panel + 1));
                for (int64_t j = 0; j < live; j++) {
                    int32_t four;
                    memcpy(&four, a + (r + j) * stride + i, 4);
                    const __m256i left = _mm256_broadcastq_epi64(
                        _mm_cvtepu8_epi16(_mm_cvtsi32_si128(four)));
                    sum[j][0] = _mm256_add_epi32(sum[j][0], _mm256_madd_epi16(left, b0));
                    sum[j][1] = _mm256_add_epi32(sum[j][1], _mm256_madd_epi16(left, b1));
                }
            }
            for (int64_t j = 0; j < live; j++) {
                /* columns 0 1 4 5 | 2 3 6 7 after the horizontal sum of neighbours */
                __m256i both = _mm256_permute4x64_epi64(
                    _mm256_hadd_epi32(sum[j][0], sum[j][1]), 0xd8);
                int32_t *to = acc + (r + j) * AH_COLUMNS + c;
                const __m256i before = _mm256_loadu_si256((const __m256i *)to);
                _mm256_storeu_si256((__m256i *)to, _mm256_add_epi32(before, both));
            }
        }
    }
}

const ah_kernels ah_avx2 = {"avx2", supported, lookup, recode, product};
