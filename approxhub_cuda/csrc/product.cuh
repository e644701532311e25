// Sums of products of recoded codes, on the integer matrix units.
//
// A pass has up to four planes: pairs of byte tables, one for either operand, whose products are
// summed with one weight. A block loads codes of a tile once, looks each up once for all planes (a
// word of the recoding holds a byte for each), and multiplies plane by plane. Recodings lie several
// times side by side in shared memory, so that the threads of a warp seldom meet in a bank, or never.
#pragma once

#include "matrix_units.cuh"
#include "operand.cuh"
#include "sums.cuh"

namespace product {

constexpr int kThreads = 256;
constexpr int kRows = 128;
constexpr int kMostPlanes = 4;
constexpr int kMostCopies = 32;         // of a recoding: one for each bank of shared memory
constexpr int64_t kWorthCopies = 256;   // codes of a row that pay for so many
constexpr int64_t kBound = 33025;  // products of two bytes that fit 31 bits together

// A tile of 128 rows and kColumns columns, kDepth codes at a time.
template <int kColumns, int kDepth>
struct Tile {
    static_assert(kColumns == 128 || kColumns == 64, "warps of 32 columns");
    static_assert(kDepth == 64 || kDepth == 32, "steps of a matrix unit");
    static constexpr int kWords = kDepth / 4;
    static constexpr int kWarpsAcross = kColumns / 32;
    static constexpr int kWarpRows = kRows / (kThreads / kWarp / kWarpsAcross);
    static constexpr int kUnitsDown = kWarpRows / 16, kUnitsAcross = 4;
    static constexpr int kPlane = (kRows + kColumns) * kWords;
    static constexpr int kFetchedA = kRows * kWords / kThreads;
    static constexpr int kFetchedB = kColumns * kWords / kThreads;

    // Where a word of a row is. Rows that share banks have their words in another order, so that
    // neither the rows that a warp writes meet in a bank, nor the four words of eight rows that it
    // reads; those depend on the last three bits of a row alone.
    __device__ __forceinline__ static int at(int row, int word) {
        return row * kWords + (word ^ turned(row));
    }
    __device__ __forceinline__ static int turned(int row) {
        return row / (32 / kWords) % (kWords / 4) * 4;
    }

    static int64_t shared(int planes, int copies) {
        return kRows * sizeof(Row) + kDepth * sizeof(Tap) + 4 * (2 * 256 * copies) +
               4 * static_cast<int64_t>(kPlane) * planes;
    }
};

// The first planes of four recoded codes, four bytes for each plane.
struct Recoded {
    uint32_t plane[kMostPlanes];
};

__device__ __forceinline__ Recoded recode(const uint32_t *recoding, int copies, int copy,
                                          uint32_t codes, int count) {
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        // What is beyond K is zero in every plane.
        word[i] = i < count ? recoding[(codes >> (8 * i) & 255u) * copies + copy] : 0u;
    }
    const uint32_t low01 = __byte_perm(word[0], word[1], 0x5140);
    const uint32_t low23 = __byte_perm(word[2], word[3], 0x5140);
    const uint32_t high01 = __byte_perm(word[0], word[1], 0x7362);
    const uint32_t high23 = __byte_perm(word[2], word[3], 0x7362);
    return {{__byte_perm(low01, low23, 0x5410), __byte_perm(low01, low23, 0x7632),
             __byte_perm(high01, high23, 0x5410), __byte_perm(high01, high23, 0x7632)}};
}

// Four codes of one column from k on, the first in the lowest byte.
__device__ __forceinline__ uint32_t column_codes(const ah_operand &b, int64_t offset, int64_t k,
                                                 int count, bool words) {
    const uint8_t *at = static_cast<const uint8_t *>(b.data) + offset + k * b.k_step;
    if (words && count >= 4) return *reinterpret_cast<const uint32_t *>(at);
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (i < count) word |= static_cast<uint32_t>(at[i * b.k_step]) << (8 * i);
    }
    return word;
}

// Modulo 2^64: parts of a sum may exceed it where the whole does not.
__device__ __forceinline__ int64_t weighted(int64_t weight, int32_t sum) {
    return static_cast<int64_t>(static_cast<uint64_t>(weight) *
                                static_cast<uint64_t>(static_cast<int64_t>(sum)));
}

template <int kSigns, int kDown, int kAcross>
__device__ __forceinline__ void multiply(int32_t (&sum)[kDown][kAcross][4],
                                         const uint32_t (&a)[kDown][4],
                                         const uint32_t (&b)[kAcross][2]) {
#pragma unroll
    for (int i = 0; i < kDown; i++) {
#pragma unroll
        for (int j = 0; j < kAcross; j++) multiply_add<kSigns>(sum[i][j], a[i], b[j]);
    }
}

