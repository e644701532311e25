/* What one instruction set brings: its inner loops. The drivers do all the rest. */
#ifndef APPROXHUB_KERNELS_H
#define APPROXHUB_KERNELS_H

#include <stdint.h>

enum {
    AH_LANES = 256,      /* most lanes that one call of `lookup` takes */
    AH_MANY = 32,        /* most rows that one call of `many` takes */
    AH_MANY_LANES = 1024,
    AH_MANY_SPACE = 4 * 256 * AH_MANY + 2 * AH_MANY * AH_MANY_LANES, /* of 16 bits */
    AH_WIDTH = 64,       /* most lanes that one call of `product` takes */
    AH_FLUSH = 256       /* 256 bytes of at most 255 fit an unsigned 16-bit lane */
};

/* Before a short loop over registers: unrolled early, its arrays stay out of memory. */
#if defined(__GNUC__) && !defined(__clang__)
#define AH_UNROLL _Pragma("GCC unroll 16")
#else
#define AH_UNROLL _Pragma("unroll")
#endif

typedef struct {
    const char *name;
    int32_t (*supported)(void);
    int32_t (*reach)(void); /* see ah_isa_reach; NULL for 0 */

    /* acc[r * AH_LANES + l] = sum_k entry(image, rows[r * stride + k], lanes[offset[k] + l])
     * for r < count, l < width (a multiple of 64); entries are unsigned 16 bit, and k * 65535
     * fits 31 bits. */
    void (*lookup)(const uint8_t *lanes, const int64_t *offset, int64_t k, const uint8_t *rows,
                   int64_t stride, int64_t count, const uint8_t *image, int64_t width,
                   uint32_t *acc);

    /* acc[l * AH_MANY + r], likewise, for r < count <= AH_MANY, l < width <= AH_MANY_LANES; more
     * rows may be written. Quicker where both are many; NULL if there is no such loop. */
    void (*many)(const uint8_t *lanes, const int64_t *offset, int64_t k, const uint8_t *rows,
                 int64_t stride, int64_t count, const uint8_t *image, int64_t width,
                 uint16_t *space, uint32_t *acc);

    /* out[i] = table[in[i]]; in place if out is in */
    void (*recode)(const uint8_t *in, int64_t n, const uint8_t *table, uint8_t *out);

    /* acc[r * AH_WIDTH + l] += sum_s sum_{i < 4} rows[r * stride + 4 * s + i]
     *                                          * lanes[offset[s] + 4 * l + i]
     * for r < count, l < width (a multiple of 16), s < steps; sums fit 32 bits. */
    void (*product)(const uint8_t *rows, int64_t stride, int64_t count, const int8_t *lanes,
                    const int64_t *offset, int64_t steps, int64_t width, int32_t *acc);

    /* As in portable.h, compiled for this instruction set. */
    int32_t (*quantize)(const float *x, int64_t n, float scale, float zero, float least,
                        float most, uint8_t *codes, float *real, uint8_t *inside);
    int32_t (*sum_run)(const uint8_t *codes, int64_t n, uint8_t flip);
    void (*sum_lines)(const uint8_t *codes, int64_t step, int64_t n, int64_t width, uint8_t flip,
                      int32_t *sums);
    void (*dequantize_channel)(const int32_t *acc, int64_t n, int32_t term, int32_t zero,
                               const int64_t *sums, float scale, float bias, float *out);
    void (*dequantize_row)(const int32_t *acc, int64_t n, const int64_t *term,
                           const int64_t *zero, int32_t sum, const float *scale,
                           const float *bias, float *out);
    void (*put)(int32_t *out, int64_t step, int64_t rows, const int32_t *acc, int64_t pitch,
                int64_t n, const int64_t *row_term, const int32_t *lane_term);
} ah_kernels;

extern const ah_kernels ah_scalar;
#ifdef AH_HAVE_AVX2
extern const ah_kernels ah_avx2;
#endif
#ifdef AH_HAVE_AVX512
extern const ah_kernels ah_avx512;
#endif
#ifdef AH_HAVE_NEON
extern const ah_kernels ah_neon;
#endif

/* The kernels of an instruction set that this machine has, else NULL. */
const ah_kernels *ah_kernels_of(int32_t isa);

#endif
