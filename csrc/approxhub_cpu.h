/* The C interface of ApproxHub's CPU engine: plain C, loaded with ctypes, no torch.
 *
 * A sum of products has two operands. Along the *lanes* lie neighbours that one instruction takes
 * together: output positions of a convolution, or columns of a matrix. Each *row* of the other
 * operand (an output channel, or a row of a matrix) meets them all. A convolution is described by
 * a geometry; a matrix product is one of a single tap on an image of one line.
 *
 * Codes are bytes: the low 8 bits of a value (two's complement), so that one table image of
 * 256 x 256 entries serves every width up to 8 bits. All sums are exact integers.
 *
 * The caller owns all memory. Buffers are aligned to 64 bytes; sizes come from ah_measure.
 */
#ifndef APPROXHUB_CPU_H
#define APPROXHUB_CPU_H

#include <stdint.h>

#define AH_ABI 6
#define AH_PUBLIC __attribute__((visibility("default")))

enum { AH_OK = 0, AH_NO_MEMORY = 1, AH_BAD_ARGUMENT = 2, AH_NOT_FINITE = 3 };

/* Where the lanes lie. Extents in the order depth, height, width; `step` in bytes from one image,
 * channel, depth, line and column of the source to the next. */
typedef struct {
    int64_t images, groups, channels; /* channels of one group */
    int64_t size[3], before[3], out[3], kernel[3], stride[3], dilation[3];
    int64_t step[5];
    int32_t pad; /* the byte that lies before and behind the source */
} ah_geometry;

/* What a geometry takes. */
typedef struct {
    int64_t taps;
    int64_t lookup_lanes, product_lanes; /* that are computed, those thrown away included */
    int64_t code_bytes;                  /* of ah_lay_codes */
    int64_t plane_bytes;                 /* of ah_lay_planes */
    int64_t sums;                        /* int64 values of ah_lay_planes */
    int64_t row_bytes;                   /* of ah_pack_rows, for one row */
} ah_sizes;

/* Version of this interface. */
AH_PUBLIC int32_t ah_abi(void);

/* Number of instruction sets built in, and the name of each; best last. */
AH_PUBLIC int32_t ah_isa_count(void);
AH_PUBLIC const char *ah_isa_name(int32_t isa);
/* 1 if this machine can run it. */
AH_PUBLIC int32_t ah_isa_supported(int32_t isa);
/* How many entries one of its permutations chooses from, on this machine; 0 without such. */
AH_PUBLIC int32_t ah_isa_reach(int32_t isa);

AH_PUBLIC int32_t ah_measure(const ah_geometry *g, int32_t planes, ah_sizes *sizes);

/* A number that differs for nearly all different bytes: finds what was packed before. Of every so
 * many pieces of 64 bytes it looks at one, and at what is behind the last whole one. */
AH_PUBLIC uint64_t ah_digest(const uint8_t *bytes, int64_t n, int64_t every);
/* Whether n bytes are the same. */
AH_PUBLIC int32_t ah_same(const uint8_t *a, const uint8_t *b, int64_t n, int32_t threads);

/* Lanes of a lookup: the source, padded, one channel after the other. */
AH_PUBLIC int32_t ah_lay_codes(int32_t isa, const ah_geometry *g, const uint8_t *source,
                               uint8_t *codes, int32_t threads);

/* out[row, lane] = sum_k image[rows[row, k]][lane code at k] + k * bias
 *
 * rows (groups * count, k): bytes, contiguous, k in the order channel, tap. image: for each of 256
 * codes of the rows the 256 low bytes, then the 256 high bytes, of the entries minus bias
 * (0 .. 65535). out: int64 if wide, else int32; out_step in elements from one image, row, depth,
 * line and column to the next. */
AH_PUBLIC int32_t ah_lookup(int32_t isa, const ah_geometry *g, const uint8_t *codes,
                            const uint8_t *rows, int64_t count, const uint8_t *image, int64_t bias,
                            void *out, int32_t wide, const int64_t out_step[5], int32_t threads);

/* The same of groups of one channel, laid and looked up plane by plane, so that no lanes of the
 * whole source lie in memory. */
AH_PUBLIC int32_t ah_lookup_depthwise(int32_t isa, const ah_geometry *g, const uint8_t *source,
                                      const uint8_t *rows, int64_t count, const uint8_t *image,
                                      int64_t bias, void *out, int32_t wide,
                                      const int64_t out_step[5], int32_t threads);

/* A sum of byte products, weight[j] * (left[j][row code] - low[j]) * (right[j][lane code] + high[j])
 * over planes j. Tables of 256 bytes a plane, left of unsigned ones, right of signed ones. */
typedef struct {
    int32_t planes;
    const uint8_t *left;
    const int8_t *right;
    const int32_t *low, *high;
    const int64_t *weight;
} ah_planes;

/* Lanes of a product: the source recoded by the right tables, padded, four channels together;
 * and the sums that `low` makes necessary (left alone if all of it is 0). */
AH_PUBLIC int32_t ah_lay_planes(int32_t isa, const ah_geometry *g, const ah_planes *p,
                                const uint8_t *source, int8_t *lanes, int64_t *sums,
                                int32_t threads);

/* Rows of a product: codes (count, channels, taps) with steps in bytes, recoded by the left
 * tables; and the term that `high` adds to each row. */
AH_PUBLIC int32_t ah_pack_rows(int32_t isa, const ah_geometry *g, const ah_planes *p,
                               const uint8_t *source, int64_t count, const int64_t step[3],
                               uint8_t *rows, int64_t *terms, int32_t threads);

/* out[row, lane] = sum over planes and k; rows has groups * count of them. */
AH_PUBLIC int32_t ah_product(int32_t isa, const ah_geometry *g, const ah_planes *p,
                             const int8_t *lanes, const int64_t *sums, const uint8_t *rows,
                             const int64_t *terms, int64_t count, void *out, int32_t wide,
                             const int64_t out_step[5], int32_t threads);

/* codes = clamp(round_half_even(x / scale) + zero, least, most) of x (outer, channels, inner), in
 * float32 throughout; where wanted, the real values of the codes and whether none was clamped.
 * AH_NOT_FINITE if a number is not finite: what was written is then worth nothing. */
AH_PUBLIC int32_t ah_quantize(int32_t isa, const float *x, int64_t outer, int64_t channels,
                              int64_t inner, const float *scale, const int32_t *zero,
                              float least, float most, uint8_t *codes, float *real, uint8_t *inside,
                              int32_t threads);

/* Sums over the middle of codes (outer, n, inner), signed or not. */
AH_PUBLIC int32_t ah_sum(int32_t isa, const uint8_t *codes, int64_t outer, int64_t n,
                         int64_t inner, int32_t is_signed, int64_t *sums, int32_t threads);

/* out = float(acc + term - zero * sum) * scale + bias of acc (outer, channels, inner), with sums
 * (outer, groups, inner); all integers, intermediate ones too, fit 32 bits. What is NULL adds
 * nothing: term, sums (with which zero is not read) and bias. */
AH_PUBLIC int32_t ah_dequantize(int32_t isa, const int32_t *acc, int64_t outer, int64_t channels,
                                int64_t inner, const int64_t *term, const int64_t *zero,
                                const int64_t *sums, int64_t groups, const float *scale,
                                const float *bias, float *out, int32_t threads);

#endif
