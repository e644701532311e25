/* The way into the integers and out of them, against one operation at a time. */
#include "driver.h"

#include <math.h>
#include <string.h>

/* outer, channels, inner, groups */
static const int64_t shapes[][4] = {
    {1, 1, 1, 1},  {1, 1, 17, 1},  {3, 4, 7, 2},     {2, 3, 64, 3}, {2, 6, 33, 1},
    {5, 37, 1, 1}, {2, 600, 1, 1}, {1, 64, 1, 16},  {0, 3, 5, 1},  {1, 2, 16390, 1},
};

/* Not to be kept in more digits than a float has, nor fused with what follows. */
static float rounded(float value) {
    volatile float kept = value;
    return kept;
}

static int64_t integer(int64_t least, int64_t most) {
    return least + (int64_t)draw() % (most - least + 1);
}

static void check_quantize(int32_t isa, const int64_t shape[4], int32_t threads, float least,
                           int32_t with_real) {
    const int64_t channels = shape[1], inner = shape[2], n = shape[0] * channels * inner;
    const char *name = ah_isa_name(isa);
    float *x = take(n * 4, 4), *scale = take(channels * 4, 4);
    int32_t *zero = take(channels * 4, 4);
    uint8_t *codes = take(n, 1), *inside = with_real ? take(n, 1) : NULL;
    float *real = with_real ? take(n * 4, 4) : NULL;
    const float most = least + 255;
    for (int64_t c = 0; c < channels; c++) {
        scale[c] = c % 2 ? 0.25f : (float)integer(1, 1000) / 3000.0f;
        zero[c] = (int32_t)least + (int32_t)integer(0, 255);
    }
    for (int64_t i = 0; i < n; i++) /* many of them halfway between two codes */
        x[i] = i % 50 == 49 ? (i % 100 == 99 ? 3e38f : -3e38f)
                            : (float)integer(-600, 600) / 2 * scale[i / inner % channels];
    int32_t status = ah_quantize(isa, x, shape[0], channels, inner, scale, zero, least, most,
                                 codes, real, inside, threads);
    if (status != AH_OK) fail("%s: quantize, status %d", name, status);
    for (int64_t i = 0; i < n; i++) {
        const int64_t c = i / inner % channels;
        const float whole = rintf(rounded(x[i] / scale[c]));
        const float free = rounded(whole + (float)zero[c]);
        const float code = free < least ? least : free > most ? most : free;
        const float back = rounded(rounded(code - (float)zero[c]) * scale[c]);
        if (codes[i] != ((int32_t)code & 255) ||
            (with_real && (real[i] != back || inside[i] != (code == free))))
            fail("%s: quantize of %a by %a, element %lld of %lld, gives %d", name, x[i], scale[c],
                 (long long)i, (long long)n, codes[i]);
    }
    if (n) {
        x[n - 1] = integer(0, 1) ? NAN : -INFINITY;
        status = ah_quantize(isa, x, shape[0], channels, inner, scale, zero, least, most, codes,
                             real, inside, threads);
        if (status != AH_NOT_FINITE) fail("%s: quantize of %a is accepted", name, x[n - 1]);
    }
    give_back(x, 4), give_back(scale, 4), give_back(zero, 4), give_back(codes, 1);
    if (with_real) give_back(inside, 1), give_back(real, 4);
}

static int64_t *integers(int64_t n, int64_t least, int64_t most) {
    int64_t *values = take(n * 8, 8);
    for (int64_t i = 0; i < n; i++) values[i] = integer(least, most);
    return values;
}

