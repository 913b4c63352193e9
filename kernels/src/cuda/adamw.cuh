// AdamW's arithmetic and the forms weights are stored in: adamw.rs and stochastic_rounding.rs, bit for bit, so no product
// is contracted with a sum.
#pragma once
#include "random.cuh"

// A step's numbers, in the order of the kernels' parameters.
struct Numbers {
    float scale, decay, rate, root, epsilon, b1, c1, b2, c2;
};

#define NUMBERS_PARAMETERS                                                                                          \
    const float *device_scale, float scale, float decay, float rate, float root, float epsilon, float b1, float c1, \
        float b2, float c2
#define NUMBERS \
    Numbers { device_scale ? __fmul_rn(scale, *device_scale) : scale, decay, rate, root, epsilon, b1, c1, b2, c2 }

__device__ __forceinline__ void step(float& p, float g, float& m, float& v, const Numbers& n) {
    g = __fmul_rn(g, n.scale);
    m = __fadd_rn(__fmul_rn(n.b1, m), __fmul_rn(n.c1, g));
    v = __fadd_rn(__fmul_rn(n.b2, v), __fmul_rn(__fmul_rn(n.c2, g), g));
    const float root = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), n.root), n.epsilon);
    p = __fsub_rn(__fmul_rn(p, n.decay), __fdiv_rn(__fmul_rn(n.rate, m), root));
}

// Elements that share a hash.
constexpr u32 CHUNK = 16 * 1024;

// The bf16 below or above, by the random bits of element `i`. An infinity or NaN stays what it is.
__device__ __forceinline__ float round_at_random(float value, u64 key, u64 i) {
    const u32 random = column_hash(mix_in(key, i / CHUNK), u32(i % CHUNK)) >> 16;
    const u32 bits = __float_as_uint(value);
    const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
    return finite ? __uint_as_float((bits + random) & 0xffff0000u) : value;
}

// Each form reads weights as f32 and puts them back.
struct Exact {
    typedef float Stored;
    __device__ static void read(const float* p, const float*, u32 count, float (&x)[PACK]) { load(p, count, x); }
    __device__ static void write(float* p, float*, u64, u64, u32 count, float (&x)[PACK]) { store(p, count, x); }
};
struct Master {
    typedef bf16 Stored;
    __device__ static void read(const bf16*, const float* master, u32 count, float (&x)[PACK]) { load(master, count, x); }
    __device__ static void write(bf16* p, float* master, u64, u64, u32 count, float (&x)[PACK]) {
        store(master, count, x);
        store(p, count, x);
    }
};
struct Stochastic {
    typedef bf16 Stored;
    __device__ static void read(const bf16* p, const float*, u32 count, float (&x)[PACK]) { load(p, count, x); }
    __device__ static void write(bf16* p, float*, u64 key, u64 first, u32 count, float (&x)[PACK]) {
#pragma unroll
        for (u32 j = 0; j < PACK; j++) x[j] = round_at_random(x[j], key, first + j);
        store(p, count, x);
    }
};
