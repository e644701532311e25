/* Instruction sets, the layout of lanes, and the way out. */
#include "engine.h"

static const ah_kernels *const all[] = {
    &ah_scalar,
#ifdef AH_HAVE_NEON
    &ah_neon,
#endif
#ifdef AH_HAVE_AVX2
    &ah_avx2,
#endif
#ifdef AH_HAVE_AVX512
    &ah_avx512,
#endif
};

int32_t ah_abi(void) { return AH_ABI; }

int32_t ah_isa_count(void) { return (int32_t)(sizeof all / sizeof *all); }

const char *ah_isa_name(int32_t isa) {
    return isa >= 0 && isa < ah_isa_count() ? all[isa]->name : NULL;
}

int32_t ah_isa_supported(int32_t isa) {
    return isa >= 0 && isa < ah_isa_count() && all[isa]->supported();
}

int32_t ah_isa_reach(int32_t isa) {
    return ah_isa_supported(isa) && all[isa]->reach != NULL ? all[isa]->reach() : 0;
}

const ah_kernels *ah_kernels_of(int32_t isa) { return ah_isa_supported(isa) ? all[isa] : NULL; }

uint64_t ah_digest(const uint8_t *bytes, int64_t n, int64_t every) {
    const uint64_t odd = 0x9e3779b97f4a7c15u;
    uint64_t h[8];
    for (int j = 0; j < 8; j++) h[j] = odd * (uint64_t)(2 * j + 1) + (uint64_t)n;
    /* As many chains as hide how long a multiplication takes. */
    for (int64_t i = 0; i < n / 64; i += every)
        for (int j = 0; j < 8; j++) {
            uint64_t word;
            memcpy(&word, bytes + 64 * i + 8 * j, 8);
            h[j] = (h[j] ^ word) * odd;
            h[j] ^= h[j] >> 29;
        }
    for (int64_t i = n / 64 * 64; i < n; i++) h[0] = (h[0] ^ bytes[i]) * odd, h[0] ^= h[0] >> 29;
    for (int j = 1; j < 8; j++) h[0] = (h[0] ^ h[j]) * odd, h[0] ^= h[0] >> 32;
    return h[0];
}

int32_t ah_same(const uint8_t *a, const uint8_t *b, int64_t n, int32_t threads) {
    const int64_t part = n / threads + 1;
    int32_t same = 1;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(&& : same) if (threads > 1)
    for (int32_t t = 0; t < threads; t++) {
        const int64_t first = ah_smaller(t * part, n), last = ah_smaller(first + part, n);
        same = memcmp(a + first, b + first, (size_t)(last - first)) == 0 && same;
    }
    return same;
}

static int32_t good(const ah_geometry *g) {
    if (g->images < 1 || g->groups < 1 || g->channels < 1) return 0;
    for (int d = 0; d < 3; d++)
        if (g->size[d] < 0 || g->out[d] < 1 || g->kernel[d] < 1 || g->stride[d] < 1 ||
            g->dilation[d] < 1)
            return 0;
    return 1;
}

/* Greatest common divisor. */
static int64_t divisor(int64_t a, int64_t b) {
    while (b != 0) {
        const int64_t rest = a % b;
        a = b, b = rest;
    }
    return a;
}

/* The part of a phase that lies inside the source. */
static void inside(const ah_geometry *g, int d, int64_t phase, int64_t extent, int64_t *from,
                   int64_t *to) {
    const int64_t first = g->before[d] - phase, s = g->stride[d];
    int64_t lo = first > 0 ? (first + s - 1) / s : 0;
    int64_t hi = g->size[d] + first > 0 ? (g->size[d] + first + s - 1) / s : 0;
    lo = ah_smaller(lo, extent), hi = ah_smaller(hi, extent);
    *from = lo, *to = hi > lo ? hi : lo;
}

/* Lanes that are computed for a run, and some more for what every tile costs. */
static int64_t work(int64_t length, int64_t granule, int64_t tile, int64_t overhead) {
    return ah_round_up(length, granule) + (length + tile - 1) / tile * overhead;
}

