/* What one instruction set brings: three inner loops. The driver does all the rest. */
#ifndef APPROXHUB_KERNELS_H
#define APPROXHUB_KERNELS_H

#include <stdint.h>

enum {
    AH_LANES = 256,   /* operands that share one table row at a time */
    AH_COLUMNS = 32,  /* columns of a packed panel of the integer product */
    AH_ROWS = 12,     /* most rows that one call of `product` takes */
    AH_FLUSH = 256    /* 256 bytes of at most 255 fit an unsigned 16-bit lane */
};

typedef struct {
    const char *name;
    int32_t (*supported)(void);

    /* acc[l] = sum_k entry(image, w[k], x[k * AH_LANES + l]) for l < lanes (a multiple of 64);
     * entries are unsigned 16 bit, and k * 65535 fits 31 bits. */
    void (*lookup)(const uint8_t *x, const uint8_t *w, int64_t k, const uint8_t *image,
                   int64_t lanes, uint32_t *acc);

    /* out[i] = table[in[i]] */
    void (*recode)(const uint8_t *in, int64_t n, const uint8_t *table, uint8_t *out);

    /* acc[r * AH_COLUMNS + c] += sum_i a[r * stride + i] * b[(i / 4) * 4 * AH_COLUMNS + 4 * c + i % 4]
     * for r < rows <= AH_ROWS, all c; n is a multiple of 4; sums fit 32 bits. */
    void (*product)(const uint8_t *a, int64_t stride, int64_t rows, const int8_t *b, int64_t n,
                    int32_t *acc);
} ah_kernels;

extern const ah_kernels ah_scalar;
#ifdef AH_HAVE_AVX2
extern const ah_kernels ah_avx2;
#endif
#ifdef AH_HAVE_AVX512
extern const ah_kernels ah_avx512;
#endif

#endif
