// The C interface: checks, the right device, and words for errors.
#include <stdio.h>
#include <string.h>

#include <mutex>
#include <vector>

#include "card.h"
#include "device.cuh"

namespace {

#ifdef _WIN32
#define AH_EXPORT extern "C" __declspec(dllexport)
#else
#define AH_EXPORT extern "C" __attribute__((visibility("default")))
#endif

std::mutex mutex;
std::vector<ah_card> cards;  // by device; processors == 0 where none was asked about yet

// Makes a device current for a while.
class OnDevice {
  public:
    explicit OnDevice(int device) {
        error_ = cudaGetDevice(&before_);
        if (!error_ && before_ != device) error_ = cudaSetDevice(device);
        switched_ = !error_ && before_ != device;
    }
    ~OnDevice() {
        if (switched_) cudaSetDevice(before_);
    }
    cudaError_t error() const { return error_; }

  private:
    int before_ = 0;
    bool switched_ = false;
    cudaError_t error_ = cudaSuccess;
};

cudaError_t describe(int device, ah_card *card) {
    struct {
        int32_t *to;
        cudaDeviceAttr attribute;
    } const wanted[] = {
        {&card->major, cudaDevAttrComputeCapabilityMajor},
        {&card->minor, cudaDevAttrComputeCapabilityMinor},
        {&card->processors, cudaDevAttrMultiProcessorCount},
        {&card->clock_khz, cudaDevAttrClockRate},
        {&card->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin},
    };
    for (const auto &w : wanted) {
        const cudaError_t error = cudaDeviceGetAttribute(w.to, w.attribute, device);
        if (error) return error;
    }
    cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (!error) error = cudaDriverGetVersion(&card->driver);
    if (!error) error = cudaRuntimeGetVersion(&card->runtime);
    if (!error) snprintf(card->name, sizeof card->name, "%s", properties.name);
    return error;
}

// A card that ah_cuda_card() has described before.
int32_t known(int device, ah_card *card) {
    std::lock_guard<std::mutex> lock(mutex);
    if (device < 0 || static_cast<size_t>(device) >= cards.size() || !cards[device].processors) {
        return AH_ARGUMENT;
    }
    *card = cards[device];
    return AH_OK;
}

template <typename Work>
int32_t on_card(int device, void *stream, const Work *work,
                int32_t (*run)(const ah_card &, void *, const Work &)) {
    ah_card card;
    const int32_t status = known(device, &card);
    if (status) return status;
    OnDevice current(device);
    if (current.error()) return status_of(current.error());
    return run(card, stream, *work);
}

}  // namespace

AH_EXPORT int32_t ah_cuda_abi(void) { return AH_CUDA_ABI; }

AH_EXPORT int32_t ah_cuda_emulated(void) {
#ifdef __CUDACC__
    return 0;
#else
    return 1;
#endif
}

AH_EXPORT const char *ah_cuda_error(int32_t status) {
    static thread_local char text[512];
    switch (status) {
        case AH_OK:
            return "no error";
        case AH_ARGUMENT:
            return "an argument that no caller should pass";
        case AH_TOO_LARGE:
            return "more tiles than a grid has room for";
        case AH_NO_MEMORY:
            return "more shared memory than the card has";
        default: {
            const cudaError_t error = static_cast<cudaError_t>(status - AH_CUDA);
            snprintf(text, sizeof text, "%s (%s)", cudaGetErrorString(error),
                     cudaGetErrorName(error));
            return text;
        }
    }
}

AH_EXPORT int32_t ah_cuda_devices(int32_t *count) {
    *count = 0;
    return status_of(cudaGetDeviceCount(count));
}

AH_EXPORT int32_t ah_cuda_card(int32_t device, ah_card *card) {
    memset(card, 0, sizeof *card);
#ifdef __CUDACC__  // an emulated card may be another one by now
    if (known(device, card) == AH_OK) return AH_OK;
#endif
    OnDevice current(device);
    cudaError_t error = current.error();
    if (!error) error = describe(device, card);
    if (!error) error = ready_lookup(*card);
    if (!error) error = ready_product(*card);
    if (!error) error = ready_real(*card);
    if (error) return status_of(error);
    std::lock_guard<std::mutex> lock(mutex);
    if (cards.size() <= static_cast<size_t>(device)) cards.resize(device + 1);
    cards[device] = *card;
    return AH_OK;
}

AH_EXPORT int32_t ah_cuda_lookup(int32_t device, void *stream, const ah_lookup *work) {
    return on_card(device, stream, work, run_lookup);
}

AH_EXPORT int32_t ah_cuda_product(int32_t device, void *stream, const ah_product *work) {
    return on_card(device, stream, work, run_product);
}

AH_EXPORT int32_t ah_cuda_quantize(int32_t device, void *stream, const ah_quantize *work) {
    return on_card(device, stream, work, run_quantize);
}

AH_EXPORT int32_t ah_cuda_dequantize(int32_t device, void *stream, const ah_dequantize *work) {
    return on_card(device, stream, work, run_dequantize);
}

AH_EXPORT int32_t ah_cuda_recode(int32_t device, void *stream, const ah_recode *work) {
    return on_card(device, stream, work, run_recode);
}

AH_EXPORT int32_t ah_cuda_combine(int32_t device, void *stream, const ah_combine *work) {
    return on_card(device, stream, work, run_combine);
}
