// Reading codes of an operand: a matrix, or an image whose patches are never made.
#pragma once

#include "device.cuh"

// Where a row begins. For an image: the position that its first tap meets, maybe outside.
struct Row {
    int64_t offset;
    int32_t at[3];
    bool inside;  // there is such a row
};

// What one k adds to a row.
struct Tap {
    int64_t offset;
    int32_t at[3];
};

__device__ __forceinline__ Row row_of(const ah_operand &o, int64_t group, int64_t row) {
    Row r;
    r.inside = row < o.rows;
    if (!r.inside) row = 0;
    r.offset = group * o.group_step;
    r.at[0] = r.at[1] = r.at[2] = 0;
    if (!o.image) {
        r.offset += row * o.row_step;
        return r;
    }
#pragma unroll
    for (int d = 2; d >= 0; d--) {
        const int64_t next = row / o.out[d];
        r.at[d] = static_cast<int32_t>(row - next * o.out[d]) * o.stride[d] - o.before[d];
        r.offset += r.at[d] * o.step[2 + d];
        row = next;
    }
    r.offset += row * o.step[0];
    return r;
}

__device__ __forceinline__ Tap tap_of(const ah_operand &o, int64_t k) {
    Tap t;
    t.at[0] = t.at[1] = t.at[2] = 0;
    if (!o.image) {
        t.offset = k * o.k_step;
        return t;
    }
    int64_t tap = k / o.channels;
    t.offset = (k - tap * o.channels) * o.step[1];
#pragma unroll
    for (int d = 2; d >= 0; d--) {
        const int64_t next = tap / o.kernel[d];
        t.at[d] = static_cast<int32_t>(tap - next * o.kernel[d]) * o.dilation[d];
        t.offset += t.at[d] * o.step[2 + d];
        tap = next;
    }
    return t;
}

__device__ __forceinline__ bool meets(const ah_operand &o, const Row &r, const Tap &t) {
    bool all = true;
#pragma unroll
    for (int d = 0; d < 3; d++) {
        const int32_t at = r.at[d] + t.at[d];
        all = all && at >= 0 && at < o.size[d];
    }
    return all;
}

// The code outside of an image; the kernels that read it take its low bits.
__device__ __forceinline__ uint32_t padding_of(const ah_operand &o) {
    return static_cast<uint32_t>(o.pad_from ? __ldg(o.pad_from) : o.pad);
}

// The code of a row and a tap, which both are there.
template <typename Code>
__device__ __forceinline__ uint32_t code_at(const ah_operand &o, const Row &r, const Tap &t) {
    if (o.image && !meets(o, r, t)) return static_cast<Code>(padding_of(o));
    return static_cast<const Code *>(o.data)[r.offset + t.offset];
}

// Whether four codes from a k that is a multiple of four lie in one aligned word, under one tap.
__host__ __device__ __forceinline__ bool in_words(const ah_operand &o) {
    const int64_t steps = o.image ? o.step[0] | o.step[2] | o.step[3] | o.step[4] | o.channels
                                  : o.row_step;
    const int64_t k_step = o.image ? o.step[1] : o.k_step;
    const int64_t address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(o.data));
    return k_step == 1 && ((steps | o.group_step | address) & 3) == 0;
}

// Up to four codes of a row from one k on, the first in the lowest byte.
__device__ __forceinline__ uint32_t four_codes(const ah_operand &a, const Row &row, const Tap *taps,
                                               int count, bool words) {
    if (words && count >= 4) {
        if (a.image && !meets(a, row, taps[0])) return (padding_of(a) & 255u) * 0x01010101u;
        const uint8_t *at = static_cast<const uint8_t *>(a.data) + row.offset + taps[0].offset;
        return *reinterpret_cast<const uint32_t *>(at);
    }
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (i < count) word |= code_at<uint8_t>(a, row, taps[i]) << (8 * i);
    }
    return word;
}
