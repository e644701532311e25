/* The engine's functions against sums that conftest.py worked out.
 *
 * A file is a number of cases, then for each its parts in the order of `enum part`; a part is a
 * number of bytes and the bytes. Numbers are int64, little-endian. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

enum part { NAME, NUMBERS, SOURCE, ROWS, IMAGE, LEFT, RIGHT, LOW, HIGH, WEIGHT, EXPECTED, PARTS };

/* Operands lie one byte off: the engine may not rely on where a caller's bytes begin. */
static const int64_t skew[PARTS] = {[SOURCE] = 1, [ROWS] = 1, [IMAGE] = 1, [LEFT] = 1, [RIGHT] = 1};

/* Numbers of a case, in this order: geometry, then this. Not the product's: planes 0. */
typedef struct {
    ah_geometry g;
    int64_t count, wide, planes, bias;
    int64_t out_step[5], row_step[3];
} numbers;

typedef struct {
    void *part[PARTS];
    int64_t bytes[PARTS];
    numbers n;
} vector;

static int64_t read_number(FILE *file) {
    int64_t number;
    if (fread(&number, sizeof number, 1, file) != 1) fail("the file of vectors ends too early");
    return number;
}

static numbers numbers_of(const int64_t *from) {
    numbers n;
    memset(&n, 0, sizeof n);
    n.g.images = *from++, n.g.groups = *from++, n.g.channels = *from++;
    int64_t *const triples[] = {n.g.size,   n.g.before, n.g.out,
                                n.g.kernel, n.g.stride, n.g.dilation};
    for (int i = 0; i < 6; i++, from += 3) memcpy(triples[i], from, 3 * sizeof *from);
    memcpy(n.g.step, from, sizeof n.g.step), from += 5;
    n.g.pad = (int32_t)*from++;
    n.count = *from++, n.wide = *from++, n.planes = *from++, n.bias = *from++;
    memcpy(n.out_step, from, sizeof n.out_step), from += 5;
    memcpy(n.row_step, from, sizeof n.row_step);
    return n;
}

static vector read_vector(FILE *file) {
    vector v;
    for (int i = 0; i < PARTS; i++) {
        v.bytes[i] = read_number(file);
        v.part[i] = take(v.bytes[i], skew[i]);
        if (fread(v.part[i], 1, (size_t)v.bytes[i], file) != (size_t)v.bytes[i])
            fail("the file of vectors ends too early");
    }
    if (v.bytes[NUMBERS] != 39 * 8) fail("%.64s: not as many numbers", (char *)v.part[NAME]);
    v.n = numbers_of(v.part[NUMBERS]);
    return v;
}

static void drop(vector *v) {
    for (int i = 0; i < PARTS; i++) give_back(v->part[i], skew[i]);
}

static int32_t look_up(const vector *v, int32_t isa, int32_t threads, void *out) {
    const numbers *n = &v->n;
    ah_sizes sizes;
    if (ah_measure(&n->g, 1, &sizes)) return AH_BAD_ARGUMENT;
    uint8_t *codes = take(sizes.code_bytes, 0);
    int32_t status = ah_lay_codes(isa, &n->g, v->part[SOURCE], codes, threads);
    if (status == AH_OK)
        status = ah_lookup(isa, &n->g, codes, v->part[ROWS], n->count, v->part[IMAGE], n->bias,
                           out, (int32_t)n->wide, n->out_step, threads);
    give_back(codes, 0);
    return status;
}

static int32_t look_up_depthwise(const vector *v, int32_t isa, int32_t threads, void *out) {
    const numbers *n = &v->n;
    return ah_lookup_depthwise(isa, &n->g, v->part[SOURCE], v->part[ROWS], n->count,
                               v->part[IMAGE], n->bias, out, (int32_t)n->wide, n->out_step,
                               threads);
}

