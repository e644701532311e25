/* Sums of table entries: rows pick a row of the table, lanes an entry of it. */
#include "engine.h"

enum {
    LOOKUP_K = 32768, /* 32768 * 65535 < 2^31 */
    LOOKUP_ROWS = 16, /* rows that share the codes in the cache */
    PLANES = 4096     /* positions of one channel in several images that are looked up together */
};

/* How a lookup is cut into tasks. */
typedef struct {
    int64_t rows, lanes; /* of one task, at most */
    int32_t many;        /* whether the loop for many rows takes it */
} cut;

/* In hundredths of a nanosecond a product, measured with AVX2: a look-up of the loop for few rows;
 * an entry that the other loop spreads, and one that it adds. The sum of all tasks decides. */
enum { FEW = 45, SPREAD = 7, ADD = 4 };

static cut cut_of(const ah_kernels *kernels, const ah_layout *few, const ah_layout *many,
                  int64_t groups, int64_t count, int32_t threads) {
    const cut one = {LOOKUP_ROWS, AH_LANES, 0};
    if (kernels->many == NULL) return one;
    const int64_t blocks = (count + AH_MANY - 1) / AH_MANY, rest = count - (blocks - 1) * AH_MANY;
    const int64_t padded = (blocks - 1) * AH_MANY + (rest > AH_MANY / 2 ? AH_MANY : AH_MANY / 2);
    /* As few tiles as keep all threads busy: each of them spreads the table anew. */
    int64_t tiles = (many->length + AH_MANY_LANES - 1) / AH_MANY_LANES;
    const int64_t others = groups * many->intervals * blocks, enough = 8 * (int64_t)threads;
    while (others * tiles < enough && others * tiles % threads != 0) tiles++;
    const int64_t narrow = few->intervals * ah_round_up(few->length, 64);
    if (FEW * count * narrow <=
        padded * many->intervals * (SPREAD * 256 * tiles + ADD * many->length))
        return one;
    return (cut){AH_MANY, (many->length + tiles - 1) / tiles, 1};
}

int32_t ah_lookup(int32_t isa, const ah_geometry *g, const uint8_t *codes, const uint8_t *rows,
                  int64_t count, const uint8_t *image, int64_t bias, void *out, int32_t wide,
                  const int64_t out_step[5], int32_t threads) {
    ah_layout few, many;
    const ah_kernels *kernels = ah_kernels_of(isa);
    if (kernels == NULL || count < 1 || threads < 1) return AH_BAD_ARGUMENT;
    int32_t status = ah_layout_of(g, 64, AH_LANES, AH_LANES / 8, &few);
    if (status != AH_OK) return status;
    status = ah_layout_of(g, 1, AH_MANY_LANES, 256 * SPREAD / ADD, &many);
    const cut size =
        status ? (cut){1, 1, 0} : cut_of(kernels, &few, &many, g->groups, count, threads);
    const ah_layout layout = size.many ? many : few;
    const int64_t k = g->channels * layout.taps;
    int64_t *offset = malloc((size_t)k * sizeof *offset);
    for (int64_t i = 0; i < k && offset != NULL; i++)
        offset[i] = (i / layout.taps * layout.phases + layout.tap_phase[i % layout.taps]) *
                        layout.code_pitch + layout.tap_shift[i % layout.taps];
    const ah_sink sink = {kernels, g, &layout, out, wide, out_step};
    const int64_t tiles = (layout.length + size.lanes - 1) / size.lanes;
    const int64_t blocks = (count + size.rows - 1) / size.rows;
    int32_t failed = status != AH_OK || offset == NULL;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const size_t sums = AH_MANY * (size_t)size.lanes * sizeof(uint32_t);
        const size_t room = size.many ? AH_MANY_SPACE * sizeof(uint16_t) : 0;
        void *space = size.many ? aligned_alloc(64, room + sums) : NULL;
        if (size.many && space == NULL) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < (failed ? 0 : g->groups * layout.intervals * tiles * blocks);
             task++) {
            uint32_t acc[LOOKUP_ROWS * AH_LANES];
            int64_t term[AH_MANY];
            const int64_t r0 = task % blocks * size.rows, tile = task / blocks % tiles;
            const int64_t interval = task / blocks / tiles % layout.intervals;
            const int64_t group = task / blocks / tiles / layout.intervals;
            const int64_t live = ah_smaller(size.rows, count - r0), row = group * count + r0;
            const int64_t first = interval * layout.pitch + tile * size.lanes;
            const int64_t width = ah_smaller(size.lanes, layout.length - tile * size.lanes);
            const uint8_t *lanes =
                codes + group * g->channels * layout.phases * layout.code_pitch + first;
            for (int64_t r = 0; r < live; r++) term[r] = k * bias;
            for (int64_t k0 = 0; k0 < k; k0 += LOOKUP_K) {
                const int64_t part = ah_smaller(LOOKUP_K, k - k0);
                const uint8_t *from = rows + row * k + k0;
                if (!size.many) {
                    kernels->lookup(lanes, offset + k0, part, from, k, live, image,
                                    ah_round_up(width, 64), acc);
                    ah_emit(&sink, first, width, row, live, (const int32_t *)acc, AH_LANES, 1,
                            term, NULL, k0 == 0);
                    continue;
                }
                uint32_t *all = (uint32_t *)((char *)space + room);
                kernels->many(lanes, offset + k0, part, from, k, live, image, width, space, all);
                for (int64_t l0 = 0; l0 < width; l0 += AH_LANES / 2)
                    for (int64_t r1 = 0; r1 < live; r1 += LOOKUP_ROWS) {
                        const int64_t n = ah_smaller(AH_LANES / 2, width - l0);
                        const int64_t some = ah_smaller(LOOKUP_ROWS, live - r1);
                        for (int64_t l = 0; l < n; l++)
                            for (int64_t r = 0; r < some; r++)
                                acc[r * AH_LANES + l] = all[(l0 + l) * AH_MANY + r1 + r];
                        ah_emit(&sink, first + l0, n, row + r1, some, (const int32_t *)acc,
                                AH_LANES, 1, term, NULL, k0 == 0);
                    }
            }
        }
        free(space);
    }
    free(offset);
    ah_layout_free(&few), ah_layout_free(&many);
    return failed ? AH_NO_MEMORY : AH_OK;
}

