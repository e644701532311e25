// Sums of products that are looked up in a table.
//
// Staged: a block has 256 or 1024 rows and a few columns. For each k it lays the rows of the table
// that belong to its columns' codes side by side in shared memory, so that one wide word, found by
// the code of a row, serves all columns. Whole rows of the table are read, the same by all threads
// of a block, so they come from the first cache. With one column it is the way of convolutions
// whose groups have one output channel each.
//
// Direct: every product is an entry of the whole table, which is read through the caches, or lies
// in the shared memory of a block that then works on many tiles.
#pragma once

#include "operand.cuh"
#include "sums.cuh"

namespace lookup {

constexpr int kThreads = 256;
constexpr int kEntries = 256;           // of a staged row: one for each byte
constexpr int64_t kBound = 1 << 16;     // sums of so many 16-bit entries fit 32 bits

// --- staged -------------------------------------------------------------------------------------

template <int kColumns>
struct Staged {
    static_assert(kColumns == 8 || kColumns == 1, "a word of 16 or of 2 bytes");
    static constexpr int kDepth = kColumns == 8 ? 8 : 16;  // k staged at a time
    static constexpr int kImage = kDepth * kEntries * kColumns * 2;
    static constexpr int kShared = kImage + kDepth * static_cast<int>(sizeof(Tap));
};

// Adds the entries of one row and one k to the sums of all columns.
__device__ __forceinline__ void add_entries(uint32_t (&sum)[8], const uint4 *image, uint32_t code) {
    const uint4 v = image[code];
    sum[0] += v.x & 0xffffu;
    sum[1] += v.x >> 16;
    sum[2] += v.y & 0xffffu;
    sum[3] += v.y >> 16;
    sum[4] += v.z & 0xffffu;
    sum[5] += v.z >> 16;
    sum[6] += v.w & 0xffffu;
    sum[7] += v.w >> 16;
}

__device__ __forceinline__ void add_entries(uint32_t (&sum)[1], const uint16_t *image,
                                            uint32_t code) {
    sum[0] += image[code];
}

// Lays the table's rows for the codes of eight columns and `depth` k side by side.
__device__ __forceinline__ void stage(const ah_lookup &w, int64_t group, int64_t first, int64_t k,
                                      int depth, uint4 *image) {
    const uint32_t *table = static_cast<const uint32_t *>(w.table);  // two entries a word
    const uint8_t *codes = static_cast<const uint8_t *>(w.b.data) + group * w.b.group_step;
    const int pair = threadIdx.x % (kEntries / 2);
    for (int i = threadIdx.x / (kEntries / 2); i < depth; i += kThreads / (kEntries / 2)) {
        uint32_t two[8];
#pragma unroll
        for (int c = 0; c < 8; c++) {
            // Columns beyond the last are computed, from the last, and thrown away.
            const int64_t column = least(first + c, w.columns - 1);
            const uint32_t code = codes[column * w.b.row_step + (k + i) * w.b.k_step];
            two[c] = __ldg(table + code * (kEntries / 2) + pair);
        }
        uint4 *to = image + i * kEntries + 2 * pair;
        to[0] = make_uint4(__byte_perm(two[0], two[1], 0x5410), __byte_perm(two[2], two[3], 0x5410),
                           __byte_perm(two[4], two[5], 0x5410), __byte_perm(two[6], two[7], 0x5410));
        to[1] = make_uint4(__byte_perm(two[0], two[1], 0x7632), __byte_perm(two[2], two[3], 0x7632),
                           __byte_perm(two[4], two[5], 0x7632), __byte_perm(two[6], two[7], 0x7632));
    }
}

__device__ __forceinline__ void stage(const ah_lookup &w, int64_t group, int64_t column, int64_t k,
                                      int depth, uint16_t *image) {
    const uint32_t *table = static_cast<const uint32_t *>(w.table);
    const uint8_t *codes = static_cast<const uint8_t *>(w.b.data) + group * w.b.group_step;
    const int pair = threadIdx.x % (kEntries / 2);
    for (int i = threadIdx.x / (kEntries / 2); i < depth; i += kThreads / (kEntries / 2)) {
        const uint32_t code = codes[column * w.b.row_step + (k + i) * w.b.k_step];
        reinterpret_cast<uint32_t *>(image)[i * (kEntries / 2) + pair] =
            __ldg(table + code * (kEntries / 2) + pair);
    }
}

// With one column it is two blocks to a processor at least: told nothing (0), the compiler spills
// registers on sm_100, so that more of them fit.
template <int kRows, int kColumns>
__global__ void __launch_bounds__(kThreads, kColumns == 1 ? 2 : 0)
    staged_kernel(ah_lookup w, int64_t parts, int64_t part_step) {
    using Shape = Staged<kColumns>;
    using Word = std::conditional_t<kColumns == 8, uint4, uint16_t>;
    Word *image = reinterpret_cast<Word *>(shared_memory());
    Tap *taps = reinterpret_cast<Tap *>(shared_memory() + Shape::kImage);

    // Columns change fastest, so that blocks which run together read the same rows.
    const int64_t strips = ceil_div<int64_t>(w.columns, kColumns);
    int64_t block = blockIdx.x;
    const int64_t column = block % strips * kColumns;
    block /= strips;
    const int64_t part = block % parts;
    block /= parts;
    const int64_t bands = ceil_div<int64_t>(w.a.rows, kRows * kThreads);
    const int64_t row = block % bands * (kRows * kThreads) + threadIdx.x;
    const int64_t group = block / bands;

    const int thread = threadIdx.x;
    const bool words = in_words(w.a);
    Row rows[kRows];
    uint32_t sums[kRows][kColumns];
#pragma unroll
    for (int r = 0; r < kRows; r++) {
        rows[r] = row_of(w.a, group, row + r * kThreads);
#pragma unroll
        for (int c = 0; c < kColumns; c++) sums[r][c] = 0;
    }
    Emit how = parts > 1 ? kShare : kStore;
    const int64_t end = least(w.k, (part + 1) * part_step);
    int64_t summed = 0;  // products in `sums`
    for (int64_t k = part * part_step; k < end; k += Shape::kDepth) {
        const int depth = static_cast<int>(least<int64_t>(Shape::kDepth, end - k));
        __syncthreads();  // nobody reads the last image any more
        stage(w, group, column, k, depth, image);
        if (thread < depth) taps[thread] = tap_of(w.a, k + thread);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < Shape::kDepth; i += 4) {
            if (i < depth) {
                uint32_t codes[kRows];
#pragma unroll
                for (int r = 0; r < kRows; r++) {
                    codes[r] = four_codes(w.a, rows[r], taps + i, depth - i, words);
                }
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    if (i + j < depth) {  // what is beyond K never reaches the table
#pragma unroll
                        for (int r = 0; r < kRows; r++) {
                            add_entries(sums[r], image + (i + j) * kEntries,
                                        codes[r] >> (8 * j) & 255u);
                        }
                    }
                }
            }
        }
        summed += depth;
        if (k + Shape::kDepth >= end || (w.sums.wide && summed + Shape::kDepth > kBound)) {
#pragma unroll
            for (int r = 0; r < kRows; r++) {
                if (rows[r].inside) {
                    const int64_t at = place_of(w.sums, group, row + r * kThreads);
#pragma unroll
                    for (int c = 0; c < kColumns; c++) {
                        if (column + c < w.columns) {
                            emit(w.sums, at + (column + c) * w.sums.column_step,
                                 sums[r][c] + summed * w.bias, how);
                        }
                        sums[r][c] = 0;
                    }
                }
            }
            summed = 0;
            if (how == kStore) how = kAdd;
        }
    }
}

