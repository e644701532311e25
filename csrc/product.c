/* Sums of byte products of recoded operands, with the exact bookkeeping around them. */
#include "engine.h"

enum {
    PRODUCT_ROWS = 96,    /* most rows that share the lanes in the cache */
    PRODUCT_STEPS = 96,   /* of four channels at a time: 24 kB of lanes */
    PRODUCT_FLUSH = 16384 /* steps: 16384 * 4 * 255 * 128 < 2^31 */
};

int32_t ah_pack_rows(int32_t isa, const ah_geometry *g, const ah_planes *p, const uint8_t *source,
                     int64_t count, const int64_t step[3], uint8_t *rows, int64_t *terms,
                     int32_t threads) {
    const ah_kernels *kernels = ah_kernels_of(isa);
    if (kernels == NULL || count < 1 || threads < 1 || p->planes < 1) return AH_BAD_ARGUMENT;
    const int64_t taps = g->kernel[0] * g->kernel[1] * g->kernel[2], channels = g->channels;
    const int64_t plane = ah_round_up(channels, 4) * taps;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t r = 0; r < count; r++) {
        /* Codes go to the place of the last plane, and are recoded from there: it comes last. */
        uint8_t *row = rows + r * p->planes * plane, *codes = row + (p->planes - 1) * plane;
        const uint8_t *from = source + r * step[0];
        if (taps == 1 && step[1] == 1) {
            memcpy(codes, from, (size_t)channels);
        } else {
            for (int64_t c = 0; c < channels; c++)
                for (int64_t t = 0; t < taps; t++)
                    codes[(c / 4 * taps + t) * 4 + c % 4] = from[c * step[1] + t * step[2]];
        }
        int64_t term = 0;
        for (int32_t j = 0; j < p->planes; j++) {
            uint8_t *to = row + j * plane;
            kernels->recode(codes, plane, p->left + 256 * j, to);
            /* What has no channel is 0, and adds nothing whatever meets it. */
            for (int64_t i = channels % 4; i != 0 && i < 4; i++)
                for (int64_t t = 0; t < taps; t++) to[(channels / 4 * taps + t) * 4 + i] = 0;
            if (p->high[j] == 0) continue;
            int64_t sum = 0;
            for (int64_t i = 0; i < plane; i++) sum += to[i];
            term += p->weight[j] * p->high[j] * (sum - channels * taps * p->low[j]);
        }
        terms[r] = term;
    }
    return AH_OK;
}

int32_t ah_product(int32_t isa, const ah_geometry *g, const ah_planes *p, const int8_t *lanes,
                   const int64_t *sums, const uint8_t *rows, const int64_t *terms, int64_t count,
                   void *out, int32_t wide, const int64_t out_step[5], int32_t threads) {
    ah_layout layout;
    const ah_kernels *kernels = ah_kernels_of(isa);
    if (kernels == NULL || count < 1 || threads < 1 || p->planes < 1) return AH_BAD_ARGUMENT;
    const int32_t status = ah_layout_of(g, 16, AH_WIDTH, AH_WIDTH / 8, &layout);
    if (status != AH_OK) return status;
    const int64_t steps = p->planes * layout.quads * layout.taps;
    int64_t *offset = malloc((size_t)steps * sizeof *offset);
    if (offset == NULL) {
        ah_layout_free(&layout);
        return AH_NO_MEMORY;
    }
    /* Taps of the same channels come one after the other: they share what is in the cache. */
    for (int64_t s = 0; s < steps; s++)
        offset[s] = (s / layout.taps * layout.phases + layout.tap_phase[s % layout.taps]) *
                        layout.plane_pitch + 4 * layout.tap_shift[s % layout.taps];
    const ah_sink sink = {kernels, g, &layout, out, wide, out_step};
    const int64_t tiles = (layout.length + AH_WIDTH - 1) / AH_WIDTH;
    const int64_t blocks = (count + PRODUCT_ROWS - 1) / PRODUCT_ROWS;
    const int64_t block = (count + blocks - 1) / blocks, row_bytes = 4 * steps;
    const int64_t group_bytes = p->planes * layout.quads * layout.phases * layout.plane_pitch;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t task = 0; task < g->groups * layout.intervals * tiles * blocks; task++) {
        int32_t acc[PRODUCT_ROWS * AH_WIDTH] __attribute__((aligned(64)));
        int64_t lane_term[AH_WIDTH];
        const int64_t r0 = task % blocks * block, tile = task / blocks % tiles;
        const int64_t interval = task / blocks / tiles % layout.intervals;
        const int64_t group = task / blocks / tiles / layout.intervals;
        const int64_t live = ah_smaller(block, count - r0), row = group * count + r0;
        const int64_t first = interval * layout.pitch + tile * AH_WIDTH;
        const int64_t width = ah_smaller(AH_WIDTH, layout.length - tile * AH_WIDTH);
        const int8_t *from = lanes + group * group_bytes + 4 * first;
        if (live < 1) continue;
        if (sums != NULL)
            for (int64_t t = 0; t < layout.taps; t++) {
                const int64_t *at = sums + first + layout.tap_shift[t] +
                                    (group * layout.phases + layout.tap_phase[t]) *
                                        layout.positions;
                for (int64_t l = 0; l < width; l++) lane_term[l] = (t ? lane_term[l] : 0) + at[l];
            }
        int32_t fresh = 1;
        /* Runs of planes with one weight are one long sum, in pieces that fit 32 bits. */
        for (int32_t j = 0, end; j < p->planes; j = end) {
            for (end = j + 1; end < p->planes && p->weight[end] == p->weight[j];) end++;
            const int64_t stop = end * layout.quads * layout.taps;
            for (int64_t s = j * layout.quads * layout.taps; s < stop;) {
                const int64_t piece = ah_smaller(s + PRODUCT_FLUSH, stop);
                memset(acc, 0, (size_t)(live * AH_WIDTH) * sizeof *acc);
                for (; s < piece; s += PRODUCT_STEPS)
                    kernels->product(rows + row * row_bytes + 4 * s, row_bytes, live, from,
                                     offset + s, ah_smaller(PRODUCT_STEPS, piece - s),
                                     ah_round_up(width, 16), acc);
                s = piece;
                ah_emit(&sink, first, width, row, live, acc, AH_WIDTH, p->weight[j], terms + row,
                        sums ? lane_term : NULL, fresh);
                fresh = 0;
            }
        }
    }
    free(offset);
    ah_layout_free(&layout);
    return AH_OK;
}
