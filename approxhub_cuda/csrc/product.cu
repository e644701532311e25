// Which kernel multiplies recoded codes.
#include "product.cuh"

#include "card.h"

cudaError_t ready_product(const ah_card &card) {
    using namespace product;
    cudaError_t error = ready_one<128, 32>(card, kMostPlanes);
    if (!error) error = ready_one<64, 32>(card, kMostPlanes);
    if (!error) error = ready_one<128, 64>(card, 2);
    if (!error) error = ready_one<64, 64>(card, 2);
    return error;
}

int32_t run_product(const ah_card &card, void *stream, const ah_product &w) {
    using namespace product;
    if (w.k < 1 || w.columns < 1 || w.groups < 1 || w.a.rows < 1 || w.b.image || w.passes < 1 ||
        w.passes > AH_MOST_PASSES) {
        return AH_ARGUMENT;
    }
    int planes = 1;
    for (int p = 0; p < w.passes; p++) {
        const int here = w.pass[p].planes;
        if (here < 1 || here > kMostPlanes) return AH_ARGUMENT;
        if (here > planes) planes = here;
    }
    // Few planes leave room for more codes at a time, and so for fewer barriers.
    const bool wide = w.columns > 64, deep = planes <= 2;
    if (deep) {
        return wide ? run<128, 64>(w, card, planes, stream) : run<64, 64>(w, card, planes, stream);
    }
    return wide ? run<128, 32>(w, card, planes, stream) : run<64, 32>(w, card, planes, stream);
}
