/* Quantising and dequantising: the way into the integers and out of them. */
#include "engine.h"

enum { PIECE = 16384 }; /* numbers that one thread takes at a time */

int32_t ah_quantize(int32_t isa, const float *x, int64_t outer, int64_t channels, int64_t inner,
                    const float *scale, const float *zero, float least, float most,
                    uint8_t *codes, float *real, uint8_t *inside, int32_t threads) {
    const ah_kernels *kernels = ah_kernels_of(isa);
    if (kernels == NULL || threads < 1 || (real == NULL) != (inside == NULL))
        return AH_BAD_ARGUMENT;
    const int64_t pieces = (inner + PIECE - 1) / PIECE;
    int32_t good = 1;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(&& : good) if (threads > 1)
    for (int64_t task = 0; task < outer * channels * pieces; task++) {
        const int64_t row = task / pieces, c = row % channels, first = task % pieces * PIECE;
        const int64_t at = row * inner + first;
        good = kernels->quantize(x + at, ah_smaller(PIECE, inner - first), scale[c], zero[c],
                                 least, most, codes + at, real ? real + at : NULL,
                                 inside ? inside + at : NULL) && good;
    }
    return good ? AH_OK : AH_NOT_FINITE;
}

int32_t ah_dequantize(int32_t isa, const int32_t *acc, int64_t outer, int64_t channels,
                      int64_t inner, const int32_t *term, const int32_t *zero,
                      const int32_t *sums, int64_t groups, const float *scale, const float *bias,
                      float *out, int32_t threads) {
    const ah_kernels *kernels = ah_kernels_of(isa);
    if (kernels == NULL || threads < 1 || groups < 1) return AH_BAD_ARGUMENT;
    if (inner == 1 && groups == 1) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
        for (int64_t row = 0; row < outer; row++)
            kernels->dequantize_row(acc + row * channels, channels, term, zero,
                                    sums ? sums[row] : 0, scale, bias, out + row * channels);
        return AH_OK;
    }
    const int64_t pieces = (inner + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t task = 0; task < outer * channels * pieces; task++) {
        const int64_t row = task / pieces, c = row % channels, first = task % pieces * PIECE;
        const int64_t at = row * inner + first;
        const int64_t sum = (row / channels * groups + c * groups / channels) * inner + first;
        kernels->dequantize_channel(acc + at, ah_smaller(PIECE, inner - first), term[c], zero[c],
                                    sums ? sums + sum : NULL, scale[c], bias[c], out + at);
    }
    return AH_OK;
}