template <int kColumns, int kDepth>
__global__ void __launch_bounds__(kThreads, 1)  // one: ptxas may spill to have room for two
    product_kernel(const __grid_constant__ ah_product w, int64_t parts, int64_t part_step,
                   int copies) {
    using T = Tile<kColumns, kDepth>;
    Row *rows = reinterpret_cast<Row *>(shared_memory());
    Tap *taps = reinterpret_cast<Tap *>(rows + kRows);
    uint32_t *left = reinterpret_cast<uint32_t *>(taps + kDepth);
    uint32_t *right = left + 256 * copies;
    uint32_t *tiles = right + 256 * copies;

    const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
    const int64_t strips = ceil_div<int64_t>(w.columns, kColumns);
    const int64_t bands = ceil_div<int64_t>(w.a.rows, kRows);
    int64_t rest = blockIdx.x;
    const int64_t column = rest % strips * kColumns;
    rest /= strips;
    const int64_t part = rest % parts;
    rest /= parts;
    const int64_t row = rest % bands * kRows, group = rest / bands;
    const int64_t begin = part * part_step, end = least(w.k, begin + part_step);

    const bool a_words = in_words(w.a), b_words = in_words(w.b);
    const bool a_along = a_words || (!w.a.image && w.a.k_step == 1);  // k changes fastest
    const bool b_along = w.b.k_step == 1;
    const int copy = lane % copies;
    if (thread < kRows) rows[thread] = row_of(w.a, group, row + thread);

    // Which words of the tile this thread loads.
    const auto a_row = [&](int i) {
        const int at = thread + i * kThreads;
        return a_along ? at / T::kWords : at % kRows;
    };
    const auto a_word = [&](int i) {
        const int at = thread + i * kThreads;
        return a_along ? at % T::kWords : at / kRows;
    };
    const auto b_column = [&](int i) {
        const int at = thread + i * kThreads;
        return b_along ? at / T::kWords : at % kColumns;
    };
    const auto b_word = [&](int i) {
        const int at = thread + i * kThreads;
        return b_along ? at % T::kWords : at / kColumns;
    };
    uint32_t a_codes[T::kFetchedA], b_codes[T::kFetchedB];
    const auto fetch = [&](int64_t k) {
        const int depth = static_cast<int>(least<int64_t>(kDepth, end - k));
#pragma unroll
        for (int i = 0; i < T::kFetchedA; i++) {
            const int at = 4 * a_word(i);
            a_codes[i] = at < depth
                             ? four_codes(w.a, rows[a_row(i)], taps + at, depth - at, a_words)
                             : 0u;
        }
#pragma unroll
        for (int i = 0; i < T::kFetchedB; i++) {
            const int at = 4 * b_word(i);
            // Columns beyond the last are computed, from the last, and thrown away.
            const int64_t c = least(column + b_column(i), w.columns - 1);
            b_codes[i] = at < depth ? column_codes(w.b, group * w.b.group_step + c * w.b.row_step,
                                                   k + at, depth - at, b_words)
                                    : 0u;
        }
    };

    const int g = lane / 4, t = lane % 4;
    const int first_row = warp / T::kWarpsAcross * T::kWarpRows;
    const int first_column = warp % T::kWarpsAcross * 32;
    int32_t sums[T::kUnitsDown][T::kUnitsAcross][4];
    const auto clear = [&] {
#pragma unroll
        for (int i = 0; i < T::kUnitsDown; i++) {
#pragma unroll
            for (int j = 0; j < T::kUnitsAcross; j++) {
#pragma unroll
                for (int v = 0; v < 4; v++) sums[i][j][v] = 0;
            }
        }
    };
    Emit how = parts > 1 ? kShare : kStore;
    int64_t summed = 0;  // products in each of `sums`
    clear();
    for (int p = 0; p < w.passes; p++) {
        const ah_pass &pass = w.pass[p];
        // No barrier here: who still multiplies the last tiles reads those alone.
        const uint32_t *from_left = static_cast<const uint32_t *>(w.left) + 256 * p;
        const uint32_t *from_right = static_cast<const uint32_t *>(w.right) + 256 * p;
        for (int i = thread; i < 256 * copies; i += kThreads) {
            left[i] = from_left[i / copies];
            right[i] = from_right[i / copies];
        }
        if (thread < kDepth && begin + thread < end) taps[thread] = tap_of(w.a, begin + thread);
        __syncthreads();
        fetch(begin);
        for (int64_t k = begin; k < end; k += kDepth) {
            const int depth = static_cast<int>(least<int64_t>(kDepth, end - k));
            __syncthreads();  // the tiles are multiplied, the taps are used
#pragma unroll
            for (int i = 0; i < T::kFetchedA; i++) {
                const int at = a_word(i);
                const Recoded r = recode(left, copies, copy, a_codes[i], depth - 4 * at);
#pragma unroll
                for (int q = 0; q < kMostPlanes; q++) {
                    if (q < pass.planes) {
                        tiles[q * T::kPlane + T::at(a_row(i), at)] = r.plane[q];
                    }
                }
            }
#pragma unroll
            for (int i = 0; i < T::kFetchedB; i++) {
                const int at = b_word(i);
                const Recoded r = recode(right, copies, copy, b_codes[i], depth - 4 * at);
#pragma unroll
                for (int q = 0; q < kMostPlanes; q++) {
                    if (q < pass.planes) {
                        tiles[q * T::kPlane + T::at(kRows + b_column(i), at)] = r.plane[q];
                    }
                }
            }
            const int64_t following = k + kDepth;
            if (thread < kDepth && following + thread < end) {
                taps[thread] = tap_of(w.a, following + thread);
            }
            __syncthreads();
            if (following < end) fetch(following);  // under way while this tile is multiplied
            for (int q = 0; q < pass.planes; q++) {
                const uint32_t *a_tile = tiles + q * T::kPlane + (first_row + g) * T::kWords;
                const uint32_t *b_tile =
                    tiles + q * T::kPlane + (kRows + first_column + g) * T::kWords;
#pragma unroll
                for (int step = 0; step < kDepth / 32; step++) {
                    const int low = (8 * step + t) ^ T::turned(g), high = low ^ 4;
                    uint32_t a[T::kUnitsDown][4], b[T::kUnitsAcross][2];
#pragma unroll
                    for (int i = 0; i < T::kUnitsDown; i++) {
                        const uint32_t *at = a_tile + 16 * i * T::kWords;
                        a[i][0] = at[low];
                        a[i][1] = at[8 * T::kWords + low];
                        a[i][2] = at[high];
                        a[i][3] = at[8 * T::kWords + high];
                    }
#pragma unroll
                    for (int j = 0; j < T::kUnitsAcross; j++) {
                        const uint32_t *at = b_tile + 8 * j * T::kWords;
                        b[j][0] = at[low];
                        b[j][1] = at[high];
                    }
                    switch (pass.signs >> (2 * q) & 3) {
                        case kUnsigned: multiply<kUnsigned>(sums, a, b); break;
                        case kSignedA: multiply<kSignedA>(sums, a, b); break;
                        case kSignedB: multiply<kSignedB>(sums, a, b); break;
                        default: multiply<kSigned>(sums, a, b); break;
                    }
                }
            }
            summed += static_cast<int64_t>(kDepth) * pass.planes;
            const bool last = following >= end;
            const bool other = last && (p + 1 == w.passes || w.pass[p + 1].weight != pass.weight);
            const bool full = w.sums.wide && summed + kMostPlanes * kDepth > kBound;
            if (!other && !full) continue;
#pragma unroll
            for (int i = 0; i < 2 * T::kUnitsDown; i++) {
                const int64_t r = row + first_row + 8 * i + g;
                if (r < w.a.rows) {
                    const int64_t at = place_of(w.sums, group, r);
#pragma unroll
                    for (int j = 0; j < 2 * T::kUnitsAcross; j++) {
                        const int64_t c = column + first_column + 8 * (j / 2) + 2 * t + j % 2;
                        if (c < w.columns) {
                            emit(w.sums, at + c * w.sums.column_step,
                                 weighted(pass.weight, sums[i / 2][j / 2][2 * (i % 2) + j % 2]),
                                 how);
                        }
                    }
                }
            }
            if (how == kStore) how = kAdd;
            summed = 0;
            clear();
        }
    }
}

