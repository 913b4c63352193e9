// What every kernel here stands on: numbers as they are stored, packs of eight of them, and the words that differ between
// nvcc and the tests' emulator (tests/emulator), which runs the same kernels on a processor.
#pragma once

#ifdef __CUDACC__
#define KERNEL(name, max_threads, params) KERNEL_BLOCKS(name, max_threads, 1, params)
// Of whose blocks a multiprocessor has registers for so many.
#define KERNEL_BLOCKS(name, max_threads, blocks, params) \
    extern "C" __global__ void __launch_bounds__(max_threads, blocks) name params
#define SHARED_ARRAY(type, name, count) __shared__ type name[count]
#define DYNAMIC_SHARED(type, name)                                  \
    extern __shared__ __align__(128) unsigned char dynamic_shared[]; \
    type* const name = reinterpret_cast<type*>(dynamic_shared)
#else
#include "emulator.h"
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned u32;

#ifdef __CUDACC__
typedef unsigned long long u64;
#else
typedef uint64_t u64;
#endif

#define NAN_BITS 0x7fffffffu

struct bf16 {
    u16 bits;
};

// bf16 is the upper half of an f32.
__device__ __forceinline__ float widen(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }
__device__ __forceinline__ float widen(float x) { return x; }

// Two numbers to bf16, to nearest even; the first in the low half.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
#ifdef __CUDACC__
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#else
    u32 packed = 0;
    for (int i = 0; i < 2; i++) {
        float x = i ? high : low;
        u32 bits = __float_as_uint(x);
        u32 rounded = x != x ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
        packed |= (rounded & 0xffffu) << (16 * i);
    }
    return packed;
#endif
}

template <class T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 narrow<bf16>(float x) {
    return bf16{u16(pack_bf16(x, 0.0f))};
}

__device__ __forceinline__ bool aligned16(const void* p) { return (reinterpret_cast<u64>(p) & 15) == 0; }

// Numbers a thread takes at a time.
constexpr u32 PACK = 8;

__device__ __forceinline__ uint4 load16(const void* p) {
#ifndef __CUDACC__
    emulator::check_aligned(p, 16);
#endif
    return *static_cast<const uint4*>(p);
}
__device__ __forceinline__ void store16(void* p, uint4 x) {
#ifndef __CUDACC__
    emulator::check_aligned(p, 16);
#endif
    *static_cast<uint4*>(p) = x;
}

__device__ __forceinline__ void widen_pack(uint4 q, float (&x)[PACK]) {
    const u32 words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = __uint_as_float(words[i] << 16);
        x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}

__device__ __forceinline__ void load_whole(const bf16* p, float (&x)[PACK]) { widen_pack(load16(p), x); }
__device__ __forceinline__ void load_whole(const float* p, float (&x)[PACK]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint4 q = load16(p + 4 * i);
        x[4 * i] = __uint_as_float(q.x);
        x[4 * i + 1] = __uint_as_float(q.y);
        x[4 * i + 2] = __uint_as_float(q.z);
        x[4 * i + 3] = __uint_as_float(q.w);
    }
}
__device__ __forceinline__ void store_whole(bf16* p, const float (&x)[PACK]) {
    store16(p, uint4{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])});
}
__device__ __forceinline__ void store_whole(float* p, const float (&x)[PACK]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        store16(p + 4 * i, uint4{__float_as_uint(x[4 * i]), __float_as_uint(x[4 * i + 1]),
                                 __float_as_uint(x[4 * i + 2]), __float_as_uint(x[4 * i + 3])});
    }
}

// Up to eight numbers; what lies beyond `count` is not touched, and reads as 0.
template <class T>
__device__ __forceinline__ void load(const T* p, u32 count, float (&x)[PACK]) {
    if (count == PACK && aligned16(p)) {
        load_whole(p, x);
        return;
    }
#pragma unroll
    for (u32 i = 0; i < PACK; i++) x[i] = i < count ? widen(p[i]) : 0.0f;
}
template <class T>
__device__ __forceinline__ void store(T* p, u32 count, const float (&x)[PACK]) {
    if (count == PACK && aligned16(p)) {
        store_whole(p, x);
        return;
    }
#pragma unroll
    for (u32 i = 0; i < PACK; i++) {
        if (i < count) p[i] = narrow<T>(x[i]);
    }
}

