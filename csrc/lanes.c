/* Laying lanes: the source is padded, cut into phases, and turned so that lanes are neighbours. */
#include "engine.h"

enum {
    BATCH = 4096,    /* bytes recoded at a time */
    SUM_QUADS = 4096 /* of channels summed in 32 bits: 4096 * 4 * 128 < 2^31 */
};

/* A line of the source that a line of a phase stems from, or NULL if all of it is padding. */
static const uint8_t *line_of(const ah_geometry *g, const ah_layout *layout, const uint8_t *image,
                              int64_t a, int64_t b, int64_t line) {
    const int64_t h = line % layout->extent[1], d = line / layout->extent[1];
    const int64_t y = h * g->stride[1] + layout->phase_at[1][b] - g->before[1];
    const int64_t z = d * g->stride[0] + layout->phase_at[0][a] - g->before[0];
    if (y < 0 || y >= g->size[1] || z < 0 || z >= g->size[0]) return NULL;
    return image + z * g->step[2] + y * g->step[3];
}

/* Eight positions of eight channels to eight channels of eight positions. */
static inline void turn8(const uint8_t *from, int64_t step, uint8_t *to, int64_t pitch) {
    uint64_t r[8];
    for (int i = 0; i < 8; i++) memcpy(&r[i], from + i * step, 8);
#define SWAP(i, j, shift, mask)                             \
    do {                                                    \
        const uint64_t t = ((r[i] >> shift) ^ r[j]) & mask; \
        r[j] ^= t;                                          \
        r[i] ^= t << shift;                                 \
    } while (0)
    for (int i = 0; i < 4; i++) SWAP(i, i + 4, 32, 0x00000000ffffffffu);
    for (int i = 0; i < 8; i += 4)
        for (int j = i; j < i + 2; j++) SWAP(j, j + 2, 16, 0x0000ffff0000ffffu);
    for (int i = 0; i < 8; i += 2) SWAP(i, i + 1, 8, 0x00ff00ff00ff00ffu);
#undef SWAP
    for (int i = 0; i < 8; i++) memcpy(to + i * pitch, &r[i], 8);
}

/* n positions of up to eight channels that are neighbours in the source. */
static void turn(const uint8_t *from, int64_t step, int64_t n, int64_t channels, uint8_t *to,
                 int64_t pitch) {
    int64_t i = 0;
    if (channels == 8)
        for (; n - i >= 8; i += 8) turn8(from + i * step, step, to + i, pitch);
    for (; i < n; i++)
        for (int64_t c = 0; c < channels; c++) to[c * pitch + i] = from[i * step + c];
}

/* Lines of images are short: a call of memcpy for each would take longer than the copy. What is
 * left behind the last whole piece is copied with some of what is before it. */
static inline void copy(const uint8_t *from, int64_t step, int64_t n, uint8_t *to) {
    if (step != 1) {
        for (int64_t i = 0; i < n; i++) to[i] = from[i * step];
    } else if (n >= 16) {
        for (int64_t i = 0; i < n - 16; i += 16) memcpy(to + i, from + i, 16);
        memcpy(to + n - 16, from + n - 16, 16);
    } else if (n >= 8) {
        memcpy(to, from, 8), memcpy(to + n - 8, from + n - 8, 8);
    } else {
        for (int64_t i = 0; i < n; i++) to[i] = from[i];
    }
}

void ah_lay_block(const ah_geometry *g, const ah_layout *layout, const uint8_t *image,
                  int64_t live, uint8_t *codes, int64_t pitch) {
    const int64_t *extent = layout->extent, *count = layout->count;
    const int64_t step = g->stride[2] * g->step[4], down = g->stride[1] * g->step[3];
    const int32_t turned = live > 1 && g->step[1] == 1 && step != 1;
    uint8_t *plane = codes;
    for (int64_t a = 0; a < count[0]; a++)
        for (int64_t b = 0; b < count[1]; b++)
            for (int64_t c = 0; c < count[2]; c++, plane += layout->code_pitch) {
                for (int64_t i = 0; i < live; i++)
                    memset(plane + i * pitch, g->pad, (size_t)(extent[0] * extent[1] * extent[2]));
                const int64_t left = layout->from[2][c], n = layout->to[2][c] - left;
                const int64_t top = layout->from[1][b], lines = layout->to[1][b] - top;
                const int64_t x = left * g->stride[2] + layout->phase_at[2][c] - g->before[2];
                const int64_t y = top * g->stride[1] + layout->phase_at[1][b] - g->before[1];
                for (int64_t d = layout->from[0][a]; n > 0 && d < layout->to[0][a]; d++) {
                    const int64_t z = d * g->stride[0] + layout->phase_at[0][a] - g->before[0];
                    const uint8_t *from =
                        image + z * g->step[2] + y * g->step[3] + x * g->step[4];
                    uint8_t *to = plane + (d * extent[1] + top) * extent[2] + left;
                    for (int64_t h = 0; h < lines; h++, from += down, to += extent[2]) {
                        if (turned)
                            turn(from, step, n, live, to, pitch);
                        else
                            for (int64_t i = 0; i < live; i++)
                                copy(from + i * g->step[1], step, n, to + i * pitch);
                    }
                }
            }
}

