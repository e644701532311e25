/* The C interface of ApproxHub's CPU engine: plain C, loaded with ctypes, no torch.
 *
 * Operands are bytes: the low 8 bits of a value (two's complement), so that one table image of
 * 256 x 256 entries serves every width up to 8 bits. All sums are exact integers.
 */
#ifndef APPROXHUB_CPU_H
#define APPROXHUB_CPU_H

#include <stdint.h>

#define AH_ABI 1
#define AH_PUBLIC __attribute__((visibility("default")))

enum { AH_OK = 0, AH_NO_MEMORY = 1, AH_BAD_ARGUMENT = 2 };

/* Version of this interface. */
AH_PUBLIC int32_t ah_abi(void);

/* Number of instruction sets built in, and the name of each; best last. */
AH_PUBLIC int32_t ah_isa_count(void);
AH_PUBLIC const char *ah_isa_name(int32_t isa);
/* 1 if this machine can run it. */
AH_PUBLIC int32_t ah_isa_supported(int32_t isa);

/* out[r * row_stride + c * column_stride] = sum_k image[w[c, k]][x[r, k]] + k * bias
 *
 * x (rows, k), w (columns, k): bytes, contiguous. image: for each of 256 codes of w the 256 low
 * bytes, then the 256 high bytes, of the entries minus bias (0 .. 65535).
 * out: int64 if wide, else int32, strides in elements. */
AH_PUBLIC int32_t ah_lookup(int32_t isa, const uint8_t *x, int64_t rows, const uint8_t *w, int64_t columns,
                  int64_t k, const uint8_t *image, int64_t bias, void *out, int32_t wide,
                  int64_t row_stride, int64_t column_stride, int32_t threads);

/* out[r, c] = sum_j weight[j] * sum_k (left[j][x[r, k]] - left_offset[j])
 *                                   * (right[j][w[k, c]] + right_offset[j])
 *
 * x (rows, k), w (k, columns): bytes, contiguous. left: unsigned bytes, right: signed bytes,
 * (planes, 256) each. out (rows, columns): int64 if wide, else int32. */
AH_PUBLIC int32_t ah_factored(int32_t isa, const uint8_t *x, int64_t rows, const uint8_t *w, int64_t columns,
                    int64_t k, int32_t planes, const uint8_t *left, const int32_t *left_offset,
                    const int8_t *right, const int32_t *right_offset, const int64_t *weight,
                    void *out, int32_t wide, int32_t threads);

#endif
