/* AVX2: tables in 16-byte shuffles, products in 16 bits (vpmaddubsw would saturate). */
#include "kernels.h"
#include "portable.h"

#include <immintrin.h>
#include <string.h>

static int32_t supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}

static inline void widen(uint32_t *acc, __m256i even, __m256i odd, int shift) {
    const __m256i halves[2] = {_mm256_unpacklo_epi16(even, odd), _mm256_unpackhi_epi16(even, odd)};
    AH_UNROLL
    for (int h = 0; h < 2; h++)
        AH_UNROLL
        for (int block = 0; block < 2; block++) {
            const __m128i part = block ? _mm256_extracti128_si256(halves[h], 1)
                                       : _mm256_castsi256_si128(halves[h]);
            __m256i *to = (__m256i *)(acc + 16 * block + 8 * h);
            const __m256i more =
                _mm256_sll_epi32(_mm256_cvtepu16_epi32(part), _mm_cvtsi32_si128(shift));
            _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), more));
        }
}

/* ROWS rows share the indices of 32 lanes. A byte that is not among the current 16 entries gets
 * its top bit set, and vpshufb gives 0 for it. */
#define LOOKUP(ROWS)                                                                           \
    static void lookup_##ROWS(const uint8_t *lanes, const int64_t *offset, int64_t k,          \
                              const uint8_t *rows, int64_t stride, const uint8_t *image,       \
                              uint32_t *acc) {                                                 \
        const __m256i byte = _mm256_set1_epi16(0x00ff), limit = _mm256_set1_epi8(0x70);        \
        const __m256i sixteen = _mm256_set1_epi8(16);                                          \
        AH_UNROLL                                                                              \
        for (int r = 0; r < ROWS; r++) memset(acc + r * AH_LANES, 0, 32 * sizeof *acc);        \
        for (int64_t start = 0; start < k; start += AH_FLUSH) {                                \
            const int64_t stop = start + AH_FLUSH < k ? start + AH_FLUSH : k;                  \
            __m256i sum[ROWS][2][2]; /* plane, even or odd */                                  \
            AH_UNROLL                                                                          \
            for (int r = 0; r < ROWS; r++)                                                     \
                AH_UNROLL                                                                      \
                for (int p = 0; p < 2; p++)                                                    \
                    sum[r][p][0] = sum[r][p][1] = _mm256_setzero_si256();                      \
            for (int64_t i = start; i < stop; i++) {                                           \
                const uint8_t *entries[ROWS];                                                  \
                __m256i found[ROWS][2];                                                        \
                AH_UNROLL                                                                      \
                for (int r = 0; r < ROWS; r++) {                                               \
                    entries[r] = image + (int64_t)rows[r * stride + i] * 512;                  \
                    found[r][0] = found[r][1] = _mm256_setzero_si256();                        \
                }                                                                              \
                __m256i code = _mm256_loadu_si256((const __m256i *)(lanes + offset[i]));       \
                for (int t = 0; t < 256; t += 16) {                                            \
                    const __m256i index = _mm256_adds_epu8(code, limit);                       \
                    AH_UNROLL                                                                  \
                    for (int r = 0; r < ROWS; r++)                                             \
                        AH_UNROLL                                                              \
                        for (int p = 0; p < 2; p++)                                            \
                            found[r][p] = _mm256_or_si256(                                     \
                                found[r][p],                                                   \
                                _mm256_shuffle_epi8(                                           \
                                    _mm256_broadcastsi128_si256(_mm_loadu_si128(               \
                                        (const __m128i *)(entries[r] + 256 * p + t))),         \
                                    index));                                                   \
                    code = _mm256_sub_epi8(code, sixteen);                                     \
                }                                                                              \
                AH_UNROLL                                                                      \
                for (int r = 0; r < ROWS; r++)                                                 \
                    AH_UNROLL                                                                  \
                    for (int p = 0; p < 2; p++) {                                              \
                        sum[r][p][0] = _mm256_add_epi16(                                       \
                            sum[r][p][0], _mm256_and_si256(found[r][p], byte));                \
                        sum[r][p][1] = _mm256_add_epi16(                                       \
                            sum[r][p][1], _mm256_srli_epi16(found[r][p], 8));                  \
                    }                                                                          \
            }                                                                                  \
            AH_UNROLL                                                                          \
            for (int r = 0; r < ROWS; r++)                                                     \
                AH_UNROLL                                                                      \
                for (int p = 0; p < 2; p++)                                                    \
                    widen(acc + r * AH_LANES, sum[r][p][0], sum[r][p][1], 8 * p);              \
        }                                                                                      \
    }