static void check_sum(int32_t isa, int64_t outer, int64_t n, int64_t inner, int32_t threads) {
    uint8_t *codes = take(outer * n * inner, 1);
    int64_t *sums = take(outer * inner * 8, 8);
    for (int64_t i = 0; i < outer * n * inner; i++) codes[i] = i % 3 ? (uint8_t)draw() : 128;
    for (int32_t is_signed = 0; is_signed < 2; is_signed++) {
        const int32_t status = ah_sum(isa, codes, outer, n, inner, is_signed, sums, threads);
        if (status != AH_OK) fail("%s: sum, status %d", ah_isa_name(isa), status);
        for (int64_t i = 0; i < outer * inner; i++) {
            int64_t sum = 0;
            for (int64_t j = 0; j < n; j++) {
                const uint8_t code = codes[(i / inner * n + j) * inner + i % inner];
                sum += is_signed ? (int8_t)code : code;
            }
            if (sums[i] != sum)
                fail("%s: sum %lld of %lld x %lld x %lld: %lld instead of %lld", ah_isa_name(isa),
                     (long long)i, (long long)outer, (long long)n, (long long)inner,
                     (long long)sums[i], (long long)sum);
        }
    }
    give_back(codes, 1), give_back(sums, 8);
}

enum { SUMS = 1, TERM = 2, BIAS = 4, ALL = 7 };

static void check_dequantize(int32_t isa, const int64_t shape[4], int32_t threads,
                             int32_t with) {
    const int64_t outer = shape[0], channels = shape[1], inner = shape[2], groups = shape[3];
    const int64_t n = outer * channels * inner;
    int32_t *acc = take(n * 4, 4);
    int64_t *term = with & TERM ? integers(channels, -9999, 9999) : NULL;
    int64_t *sums = with & SUMS ? integers(outer * groups * inner, 0, 1000000) : NULL;
    int64_t *zero = sums ? integers(channels, -128, 255) : NULL;
    float *bias = with & BIAS ? take(channels * 4, 4) : NULL;
    float *scale = take(channels * 4, 4), *out = take(n * 4, 4);
    for (int64_t i = 0; i < n; i++) /* some of them nothing but a sign, once they are multiplied */
        acc[i] = i % 9 ? (int32_t)integer(-1000000000, 1000000000) : 0;
    for (int64_t c = 0; c < channels; c++) {
        scale[c] = (float)integer(-1000, 1000) / 70000.0f;
        if (bias) bias[c] = (float)integer(-1000, 1000) / 30.0f;
    }
    const int32_t status = ah_dequantize(isa, acc, outer, channels, inner, term, zero, sums,
                                         groups, scale, bias, out, threads);
    if (status != AH_OK) fail("%s: dequantize, status %d", ah_isa_name(isa), status);
    for (int64_t i = 0; i < n; i++) {
        const int64_t c = i / inner % channels, o = i / inner / channels;
        const int64_t at = (o * groups + c / (channels / groups)) * inner + i % inner;
        const int64_t sum = acc[i] + (term ? term[c] : 0) - (sums ? zero[c] * sums[at] : 0);
        const float product = rounded((float)(int32_t)sum * scale[c]);
        const float real = bias ? rounded(product + bias[c]) : product;
        if (out[i] != real || signbit(out[i]) != signbit(real))
            fail("%s: dequantize, element %lld of %lld: %a instead of %a", ah_isa_name(isa),
                 (long long)i, (long long)n, out[i], real);
    }
    give_back(acc, 4), give_back(scale, 4), give_back(out, 4);
    if (term) give_back(term, 8);
    if (bias) give_back(bias, 4);
    if (sums) give_back(sums, 8), give_back(zero, 8);
}

int64_t check_real(int32_t isa) {
    int64_t runs = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int32_t threads = 1; threads < 5; threads += 2)
            for (int32_t with = 0; with <= ALL; with++, runs += 2) {
                check_quantize(isa, shapes[i], threads, threads == 1 ? 0 : -128, with & 1);
                check_dequantize(isa, shapes[i], threads, with);
            }
    static const int64_t summed[][3] = {{3, 77, 1}, {2, 5, 19}, {4, 9, 2100}, {2, 0, 3}, {0, 4, 2},
                                        {1, 4194309, 1}, {1, 4194309, 2}};
    for (size_t i = 0; i < sizeof summed / sizeof *summed; i++)
        for (int32_t threads = 1; threads < 5; threads += 2, runs++)
            check_sum(isa, summed[i][0], summed[i][1], summed[i][2], threads);
    return runs;
}
