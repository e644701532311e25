/* The portable inner loops: plain C, and the oracle of the others. */
#include "kernels.h"

#include <string.h>

static int32_t supported(void) { return 1; }

static void lookup(const uint8_t *x, const uint8_t *w, int64_t k, const uint8_t *image,
                   int64_t lanes, uint32_t *acc) {
    memset(acc, 0, (size_t)lanes * sizeof *acc);
    for (int64_t i = 0; i < k; i++) {
        const uint8_t *low = image + (int64_t)w[i] * 512, *high = low + 256;
        const uint8_t *codes = x + i * AH_LANES;
        for (int64_t l = 0; l < lanes; l++)
            acc[l] += (uint32_t)low[codes[l]] + ((uint32_t)high[codes[l]] << 8);
    }
}

static void recode(const uint8_t *in, int64_t n, const uint8_t *table, uint8_t *out) {
    for (int64_t i = 0; i < n; i++) out[i] = table[in[i]];
}

static void product(const uint8_t *a, int64_t stride, int64_t rows, const int8_t *b, int64_t n,
                    int32_t *acc) {
    for (int64_t i = 0; i < n; i += 4) {
        const int8_t *panel = b + i * AH_COLUMNS;
        for (int64_t r = 0; r < rows; r++) {
            const uint8_t *left = a + r * stride + i;
            int32_t *to = acc + r * AH_COLUMNS;
            for (int64_t c = 0; c < AH_COLUMNS; c++)
                to[c] += left[0] * panel[4 * c] + left[1] * panel[4 * c + 1] +
                         left[2] * panel[4 * c + 2] + left[3] * panel[4 * c + 3];
        }
    }
}

const ah_kernels ah_scalar = {"scalar", supported, lookup, recode, product};