LOOKUP(4)
LOOKUP(1)

static void lookup(const uint8_t *lanes, const int64_t *offset, int64_t k, const uint8_t *rows,
                   int64_t stride, int64_t count, const uint8_t *image, int64_t width,
                   uint32_t *acc) {
    for (; count >= 4; count -= 4, rows += 4 * stride, acc += 4 * AH_LANES)
        for (int64_t l = 0; l < width; l += 32)
            lookup_4(lanes + l, offset, k, rows, stride, image, acc + l);
    for (; count; count--, rows += stride, acc += AH_LANES)
        for (int64_t l = 0; l < width; l += 32)
            lookup_1(lanes + l, offset, k, rows, stride, image, acc + l);
}

/* Many rows meet many lanes: first their entries for each code become neighbours, a table of 256
 * by ROWS, then one load finds what ROWS rows have for a lane. */
enum { TABLES = 4 }; /* that are in the cache at a time: 4 * 256 * 32 * 2 bytes */

/* table[code * pitch + r] = entry(image, rows[r * stride], code) for 16 rows; those from `count`
 * on repeat the last one. Eight rows by eight codes are turned at a time, in both halves. */
static void spread(const uint8_t *image, const uint8_t *rows, int64_t stride, int64_t count,
                   int64_t pitch, uint16_t *table) {
    const uint8_t *from[16];
    for (int64_t r = 0; r < 16; r++)
        from[r] = image + (int64_t)rows[(r < count ? r : count - 1) * stride] * 512;
    for (int code = 0; code < 256; code += 16) {
        __m256i entry[2][8]; /* of eight codes, of rows r and r + 8 */
        AH_UNROLL
        for (int r = 0; r < 8; r++) {
            const uint8_t *a = from[r] + code, *b = from[r + 8] + code;
            const __m256i low = _mm256_inserti128_si256(
                _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a)),
                _mm_loadu_si128((const __m128i *)b), 1);
            const __m256i high = _mm256_inserti128_si256(
                _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(a + 256))),
                _mm_loadu_si128((const __m128i *)(b + 256)), 1);
            entry[0][r] = _mm256_unpacklo_epi8(low, high);
            entry[1][r] = _mm256_unpackhi_epi8(low, high);
        }
        AH_UNROLL
        for (int eight = 0; eight < 2; eight++) {
            const __m256i *e = entry[eight];
            __m256i two[8]; /* rows of four codes, then of the other four */
            AH_UNROLL
            for (int r = 0; r < 8; r += 2) {
                two[r / 2] = _mm256_unpacklo_epi16(e[r], e[r + 1]);
                two[4 + r / 2] = _mm256_unpackhi_epi16(e[r], e[r + 1]);
            }
            AH_UNROLL
            for (int four = 0; four < 8; four += 4) {
                const __m256i a = _mm256_unpacklo_epi32(two[four], two[four + 1]);
                const __m256i b = _mm256_unpackhi_epi32(two[four], two[four + 1]);
                const __m256i c = _mm256_unpacklo_epi32(two[four + 2], two[four + 3]);
                const __m256i d = _mm256_unpackhi_epi32(two[four + 2], two[four + 3]);
                const __m256i turned[4] = {
                    _mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c),
                    _mm256_unpacklo_epi64(b, d), _mm256_unpackhi_epi64(b, d)};
                AH_UNROLL
                for (int i = 0; i < 4; i++)
                    _mm256_storeu_si256(
                        (__m256i *)(table + (code + 8 * eight + four + i) * pitch), turned[i]);
            }
        }
    }
}