int32_t ah_layout_of(const ah_geometry *g, int64_t granule, int64_t tile, int64_t overhead,
                     ah_layout *to) {
    memset(to, 0, sizeof *to);
    if (!good(g)) return AH_BAD_ARGUMENT;
    const int64_t *kernel = g->kernel;
    to->taps = kernel[0] * kernel[1] * kernel[2];
    to->tap_phase = malloc((size_t)to->taps * sizeof(int64_t));
    to->tap_shift = malloc((size_t)to->taps * sizeof(int64_t));
    int64_t *which = malloc((size_t)(kernel[0] + kernel[1] + kernel[2]) * sizeof(int64_t));
    int32_t failed = !to->tap_phase || !to->tap_shift || !which;
    int64_t start[3] = {0, kernel[0], kernel[0] + kernel[1]};
    for (int d = 0; d < 3 && !failed; d++) {
        to->phase_at[d] = malloc(3 * (size_t)kernel[d] * sizeof(int64_t));
        failed = to->phase_at[d] == NULL;
        /* Remainders of the taps repeat after this many. */
        const int64_t period = g->stride[d] / divisor(g->stride[d], g->dilation[d]);
        to->count[d] = ah_smaller(kernel[d], period);
        for (int64_t t = 0; t < kernel[d] && !failed; t++) {
            to->phase_at[d][t % period] = t * g->dilation[d] % g->stride[d];
            which[start[d] + t] = t % period;
        }
        to->extent[d] = g->out[d] + (kernel[d] - 1) * g->dilation[d] / g->stride[d];
        to->from[d] = to->phase_at[d] + kernel[d], to->to[d] = to->from[d] + kernel[d];
        for (int64_t i = 0; i < to->count[d] && !failed; i++)
            inside(g, d, to->phase_at[d][i], to->extent[d], to->from[d] + i, to->to[d] + i);
    }
    if (failed) {
        free(which);
        ah_layout_free(to);
        return AH_NO_MEMORY;
    }
    const int64_t line = to->extent[2], plane = to->extent[1] * line;
    const int64_t image = to->extent[0] * plane;
    int64_t tap = 0;
    for (int64_t a = 0; a < kernel[0]; a++)
        for (int64_t b = 0; b < kernel[1]; b++)
            for (int64_t c = 0; c < kernel[2]; c++, tap++) {
                to->tap_phase[tap] = (which[a] * to->count[1] + which[start[1] + b]) *
                                         to->count[2] + which[start[2] + c];
                to->tap_shift[tap] = a * g->dilation[0] / g->stride[0] * plane +
                                     b * g->dilation[1] / g->stride[1] * line +
                                     c * g->dilation[2] / g->stride[2];
            }
    free(which);
    to->phases = to->count[0] * to->count[1] * to->count[2];
    to->positions = g->images * image;
    to->quads = (g->channels + 3) / 4;
    to->code_pitch = ah_round_up(to->positions, 64);
    to->plane_pitch = ah_round_up(4 * to->positions, 64);
    /* One run of lanes for each image, or one for all of them: whichever is less work. */
    const int64_t one = (g->out[0] - 1) * plane + (g->out[1] - 1) * line + g->out[2];
    const int64_t whole = (g->images - 1) * image + one;
    to->intervals = g->images, to->length = one, to->pitch = image;
    if (work(whole, granule, tile, overhead) < g->images * work(one, granule, tile, overhead))
        to->intervals = 1, to->length = whole, to->pitch = 0;
    to->lanes = to->intervals * ah_round_up(to->length, granule);
    return AH_OK;
}

void ah_layout_free(ah_layout *layout) {
    free(layout->tap_phase), free(layout->tap_shift);
    for (int d = 0; d < 3; d++) free(layout->phase_at[d]);
    memset(layout, 0, sizeof *layout);
}

int32_t ah_measure(const ah_geometry *g, int32_t planes, ah_sizes *sizes) {
    ah_layout layout, other;
    int32_t status = ah_layout_of(g, 64, AH_LANES, AH_LANES / 8, &other);
    if (status != AH_OK) return status;
    const int64_t lookup_lanes = other.lanes;
    ah_layout_free(&other);
    status = ah_layout_of(g, 16, AH_WIDTH, AH_WIDTH / 8, &layout);
    if (status != AH_OK) return status;
    const int64_t steps = planes * layout.quads * layout.taps;
    *sizes = (ah_sizes){
        .taps = layout.taps,
        .lookup_lanes = lookup_lanes,
        .product_lanes = layout.lanes,
        .code_bytes = g->groups * g->channels * layout.phases * layout.code_pitch + AH_SLACK,
        .plane_bytes =
            g->groups * planes * layout.quads * layout.phases * layout.plane_pitch + AH_SLACK,
        .sums = g->groups * layout.phases * layout.positions,
        .row_bytes = 4 * steps,
    };
    ah_layout_free(&layout);
    return AH_OK;
}

