/* Each inner loop against a loop over single elements, with operands that end where they may. */
#include "driver.h"

#include <string.h>

#define EACH(name, ...) \
    for (const int64_t *name = (const int64_t[]){__VA_ARGS__, -1}; *name >= 0; name++)

static int64_t check_recode(const ah_kernels *kernels) {
    int64_t calls = 0;
    EACH(n, 0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 1000)
    for (int in_place = 0; in_place < 2; in_place++, calls++) {
        uint8_t *in = take(*n, 1), *was = take(*n, 1), *table = take(256, 1);
        uint8_t *out = in_place ? in : take(*n, 1);
        memcpy(was, in, (size_t)*n);
        kernels->recode(in, *n, table, out);
        for (int64_t i = 0; i < *n; i++)
            if (out[i] != table[was[i]])
                fail("%s: recode of %lld bytes, byte %lld: %d instead of %d", kernels->name,
                     (long long)*n, (long long)i, out[i], table[was[i]]);
        give_back(in, 1), give_back(was, 1), give_back(table, 1);
        if (!in_place) give_back(out, 1);
    }
    return calls;
}

/* Offsets that overlap and are not in order, multiples of `unit`; the first reaches furthest. */
static int64_t *offsets(int64_t n, int64_t furthest, int64_t unit) {
    int64_t *offset = take(n * (int64_t)sizeof *offset, 0);
    for (int64_t i = 0; i < n; i++)
        offset[i] = (int64_t)((uint64_t)offset[i] % (uint64_t)(furthest / unit + 1)) * unit;
    offset[0] = furthest;
    return offset;
}

static void check_lookup(const ah_kernels *kernels, int64_t k, int64_t count, int64_t width,
                         int largest) {
    const int64_t stride = k + 3, furthest = 41;
    const int64_t row_bytes = (count - 1) * stride + k, lane_bytes = furthest + width;
    const int64_t sums = (count - 1) * AH_LANES + width;
    uint8_t *rows = take(row_bytes, 1), *lanes = take(lane_bytes, 1), *image = take(131072, 1);
    int64_t *offset = offsets(k, furthest, 1);
    uint32_t *acc = take(sums * 4, 4), *was = take(sums * 4, 4);
    if (largest) {
        memset(rows, 255, (size_t)row_bytes);
        memset(lanes, 255, (size_t)lane_bytes);
        memset(image, 255, 131072);
    }
    memcpy(was, acc, (size_t)(sums * 4));
    kernels->lookup(lanes, offset, k, rows, stride, count, image, width, acc);
    for (int64_t at = 0; at < sums; at++) {
        const int64_t r = at / AH_LANES, l = at % AH_LANES;
        uint32_t sum = l < width ? 0 : was[at];
        for (int64_t i = 0; i < k && l < width; i++) {
            const uint8_t *row = image + 512 * rows[r * stride + i];
            const uint8_t code = lanes[offset[i] + l];
            sum += row[code] + 256u * row[256 + code];
        }
        if (acc[at] != sum)
            fail("%s: lookup with k %lld, row %lld of %lld, lane %lld of %lld: %u instead of %u",
                 kernels->name, (long long)k, (long long)r, (long long)count, (long long)l,
                 (long long)width, acc[at], sum);
    }
    give_back(rows, 1), give_back(lanes, 1), give_back(image, 1), give_back(offset, 0);
    give_back(acc, 4), give_back(was, 4);
}

static void check_many(const ah_kernels *kernels, int64_t k, int64_t count, int64_t width,
                       int largest) {
    const int64_t stride = k + 3, furthest = 41;
    const int64_t row_bytes = (count - 1) * stride + k, lane_bytes = furthest + width;
    uint8_t *rows = take(row_bytes, 1), *lanes = take(lane_bytes, 1), *image = take(131072, 1);
    int64_t *offset = offsets(k, furthest, 1);
    uint16_t *space = take(AH_MANY_SPACE * 2, 0);
    uint32_t *acc = take(width * AH_MANY * 4, 0);
    if (largest) {
        memset(rows, 255, (size_t)row_bytes);
        memset(lanes, 255, (size_t)lane_bytes);
        memset(image, 255, 131072);
    }
    kernels->many(lanes, offset, k, rows, stride, count, image, width, space, acc);
    for (int64_t at = 0; at < width * count; at++) {
        const int64_t l = at / count, r = at % count;
        uint32_t sum = 0;
        for (int64_t i = 0; i < k; i++) {
            const uint8_t *row = image + 512 * rows[r * stride + i];
            const uint8_t code = lanes[offset[i] + l];
            sum += row[code] + 256u * row[256 + code];
        }
        if (acc[l * AH_MANY + r] != sum)
            fail("%s: many with k %lld, row %lld of %lld, lane %lld of %lld: %u instead of %u",
                 kernels->name, (long long)k, (long long)r, (long long)count, (long long)l,
                 (long long)width, acc[l * AH_MANY + r], sum);
    }
    give_back(rows, 1), give_back(lanes, 1), give_back(image, 1), give_back(offset, 0);
    give_back(space, 0), give_back(acc, 0);
}

