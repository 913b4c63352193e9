// GGML's quantized blocks: the twin of ggml.rs, bit for bit, so no product is contracted with a sum. A thread unpacks eight
// numbers, which always lie in one group and in one half of their bytes.
#include "cuda/device.cuh"

// f16 at an address that may be odd.
__device__ __forceinline__ u16 u16_at(const u8* b) { return u16(b[0] | b[1] << 8); }
__device__ __forceinline__ u32 u32_at(const u8* b) { return u32(u16_at(b)) | u32(u16_at(b + 2)) << 16; }

// Shifts the fields; one exact product sets the exponent, subnormals' too.
__device__ __forceinline__ float f16_at(const u8* b) {
    const u32 bits = u16_at(b), magnitude = (bits & 0x7fffu) << 13;
    const float scaled = __uint_as_float(magnitude) * __uint_as_float((127u + 112u) << 23);
    const u32 value = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : __float_as_uint(scaled);
    return __uint_as_float(value | (bits & 0x8000u) << 16);
}

// d·q (+ m), rounded twice.
__device__ __forceinline__ float affine(int q, float d, float m) { return __fadd_rn(__fmul_rn(float(q), d), m); }

struct Q8_0 {
    static constexpr u32 BYTES = 34, VALUES = 32;
    __device__ static void unpack(const u8* b, u32 at, float (&x)[PACK]) {
        const float d = f16_at(b);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) x[j] = float((signed char)b[2 + at + j]) * d;
    }
};

// Of 32: the low nibbles are the first half, the high ones the second.
__device__ __forceinline__ u32 nibble(const u8* q, u32 i) { return i < 16 ? q[i] & 15u : q[i - 16] >> 4; }

struct Q4_0 {
    static constexpr u32 BYTES = 18, VALUES = 32;
    __device__ static void unpack(const u8* b, u32 at, float (&x)[PACK]) {
        const float d = f16_at(b);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) x[j] = float(int(nibble(b + 2, at + j)) - 8) * d;
    }
};

struct Q4_1 {
    static constexpr u32 BYTES = 20, VALUES = 32;
    __device__ static void unpack(const u8* b, u32 at, float (&x)[PACK]) {
        const float d = f16_at(b), m = f16_at(b + 2);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) x[j] = affine(int(nibble(b + 4, at + j)), d, m);
    }
};

struct Q5_0 {
    static constexpr u32 BYTES = 22, VALUES = 32;
    __device__ static void unpack(const u8* b, u32 at, float (&x)[PACK]) {
        const float d = f16_at(b);
        const u32 high = u32_at(b + 2);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) {
            const u32 i = at + j, q = nibble(b + 6, i) | ((high >> i) & 1) << 4;
            x[j] = float(int(q) - 16) * d;
        }
    }
};

struct Q5_1 {
    static constexpr u32 BYTES = 24, VALUES = 32;
    __device__ static void unpack(const u8* b, u32 at, float (&x)[PACK]) {
        const float d = f16_at(b), m = f16_at(b + 2);
        const u32 high = u32_at(b + 4);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) {
            const u32 i = at + j, q = nibble(b + 8, i) | ((high >> i) & 1) << 4;
            x[j] = affine(int(q), d, m);
        }
    }
};

