/* The driver: packing, tiling, threads, and the exact bookkeeping around the inner loops. */
#include "approxhub_cpu.h"
#include "kernels.h"

#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

static const ah_kernels *const all[] = {
    &ah_scalar,
#ifdef AH_HAVE_AVX2
    &ah_avx2,
#endif
#ifdef AH_HAVE_AVX512
    &ah_avx512,
#endif
};

enum {
    LOOKUP_K = 32768,    /* 32768 * 65535 < 2^31 */
    LOOKUP_COLUMNS = 16, /* columns gathered before they are written out row by row */
    PRODUCT_K = 1024,    /* of a panel at a time: 32 kB, which stay in the first cache */
    PRODUCT_FLUSH = 32768, /* 32768 * 255 * 128 < 2^31 */
    PRODUCT_ROWS = 8 * AH_ROWS /* that share what is in the cache */
};

int32_t ah_abi(void) { return AH_ABI; }

int32_t ah_isa_count(void) { return (int32_t)(sizeof all / sizeof *all); }

const char *ah_isa_name(int32_t isa) {
    return isa >= 0 && isa < ah_isa_count() ? all[isa]->name : NULL;
}

int32_t ah_isa_supported(int32_t isa) {
    return isa >= 0 && isa < ah_isa_count() && all[isa]->supported();
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static void *aligned(int64_t bytes) {
    return aligned_alloc(64, (size_t)round_up(bytes > 0 ? bytes : 1, 64));
}

/* Rows first .. first + lanes of x (rows, k), turned to (k, AH_LANES). */
static void turn(const uint8_t *x, int64_t first, int64_t lanes, int64_t k, uint8_t *to) {
    enum { BLOCK = 64 };
    for (int64_t k0 = 0; k0 < k; k0 += BLOCK) {
        const int64_t k1 = smaller(k0 + BLOCK, k);
        for (int64_t l = 0; l < lanes; l++) {
            const uint8_t *from = x + (first + l) * k;
            for (int64_t i = k0; i < k1; i++) to[i * AH_LANES + l] = from[i];
        }
    }
}

static void add(void *out, int32_t wide, int64_t at, int64_t value, int fresh) {
    if (wide) {
        int64_t *to = (int64_t *)out + at;
        *to = (fresh ? 0 : *to) + value;
    } else { /* the end result fits: what wraps on the way wraps back */
        uint32_t *to = (uint32_t *)out + at;
        *to = (fresh ? 0u : *to) + (uint32_t)value;
    }
}

int32_t ah_lookup(int32_t isa, const uint8_t *x, int64_t rows, const uint8_t *w, int64_t columns,
                  int64_t k, const uint8_t *image, int64_t bias, void *out, int32_t wide,
                  int64_t row_stride, int64_t column_stride, int32_t threads) {
    if (!ah_isa_supported(isa) || rows < 1 || columns < 1 || k < 1 || threads < 1)
        return AH_BAD_ARGUMENT;
    const ah_kernels *kernels = all[isa];
    const int64_t tiles = (rows + AH_LANES - 1) / AH_LANES;
    const int64_t blocks = (columns + LOOKUP_COLUMNS - 1) / LOOKUP_COLUMNS;
    uint8_t *turned = aligned(tiles * k * AH_LANES);
    if (turned == NULL) return AH_NO_MEMORY;
    (void)threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t first = tile * AH_LANES, live = smaller(AH_LANES, rows - first);
            uint8_t *to = turned + tile * k * AH_LANES;
            if (live % 64) /* the tail of the last lanes is looked up and thrown away */
                for (int64_t i = 0; i < k; i++)
                    memset(to + i * AH_LANES + live, 0, (size_t)(round_up(live, 64) - live));
            turn(x, first, live, k, to);
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tiles * blocks; task++) {
            uint32_t acc[LOOKUP_COLUMNS][AH_LANES];
            const int64_t tile = task / blocks, c0 = task % blocks * LOOKUP_COLUMNS;
            const int64_t first = tile * AH_LANES, live = smaller(AH_LANES, rows - first);
            const int64_t count = smaller(LOOKUP_COLUMNS, columns - c0);
            const uint8_t *codes = turned + tile * k * AH_LANES;
            for (int64_t k0 = 0; k0 < k; k0 += LOOKUP_K) {
                const int64_t part = smaller(LOOKUP_K, k - k0);
                for (int64_t c = 0; c < count; c++)
                    kernels->lookup(codes + k0 * AH_LANES, w + (c0 + c) * k + k0, part, image,
                                    round_up(live, 64), acc[c]);
                for (int64_t l = 0; l < live; l++)
                    for (int64_t c = 0; c < count; c++)
                        add(out, wide, (first + l) * row_stride + (c0 + c) * column_stride,
                            (int64_t)acc[c][l] + part * bias, k0 == 0);
            }
        }
    }
    free(turned);
    return AH_OK;
}

/* Four rows of columns, interleaved to four bytes a column. */
static void interleave(const uint8_t *rows, int64_t stride, int64_t columns, uint8_t *to) {
    for (int64_t c = 0; c < columns; c++) {
        const uint32_t four = rows[c] | (uint32_t)rows[stride + c] << 8 |
                              (uint32_t)rows[2 * stride + c] << 16 |
                              (uint32_t)rows[3 * stride + c] << 24;
        memcpy(to + 4 * c, &four, 4); /* little-endian, as all machines this runs on */
    }
}

