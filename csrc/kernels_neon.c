/* NEON: a byte plane of a table row is sixteen registers, products are of widened 16 bits. */
#include "kernels.h"
#include "portable.h"

#include <arm_neon.h>
#include <string.h>

static int32_t supported(void) { return 1; } /* every 64-bit Arm has it */

/* 64 bytes out of 256, a quarter of the table in registers at a time: TBL gives 0 for an index
 * beyond its 64 entries, TBX leaves what was there, and an index below them wraps to beyond. */
static inline void pick(const uint8_t *codes, const uint8_t *table, uint8x16_t found[4]) {
    const uint8x16_t quarter = vdupq_n_u8(64);
    uint8x16_t index[4];
    AH_UNROLL
    for (int v = 0; v < 4; v++) index[v] = vld1q_u8(codes + 16 * v);
    AH_UNROLL
    for (int q = 0; q < 4; q++) {
        const uint8x16x4_t entries = vld1q_u8_x4(table + 64 * q);
        AH_UNROLL
        for (int v = 0; v < 4; v++) {
            found[v] = q ? vqtbx4q_u8(found[v], entries, index[v]) : vqtbl4q_u8(entries, index[v]);
            index[v] = vsubq_u8(index[v], quarter);
        }
    }
}

/* Adds eight 16-bit sums, shifted, to 32-bit ones. */
static inline void widen(uint32_t *acc, uint16x8_t sum, int32x4_t shift) {
    const uint32x4_t low = vshlq_u32(vmovl_u16(vget_low_u16(sum)), shift);
    const uint32x4_t high = vshlq_u32(vmovl_high_u16(sum), shift);
    vst1q_u32(acc, vaddq_u32(vld1q_u32(acc), low));
    vst1q_u32(acc + 4, vaddq_u32(vld1q_u32(acc + 4), high));
}

/* 64 lanes of one row: all low bytes, then all high bytes. */
static void lookup_64(const uint8_t *lanes, const int64_t *offset, int64_t k, const uint8_t *row,
                      const uint8_t *image, uint32_t *acc) {
    memset(acc, 0, 64 * sizeof *acc);
    for (int plane = 0; plane < 2; plane++)
        for (int64_t start = 0; start < k; start += AH_FLUSH) {
            const int64_t stop = start + AH_FLUSH < k ? start + AH_FLUSH : k;
            uint16x8_t sum[4][2]; /* of lanes 0-7 and 8-15 of 16 */
            AH_UNROLL
            for (int v = 0; v < 4; v++) sum[v][0] = sum[v][1] = vdupq_n_u16(0);
            for (int64_t i = start; i < stop; i++) {
                uint8x16_t found[4];
                pick(lanes + offset[i], image + (int64_t)row[i] * 512 + 256 * plane, found);
                AH_UNROLL
                for (int v = 0; v < 4; v++) {
                    sum[v][0] = vaddw_u8(sum[v][0], vget_low_u8(found[v]));
                    sum[v][1] = vaddw_high_u8(sum[v][1], found[v]);
                }
            }
            AH_UNROLL
            for (int v = 0; v < 4; v++)
                AH_UNROLL
                for (int half = 0; half < 2; half++)
                    widen(acc + 16 * v + 8 * half, sum[v][half], vdupq_n_s32(8 * plane));
        }
}

static void lookup(const uint8_t *lanes, const int64_t *offset, int64_t k, const uint8_t *rows,
                   int64_t stride, int64_t count, const uint8_t *image, int64_t width,
                   uint32_t *acc) {
    for (int64_t r = 0; r < count; r++, rows += stride, acc += AH_LANES)
        for (int64_t l = 0; l < width; l += 64)
            lookup_64(lanes + l, offset, k, rows, image, acc + l);
}

static void recode(const uint8_t *in, int64_t n, const uint8_t *table, uint8_t *out) {
    int64_t i = 0;
    for (; n - i >= 64; i += 64) {
        uint8x16_t found[4];
        pick(in + i, table, found);
        AH_UNROLL
        for (int v = 0; v < 4; v++) vst1q_u8(out + i + 16 * v, found[v]);
    }
    for (; i < n; i++) out[i] = table[in[i]];
}

/* Channel `i` of the four that make a lane, of 16 lanes and all rows. */
#define CHANNEL(i, ROWS)                                                                       \
    do {                                                                                       \
        const int16x8_t low = vmovl_s8(vget_low_s8(right.val[i]));                             \
        const int16x8_t high = vmovl_high_s8(right.val[i]);                                    \
        AH_UNROLL                                                                              \
        for (int r = 0; r < ROWS; r++) {                                                       \
            sum[r][0] = vmlal_lane_s16(sum[r][0], vget_low_s16(low), left[r], i);              \
            sum[r][1] = vmlal_high_lane_s16(sum[r][1], low, left[r], i);                       \
            sum[r][2] = vmlal_lane_s16(sum[r][2], vget_low_s16(high), left[r], i);             \
            sum[r][3] = vmlal_high_lane_s16(sum[r][3], high, left[r], i);                      \
        }                                                                                      \
    } while (0)

/* ROWS rows by 16 lanes in registers. */
#define PRODUCT(ROWS)                                                                          \
    static void product_##ROWS(const uint8_t *rows, int64_t stride, const int8_t *lanes,       \
                               const int64_t *offset, int64_t steps, int32_t *acc) {           \
        int32x4_t sum[ROWS][4];                                                                \
        AH_UNROLL                                                                              \
        for (int r = 0; r < ROWS; r++)                                                         \
            AH_UNROLL                                                                          \
            for (int v = 0; v < 4; v++) sum[r][v] = vld1q_s32(acc + r * AH_WIDTH + 4 * v);     \
        for (int64_t s = 0; s < steps; s++) {                                                  \
            const int8x16x4_t right = vld4q_s8(lanes + offset[s]); /* channels apart */        \
            int16x4_t left[ROWS];                                                              \
            AH_UNROLL                                                                          \
            for (int r = 0; r < ROWS; r++) {                                                   \
                uint32_t four;                                                                 \
                memcpy(&four, rows + r * stride + 4 * s, 4);                                   \
                left[r] = vreinterpret_s16_u16(                                                \
                    vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)))));            \
            }                                                                                  \
            CHANNEL(0, ROWS);                                                                  \
            CHANNEL(1, ROWS);                                                                  \
            CHANNEL(2, ROWS);                                                                  \
            CHANNEL(3, ROWS);                                                                  \
        }                                                                                      \
        AH_UNROLL                                                                              \
        for (int r = 0; r < ROWS; r++)                                                         \
            AH_UNROLL                                                                          \
            for (int v = 0; v < 4; v++) vst1q_s32(acc + r * AH_WIDTH + 4 * v, sum[r][v]);      \
    }

PRODUCT(4)
PRODUCT(1)

static void product(const uint8_t *rows, int64_t stride, int64_t count, const int8_t *lanes,
                    const int64_t *offset, int64_t steps, int64_t width, int32_t *acc) {
    for (; count >= 4; count -= 4, rows += 4 * stride, acc += 4 * AH_WIDTH)
        for (int64_t l = 0; l < width; l += 16)
            product_4(rows, stride, lanes + 4 * l, offset, steps, acc + l);
    for (; count; count--, rows += stride, acc += AH_WIDTH)
        for (int64_t l = 0; l < width; l += 16)
            product_1(rows, stride, lanes + 4 * l, offset, steps, acc + l);
}

const ah_kernels ah_neon = {"neon", supported, NULL, lookup, NULL, recode, product, AH_PORTABLE};
