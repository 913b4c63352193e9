// Inverted dropout whose mask is a function: the twin of dropout.rs, bit for bit.
#include "cuda/random.cuh"

template <class X>
__device__ void dropout(const X* x, const u64* sample, const u32* position, X* y, u32 rows, u32 d, u64 key, u32 threshold,
                        float keep) {
    for_rows(rows, d, [=](u32 row, u32 i, u32 count) {
        const u64 hash = mix_in(mix_in(key, sample[row]), position[row]);
        float a[PACK];
        load(x + u64(row) * d + i, count, a);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) a[j] = column_hash(hash, i + j) >= threshold ? a[j] * keep : 0.0f;
        store(y + u64(row) * d + i, count, a);
    });
}

#define DROPOUT(X, name)                                                                                            \
    KERNEL(dropout_##name, 256,                                                                                     \
           (const X* x, const u64* sample, const u32* position, X* y, u32 rows, u32 d, u64 key, u32 threshold,      \
            float keep)) {                                                                                          \
        dropout(x, sample, position, y, rows, d, key, threshold, keep);                                             \
    }
DROPOUT(float, f32)
DROPOUT(bf16, bf16)