// Up to eight numbers that are in their stored form already.
__device__ __forceinline__ void store_bits(bf16* p, u32 count, const bf16 (&x)[PACK]) {
    if (count == PACK && aligned16(p)) {
        u32 words[4];
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = x[2 * i].bits | u32(x[2 * i + 1].bits) << 16;
        store16(p, uint4{words[0], words[1], words[2], words[3]});
        return;
    }
#pragma unroll
    for (u32 i = 0; i < PACK; i++) {
        if (i < count) p[i] = x[i];
    }
}

// Up to eight bytes, the first lowest.
__device__ __forceinline__ u64 load_bytes(const u8* p, u32 count) {
    if (count == 8 && (reinterpret_cast<u64>(p) & 7) == 0) return *reinterpret_cast<const u64*>(p);
    u64 bytes = 0;
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        if (i < count) bytes |= u64(p[i]) << (8 * i);
    }
    return bytes;
}
__device__ __forceinline__ void store_bytes(u8* p, u32 count, u64 bytes) {
    if (count == 8 && (reinterpret_cast<u64>(p) & 7) == 0) {
        *reinterpret_cast<u64*>(p) = bytes;
        return;
    }
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        if (i < count) p[i] = u8(bytes >> (8 * i));
    }
}

// How many of a pack's numbers lie before `end`.
template <class N>
__device__ __forceinline__ u32 pack_count(N first, N end) {
    return end - first < PACK ? u32(end - first) : PACK;
}

// A pack of a flat list for each thread, and on by the grid: `each(first, count)`.
template <class F>
__device__ __forceinline__ void for_flat(u64 n, F each) {
    const u64 step = u64(gridDim.x) * blockDim.x * PACK;
    for (u64 i = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * PACK; i < n; i += step) each(i, pack_count(i, n));
}

// A pack of a row for each thread of the grid's first dimension, rows for its second: `each(row, column, count)`.
template <class F>
__device__ __forceinline__ void for_rows(u32 rows, u32 d, F each) {
    for (u32 row = blockIdx.y; row < rows; row += gridDim.y) {
        for (u64 i = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * PACK; i < d; i += u64(gridDim.x) * blockDim.x * PACK)
            each(row, u32(i), pack_count(u32(i), d));
    }
}

// Sums of columns over parts of the rows, (parts, d): a column a thread, a part for each y. `of(row, column)`.
template <class F>
__device__ __forceinline__ void sum_columns(float* sums, u32 rows, u32 d, u32 part, F of) {
    for (u32 p = blockIdx.y; u64(p) * part < rows || p == 0; p += gridDim.y) {
        const u64 next = (u64(p) + 1) * part;
        const u32 end = next < rows ? u32(next) : rows;
        for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < d; i += gridDim.x * blockDim.x) {
            float sum = 0.0f;
            for (u32 row = p * part; row < end; row++) sum += of(row, i);
            sums[u64(p) * d + i] = sum;
        }
    }
}

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int by = 16; by > 0; by /= 2) x += __shfl_xor_sync(0xffffffffu, x, by);
    return x;
}
// The larger of all; a NaN loses, as on the processor.
__device__ __forceinline__ float larger(float a, float b) { return a > b ? a : b; }
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int by = 16; by > 0; by /= 2) x = larger(x, __shfl_xor_sync(0xffffffffu, x, by));
    return x;
}

// Over all threads of a block of whole warps; every thread gets it. `each` holds a number a warp; two such sums in a row
// need two lists, or a barrier between them.
template <class T>
__device__ __forceinline__ T block_sum(T x, T* each) {
    const u32 thread = threadIdx.x + blockDim.x * threadIdx.y, warps = blockDim.x * blockDim.y / 32;
    x = warp_sum(x);
    if (warps == 1) return x;
    if (thread % 32 == 0) each[thread / 32] = x;
    __syncthreads();
    T sum = thread % 32 < warps ? each[thread % 32] : T(0);
    return warp_sum(sum);
}
__device__ __forceinline__ float block_max(float x, float* each) {
    const u32 thread = threadIdx.x, warps = blockDim.x / 32;
    x = warp_max(x);
    if (warps == 1) return x;
    if (thread % 32 == 0) each[thread / 32] = x;
    __syncthreads();
    return warp_max(thread % 32 < warps ? each[thread % 32] : x);
}

// e^x and 2^x by the special function unit: 2 units in the last place, beyond that relative 2^-21 at most for the
// arguments of a softmax.
__device__ __forceinline__ float exp2_fast(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return std::exp2(x);
#endif
}
constexpr float LOG2_E = 1.44269504f;
constexpr float LN_2 = 0.693147181f;