template <int kColumns, int kDepth>
int32_t run(const ah_product &w, const ah_card &card, int planes, void *stream) {
    using T = Tile<kColumns, kDepth>;
    const int64_t tiles = ceil_div<int64_t>(w.columns, kColumns) *
                          ceil_div<int64_t>(w.a.rows, kRows) * w.groups;
    const Parts parts = parts_of(w.k, kDepth, tiles, 2 * card.processors, 512);
    // Registers leave a processor one block, so its shared memory is there to be used; but copies
    // have to be written first.
    int copies = parts.step < kWorthCopies ? 8 : kMostCopies;
    while (copies > 2 && T::shared(planes, copies) > card.shared_bytes) copies /= 4;
    const int64_t shared = T::shared(planes, copies);
    if (shared > card.shared_bytes) return AH_NO_MEMORY;
    if (parts.count > 1) {
        const int32_t status = zeroed(w.sums, stream);
        if (status) return status;
    }
    return launch(product_kernel<kColumns, kDepth>, tiles * parts.count, kThreads, shared, stream,
                  w, parts.count, parts.step, copies);
}

template <int kColumns, int kDepth>
cudaError_t ready_one(const ah_card &card, int planes) {
    using T = Tile<kColumns, kDepth>;
    return ready(product_kernel<kColumns, kDepth>,
                 least<int64_t>(card.shared_bytes, T::shared(planes, kMostCopies)));
}

}  // namespace product