int32_t ah_factored(int32_t isa, const uint8_t *x, int64_t rows, const uint8_t *w, int64_t columns,
                    int64_t k, int32_t planes, const uint8_t *left, const int32_t *left_offset,
                    const int8_t *right, const int32_t *right_offset, const int64_t *weight,
                    void *out, int32_t wide, int32_t threads) {
    if (!ah_isa_supported(isa) || rows < 1 || columns < 1 || k < 1 || planes < 0 || threads < 1)
        return AH_BAD_ARGUMENT;
    const ah_kernels *kernels = all[isa];
    const int64_t padded = round_up(k, 4); /* of each plane; the tail is 0 times 0 */
    const int64_t panels = (columns + AH_COLUMNS - 1) / AH_COLUMNS;
    const int64_t panel_bytes = planes * padded * AH_COLUMNS;
    const int64_t blocks = (rows + PRODUCT_ROWS - 1) / PRODUCT_ROWS;
    const int64_t width = panels * AH_COLUMNS;
    uint8_t *a = aligned(rows * planes * padded);
    uint8_t *b = aligned(panels * panel_bytes);
    int64_t *row_term = aligned(rows * (int64_t)sizeof(int64_t));
    int64_t *column_term = aligned(width * (int64_t)sizeof(int64_t));
    uint8_t *ones = aligned(PRODUCT_K);
    if (!a || !b || !row_term || !column_term || !ones) {
        free(a), free(b), free(row_term), free(column_term), free(ones);
        return AH_NO_MEMORY;
    }
    memset(ones, 1, PRODUCT_K);
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        uint8_t *line = aligned(4 * width);
        if (line == NULL) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (!failed) {
            /* (u - lo)(s + ro) = us + ro u - lo s - lo ro: the last three in these two sums. */
#pragma omp for schedule(static)
            for (int64_t r = 0; r < rows; r++) {
                int64_t term = 0;
                for (int32_t j = 0; j < planes; j++) {
                    uint8_t *to = a + (r * planes + j) * padded;
                    kernels->recode(x + r * k, k, left + 256 * j, to);
                    memset(to + k, 0, (size_t)(padded - k));
                    if (right_offset[j]) {
                        int64_t sum = 0;
                        for (int64_t i = 0; i < k; i++) sum += to[i];
                        term += weight[j] * right_offset[j] * (sum - k * left_offset[j]);
                    }
                }
                row_term[r] = term;
            }
            memset(line, 0, (size_t)(4 * width));
#pragma omp for schedule(static)
            for (int64_t quad = 0; quad < planes * (padded / 4); quad++) {
                const int64_t j = quad / (padded / 4), i = quad % (padded / 4) * 4;
                for (int64_t q = 0; q < 4; q++)
                    if (i + q < k)
                        kernels->recode(w + (i + q) * columns, columns,
                                        (const uint8_t *)right + 256 * j, line + q * width);
                    else
                        memset(line + q * width, 0, (size_t)columns);
                for (int64_t p = 0; p < panels; p++)
                    interleave(line + p * AH_COLUMNS, width, AH_COLUMNS,
                               b + p * panel_bytes + quad * 4 * AH_COLUMNS);
            }
#pragma omp for schedule(static)
            for (int64_t p = 0; p < panels; p++) {
                int64_t term[AH_COLUMNS] = {0};
                for (int32_t j = 0; j < planes; j++)
                    for (int64_t i = 0; left_offset[j] && i < padded; i += PRODUCT_K) {
                        int32_t sum[AH_COLUMNS] = {0};
                        kernels->product(ones, 0, 1,
                                         (const int8_t *)b + p * panel_bytes +
                                             (j * padded + i) * AH_COLUMNS,
                                         smaller(PRODUCT_K, padded - i), sum);
                        for (int64_t c = 0; c < AH_COLUMNS; c++)
                            term[c] -= weight[j] * left_offset[j] * sum[c];
                    }
                memcpy(column_term + p * AH_COLUMNS, term, sizeof term);
            }
#pragma omp for schedule(dynamic)
            for (int64_t task = 0; task < blocks * panels; task++) {
                int32_t acc[PRODUCT_ROWS * AH_COLUMNS];
                const int64_t r0 = task / panels * PRODUCT_ROWS, p = task % panels;
                const int64_t live = smaller(PRODUCT_ROWS, rows - r0);
                const int64_t c0 = p * AH_COLUMNS, count = smaller(AH_COLUMNS, columns - c0);
                const int8_t *panel = (const int8_t *)b + p * panel_bytes;
                for (int64_t r = 0; r < live; r++)
                    for (int64_t c = 0; c < count; c++)
                        add(out, wide, (r0 + r) * columns + c0 + c,
                            row_term[r0 + r] + column_term[c0 + c], 1);
                /* Runs of planes with one weight are one long sum, in pieces that fit 32 bits. */
                for (int32_t j = 0, end; j < planes; j = end) {
                    for (end = j + 1; end < planes && weight[end] == weight[j];) end++;
                    for (int64_t from = j * padded; from < end * padded; from += PRODUCT_FLUSH) {
                        const int64_t to = smaller(from + PRODUCT_FLUSH, end * padded);
                        memset(acc, 0, sizeof acc);
                        for (int64_t i = from; i < to; i += PRODUCT_K)
                            for (int64_t r = 0; r < live; r += AH_ROWS)
                                kernels->product(a + (r0 + r) * planes * padded + i,
                                                 planes * padded, smaller(AH_ROWS, live - r),
                                                 panel + i * AH_COLUMNS,
                                                 smaller(PRODUCT_K, to - i), acc + r * AH_COLUMNS);
                        for (int64_t r = 0; r < live; r++)
                            for (int64_t c = 0; c < count; c++)
                                add(out, wide, (r0 + r) * columns + c0 + c,
                                    weight[j] * acc[r * AH_COLUMNS + c], 0);
                    }
                }
            }
        }
        free(line);
    }
    free(a), free(b), free(row_term), free(column_term), free(ones);
    return failed ? AH_NO_MEMORY : AH_OK;
}
