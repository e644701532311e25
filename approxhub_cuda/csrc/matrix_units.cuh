// The integer matrix units: D += A * B for a 16 x 32 and a 32 x 8 matrix of bytes, by one warp.
//
// Fragments as PTX lays them out, with g = lane / 4 and t = lane % 4. A word holds four k in a row.
//   A: a[0] row g, k 4t..; a[1] row g + 8, k 4t..; a[2] row g, k 16 + 4t..; a[3] row g + 8, k 16 + 4t..
//   B: b[0] column g, k 4t..; b[1] column g, k 16 + 4t..
//   D: d[0], d[1] row g, columns 2t and 2t + 1; d[2], d[3] row g + 8, the same columns.
// Sums are modulo 2^32.
#pragma once

#include "device.cuh"

// Whether bytes of A and of B are signed.
enum Signs { kUnsigned = 0, kSignedA = 1, kSignedB = 2, kSigned = 3 };

#ifdef __CUDACC__

#define AH_MMA_16(A, B)                                                                            \
    asm("mma.sync.aligned.m16n8k32.row.col.s32." A "." B ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "     \
        "{%8,%9}, {%0,%1,%2,%3};"                                                                  \
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                           \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
// Before sm_80 the unit is 8 x 8 x 16: four of them make one of ours.
#define AH_MMA_8(A, B, D, X, Y)                                                                    \
    asm("mma.sync.aligned.m8n8k16.row.col.s32." A "." B ".s32 {%0,%1}, {%2}, {%3}, {%0,%1};"       \
        : "+r"(d[D]), "+r"(d[D + 1])                                                               \
        : "r"(a[X]), "r"(b[Y]))
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define AH_MMA(A, B) AH_MMA_16(A, B)
#else
#define AH_MMA(A, B)                                                                               \
    do {                                                                                           \
        AH_MMA_8(A, B, 0, 0, 0);                                                                   \
        AH_MMA_8(A, B, 0, 2, 1);                                                                   \
        AH_MMA_8(A, B, 2, 1, 0);                                                                   \
        AH_MMA_8(A, B, 2, 3, 1);                                                                   \
    } while (0)
#endif

template <int kSigns>
__device__ __forceinline__ void multiply_add(int32_t (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
    if (kSigns == kSigned) {
        AH_MMA("s8", "s8");
    } else if (kSigns == kSignedA) {
        AH_MMA("s8", "u8");
    } else if (kSigns == kSignedB) {
        AH_MMA("u8", "s8");
    } else {
        AH_MMA("u8", "u8");
    }
}

#undef AH_MMA
#undef AH_MMA_8
#undef AH_MMA_16

#else

template <int kSigns>
void multiply_add(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emulation::multiply_add(d, a, b, (kSigns & kSignedA) != 0, (kSigns & kSignedB) != 0);
}

#endif