template <int kRows, int kColumns>
int32_t run_staged(const ah_lookup &w, int processors, void *stream) {
    using Shape = Staged<kColumns>;
    const int64_t tiles = ceil_div<int64_t>(w.columns, kColumns) *
                          ceil_div<int64_t>(w.a.rows, kRows * kThreads) * w.groups;
    const Parts parts = parts_of(w.k, Shape::kDepth, tiles, 2 * processors, 128);
    if (parts.count > 1) {
        const int32_t status = zeroed(w.sums, stream);
        if (status) return status;
    }
    return launch(staged_kernel<kRows, kColumns>, tiles * parts.count, kThreads, Shape::kShared,
                  stream, w, parts.count, parts.step);
}

// --- direct -------------------------------------------------------------------------------------

// A warp has 128 rows, four for each thread, and four columns.
constexpr int kTileRows = 128;
constexpr int kDirectDepth = 16;

template <typename Code, int kWarps>
struct Direct {
    static constexpr int kTileColumns = 4 * kWarps;
    static constexpr int kCodes = kDirectDepth * (kTileRows + kTileColumns) * sizeof(Code);
    static constexpr int kTables = kTileRows * sizeof(Row) + kDirectDepth * sizeof(Tap);
    static constexpr int kShared = kTables + kCodes;
    static_assert(kShared % sizeof(uint4) == 0, "a table behind it begins at a whole word");
};

