// Which kernel looks up a sum of products.
#include "lookup.cuh"

#include "card.h"

namespace lookup {

constexpr int kWholeWarps = 16;
constexpr int kCachedWarps = 8;
constexpr int64_t kWholeTable = int64_t(1) << 17;  // bytes of 16-bit entries for 8 by 8 bits

template <typename Entry, typename Code>
int32_t run_cached(const ah_lookup &w, const ah_card &card, void *stream) {
    return w.sums.wide ? run_direct<Entry, Code, int64_t, kCachedWarps, false>(
                             w, card.processors, card.shared_bytes, stream)
                       : run_direct<Entry, Code, uint32_t, kCachedWarps, false>(
                             w, card.processors, card.shared_bytes, stream);
}

template <typename Entry, typename Code>
cudaError_t ready_cached() {
    const cudaError_t error = ready(direct_kernel<Entry, Code, int64_t, kCachedWarps, false>, 0);
    return error ? error : ready(direct_kernel<Entry, Code, uint32_t, kCachedWarps, false>, 0);
}

}  // namespace lookup

cudaError_t ready_lookup(const ah_card &card) {
    using namespace lookup;
    cudaError_t error = ready(staged_kernel<4, 8>, Staged<8>::kShared);
    if (!error) error = ready(staged_kernel<1, 8>, Staged<8>::kShared);
    if (!error) error = ready(staged_kernel<4, 1>, Staged<1>::kShared);
    if (!error) error = ready(plain_kernel<int64_t>, 0);
    if (!error) error = ready(plain_kernel<uint32_t>, 0);
    if (!error) error = ready_cached<uint16_t, uint8_t>();
    if (!error) error = ready_cached<int32_t, uint8_t>();
    if (!error) error = ready_cached<uint16_t, uint16_t>();
    if (!error) error = ready_cached<int32_t, uint16_t>();
    const int64_t whole = Direct<uint8_t, kWholeWarps>::kShared + kWholeTable;
    if (!error && whole <= card.shared_bytes) {
        error = ready(direct_kernel<uint16_t, uint8_t, int64_t, kWholeWarps, true>, whole);
        if (!error) error = ready(direct_kernel<uint16_t, uint8_t, uint32_t, kWholeWarps, true>, whole);
    }
    return error;
}

int32_t run_lookup(const ah_card &card, void *stream, const ah_lookup &w) {
    using namespace lookup;
    const bool bytes = w.code_bytes == 1, narrow = w.entry_bytes == 2;
    if (w.k < 1 || w.columns < 1 || w.groups < 1 || w.a.rows < 1 || w.b.image ||
        (!bytes && w.code_bytes != 2) || (!narrow && w.entry_bytes != 4)) {
        return AH_ARGUMENT;
    }
    switch (w.way) {
        case AH_STAGED: {
            if (!bytes || !narrow || w.a_bits != 8 || w.b_bits != 8) return AH_ARGUMENT;
            if (w.columns == 1) return run_staged<4, 1>(w, card.processors, stream);
            // Many rows for each image that is laid, as long as all processors have work.
            const int64_t large = ceil_div<int64_t>(w.columns, 8) *
                                  ceil_div<int64_t>(w.a.rows, 4 * kThreads) * w.groups;
            return large >= 2 * card.processors ? run_staged<4, 8>(w, card.processors, stream)
                                                : run_staged<1, 8>(w, card.processors, stream);
        }
        case AH_CACHED:
            if (bytes) {
                return narrow ? run_cached<uint16_t, uint8_t>(w, card, stream)
                              : run_cached<int32_t, uint8_t>(w, card, stream);
            }
            return narrow ? run_cached<uint16_t, uint16_t>(w, card, stream)
                          : run_cached<int32_t, uint16_t>(w, card, stream);
        case AH_SHARED:
            if (!bytes || !narrow || w.a_bits != 8 || w.b_bits != 8) return AH_ARGUMENT;
            return w.sums.wide ? run_direct<uint16_t, uint8_t, int64_t, kWholeWarps, true>(
                                     w, card.processors, card.shared_bytes, stream)
                               : run_direct<uint16_t, uint8_t, uint32_t, kWholeWarps, true>(
                                     w, card.processors, card.shared_bytes, stream);
        case AH_PLAIN:
            if (!bytes || !narrow || w.a_bits != 8 || w.b_bits != 8) return AH_ARGUMENT;
            return run_plain(w, stream);
        default:
            return AH_ARGUMENT;
    }
}