int32_t ah_lay_codes(int32_t isa, const ah_geometry *g, const uint8_t *source, uint8_t *codes,
                     int32_t threads) {
    ah_layout layout;
    if (ah_kernels_of(isa) == NULL || threads < 1) return AH_BAD_ARGUMENT;
    const int32_t status = ah_layout_of(g, 16, AH_WIDTH, AH_WIDTH / 8, &layout);
    if (status != AH_OK) return status;
    const int64_t all = g->groups * g->channels, blocks = (all + 7) / 8;
    const int64_t image_bytes = layout.extent[0] * layout.extent[1] * layout.extent[2];
    const int64_t pitch = layout.phases * layout.code_pitch;
    memset(codes + all * pitch, 0, AH_SLACK);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t task = 0; task < blocks * g->images; task++) {
        const int64_t c0 = task / g->images * 8, n = task % g->images;
        ah_lay_block(g, &layout, source + n * g->step[0] + c0 * g->step[1],
                     ah_smaller(8, all - c0), codes + c0 * pitch + n * image_bytes, pitch);
    }
    ah_layout_free(&layout);
    return AH_OK;
}

/* n positions of up to four channels, four bytes a position; missing channels are 0. */
static void interleave(const uint8_t *from, int64_t channel, int64_t step, int64_t n, int64_t live,
                       uint8_t *to) {
    if (live == 4 && channel == 1) {
        for (int64_t i = 0; i < n; i++) memcpy(to + 4 * i, from + i * step, 4);
    } else if (live == 4) {
        const uint8_t *b = from + channel, *c = b + channel, *d = c + channel;
        if (step == 1)
            for (int64_t i = 0; i < n; i++) {
                const uint32_t four = from[i] | (uint32_t)b[i] << 8 | (uint32_t)c[i] << 16 |
                                      (uint32_t)d[i] << 24;
                memcpy(to + 4 * i, &four, 4); /* little-endian, as all machines this runs on */
            }
        else
            for (int64_t i = 0; i < n; i++) {
                to[4 * i] = from[i * step], to[4 * i + 1] = b[i * step];
                to[4 * i + 2] = c[i * step], to[4 * i + 3] = d[i * step];
            }
    } else {
        memset(to, 0, (size_t)(4 * n));
        for (int64_t j = 0; j < live; j++)
            for (int64_t i = 0; i < n; i++) to[4 * i + j] = from[j * channel + i * step];
    }
}

/* sums[position] -= weight * low * (sum over channels), over the planes that have a low. */
static void sum_lanes(const ah_kernels *kernels, const ah_layout *layout,
                      const ah_planes *p, const int8_t *lanes, const uint8_t *ones,
                      const int64_t *offset, int64_t first, int64_t width, int64_t *sums) {
    for (int64_t l = 0; l < width; l++) sums[first + l] = 0;
    for (int32_t j = 0; j < p->planes; j++) {
        if (p->low[j] == 0) continue;
        const int8_t *from =
            lanes + j * layout->quads * layout->phases * layout->plane_pitch + 4 * first;
        for (int64_t q = 0; q < layout->quads; q += SUM_QUADS) {
            int32_t acc[AH_WIDTH] = {0};
            kernels->product(ones + 4 * q, 0, 1, from, offset + q,
                             ah_smaller(SUM_QUADS, layout->quads - q), ah_round_up(width, 16),
                             acc);
            for (int64_t l = 0; l < width; l++)
                sums[first + l] -= p->weight[j] * p->low[j] * acc[l];
        }
    }
}

