/* Quantising and dequantising: the way into the integers and out of them. */
#include "engine.h"

enum {
    PIECE = 16384, /* numbers that one thread takes at a time */
    CHANNELS = 256, /* channels at a time, where a number of each are neighbours */
    LINE = 1024,    /* sums of lines at a time */
    SUMMED = 1 << 22 /* codes that are summed in 32 bits: 255 * 2^22 < 2^31 */
};

int32_t ah_quantize(int32_t isa, const float *x, int64_t outer, int64_t channels, int64_t inner,
                    const float *scale, const int32_t *zero, float least, float most,
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
        good = kernels->quantize(x + at, ah_smaller(PIECE, inner - first), scale[c],
                                 (float)zero[c], least, most, codes + at, real ? real + at : NULL,
                                 inside ? inside + at : NULL) && good;
    }
    return good ? AH_OK : AH_NOT_FINITE;
}

int32_t ah_sum(int32_t isa, const uint8_t *codes, int64_t outer, int64_t n, int64_t inner,
               int32_t is_signed, int64_t *sums, int32_t threads) {
    const ah_kernels *kernels = ah_kernels_of(isa);
    if (kernels == NULL || threads < 1) return AH_BAD_ARGUMENT;
    /* A signed code with its sign flipped is that code and 128, as a byte without a sign. */
    const uint8_t flip = is_signed ? 128 : 0;
    const int64_t tiles = (inner + LINE - 1) / LINE;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t task = 0; task < outer * tiles; task++) {
        int32_t part[LINE];
        const int64_t o = task / tiles, first = task % tiles * LINE;
        const int64_t width = ah_smaller(LINE, inner - first);
        int64_t *to = sums + o * inner + first;
        for (int64_t i = 0; i < width; i++) to[i] = -n * flip;
        for (int64_t j = 0; j < n; j += SUMMED) {
            const uint8_t *from = codes + (o * n + j) * inner + first;
            const int64_t some = ah_smaller(SUMMED, n - j);
            if (inner == 1) {
                to[0] += kernels->sum_run(from, some, flip);
                continue;
            }
            memset(part, 0, (size_t)width * sizeof *part);
            kernels->sum_lines(from, inner, some, width, flip, part);
            for (int64_t i = 0; i < width; i++) to[i] += part[i];
        }
    }
    return AH_OK;
}

int32_t ah_dequantize(int32_t isa, const int32_t *acc, int64_t outer, int64_t channels,
                      int64_t inner, const int64_t *term, const int64_t *zero,
                      const int64_t *sums, int64_t groups, const float *scale, const float *bias,
                      float *out, int32_t threads) {
    const ah_kernels *kernels = ah_kernels_of(isa);
    if (kernels == NULL || threads < 1 || groups < 1) return AH_BAD_ARGUMENT;
    if (inner == 1 && groups == 1) {
        /* -0.0 changes nothing, not even the sign of a zero. */
        const int64_t nothing[CHANNELS] = {0};
        float none[CHANNELS];
        for (int i = 0; i < CHANNELS; i++) none[i] = -0.0f;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
        for (int64_t row = 0; row < outer; row++)
            for (int64_t c = 0; c < channels; c += CHANNELS)
                kernels->dequantize_row(
                    acc + row * channels + c, ah_smaller(CHANNELS, channels - c),
                    term ? term + c : nothing, sums ? zero + c : nothing,
                    sums ? (int32_t)sums[row] : 0, scale + c, bias ? bias + c : none,
                    out + row * channels + c);
        return AH_OK;
    }
    const int64_t pieces = (inner + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t task = 0; task < outer * channels * pieces; task++) {
        const int64_t row = task / pieces, c = row % channels, first = task % pieces * PIECE;
        const int64_t at = row * inner + first;
        const int64_t sum = (row / channels * groups + c * groups / channels) * inner + first;
        kernels->dequantize_channel(acc + at, ah_smaller(PIECE, inner - first),
                                    term ? (int32_t)term[c] : 0, sums ? (int32_t)zero[c] : 0,
                                    sums ? sums + sum : NULL, scale[c], bias ? bias[c] : -0.0f,
                                    out + at);
    }
    return AH_OK;
}
