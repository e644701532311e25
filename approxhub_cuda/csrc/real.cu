// Which kernel quantises, dequantises, or recodes for a gradient.
#include "real.cuh"

#include "card.h"

namespace real {

template <typename Work>
bool empty_or_wrong(const Work &w, int32_t *status) {
    const bool wrong = w.outer < 0 || w.channels < 0 || w.inner < 0;
    *status = wrong ? AH_ARGUMENT : AH_OK;
    return wrong || w.outer * w.channels * w.inner == 0;
}

template <typename Code>
int32_t run_quantize_of(const ah_card &card, void *stream, const ah_quantize &w) {
    const bool words = in_words(w.x, static_cast<const uint8_t *>(w.codes), w.real, w.inside);
    return launch(quantize_kernel<Code>, blocks_for(w.outer * w.channels * w.inner, card), kThreads,
                  0, stream, w, words);
}

}  // namespace real

cudaError_t ready_real(const ah_card &) {
    using namespace real;
    cudaError_t error = ready(quantize_kernel<uint8_t>, 0);
    if (!error) error = ready(quantize_kernel<uint16_t>, 0);
    if (!error) error = ready(quantize_kernel<uint32_t>, 0);
    if (!error) error = ready(dequantize_kernel<int32_t>, 0);
    if (!error) error = ready(dequantize_kernel<int64_t>, 0);
    if (!error) error = ready(recode_kernel, 0);
    if (!error) error = ready(combine_kernel, 0);
    return error;
}

int32_t run_quantize(const ah_card &card, void *stream, const ah_quantize &w) {
    using namespace real;
    if (!w.real != !w.inside) return AH_ARGUMENT;
    int32_t status =
        status_of(cudaMemsetAsync(w.finite, 1, 1, static_cast<cudaStream_t>(stream)));
    if (status || empty_or_wrong(w, &status)) return status;
    switch (w.code_bytes) {
        case 1: return run_quantize_of<uint8_t>(card, stream, w);
        case 2: return run_quantize_of<uint16_t>(card, stream, w);
        case 4: return run_quantize_of<uint32_t>(card, stream, w);
        default: return AH_ARGUMENT;
    }
}

int32_t run_dequantize(const ah_card &card, void *stream, const ah_dequantize &w) {
    using namespace real;
    int32_t status;
    if (empty_or_wrong(w, &status)) return status;
    if (w.groups < 1 || w.channels % w.groups || (w.sums && !w.zero)) return AH_ARGUMENT;
    return launch(w.wide ? dequantize_kernel<int64_t> : dequantize_kernel<int32_t>,
                  blocks_for(w.outer * w.channels * w.inner, card), kThreads, 0, stream, w,
                  in_words(w.out));
}

int32_t run_recode(const ah_card &card, void *stream, const ah_recode &w) {
    using namespace real;
    int32_t status;
    if (empty_or_wrong(w, &status)) return status;
    const int64_t numbers = w.outer * w.channels * w.inner;
    if (w.terms < 1 || w.terms > AH_MOST_TERMS) return AH_ARGUMENT;
    // Each term begins at a whole word only if the one before it ends there.
    const bool words = in_words(w.x, w.out) && (w.terms == 1 || numbers % kTogether == 0);
    return launch(recode_kernel, blocks_for(numbers, card), kThreads, 0, stream, w, words);
}

int32_t run_combine(const ah_card &card, void *stream, const ah_combine &w) {
    using namespace real;
    int32_t status;
    if (empty_or_wrong(w, &status)) return status;
    if (w.terms < 1 || w.terms > AH_MOST_TERMS) return AH_ARGUMENT;
    bool words = in_words(w.x, w.sum);
    for (int t = 0; t < w.terms; t++) words = words && in_words(w.products[t]);
    return launch(combine_kernel, blocks_for(w.outer * w.channels * w.inner, card), kThreads, 0,
                  stream, w, words);
}