static int32_t multiply(const vector *v, int32_t isa, int32_t threads, void *out) {
    const numbers *n = &v->n;
    const int64_t rows = n->g.groups * n->count;
    const ah_planes p = {(int32_t)n->planes, v->part[LEFT], v->part[RIGHT],
                         v->part[LOW],       v->part[HIGH], v->part[WEIGHT]};
    ah_sizes sizes;
    if (ah_measure(&n->g, p.planes, &sizes)) return AH_BAD_ARGUMENT;
    int32_t needs_sums = 0;
    for (int32_t j = 0; j < p.planes; j++) needs_sums |= p.low[j] != 0;
    int8_t *lanes = take(sizes.plane_bytes, 0);
    int64_t *sums = needs_sums ? take(sizes.sums * (int64_t)sizeof *sums, 0) : NULL;
    uint8_t *packed = take(rows * sizes.row_bytes, 0);
    int64_t *terms = take(rows * (int64_t)sizeof *terms, 0);
    int32_t status = ah_lay_planes(isa, &n->g, &p, v->part[SOURCE], lanes, sums, threads);
    if (status == AH_OK)
        status = ah_pack_rows(isa, &n->g, &p, v->part[ROWS], rows, n->row_step, packed, terms,
                              threads);
    if (status == AH_OK)
        status = ah_product(isa, &n->g, &p, lanes, sums, packed, terms, n->count, out,
                            (int32_t)n->wide, n->out_step, threads);
    give_back(lanes, 0), give_back(packed, 0), give_back(terms, 0);
    if (sums) give_back(sums, 0);
    return status;
}

typedef int32_t (*way)(const vector *, int32_t, int32_t, void *);

/* Ways to do a case: one, or two where groups have one channel. */
static int ways_of(const vector *v, way ways[2]) {
    ways[0] = v->n.planes ? multiply : look_up;
    ways[1] = look_up_depthwise;
    return !v->n.planes && v->n.g.channels == 1 ? 2 : 1;
}

/* `expected` has all of the output, also what the engine has to leave as it was. */
static void check(const vector *v, way run, int32_t isa, int32_t threads) {
    const int64_t *expected = v->part[EXPECTED];
    const int64_t length = v->bytes[EXPECTED] / 8, size = v->n.wide ? 8 : 4;
    const char *name = v->part[NAME];
    void *out = take(length * size, 0);
    memset(out, 0x5a, (size_t)(length * size));
    const int32_t status = run(v, isa, threads, out);
    if (status != AH_OK)
        fail("%s, %d threads, %.64s: status %d", ah_isa_name(isa), threads, name, status);
    for (int64_t i = 0; i < length; i++) {
        const int64_t found = v->n.wide ? ((int64_t *)out)[i] : ((int32_t *)out)[i];
        if (found != expected[i])
            fail("%s, %d threads, %.64s, element %lld of %lld: %lld instead of %lld",
                 ah_isa_name(isa), threads, name, (long long)i, (long long)length,
                 (long long)found, (long long)expected[i]);
    }
    give_back(out, 0);
}

/* What is no case is refused before anything is written. */
static void check_refusals(const vector *v, way run, int32_t isa) {
    vector bad = *v;
    bad.n.g.kernel[1] = 0;
    if (run(&bad, isa, 1, NULL) != AH_BAD_ARGUMENT)
        fail("%s, %.64s: a kernel of 0 is accepted", ah_isa_name(isa), (char *)v->part[NAME]);
    if (run(v, isa, 0, NULL) != AH_BAD_ARGUMENT ||
        run(v, ah_isa_count(), 1, NULL) != AH_BAD_ARGUMENT)
        fail("%s, %.64s: nothing to run on, and no refusal", ah_isa_name(isa),
             (char *)v->part[NAME]);
    bad = *v, bad.n.g.channels = 2;
    if (run == look_up_depthwise && run(&bad, isa, 1, NULL) != AH_BAD_ARGUMENT)
        fail("%s, %.64s: groups of two channels are accepted", ah_isa_name(isa),
             (char *)v->part[NAME]);
}

int64_t check_vectors(FILE *file, int32_t isa) {
    int64_t runs = 0;
    for (int64_t left = read_number(file); left; left--) {
        vector v = read_vector(file);
        way ways[2];
        for (int i = ways_of(&v, ways) - 1; i >= 0; i--) {
            check_refusals(&v, ways[i], isa);
            for (int32_t threads = 1; threads < 5; threads += 2, runs++)
                check(&v, ways[i], isa, threads);
        }
        drop(&v);
    }
    return runs;
}