int32_t ah_lookup_depthwise(int32_t isa, const ah_geometry *g, const uint8_t *source,
                            const uint8_t *rows, int64_t count, const uint8_t *image, int64_t bias,
                            void *out, int32_t wide, const int64_t out_step[5], int32_t threads) {
    ah_layout layout;
    const ah_kernels *kernels = ah_kernels_of(isa);
    if (kernels == NULL || count < 1 || threads < 1 || g->channels != 1) return AH_BAD_ARGUMENT;
    if (g->images < 1) return AH_BAD_ARGUMENT;
    ah_geometry some = *g;
    some.images = 1;
    int32_t status = ah_layout_of(&some, 64, AH_LANES, AH_LANES / 8, &layout);
    if (status != AH_OK) return status;
    const int64_t image_bytes = layout.positions;
    /* Small images of one channel fill the tiles together, and share the rows of the table. */
    const int64_t enough = (g->groups * g->images + 8 * threads - 1) / (8 * threads);
    const int64_t fit = ah_smaller(ah_smaller(g->images, PLANES / image_bytes), enough);
    if (fit > 1) {
        some.images = fit;
        ah_layout_free(&layout);
        status = ah_layout_of(&some, 64, AH_LANES, AH_LANES / 8, &layout);
        if (status != AH_OK) return status;
    }
    const int64_t k = layout.taps, pitch = layout.phases * layout.code_pitch;
    const int64_t parts = (g->images + some.images - 1) / some.images;
    /* Channels that are neighbours in memory are read together. */
    const int64_t together = g->step[1] == 1 && g->stride[2] * g->step[4] != 1 ? 8 : 1;
    const int64_t blocks = (g->groups + together - 1) / together;
    int64_t *offset = malloc((size_t)k * sizeof *offset);
    for (int64_t i = 0; i < k && offset != NULL; i++)
        offset[i] = layout.tap_phase[i] * layout.code_pitch + layout.tap_shift[i];
    int32_t failed = offset == NULL;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        uint8_t *codes = malloc((size_t)(together * pitch + AH_SLACK));
        if (codes == NULL) {
#pragma omp atomic write
            failed = 1;
        } else {
            memset(codes + together * pitch, 0, AH_SLACK);
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t task = 0; task < (failed ? 0 : blocks * parts); task++) {
            uint32_t acc[LOOKUP_ROWS * AH_LANES];
            int64_t term[LOOKUP_ROWS];
            const int64_t c0 = task % blocks * together, n0 = task / blocks * some.images;
            const int64_t live = ah_smaller(together, g->groups - c0);
            const int64_t images = ah_smaller(some.images, g->images - n0);
            const int64_t runs = ah_smaller(layout.intervals, images);
            const int64_t length =
                layout.length - (layout.pitch ? 0 : (some.images - images) * image_bytes);
            const int64_t at = n0 * out_step[0] * (wide ? 8 : 4);
            const ah_sink sink = {kernels, &some, &layout, (char *)out + at, wide, out_step};
            for (int64_t r = 0; r < ah_smaller(LOOKUP_ROWS, count); r++) term[r] = k * bias;
            for (int64_t n = 0; n < images; n++)
                ah_lay_block(&some, &layout, source + (n0 + n) * g->step[0] + c0 * g->step[1],
                             live, codes + n * image_bytes, pitch);
            for (int64_t c = 0; c < live; c++)
                for (int64_t r0 = 0; r0 < count; r0 += LOOKUP_ROWS) {
                    const int64_t row = (c0 + c) * count + r0;
                    const int64_t few = ah_smaller(LOOKUP_ROWS, count - r0);
                    const int64_t tiles = (length + AH_LANES - 1) / AH_LANES;
                    for (int64_t t = 0; t < runs * tiles; t++) {
                        const int64_t l = t % tiles * AH_LANES;
                        const int64_t first = t / tiles * layout.pitch + l;
                        const int64_t width = ah_smaller(AH_LANES, length - l);
                        for (int64_t k0 = 0; k0 < k; k0 += LOOKUP_K) {
                            kernels->lookup(codes + c * pitch + first, offset + k0,
                                            ah_smaller(LOOKUP_K, k - k0), rows + row * k + k0, k,
                                            few, image, ah_round_up(width, 64), acc);
                            ah_emit(&sink, first, width, row, few, (const int32_t *)acc, AH_LANES,
                                    1, term, NULL, k0 == 0);
                        }
                    }
                }
        }
        free(codes);
    }
    free(offset);
    ah_layout_free(&layout);
    return failed ? AH_NO_MEMORY : AH_OK;
}
