// AdamW's arithmetic and the forms weights are stored in: adamw.rs and stochastic_rounding.rs, bit for bit, so no product
// is contracted with a sum.
#pragma once
#include "random.cuh"
#include "table.cuh"

// A step's numbers.
struct Numbers {
    float scale, decay, rate, root, epsilon, b1, c1, b2, c2;
};

// A parameter's row in the table of launch/optimizer.rs: addresses first, 0 for what it has not.
struct Parameter {
    u64 p, master, g, m, v, m_absmax, v_absmax, device_scale;
    u64 key, n, end;
    u32 kind;
    Numbers numbers;
};
static_assert(sizeof(Parameter) == 128, "16 words of 8 bytes");

// Numbers of a parameter that a block steps at a time: PIECE of launch/optimizer.rs.
constexpr u32 PIECE = 8192;

__device__ __forceinline__ void step(float& p, float g, float& m, float& v, float scale, const Numbers& n) {
    g = __fmul_rn(g, scale);
    m = __fadd_rn(__fmul_rn(n.b1, m), __fmul_rn(n.c1, g));
    v = __fadd_rn(__fmul_rn(n.b2, v), __fmul_rn(__fmul_rn(n.c2, g), g));
    const float root = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), n.root), n.epsilon);
    p = __fsub_rn(__fmul_rn(p, n.decay), __fdiv_rn(__fmul_rn(n.rate, m), root));
}

// The bf16 towards zero or away from it, by the upper half of these bits. An infinity stays what it is; of a NaN the mark
// that makes it one is set, for it may lie in the half that is cut off.
__device__ __forceinline__ bf16 round_at_random(float value, u32 random) {
    const u32 bits = __float_as_uint(value);
    const bool finite = (bits & 0x7f800000u) != 0x7f800000u, nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return bf16{u16((bits + (finite ? random >> 16 : 0)) >> 16 | (nan ? 0x40u : 0))};
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
    // A pack begins at a multiple of its length, so it lies in one chunk.
    __device__ static void write(bf16* p, float*, u64 key, u64 first, u32 count, float (&x)[PACK]) {
        const u64 chunk = chunk_hash(key, first);
        bf16 rounded[PACK];
#pragma unroll
        for (u32 j = 0; j < PACK; j++) rounded[j] = round_at_random(x[j], element_bits(chunk, first + j));
        store_bits(p, count, rounded);
    }
};

// How a parameter and its gradient are stored.
template <class F, class Gradient>
struct Kind {
    typedef F Form;
    typedef Gradient G;
};

// Calls `each(kind, parameter, scale, first, count)` for all pieces of all parameters: so many elements of one from `first`
// on, a multiple of PIECE, whose gradient is to be multiplied by the scale. One on the device that is no number leaves its
// parameter as it is.
template <class F>
__device__ __forceinline__ void for_parameters(const Parameter* table, u32 parameters, F each) {
    for_pieces(table, parameters, [=](const Parameter& at, u64, u64 piece) {
        float scale = at.numbers.scale;
        if (at.device_scale) {
            const float there = *at_address<const float>(at.device_scale);
            if (there != there) return;
            scale = __fmul_rn(scale, there);
        }
        const u64 first = piece * PIECE;
        const u32 count = at.n - first < PIECE ? u32(at.n - first) : PIECE;
        switch (at.kind) {
            case 0: each(Kind<Exact, float>(), at, scale, first, count); break;
            case 1: each(Kind<Exact, bf16>(), at, scale, first, count); break;
            case 2: each(Kind<Master, float>(), at, scale, first, count); break;
            case 3: each(Kind<Master, bf16>(), at, scale, first, count); break;
            case 4: each(Kind<Stochastic, float>(), at, scale, first, count); break;
            case 5: each(Kind<Stochastic, bf16>(), at, scale, first, count); break;
        }
    });
}
