// Columns times factors of their own: the twin of column_scale.rs.
#include "cuda/device.cuh"

template <class X>
__device__ void scale_columns(const X* x, const float* factors, X* y, u32 rows, u32 d, float less) {
    for_rows(rows, d, [=](u32 row, u32 i, u32 count) {
        float a[PACK], f[PACK];
        load(x + u64(row) * d + i, count, a);
        load(factors + i, count, f);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) a[j] *= f[j] - less;
        store(y + u64(row) * d + i, count, a);
    });
}

// Σ a ∘ b over a part of the rows.
template <class A, class B>
__device__ void column_products(const A* a, const B* b, float* sums, u32 rows, u32 d, u32 part) {
    sum_columns(sums, rows, d, part, [=](u32 row, u32 i) {
        return widen(a[u64(row) * d + i]) * widen(b[u64(row) * d + i]);
    });
}

#define SCALE(X, name)                                                                                   \
    KERNEL(scale_columns_##name, 256, (const X* x, const float* factors, X* y, u32 rows, u32 d, float less)) { \
        scale_columns(x, factors, y, rows, d, less);                                                     \
    }
SCALE(float, f32)
SCALE(bf16, bf16)

#define PRODUCTS(A, B, names)                                                                            \
    KERNEL(column_products_##names, 128, (const A* a, const B* b, float* sums, u32 rows, u32 d, u32 part)) { \
        column_products(a, b, sums, rows, d, part);                                                      \
    }
PRODUCTS(float, float, f32_f32)
PRODUCTS(float, bf16, f32_bf16)
PRODUCTS(bf16, float, bf16_f32)
PRODUCTS(bf16, bf16, bf16_bf16)
