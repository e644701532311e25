// The way into the integers and out of them, and the recoding of gradients: one pass each.
//
// Real numbers are treated as the core's definitions do it, operation by operation: one rounding
// each, to nearest, none fused. Numbers are dense, in the order outer, channel, inner; a thread takes
// four in a row, as one word where they lie so.
#pragma once

#include "device.cuh"

namespace real {

constexpr int kThreads = 256;
constexpr int kTogether = 4;
constexpr float kLargest = 3.402823466e+38f;  // a finite number

// Where a number stands among channels.
struct Place {
    int64_t outer, channel, at;  // `at` among the inner ones
};

// Both are not negative. Division of 32 bits is quicker, and nearly always enough.
__device__ __forceinline__ int64_t quotient(int64_t n, int64_t by) {
    if ((n | by) >> 32 == 0) return static_cast<uint32_t>(n) / static_cast<uint32_t>(by);
    return n / by;
}

// Calls each(first, count, place of the first) for groups of numbers, all of them in turn.
template <typename Each>
__device__ __forceinline__ void in_groups(int64_t numbers, int64_t channels, int64_t inner,
                                          const Each &each) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kTogether;
    for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kTogether;
         i < numbers; i += step) {
        Place p = {0, 0, i};
        if (inner < numbers) {
            const int64_t row = quotient(i, inner);
            p.at = i - row * inner;
            p.outer = quotient(row, channels);
            p.channel = row - p.outer * channels;
        }
        each(i, static_cast<int>(least<int64_t>(kTogether, numbers - i)), p);
    }
}

__device__ __forceinline__ void next(Place &p, int64_t channels, int64_t inner) {
    if (++p.at < inner) return;
    p.at = 0;
    if (++p.channel < channels) return;
    p.channel = 0;
    p.outer++;
}

__device__ __forceinline__ void load(float (&to)[kTogether], const float *from, int count,
                                     bool words) {
    if (words && count == kTogether) {
        const float4 v = *reinterpret_cast<const float4 *>(from);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
        return;
    }
#pragma unroll
    for (int j = 0; j < kTogether; j++) to[j] = j < count ? from[j] : 0.0f;
}

__device__ __forceinline__ void store(float *to, const float (&from)[kTogether], int count,
                                      bool words) {
    if (words && count == kTogether) {
        *reinterpret_cast<float4 *>(to) = make_float4(from[0], from[1], from[2], from[3]);
        return;
    }
#pragma unroll
    for (int j = 0; j < kTogether; j++) {
        if (j < count) to[j] = from[j];
    }
}

// Four bytes, as one word where they lie so.
__device__ __forceinline__ void store(uint8_t *to, const uint32_t (&from)[kTogether], int count,
                                      bool words) {
    if (words && count == kTogether) {
        *reinterpret_cast<uint32_t *>(to) = (from[0] & 255u) | (from[1] & 255u) << 8 |
                                            (from[2] & 255u) << 16 | from[3] << 24;
        return;
    }
#pragma unroll
    for (int j = 0; j < kTogether; j++) {
        if (j < count) to[j] = static_cast<uint8_t>(from[j]);
    }
}

template <typename Code>
__device__ __forceinline__ void store(Code *to, const uint32_t (&from)[kTogether], int count, bool) {
#pragma unroll
    for (int j = 0; j < kTogether; j++) {
        if (j < count) to[j] = static_cast<Code>(from[j]);
    }
}

// --- quantising -----------------------------------------------------------------------------------

template <typename Code>
__global__ void __launch_bounds__(kThreads) quantize_kernel(ah_quantize w, bool words) {
    const float low = static_cast<float>(w.least), high = static_cast<float>(w.most);
    bool good = true;
    const auto each = [&](int64_t first, int count, Place p) {
        float x[kTogether], real[kTogether];
        uint32_t codes[kTogether], inside[kTogether];
        load(x, w.x + first, count, words);
#pragma unroll
        for (int j = 0; j < kTogether; j++) {
            const float scale = __ldg(w.scale + p.channel);
            const float zero = static_cast<float>(__ldg(w.zero + p.channel));
            const float free = __fadd_rn(rintf(__fdiv_rn(x[j], scale)), zero);
            float code = free >= low ? free : low;  // the least for NaN, too
            code = code > high ? high : code;
            good = good && fabsf(x[j]) <= kLargest;
            codes[j] = static_cast<uint32_t>(static_cast<int32_t>(code));
            real[j] = __fmul_rn(__fsub_rn(code, zero), scale);
            inside[j] = code == free;
            if (j + 1 < count) next(p, w.channels, w.inner);
        }
        store(static_cast<Code *>(w.codes) + first, codes, count, words);
        if (w.real) {
            store(w.real + first, real, count, words);
            store(w.inside + first, inside, count, words);
        }
    };
    in_groups(w.outer * w.channels * w.inner, w.channels, w.inner, each);
    if (!good) *w.finite = 0;  // whoever writes, writes the same
}

