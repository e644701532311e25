// CUDA on the host, as far as csrc/ uses it: for tests, and for no other purpose.
//
// Every thread of a block is a fiber. Blocks run one after the other, in an order that depends on a
// seed; the fibers of a block run in turns, in orders that depend on it too, each up to the next
// barrier, warp-wide exchange or its end. So a missing barrier shows: its threads read what others
// have not written yet. Under the thread sanitizer each is a thread, which sees more; emulation.cpp
// says how. Shared memory is as large as was asked for, and holds garbage at first.
// A barrier that some threads never reach ends the process with a message.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 {
    unsigned x, y, z;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

extern thread_local uint3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;

// --- the runtime ----------------------------------------------------------------------------------

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidDevice = 101,
    cudaErrorLaunchOutOfResources = 701,
};
enum cudaDeviceAttr {
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor,
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrClockRate,
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaFuncAttributes {
    int numRegs;
};
struct cudaDeviceProp {
    char name[256];
};
typedef struct emulated_stream *cudaStream_t;
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    void *attrs;
    unsigned numAttrs;
};

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *function);
cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value);
cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream);
const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);

// --- the device -------------------------------------------------------------------------------------

namespace emulation {

unsigned char *shared_memory();
void barrier();
void warp_barrier();
// Waits for all threads of the warp; gives what each of them brought, `bytes` apart.
const unsigned char *exchange(const void *mine, size_t bytes);
// mma.sync.m16n8k32 on bytes, as PTX documents its fragments; see csrc/matrix_units.cuh.
void multiply_add(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool signed_a,
                  bool signed_b);
cudaError_t run(const cudaLaunchConfig_t &config, const void *function,
                const std::function<void()> &thread);

}  // namespace emulation

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
    return emulation::run(*config, reinterpret_cast<const void *>(kernel),
                          [&] { kernel(arguments...); });
}

inline void __syncthreads() { emulation::barrier(); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulation::warp_barrier(); }

template <typename T>
T __ldg(const T *at) {
    return *at;
}

// Blocks run one after the other, but two host threads may launch at a time.
template <typename T>
T atomicAdd(T *to, T value) {
    static_assert(std::is_unsigned<T>::value, "wraps");
    return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}

inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const uint64_t both = static_cast<uint64_t>(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned s = selector >> (4 * i) & 15u;
        unsigned byte = both >> (8 * (s & 7u)) & 255u;
        if (s & 8u) byte = byte & 128u ? 255u : 0u;  // the sign, four times
        result |= byte << (8 * i);
    }
    return result;
}

// One rounding each: compiled without contraction into fused operations.
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    const unsigned char *all = emulation::exchange(&value, sizeof value);
    T other;
    memcpy(&other, all + sizeof value * ((threadIdx.x % 32) ^ mask), sizeof other);
    return other;
}
