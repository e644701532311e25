// What kernels need of the device beyond plain C++: instructions, one function each, and launches.
//
// Compiled by nvcc these are the instructions. Compiled for the host, the cuda_runtime.h of
// emulation/ is included instead of CUDA's, and gives each of them by its documented meaning.
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

#include "approxhub_cuda.h"

constexpr int kWarp = 32;

#ifdef __CUDACC__

// Dynamic shared memory of the block.
__device__ __forceinline__ unsigned char *shared_memory() {
    extern __shared__ __align__(16) unsigned char ah_shared[];
    return ah_shared;
}

#else

__device__ __forceinline__ unsigned char *shared_memory() { return emulation::shared_memory(); }

#endif

// Integer addition is associative, so sums that are added in any order are the same sums.
__device__ __forceinline__ void add_atomically(int32_t *to, int64_t value) {
    atomicAdd(reinterpret_cast<unsigned int *>(to), static_cast<unsigned int>(value));
}

__device__ __forceinline__ void add_atomically(int64_t *to, int64_t value) {
    atomicAdd(reinterpret_cast<unsigned long long *>(to), static_cast<unsigned long long>(value));
}

template <typename Integer>
__host__ __device__ __forceinline__ Integer ceil_div(Integer n, Integer by) {
    return (n + by - 1) / by;
}

template <typename Integer>
__host__ __device__ __forceinline__ Integer least(Integer x, Integer y) {
    return x < y ? x : y;
}

// --- launching ----------------------------------------------------------------------------------

inline int32_t status_of(cudaError_t error) {
    return error == cudaSuccess ? static_cast<int32_t>(AH_OK) : AH_CUDA + static_cast<int32_t>(error);
}

// Puts a kernel on a stream; `blocks` are counted in one dimension.
template <typename... Parameters>
int32_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared,
               void *stream, Parameters... arguments) {
    if (blocks < 1 || blocks > INT32_MAX) return AH_TOO_LARGE;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared);
    config.stream = static_cast<cudaStream_t>(stream);
    return status_of(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// Lets a kernel have that much shared memory, and loads it onto the current device.
template <typename... Parameters>
cudaError_t ready(void (*kernel)(Parameters...), int64_t shared) {
    const void *function = reinterpret_cast<const void *>(kernel);
    cudaFuncAttributes attributes = {};
    cudaError_t error = cudaFuncGetAttributes(&attributes, function);
    if (error == cudaSuccess && shared > 48 * 1024) {
        error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(shared));
    }
    return error;
}