/* sums: for each lane ROWS sums of entries modulo 2^16, then ROWS sums of their high bytes. */
#define ADD(ROWS, COUNT)                                                                       \
    static void add_##ROWS##_##COUNT(const uint16_t *tables, const uint8_t *lanes,             \
                                     const int64_t *offset, int64_t width, uint16_t *sums) {   \
        const uint8_t *codes[COUNT];                                                           \
        AH_UNROLL                                                                              \
        for (int j = 0; j < COUNT; j++) codes[j] = lanes + offset[j];                          \
        for (int64_t l = 0; l < width; l++, sums += 2 * ROWS) {                                \
            __m256i both[ROWS / 16], high[ROWS / 16];                                          \
            AH_UNROLL                                                                          \
            for (int v = 0; v < ROWS / 16; v++) {                                              \
                both[v] = _mm256_loadu_si256((const __m256i *)(sums + 16 * v));                \
                high[v] = _mm256_loadu_si256((const __m256i *)(sums + ROWS + 16 * v));         \
            }                                                                                  \
            AH_UNROLL                                                                          \
            for (int j = 0; j < COUNT; j++)                                                    \
                AH_UNROLL                                                                      \
                for (int v = 0; v < ROWS / 16; v++) {                                          \
                    const __m256i found = _mm256_loadu_si256(                                  \
                        (const __m256i *)(tables + (256 * j + codes[j][l]) * ROWS + 16 * v));  \
                    both[v] = _mm256_add_epi16(both[v], found);                                \
                    high[v] = _mm256_add_epi16(high[v], _mm256_srli_epi16(found, 8));          \
                }                                                                              \
            AH_UNROLL                                                                          \
            for (int v = 0; v < ROWS / 16; v++) {                                              \
                _mm256_storeu_si256((__m256i *)(sums + 16 * v), both[v]);                      \
                _mm256_storeu_si256((__m256i *)(sums + ROWS + 16 * v), high[v]);               \
            }                                                                                  \
        }                                                                                      \
    }

/* What is left of a sum modulo 2^16 without 256 times the high bytes is that of the low ones. */
static inline void join(uint32_t *acc, int first, __m256i both, __m256i high) {
    const __m256i low = _mm256_sub_epi16(both, _mm256_slli_epi16(high, 8));
    const __m256i part[2] = {_mm256_unpacklo_epi16(low, high), _mm256_unpackhi_epi16(low, high)};
    __m256i sum[2];
    AH_UNROLL
    for (int i = 0; i < 2; i++)
        sum[i] = _mm256_add_epi32(_mm256_and_si256(part[i], _mm256_set1_epi32(0xffff)),
                                  _mm256_slli_epi32(_mm256_srli_epi32(part[i], 16), 8));
    AH_UNROLL
    for (int i = 0; i < 2; i++) {
        __m256i *to = (__m256i *)(acc + 8 * i);
        const __m256i more = _mm256_permute2x128_si256(sum[0], sum[1], i ? 0x31 : 0x20);
        _mm256_storeu_si256(to, first ? more : _mm256_add_epi32(_mm256_loadu_si256(to), more));
    }
}

#define MANY(ROWS)                                                                             \
    ADD(ROWS, 4)                                                                               \
    ADD(ROWS, 1)                                                                               \
    static void many_##ROWS(const uint8_t *lanes, const int64_t *offset, int64_t k,            \
                            const uint8_t *rows, int64_t stride, int64_t count,                \
                            const uint8_t *image, int64_t width, uint16_t *space,              \
                            uint32_t *acc) {                                                   \
        uint16_t *tables = space, *sums = space + TABLES * 256 * ROWS;                         \
        for (int64_t start = 0; start < k; start += AH_FLUSH) {                                \
            const int64_t stop = start + AH_FLUSH < k ? start + AH_FLUSH : k;                  \
            memset(sums, 0, (size_t)(2 * ROWS * width) * sizeof *sums);                        \
            for (int64_t i = start; i < stop;) {                                               \
                const int64_t n = stop - i < TABLES ? 1 : TABLES;                              \
                for (int64_t j = 0; j < n; j++)                                                \
                    for (int64_t r = 0; r < ROWS; r += 16)                                     \
                        spread(image, rows + i + j + (r < count ? r : count - 1) * stride,     \
                               stride, r < count ? count - r : 1, ROWS,                        \
                               tables + 256 * ROWS * j + r);                                   \
                (n == 1 ? add_##ROWS##_1 : add_##ROWS##_4)(tables, lanes, offset + i, width,   \
                                                           sums);                              \
                i += n;                                                                        \
            }                                                                                  \
            for (int64_t l = 0; l < width; l++)                                                \
                AH_UNROLL                                                                      \
                for (int v = 0; v < ROWS / 16; v++) {                                          \
                    const uint16_t *at = sums + 2 * ROWS * l + 16 * v;                         \
                    join(acc + AH_MANY * l + 16 * v, start == 0,                               \
                         _mm256_loadu_si256((const __m256i *)at),                              \
                         _mm256_loadu_si256((const __m256i *)(at + ROWS)));                    \
                }                                                                              \
        }                                                                                      \
    }

