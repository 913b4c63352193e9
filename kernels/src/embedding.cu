// Rows of a table by token id, and the sum of gradients by token id: the twin of embedding.rs, bit for bit.
#include "cuda/device.cuh"

template <class A, class B>
__device__ void embedding(const A* table, const u32* ids, B* out, u32 rows, u32 d) {
    for_rows(rows, d, [=](u32 row, u32 i, u32 count) {
        float a[PACK];
        load(table + u64(ids[row]) * d + i, count, a);
        store(out + u64(row) * d + i, count, a);
    });
}

// A group is the rows of one id: its sum has one owner and one order.
template <class G>
__device__ void embedding_backward(const G* dy, const u32* order, const u32* starts, const u32* targets, float* sums,
                                   u32 groups, u32 d) {
    for_rows(groups, d, [=](u32 group, u32 i, u32 count) {
        float sum[PACK] = {};
        for (u32 at = starts[group]; at < starts[group + 1]; at++) {
            float a[PACK];
            load(dy + u64(order[at]) * d + i, count, a);
#pragma unroll
            for (u32 j = 0; j < PACK; j++) sum[j] += a[j];
        }
        store(sums + u64(targets[group]) * d + i, count, sum);
    });
}

#define EMBEDDING(A, B, names)                                                                                      \
    KERNEL(embedding_##names, 256, (const A* table, const u32* ids, B* out, u32 rows, u32 d)) {                     \
        embedding(table, ids, out, rows, d);                                                                        \
    }
EMBEDDING(float, float, f32_f32)
EMBEDDING(float, bf16, f32_bf16)
EMBEDDING(bf16, float, bf16_f32)
EMBEDDING(bf16, bf16, bf16_bf16)

#define BACKWARD(G, name)                                                                                           \
    KERNEL(embedding_backward_##name, 256,                                                                          \
           (const G* dy, const u32* order, const u32* starts, const u32* targets, float* sums, u32 groups, u32 d)) { \
        embedding_backward(dy, order, starts, targets, sums, groups, d);                                            \
    }
BACKWARD(float, f32)
BACKWARD(bf16, bf16)