// Sum is what sums are added up in: uint32_t where they fit (any order, modulo 2^32), else int64_t.
template <typename Entry, typename Code, typename Sum, int kWarps, bool kWhole>
__global__ void __launch_bounds__(kWarps *kWarp) direct_kernel(ah_lookup w, int64_t parts,
                                                               int64_t part_step, int64_t tiles) {
    using Shape = Direct<Code, kWarps>;
    constexpr int kColumns = Shape::kTileColumns;
    constexpr int kThreads = kWarps * kWarp;
    Row *rows = reinterpret_cast<Row *>(shared_memory());
    Tap *taps = reinterpret_cast<Tap *>(rows + kTileRows);
    Code *a_codes = reinterpret_cast<Code *>(taps + kDirectDepth);
    Code *b_codes = a_codes + kDirectDepth * kTileRows;
    const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;

    const Entry *table = static_cast<const Entry *>(w.table);
    if (kWhole) {
        uint4 *to = reinterpret_cast<uint4 *>(shared_memory() + Shape::kShared);
        const uint4 *from = static_cast<const uint4 *>(w.table);
        const int64_t words = (int64_t(1) << (w.a_bits + w.b_bits)) * sizeof(Entry) / sizeof(uint4);
        for (int64_t i = thread; i < words; i += kThreads) to[i] = from[i];
        table = reinterpret_cast<const Entry *>(to);
    }
    const uint32_t a_mask = (1u << w.a_bits) - 1, b_mask = (1u << w.b_bits) - 1;
    const bool along_k = !w.a.image && w.a.k_step == 1, b_along_k = w.b.k_step == 1;
    const Code *b = static_cast<const Code *>(w.b.data);
    const int64_t strips = ceil_div<int64_t>(w.columns, kColumns);
    const int64_t bands = ceil_div<int64_t>(w.a.rows, kTileRows);

    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64_t rest = tile;
        const int64_t column = rest % strips * kColumns;
        rest /= strips;
        const int64_t part = rest % parts;
        rest /= parts;
        const int64_t row = rest % bands * kTileRows, group = rest / bands;
        const int64_t begin = part * part_step, end = least(w.k, begin + part_step);

        // No barrier here: who still adds up the last tile reads codes alone, which are overwritten
        // behind the next one.
        if (thread < kTileRows) rows[thread] = row_of(w.a, group, row + thread);
        if (thread < kDirectDepth && begin + thread < end) {
            taps[thread] = tap_of(w.a, begin + thread);
        }
        // Rows and columns of this thread that there are; the others are not looked up.
        const int64_t rows_left = ceil_div<int64_t>(w.a.rows - row - lane, kWarp);
        const int64_t columns_left = ceil_div<int64_t>(w.columns - column - warp, kWarps);
        Sum sums[4][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) sums[i][j] = 0;
        }
        for (int64_t k = begin; k < end; k += kDirectDepth) {
            const int depth = static_cast<int>(least<int64_t>(kDirectDepth, end - k));
            __syncthreads();  // taps are there, codes are read
            for (int i = thread; i < kTileRows * kDirectDepth; i += kThreads) {
                const int r = along_k ? i / kDirectDepth : i % kTileRows;
                const int d = along_k ? i % kDirectDepth : i / kTileRows;
                if (d < depth) {
                    a_codes[d * kTileRows + r] = static_cast<Code>(
                        code_at<Code>(w.a, rows[r], taps[d]) & a_mask);
                }
            }
            for (int i = thread; i < kColumns * kDirectDepth; i += kThreads) {
                const int c = b_along_k ? i / kDirectDepth : i % kColumns;
                const int d = b_along_k ? i % kDirectDepth : i / kColumns;
                if (d < depth) {
                    const int64_t at = group * w.b.group_step + (k + d) * w.b.k_step +
                                       least(column + c, w.columns - 1) * w.b.row_step;
                    b_codes[d * kColumns + c] = static_cast<Code>(b[at] & b_mask);
                }
            }
            __syncthreads();
            if (thread < kDirectDepth && k + kDirectDepth + thread < end) {
                taps[thread] = tap_of(w.a, k + kDirectDepth + thread);
            }
            for (int d = 0; d < depth; d++) {
                uint32_t codes[4];
#pragma unroll
                for (int i = 0; i < 4; i++) codes[i] = a_codes[d * kTileRows + lane + kWarp * i];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    if (j >= columns_left) break;
                    // One column a warp: its threads meet in one row of the table.
                    const Entry *line =
                        table + (static_cast<int64_t>(b_codes[d * kColumns + warp + kWarps * j])
                                 << w.a_bits);
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        if (i < rows_left) {
                            sums[i][j] += static_cast<Sum>(kWhole ? line[codes[i]]
                                                                  : __ldg(line + codes[i]));
                        }
                    }
                }
            }
        }
        const int64_t bias = (end - begin) * w.bias;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = lane + kWarp * i;
            if (i >= rows_left) break;
            const int64_t at = place_of(w.sums, group, row + r);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (j >= columns_left) break;
                const int64_t c = column + warp + kWarps * j;
                emit(w.sums, at + c * w.sums.column_step, static_cast<int64_t>(sums[i][j]) + bias,
                     parts > 1 ? kShare : kStore);
            }
        }
    }
}

