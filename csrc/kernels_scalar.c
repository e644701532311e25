/* The portable inner loops: plain C, and the oracle of the others. */
#include "kernels.h"
#include "portable.h"

#include <string.h>

static int32_t supported(void) { return 1; }

static void lookup(const uint8_t *lanes, const int64_t *offset, int64_t k, const uint8_t *rows,
                   int64_t stride, int64_t count, const uint8_t *image, int64_t width,
                   uint32_t *acc) {
    for (int64_t r = 0; r < count; r++, rows += stride, acc += AH_LANES) {
        memset(acc, 0, (size_t)width * sizeof *acc);
        for (int64_t i = 0; i < k; i++) {
            const uint8_t *low = image + (int64_t)rows[i] * 512, *high = low + 256;
            const uint8_t *codes = lanes + offset[i];
            for (int64_t l = 0; l < width; l++)
                acc[l] += (uint32_t)low[codes[l]] + ((uint32_t)high[codes[l]] << 8);
        }
    }
}

static void recode(const uint8_t *in, int64_t n, const uint8_t *table, uint8_t *out) {
    for (int64_t i = 0; i < n; i++) out[i] = table[in[i]];
}

static void product(const uint8_t *rows, int64_t stride, int64_t count, const int8_t *lanes,
                    const int64_t *offset, int64_t steps, int64_t width, int32_t *acc) {
    for (int64_t r = 0; r < count; r++, rows += stride, acc += AH_WIDTH)
        for (int64_t s = 0; s < steps; s++) {
            const uint8_t *left = rows + 4 * s;
            const int8_t *right = lanes + offset[s];
            for (int64_t l = 0; l < width; l++)
                acc[l] += left[0] * right[4 * l] + left[1] * right[4 * l + 1] +
                          left[2] * right[4 * l + 2] + left[3] * right[4 * l + 3];
        }
}

const ah_kernels ah_scalar = {"scalar", supported, NULL, lookup, NULL, recode, product, AH_PORTABLE};
