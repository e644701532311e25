/* Sums of table entries: rows pick a row of the table, lanes an entry of it. */
#include "engine.h"

enum {
    LOOKUP_K = 32768, /* 32768 * 65535 < 2^31 */
    LOOKUP_ROWS = 16  /* rows that share the codes in the cache */
};

int32_t ah_lookup(int32_t isa, const ah_geometry *g, const uint8_t *codes, const uint8_t *rows,
                  int64_t count, const uint8_t *image, int64_t bias, void *out, int32_t wide,
                  const int64_t out_step[5], int32_t threads) {
    ah_layout layout;
    const ah_kernels *kernels = ah_kernels_of(isa);
    if (kernels == NULL || count < 1 || threads < 1) return AH_BAD_ARGUMENT;
    const int32_t status = ah_layout_of(g, 64, AH_LANES, &layout);
    if (status != AH_OK) return status;
    const int64_t k = g->channels * layout.taps;
    int64_t *offset = malloc((size_t)k * sizeof *offset);
    if (offset == NULL) {
        ah_layout_free(&layout);
        return AH_NO_MEMORY;
    }
    for (int64_t i = 0; i < k; i++)
        offset[i] = (i / layout.taps * layout.phases + layout.tap_phase[i % layout.taps]) *
                        layout.code_pitch + layout.tap_shift[i % layout.taps];
    const ah_sink sink = {kernels, g, &layout, out, wide, out_step};
    const int64_t tiles = (layout.length + AH_LANES - 1) / AH_LANES;
    const int64_t blocks = (count + LOOKUP_ROWS - 1) / LOOKUP_ROWS;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t task = 0; task < g->groups * layout.intervals * tiles * blocks; task++) {
        uint32_t acc[LOOKUP_ROWS * AH_LANES];
        int64_t term[LOOKUP_ROWS];
        const int64_t r0 = task % blocks * LOOKUP_ROWS, tile = task / blocks % tiles;
        const int64_t interval = task / blocks / tiles % layout.intervals;
        const int64_t group = task / blocks / tiles / layout.intervals;
        const int64_t live = ah_smaller(LOOKUP_ROWS, count - r0), row = group * count + r0;
        const int64_t first = interval * layout.pitch + tile * AH_LANES;
        const int64_t width = ah_smaller(AH_LANES, layout.length - tile * AH_LANES);
        const uint8_t *lanes =
            codes + group * g->channels * layout.phases * layout.code_pitch + first;
        for (int64_t k0 = 0; k0 < k; k0 += LOOKUP_K) {
            const int64_t part = ah_smaller(LOOKUP_K, k - k0);
            kernels->lookup(lanes, offset + k0, part, rows + row * k + k0, k, live, image,
                            ah_round_up(width, 64), acc);
            for (int64_t r = 0; r < live; r++) term[r] = k * bias;
            ah_emit(&sink, first, width, row, live, (const int32_t *)acc, AH_LANES, 1, term, NULL,
                    k0 == 0);
        }
    }
    free(offset);
    ah_layout_free(&layout);
    return AH_OK;
}