MANY(32)
MANY(16)

static void many(const uint8_t *lanes, const int64_t *offset, int64_t k, const uint8_t *rows,
                 int64_t stride, int64_t count, const uint8_t *image, int64_t width,
                 uint16_t *space, uint32_t *acc) {
    (count > 16 ? many_32 : many_16)(lanes, offset, k, rows, stride, count, image, width, space,
                                     acc);
}

static void recode(const uint8_t *in, int64_t n, const uint8_t *table, uint8_t *out) {
    for (int64_t i = 0; i < n; i++) out[i] = table[in[i]];
}

/* ROWS rows by 8 lanes; every 32-bit lane sums products of two 16-bit pairs, which is exact. */
#define PRODUCT(ROWS)                                                                          \
    static void product_##ROWS(const uint8_t *rows, int64_t stride, const int8_t *lanes,       \
                               const int64_t *offset, int64_t steps, int32_t *acc) {           \
        __m256i sum[ROWS][2];                                                                  \
        AH_UNROLL                                                                              \
        for (int r = 0; r < ROWS; r++) sum[r][0] = sum[r][1] = _mm256_setzero_si256();         \
        for (int64_t s = 0; s < steps; s++) {                                                  \
            const __m128i *right = (const __m128i *)(lanes + offset[s]);                       \
            const __m256i r0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(right));                   \
            const __m256i r1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(right + 1));               \
            AH_UNROLL                                                                          \
            for (int r = 0; r < ROWS; r++) {                                                   \
                int32_t four;                                                                  \
                memcpy(&four, rows + r * stride + 4 * s, 4);                                   \
                const __m256i left =                                                           \
                    _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(four)));       \
                sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(left, r0));          \
                sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(left, r1));          \
            }                                                                                  \
        }                                                                                      \
        AH_UNROLL                                                                              \
        for (int r = 0; r < ROWS; r++) {                                                       \
            /* lanes 0 1 4 5 | 2 3 6 7 after the horizontal sum of neighbours */               \
            const __m256i both =                                                               \
                _mm256_permute4x64_epi64(_mm256_hadd_epi32(sum[r][0], sum[r][1]), 0xd8);       \
            __m256i *to = (__m256i *)(acc + r * AH_WIDTH);                                     \
            _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), both));           \
        }                                                                                      \
    }

PRODUCT(4)
PRODUCT(1)

static void product(const uint8_t *rows, int64_t stride, int64_t count, const int8_t *lanes,
                    const int64_t *offset, int64_t steps, int64_t width, int32_t *acc) {
    for (; count >= 4; count -= 4, rows += 4 * stride, acc += 4 * AH_WIDTH)
        for (int64_t l = 0; l < width; l += 8)
            product_4(rows, stride, lanes + 4 * l, offset, steps, acc + l);
    for (; count; count--, rows += stride, acc += AH_WIDTH)
        for (int64_t l = 0; l < width; l += 8)
            product_1(rows, stride, lanes + 4 * l, offset, steps, acc + l);
}

const ah_kernels ah_avx2 = {"avx2", supported, NULL, lookup, many, recode, product, AH_PORTABLE};