// --- dequantising ---------------------------------------------------------------------------------

template <typename Sum>
__global__ void __launch_bounds__(kThreads) dequantize_kernel(ah_dequantize w, bool words) {
    const Sum *acc = static_cast<const Sum *>(w.acc);
    const int64_t together = quotient(w.channels, w.groups);  // channels of a group
    const auto each = [&](int64_t first, int count, Place p) {
        float y[kTogether];
#pragma unroll
        for (int j = 0; j < kTogether; j++) {
            y[j] = 0.0f;
            if (j >= count) continue;
            int64_t total = static_cast<int64_t>(acc[first + j]) + __ldg(w.term + p.channel);
            if (w.sums) {
                const int64_t group = p.outer * w.groups + quotient(p.channel, together);
                total -= __ldg(w.zero + p.channel) * w.sums[group * w.inner + p.at];
            }
            y[j] = __fmul_rn(__ll2float_rn(total), __ldg(w.scale + p.channel));
            if (w.bias) y[j] = __fadd_rn(y[j], __ldg(w.bias + p.channel));
            next(p, w.channels, w.inner);
        }
        store(w.out + first, y, count, words);
    };
    in_groups(w.outer * w.channels * w.inner, w.channels, w.inner, each);
}

// --- gradients that are tables --------------------------------------------------------------------

// The bits of the code that a number on the grid has. A table has 2^24 entries at most, and there are
// four terms, so an index has 32 bits.
__device__ __forceinline__ int32_t pattern(float x, float scale, int32_t zero, int32_t mask) {
    return (static_cast<int32_t>(rintf(__fdiv_rn(x, scale))) + zero) & mask;
}

// At least one block to a processor: told nothing, the compiler spills registers on some cards, so
// that more of them fit.
__global__ void __launch_bounds__(kThreads, 1) recode_kernel(ah_recode w, bool words) {
    const int64_t numbers = w.outer * w.channels * w.inner;
    const auto each = [&](int64_t first, int count, Place p) {
        float x[kTogether], scale[kTogether];
        int32_t at[kTogether];
        load(x, w.x + first, count, words);
#pragma unroll
        for (int j = 0; j < kTogether; j++) {
            scale[j] = __ldg(w.scale + p.channel);
            at[j] = pattern(x[j], scale[j], __ldg(w.zero + p.channel), w.mask);
            if (j + 1 < count) next(p, w.channels, w.inner);
        }
        for (int t = 0; t < w.terms; t++) {
            float out[kTogether];
#pragma unroll
            for (int j = 0; j < kTogether; j++) {
                out[j] = __fmul_rn(scale[j], __ldg(w.table + t * (w.mask + 1) + at[j]));
                if (t == 0 && w.whole) out[j] = __fadd_rn(x[j], out[j]);
            }
            store(w.out + t * numbers + first, out, count, words);
        }
    };
    in_groups(numbers, w.channels, w.inner, each);
}

__global__ void __launch_bounds__(kThreads, 1) combine_kernel(ah_combine w, bool words) {
    const auto each = [&](int64_t first, int count, Place p) {
        float x[kTogether], sum[kTogether];
        int32_t at[kTogether];
        load(x, w.x + first, count, words);
        load(sum, w.sum + first, count, words);
#pragma unroll
        for (int j = 0; j < kTogether; j++) {
            at[j] = pattern(x[j], __ldg(w.scale + p.channel), __ldg(w.zero + p.channel), w.mask);
            if (j + 1 < count) next(p, w.channels, w.inner);
        }
#pragma unroll
        for (int t = 0; t < AH_MOST_TERMS; t++) {
            if (t >= w.terms) break;
            float product[kTogether];
            load(product, w.products[t] + first, count, words);
#pragma unroll
            for (int j = 0; j < kTogether; j++) {
                const float by = __ldg(w.table + t * (w.mask + 1) + at[j]);
                sum[j] = __fadd_rn(sum[j], __fmul_rn(by, product[j]));
            }
        }
        store(w.sum + first, sum, count, words);
    };
    in_groups(w.outer * w.channels * w.inner, w.channels, w.inner, each);
}

// --- launching ------------------------------------------------------------------------------------

// Blocks for that many numbers: enough to fill the card, which then takes the rest in turn.
inline int64_t blocks_for(int64_t numbers, const ah_card &card) {
    return least<int64_t>(ceil_div<int64_t>(numbers, kThreads * kTogether), 8 * card.processors);
}

// Whether all of these begin at a whole word, so that four numbers from a fourth one on are a word.
template <typename... Pointers>
bool in_words(const Pointers *...pointers) {
    return ((reinterpret_cast<uintptr_t>(pointers) | ...) & 15) == 0;
}

}  // namespace real
