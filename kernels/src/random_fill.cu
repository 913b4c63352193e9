// Random numbers in the place of weights: the twin of random_fill.rs, bit for bit.
#include "cuda/random.cuh"

// The upper 24 bits, as an odd multiple of 2^-24 between -1 and 1.
__device__ __forceinline__ float symmetric(u32 bits) { return float((int(bits) >> 7) | 1) * (1.0f / 16777216.0f); }

template <class T>
__device__ void fill(T* out, float scale, u64 key, u64 offset, u64 n) {
    for_flat(n, [=](u64 i, u32 count) {
        // A pack lies in at most two chunks.
        const u64 first = offset + i, last = first + (PACK - 1);
        const u64 chunks[2] = {chunk_hash(key, first), chunk_hash(key, last)};
        float x[PACK];
#pragma unroll
        for (u32 j = 0; j < PACK; j++) {
            const bool next = (first + j) / CHUNK != first / CHUNK;
            x[j] = symmetric(element_bits(next ? chunks[1] : chunks[0], first + j)) * scale;
        }
        store(out + i, count, x);
    });
}

#define UNIFORM(T, name)                                                                              \
    KERNEL(random_uniform_##name, 256, (T * out, float scale, u64 key, u64 offset, u64 n)) {          \
        fill(out, scale, key, offset, n);                                                             \
    }
UNIFORM(float, f32)
UNIFORM(bf16, bf16)