template <typename Entry, typename Code, typename Sum, int kWarps, bool kWhole>
int32_t run_direct(const ah_lookup &w, int processors, int shared, void *stream) {
    using Shape = Direct<Code, kWarps>;
    const int64_t table = kWhole ? (int64_t(1) << (w.a_bits + w.b_bits)) * sizeof(Entry) : 0;
    if (Shape::kShared + table > shared) return AH_NO_MEMORY;
    const int64_t tiles = ceil_div<int64_t>(w.columns, Shape::kTileColumns) *
                          ceil_div<int64_t>(w.a.rows, kTileRows) * w.groups;
    const Parts parts = parts_of(w.k, kDirectDepth, tiles, (kWhole ? 1 : 4) * processors, 128);
    if (parts.count > 1) {
        const int32_t status = zeroed(w.sums, stream);
        if (status) return status;
    }
    const int64_t all = tiles * parts.count;
    return launch(direct_kernel<Entry, Code, Sum, kWarps, kWhole>,
                  kWhole ? least<int64_t>(all, processors) : all, kWarps * kWarp,
                  Shape::kShared + table, stream, w, parts.count, parts.step, all);
}

// --- plain --------------------------------------------------------------------------------------

// The design that simulators of approximate multipliers share: a square of 16 x 16 sums, a thread
// for each, codes in shared memory, one gather through the caches for each product. It is here to
// be compared with, and is never chosen.
constexpr int kSide = 16;
constexpr int kPlainShared = 2 * kSide * kSide;

template <typename Sum>
__global__ void __launch_bounds__(kSide *kSide) plain_kernel(ah_lookup w) {
    uint8_t *a_codes = shared_memory(), *b_codes = a_codes + kSide * kSide;
    const int x = threadIdx.x % kSide, y = threadIdx.x / kSide;
    const int64_t strips = ceil_div<int64_t>(w.columns, kSide);
    const int64_t bands = ceil_div<int64_t>(w.a.rows, kSide);
    int64_t rest = blockIdx.x;
    const int64_t column = rest % strips * kSide;
    rest /= strips;
    const int64_t row = rest % bands * kSide, group = rest / bands;
    const Row mine = row_of(w.a, group, row + y);
    const int64_t loaded = least(column + y, w.columns - 1);  // as a column of `b`
    const uint8_t *b = static_cast<const uint8_t *>(w.b.data) + group * w.b.group_step +
                       loaded * w.b.row_step;
    const uint16_t *table = static_cast<const uint16_t *>(w.table);
    Sum sum = 0;
    for (int64_t k = 0; k < w.k; k += kSide) {
        const int depth = static_cast<int>(least<int64_t>(kSide, w.k - k));
        __syncthreads();
        if (x < depth) {
            a_codes[y * kSide + x] =
                static_cast<uint8_t>(code_at<uint8_t>(w.a, mine, tap_of(w.a, k + x)));
            b_codes[x * kSide + y] = b[(k + x) * w.b.k_step];
        }
        __syncthreads();
        for (int d = 0; d < depth; d++) {
            sum += static_cast<Sum>(
                __ldg(table + (b_codes[d * kSide + x] << 8 | a_codes[y * kSide + d])));
        }
    }
    if (row + y < w.a.rows && column + x < w.columns) {
        emit(w.sums, place_of(w.sums, group, row + y) + (column + x) * w.sums.column_step,
             static_cast<int64_t>(sum) + w.k * w.bias, kStore);
    }
}

inline int32_t run_plain(const ah_lookup &w, void *stream) {
    const int64_t tiles = ceil_div<int64_t>(w.columns, kSide) *
                          ceil_div<int64_t>(w.a.rows, kSide) * w.groups;
    return launch(w.sums.wide ? plain_kernel<int64_t> : plain_kernel<uint32_t>, tiles,
                  kSide * kSide, kPlainShared, stream, w);
}

}  // namespace lookup