static void check_product(const ah_kernels *kernels, int64_t steps, int64_t count, int64_t width,
                          int largest) {
    const int64_t stride = 4 * steps + 4, furthest = 92;
    const int64_t row_bytes = (count - 1) * stride + 4 * steps;
    const int64_t lane_bytes = furthest + 4 * width;
    const int64_t sums = (count - 1) * AH_WIDTH + width;
    uint8_t *rows = take(row_bytes, 4);
    int8_t *lanes = take(lane_bytes, 4);
    int64_t *offset = offsets(steps, furthest, 4);
    int32_t *acc = take(sums * 4, 0), *was = take(sums * 4, 0);
    if (largest) {
        memset(rows, 255, (size_t)row_bytes);
        memset(lanes, -128, (size_t)lane_bytes);
    }
    for (int64_t i = 0; i < sums; i++) acc[i] = largest ? 0 : acc[i] % 100000;
    memcpy(was, acc, (size_t)(sums * 4));
    kernels->product(rows, stride, count, lanes, offset, steps, width, acc);
    for (int64_t at = 0; at < sums; at++) {
        const int64_t r = at / AH_WIDTH, l = at % AH_WIDTH;
        int64_t sum = was[at];
        for (int64_t s = 0; s < steps && l < width; s++)
            for (int64_t i = 0; i < 4; i++)
                sum += rows[r * stride + 4 * s + i] * lanes[offset[s] + 4 * l + i];
        if (acc[at] != sum)
            fail("%s: product of %lld steps, row %lld of %lld, lane %lld of %lld: "
                 "%d instead of %lld",
                 kernels->name, (long long)steps, (long long)r, (long long)count, (long long)l,
                 (long long)width, acc[at], (long long)sum);
    }
    give_back(rows, 4), give_back(lanes, 4), give_back(offset, 0), give_back(acc, 0);
    give_back(was, 0);
}

int64_t check_kernels(const ah_kernels *kernels) {
    int64_t calls = check_recode(kernels);
    EACH(k, 1, 2, 17, AH_FLUSH, AH_FLUSH + 1, 2 * AH_FLUSH + 1)
    EACH(count, 1, 3, 4, 5, 16)
    for (int64_t width = 64; width <= AH_LANES; width += 64, calls++)
        check_lookup(kernels, *k, *count, width, *k % 2 == 0);
    EACH(k, 1, 4, 5, 7, AH_FLUSH, AH_FLUSH + 1, 2 * AH_FLUSH + 3)
    EACH(count, 1, 7, 8, 9, 16, 17, 25, AH_MANY)
    EACH(width, 1, 2, 63, 130) if (kernels->many != NULL) {
        check_many(kernels, *k, *count, *width, *k % 2 == 0);
        calls++;
    }
    EACH(steps, 1, 2, 3, 7, 96, 97)
    EACH(count, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 17, 25)
    for (int64_t width = 16; width <= AH_WIDTH; width += 16, calls++)
        check_product(kernels, *steps, *count, width, *steps % 2 == 0);
    /* The longest sums that the contracts allow. */
    if (kernels->many != NULL) check_many(kernels, 9, AH_MANY, AH_MANY_LANES, 0);
    EACH(most, 1, 5) {
        check_lookup(kernels, 32768, *most, 64, 1);
        if (kernels->many != NULL) check_many(kernels, 32768, *most, 3, 1);
        check_product(kernels, 16384, *most, 32, 1);
        calls += 2;
    }
    return calls;
}
