// Writing sums.
#pragma once

#include "device.cuh"

// How a block shares sums with others.
enum Emit {
    kStore,  // nobody else has a part in them
    kAdd,    // it has stored or zeroed them itself
    kShare,  // others add to them too
};

// Where the first column of a row is.
__device__ __forceinline__ int64_t place_of(const ah_sums &s, int64_t group, int64_t row) {
    const int64_t block = row / s.block;
    return group * s.group_step + block * s.block_step + (row - block * s.block) * s.row_step;
}

__device__ __forceinline__ void emit(const ah_sums &s, int64_t at, int64_t value, Emit how) {
    if (s.wide) {
        int64_t *to = static_cast<int64_t *>(s.data) + at;
        if (how == kShare) {
            add_atomically(to, value);
        } else {
            *to = how == kStore ? value : *to + value;
        }
    } else {
        // Modulo 2^32, which is exact where the whole sum fits.
        int32_t *to = static_cast<int32_t *>(s.data) + at;
        if (how == kShare) {
            add_atomically(to, value);
        } else {
            const uint32_t old = how == kStore ? 0u : static_cast<uint32_t>(*to);
            *to = static_cast<int32_t>(old + static_cast<uint32_t>(value));
        }
    }
}

// How a long sum is cut, so that all processors have work: parts of `step` products, a multiple of
// `unit`. Every sum is of integers, so the parts may be added in any order.
struct Parts {
    int64_t count, step;
};

inline Parts parts_of(int64_t k, int64_t unit, int64_t tiles, int64_t wanted, int64_t shortest) {
    int64_t count = tiles >= wanted ? 1 : wanted / tiles;
    count = least(count, k / shortest);
    if (count < 1) count = 1;
    const int64_t step = ceil_div(ceil_div(k, count), unit) * unit;
    return {ceil_div(k, step), step};
}

inline int32_t zeroed(const ah_sums &s, void *stream) {
    const size_t bytes = static_cast<size_t>(s.count) * (s.wide ? 8 : 4);
    return status_of(cudaMemsetAsync(s.data, 0, bytes, static_cast<cudaStream_t>(stream)));
}
