/* Loops in plain C that every instruction set compiles for itself. Real numbers are treated as the
 * Python definitions do it, operation by operation: one rounding each, none fused
 * (-ffp-contract=off). */
#ifndef APPROXHUB_PORTABLE_H
#define APPROXHUB_PORTABLE_H

#include <math.h>
#include <stdint.h>

#define AH_PORTABLE quantize, sum_run, sum_lines, dequantize_channel, dequantize_row, put

/* codes[i] = clamp(round(x[i] / scale) + zero); real (code - zero) * scale and whether it was not
 * clamped, where wanted. Returns 0 if a number is not finite. */
static int32_t quantize(const float *restrict x, int64_t n, float scale, float zero, float least,
                        float most, uint8_t *restrict codes, float *restrict real,
                        uint8_t *restrict inside) {
    int32_t good = 1;
    if (real != 0) {
        for (int64_t i = 0; i < n; i++) {
            const float free = rintf(x[i] / scale) + zero;
            float code = free >= least ? free : least; /* least for NaN, too */
            code = code > most ? most : code;
            good &= fabsf(x[i]) <= 3.402823466e+38f;
            real[i] = (code - zero) * scale;
            inside[i] = code == free;
            codes[i] = (uint8_t)(int32_t)code;
        }
        return good;
    }
    for (int64_t i = 0; i < n; i++) {
        const float free = rintf(x[i] / scale) + zero;
        float code = free >= least ? free : least; /* least for NaN, too */
        code = code > most ? most : code;
        good &= fabsf(x[i]) <= 3.402823466e+38f;
        codes[i] = (uint8_t)(int32_t)code;
    }
    return good;
}

/* Sum of n bytes, of each of which some bits are flipped. */
static int32_t sum_run(const uint8_t *codes, int64_t n, uint8_t flip) {
    int32_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += codes[i] ^ flip;
    return sum;
}

/* Likewise of n lines; added to `sums`. */
static void sum_lines(const uint8_t *restrict codes, int64_t step, int64_t n, int64_t width,
                      uint8_t flip, int32_t *restrict sums) {
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < width; i++) sums[i] += codes[j * step + i] ^ flip;
}

/* out = (float)(acc + term - zero * sum) * scale + bias, all integers within 32 bits; either all of
 * one channel and sums that change, or of one sum and channels that change. */
static void dequantize_channel(const int32_t *restrict acc, int64_t n, int32_t term, int32_t zero,
                               const int64_t *restrict sums, float scale, float bias,
                               float *restrict out) {
    if (sums == 0)
        for (int64_t i = 0; i < n; i++) out[i] = (float)(acc[i] + term) * scale + bias;
    else
        for (int64_t i = 0; i < n; i++)
            out[i] = (float)(acc[i] + term - zero * (int32_t)sums[i]) * scale + bias;
}

static void dequantize_row(const int32_t *restrict acc, int64_t n, const int64_t *restrict term,
                           const int64_t *restrict zero, int32_t sum, const float *restrict scale,
                           const float *restrict bias, float *restrict out) {
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)(acc[i] + (int32_t)term[i] - (int32_t)zero[i] * sum) * scale[i] + bias[i];
}

#ifndef AH_OWN_PUT
/* out[r * step + i] = acc[r * pitch + i] + row_term[r] + lane_term[i], modulo 2^32. */
static void put(int32_t *out, int64_t step, int64_t rows, const int32_t *acc, int64_t pitch,
                int64_t n, const int64_t *row_term, const int32_t *lane_term) {
    for (int64_t r = 0; r < rows; r++) {
        int32_t *restrict to = out + r * step;
        const int32_t *restrict from = acc + r * pitch;
        const uint32_t term = (uint32_t)row_term[r];
        if (lane_term == 0)
            for (int64_t i = 0; i < n; i++) to[i] = (int32_t)((uint32_t)from[i] + term);
        else
            for (int64_t i = 0; i < n; i++)
                to[i] = (int32_t)((uint32_t)from[i] + term + (uint32_t)lane_term[i]);
    }
}
#endif

#endif