// The 6-bit scale and minimum of group j of 8, in 12 bytes.
__device__ __forceinline__ void scale_and_min(const u8* s, u32 j, float& scale, float& least) {
    if (j < 4) {
        scale = float(s[j] & 63);
        least = float(s[j + 4] & 63);
    } else {
        scale = float((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
        least = float((s[j + 4] >> 4) | (s[j] >> 6) << 4);
    }
}

// 32 bytes of nibbles hold a pair of groups, the first low. Of Q5_K, bit j of `high` is group j's fifth bit.
template <bool FIFTH>
__device__ __forceinline__ void k_quant(const u8* b, const u8* high, const u8* nibbles, u32 at, float (&x)[PACK]) {
    const u32 group = at / 32, i = at % 32;
    float scale, least;
    scale_and_min(b + 4, group, scale, least);
    const float d = f16_at(b) * scale, m = f16_at(b + 2) * least;
    const u8* q = nibbles + 32 * (group / 2) + i;
#pragma unroll
    for (u32 j = 0; j < PACK; j++) {
        u32 value = group % 2 ? q[j] >> 4 : q[j] & 15u;
        if (FIFTH) value |= ((u32(high[i + j]) >> group) & 1) << 4;
        x[j] = __fsub_rn(__fmul_rn(d, float(int(value))), m);
    }
}

struct Q4_K {
    static constexpr u32 BYTES = 144, VALUES = 256;
    __device__ static void unpack(const u8* b, u32 at, float (&x)[PACK]) { k_quant<false>(b, b, b + 16, at, x); }
};

struct Q5_K {
    static constexpr u32 BYTES = 176, VALUES = 256;
    __device__ static void unpack(const u8* b, u32 at, float (&x)[PACK]) { k_quant<true>(b, b + 16, b + 48, at, x); }
};

struct Q6_K {
    static constexpr u32 BYTES = 210, VALUES = 256;
    __device__ static void unpack(const u8* b, u32 at, float (&x)[PACK]) {
        const u32 half = at / 128, quarter = at % 128 / 32, i = at % 32;
        const u8* low = b + 64 * half + 32 * (quarter % 2) + i;
        const u8* high = b + 128 + 32 * half + i;
        const float scale = float((signed char)b[192 + 8 * half + 2 * quarter + i / 16]);
        const float d = f16_at(b + 208) * scale;
#pragma unroll
        for (u32 j = 0; j < PACK; j++) {
            const u32 q = ((low[j] >> 4 * (quarter / 2)) & 15u) | ((high[j] >> 2 * quarter) & 3u) << 4;
            x[j] = d * float(int(q) - 32);
        }
    }
};

// Not quantized: blocks of one.
template <u32 SIZE>
struct Whole {
    static constexpr u32 BYTES = SIZE, VALUES = 1;
};

// Up to eight numbers of a row from `at` on.
template <class Q>
__device__ __forceinline__ void row_pack(const u8* row, u32 at, u32, float (&x)[PACK], Q) {
    Q::unpack(row + u64(at / Q::VALUES) * Q::BYTES, at % Q::VALUES, x);
}
struct PlainF32 : Whole<4> {
    __device__ static float one(const u8* b) { return __uint_as_float(u32_at(b)); }
};
struct PlainF16 : Whole<2> {
    __device__ static float one(const u8* b) { return f16_at(b); }
};
struct PlainBf16 : Whole<2> {
    __device__ static float one(const u8* b) { return __uint_as_float(u32(u16_at(b)) << 16); }
};
template <class P>
__device__ __forceinline__ void plain_pack(const u8* row, u32 at, u32 count, float (&x)[PACK]) {
#pragma unroll
    for (u32 j = 0; j < PACK; j++) x[j] = j < count ? P::one(row + u64(at + j) * P::BYTES) : 0.0f;
}
__device__ __forceinline__ void row_pack(const u8* row, u32 at, u32 count, float (&x)[PACK], PlainF32) {
    plain_pack<PlainF32>(row, at, count, x);
}
__device__ __forceinline__ void row_pack(const u8* row, u32 at, u32 count, float (&x)[PACK], PlainF16) {
    plain_pack<PlainF16>(row, at, count, x);
}
__device__ __forceinline__ void row_pack(const u8* row, u32 at, u32 count, float (&x)[PACK], PlainBf16) {
    plain_pack<PlainBf16>(row, at, count, x);
}

// Where llama.cpp's converter put a row of a head of n rows: (2, n/2) became (n/2, 2).
__device__ __forceinline__ u32 stored_row(u32 row, u32 n) {
    const u32 head = row / n, within = row % n, half = within / (n / 2), i = within % (n / 2);
    return head * n + 2 * i + half;
}

template <class Q, class T>
__device__ void dequantize(const u8* blocks, T* out, u32 rows, u32 cols, u32 head_rows) {
    const u32 packs = (cols + PACK - 1) / PACK;
    const u64 row_bytes = u64(cols / Q::VALUES) * Q::BYTES, all = u64(rows) * packs;
    for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < all; i += u64(gridDim.x) * blockDim.x) {
        const u32 row = u32(i / packs), at = u32(i % packs) * PACK, count = pack_count(at, cols);
        const u32 stored = head_rows ? stored_row(row, head_rows) : row;
        float x[PACK];
        row_pack(blocks + stored * row_bytes, at, count, x, Q());
        store(out + u64(row) * cols + at, count, x);
    }
}

#define GGML(Q, name)                                                                                               \
    KERNEL(ggml_##name##_f32, 256, (const u8* blocks, float* out, u32 rows, u32 cols, u32 head_rows)) {             \
        dequantize<Q>(blocks, out, rows, cols, head_rows);                                                          \
    }                                                                                                               \
    KERNEL(ggml_##name##_bf16, 256, (const u8* blocks, bf16* out, u32 rows, u32 cols, u32 head_rows)) {             \
        dequantize<Q>(blocks, out, rows, cols, head_rows);                                                          \
    }
GGML(PlainF32, f32)
GGML(PlainF16, f16)
GGML(PlainBf16, bf16)
GGML(Q8_0, q8_0)
GGML(Q4_0, q4_0)
GGML(Q4_1, q4_1)
GGML(Q5_0, q5_0)
GGML(Q5_1, q5_1)
GGML(Q4_K, q4_k)
GGML(Q5_K, q5_k)
GGML(Q6_K, q6_k)
