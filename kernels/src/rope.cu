// Rotary embedding of q and k in one pass: the twin of rope.rs, bit for bit.
#include "cuda/device.cuh"

template <class T>
__device__ void turn_heads(T* q, T* k, const float* cos, const float* sin, u32 t, u32 heads, u32 kv_heads, u32 half,
                           u32 q_stride, u32 k_stride, float turn) {
    const u32 packs = (half + PACK - 1) / PACK;
    for (u32 row = blockIdx.x; row < t; row += gridDim.x) {
        for (u32 i = threadIdx.x; i < (heads + kv_heads) * packs; i += blockDim.x) {
            const u32 head = i / packs, at = i % packs * PACK, count = pack_count(at, half);
            T* first = (head < heads ? q + u64(row) * q_stride + u64(head) * 2 * half
                                     : k + u64(row) * k_stride + u64(head - heads) * 2 * half) +
                       at;
            T* second = first + half;
            float a[PACK], b[PACK], c[PACK], s[PACK];
            load(first, count, a);
            load(second, count, b);
            load(cos + u64(row) * half + at, count, c);
            load(sin + u64(row) * half + at, count, s);
#pragma unroll
            for (u32 j = 0; j < PACK; j++) {
                const float x = a[j], y = b[j], sj = s[j] * turn;
                a[j] = __fsub_rn(__fmul_rn(x, c[j]), __fmul_rn(y, sj));
                b[j] = __fadd_rn(__fmul_rn(y, c[j]), __fmul_rn(x, sj));
            }
            store(first, count, a);
            store(second, count, b);
        }
    }
}

#define ROPE(T, name)                                                                                               \
    KERNEL(rope_##name, 256,                                                                                        \
           (T* q, T* k, const float* cos, const float* sin, u32 t, u32 heads, u32 kv_heads, u32 half, u32 q_stride, \
            u32 k_stride, float turn)) {                                                                            \
        turn_heads(q, k, cos, sin, t, heads, kv_heads, half, q_stride, k_stride, turn);                             \
    }
ROPE(float, f32)
ROPE(bf16, bf16)