/* One stretch of lanes of one row, as general as it gets. */
#define PUT(TYPE, UNSIGNED, NAME)                                                              \
    static void NAME(TYPE *restrict to, int64_t step, int64_t n, const int32_t *restrict acc,  \
                     UNSIGNED weight, UNSIGNED term, const int64_t *restrict lane_term,        \
                     int32_t fresh) {                                                          \
        for (int64_t i = 0; i < n; i++) {                                                      \
            const UNSIGNED more = lane_term ? (UNSIGNED)lane_term[i] : 0;                      \
            const UNSIGNED before = fresh ? term + more : (UNSIGNED)to[i * step];              \
            to[i * step] = (TYPE)(before + weight * (UNSIGNED)acc[i]);                         \
        }                                                                                      \
    }

/* The end result fits the type asked for: what wraps in 32 bits on the way wraps back. */
PUT(int32_t, uint32_t, put_narrow)
PUT(int64_t, uint64_t, put_wide)

void ah_emit(const ah_sink *sink, int64_t first, int64_t width, int64_t row, int64_t count,
             const int32_t *acc, int64_t pitch, int64_t weight, const int64_t *row_term,
             const int64_t *lane_term, int32_t fresh) {
    const ah_layout *layout = sink->layout;
    const int64_t *out = sink->g->out, *step = sink->step;
    const int64_t line = layout->extent[2];
    int64_t w = first % line, h = first / line, d = 0, n = 0;
    if (h >= layout->extent[1]) d = h / layout->extent[1], h %= layout->extent[1];
    if (d >= layout->extent[0]) n = d / layout->extent[0], d %= layout->extent[0];
    const int32_t quick = fresh && !sink->wide && weight == 1 && step[4] == 1;
    int32_t narrow[AH_LANES];
    for (int64_t l = 0; quick && lane_term && l < width; l++) narrow[l] = (int32_t)lane_term[l];
    for (int64_t l = 0; l < width;) {
        const int64_t run = ah_smaller((w < out[2] ? out[2] : line) - w, width - l);
        int64_t lines = 1;
        if (w < out[2] && h < out[1] && d < out[0]) {
            const int64_t at =
                n * step[0] + row * step[1] + d * step[2] + h * step[3] + w * step[4];
            const int64_t *lanes = lane_term ? lane_term + l : NULL;
            if (quick && !lane_term && run == out[2])
                lines = ah_smaller((width - l - run) / line + 1, out[1] - h);
            if (lines > count) /* as many lines in one call, where rows are few */
                for (int64_t r = 0; r < count; r++) {
                    int64_t term[AH_LANES];
                    for (int64_t i = 0; i < lines; i++) term[i] = row_term[r];
                    sink->kernels->put((int32_t *)sink->out + at + r * step[1], step[3], lines,
                                       acc + r * pitch + l, line, run, term, NULL);
                }
            else if (quick) {
                lines = 1;
                sink->kernels->put((int32_t *)sink->out + at, step[1], count, acc + l, pitch, run,
                                   row_term, lane_term ? narrow + l : NULL);
            }
            for (int64_t r = 0; r < count && !quick; r++)
                if (sink->wide)
                    put_wide((int64_t *)sink->out + at + r * step[1], step[4], run,
                             acc + r * pitch + l, (uint64_t)weight, (uint64_t)row_term[r], lanes,
                             fresh);
                else
                    put_narrow((int32_t *)sink->out + at + r * step[1], step[4], run,
                               acc + r * pitch + l, (uint32_t)weight, (uint32_t)row_term[r],
                               lanes, fresh);
        }
        l += run + (lines - 1) * line, w += run, h += lines - 1;
        if (w == line) {
            w = 0;
            if (++h == layout->extent[1]) {
                h = 0;
                if (++d == layout->extent[0]) d = 0, n++;
            }
        }
    }
}