int32_t ah_lay_planes(int32_t isa, const ah_geometry *g, const ah_planes *p, const uint8_t *source,
                      int8_t *lanes, int64_t *sums, int32_t threads) {
    ah_layout layout;
    const ah_kernels *kernels = ah_kernels_of(isa);
    if (kernels == NULL || threads < 1 || p->planes < 1) return AH_BAD_ARGUMENT;
    const int32_t status = ah_layout_of(g, 16, AH_WIDTH, AH_WIDTH / 8, &layout);
    if (status != AH_OK) return status;
    const int64_t lines = layout.extent[0] * layout.extent[1], extent = layout.extent[2];
    const int64_t pitch = layout.phases * layout.plane_pitch; /* of one quad of one plane */
    const int64_t batch = extent * 4 < BATCH ? BATCH / (extent * 4) : 1; /* lines */
    const int64_t pieces = (lines + batch - 1) / batch;
    memset(lanes + g->groups * p->planes * layout.quads * pitch, 0, AH_SLACK);
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        uint8_t *quad = malloc((size_t)(4 * extent * batch));
        if (quad == NULL) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t task = 0; task < (failed ? 0 : g->groups * layout.quads * g->images * pieces);
             task++) {
            const int64_t piece = task % pieces, n = task / pieces % g->images;
            const int64_t q = task / pieces / g->images % layout.quads;
            const int64_t group = task / pieces / g->images / layout.quads;
            const int64_t live = ah_smaller(4, g->channels - 4 * q);
            const int64_t l0 = piece * batch, l1 = ah_smaller(l0 + batch, lines);
            const uint8_t *image =
                source + n * g->step[0] + (group * g->channels + 4 * q) * g->step[1];
            for (int64_t phase = 0; phase < layout.phases; phase++) {
                const int64_t c = phase % layout.count[2];
                const int64_t b = phase / layout.count[2] % layout.count[1];
                const int64_t a = phase / layout.count[2] / layout.count[1];
                const int64_t remainder = layout.phase_at[2][c], step = g->stride[2] * g->step[4];
                const int64_t from = layout.from[2][c], to = layout.to[2][c];
                memset(quad, g->pad, (size_t)((l1 - l0) * 4 * extent));
                for (int64_t line = l0; line < l1 && from < to; line++) {
                    const uint8_t *first = line_of(g, &layout, image, a, b, line);
                    if (first == NULL) continue;
                    first += (from * g->stride[2] + remainder - g->before[2]) * g->step[4];
                    interleave(first, g->step[1], step, to - from, live,
                               quad + 4 * ((line - l0) * extent + from));
                }
                for (int32_t j = 0; j < p->planes; j++)
                    kernels->recode(quad, 4 * extent * (l1 - l0),
                                    (const uint8_t *)p->right + 256 * j,
                                    (uint8_t *)lanes +
                                        ((group * p->planes + j) * layout.quads + q) * pitch +
                                        phase * layout.plane_pitch + 4 * (n * lines + l0) * extent);
            }
        }
        free(quad);
    }
    if (!failed && sums != NULL) {
        int64_t *offset = malloc((size_t)layout.quads * sizeof *offset);
        uint8_t *ones = calloc((size_t)layout.quads, 4);
        failed = offset == NULL || ones == NULL;
        if (!failed) {
            memset(ones, 1, (size_t)g->channels);
            for (int64_t q = 0; q < layout.quads; q++) offset[q] = q * pitch;
            const int64_t tiles = (layout.positions + AH_WIDTH - 1) / AH_WIDTH;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
            for (int64_t task = 0; task < g->groups * layout.phases * tiles; task++) {
                const int64_t tile = task % tiles, phase = task / tiles % layout.phases;
                const int64_t group = task / tiles / layout.phases, first = tile * AH_WIDTH;
                sum_lanes(kernels, &layout, p,
                          lanes + group * p->planes * layout.quads * pitch +
                              phase * layout.plane_pitch,
                          ones, offset, first, ah_smaller(AH_WIDTH, layout.positions - first),
                          sums + (group * layout.phases + phase) * layout.positions);
            }
        }
        free(offset), free(ones);
    }
    ah_layout_free(&layout);
    return failed ? AH_NO_MEMORY : AH_OK;
}
