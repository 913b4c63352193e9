// Sums, scalings, conversions, and rows picked out or put back: the twin of elementwise.rs, bit for bit but for the order
// of the sums over rows and of squares.
#include "cuda/device.cuh"

template <class A, class B>
__device__ void add_assign(A* a, const B* b, u64 n) {
    for_flat(n, [=](u64 i, u32 count) {
        float x[PACK], y[PACK];
        load(a + i, count, x);
        load(b + i, count, y);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) x[j] += y[j];
        store(a + i, count, x);
    });
}

template <class A>
__device__ void scale_assign(A* a, const float* on_device, float factor, u64 n) {
    if (on_device) factor *= *on_device;
    for_flat(n, [=](u64 i, u32 count) {
        float x[PACK];
        load(a + i, count, x);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) x[j] *= factor;
        store(a + i, count, x);
    });
}

template <class A>
__device__ void fill(A* a, float value, u64 n) {
    for_flat(n, [=](u64 i, u32 count) {
        float x[PACK];
#pragma unroll
        for (u32 j = 0; j < PACK; j++) x[j] = value;
        store(a + i, count, x);
    });
}

template <class A, class B>
__device__ void convert(const A* from, B* to, u64 n) {
    for_flat(n, [=](u64 i, u32 count) {
        float x[PACK];
        load(from + i, count, x);
        store(to + i, count, x);
    });
}

template <class Y, class B>
__device__ void add_bias(Y* y, const B* bias, u32 rows, u32 d) {
    for_rows(rows, d, [=](u32 row, u32 i, u32 count) {
        float a[PACK], b[PACK];
        load(y + u64(row) * d + i, count, a);
        load(bias + i, count, b);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) a[j] += b[j];
        store(y + u64(row) * d + i, count, a);
    });
}

template <class X>
__device__ void gather_rows(const X* x, const u32* indices, X* y, u32 rows, u32 d) {
    for_rows(rows, d, [=](u32 row, u32 i, u32 count) {
        float a[PACK];
        load(x + u64(indices[row]) * d + i, count, a);
        store(y + u64(row) * d + i, count, a);
    });
}

// Row targets[g] takes the rows of group g, one after another, rounded after each.
template <class X>
__device__ void scatter_rows(const X* x, const u32* order, const u32* starts, const u32* targets, X* y, u32 groups, u32 d) {
    for_rows(groups, d, [=](u32 group, u32 i, u32 count) {
        float sum[PACK] = {};
        for (u32 at = starts[group]; at < starts[group + 1]; at++) {
            float a[PACK];
            load(x + u64(order[at]) * d + i, count, a);
#pragma unroll
            for (u32 j = 0; j < PACK; j++) sum[j] = widen(narrow<X>(sum[j] + a[j]));
        }
        store(y + u64(targets[group]) * d + i, count, sum);
    });
}

// Numbers of a partial sum: SQUARES_PER_PARTIAL.
constexpr u32 SPAN = 1 << 15;

template <class X>
__device__ void sum_of_squares(const X* x, double* partials, u64 n) {
    SHARED_ARRAY(double, each, 32);
    for (u64 part = blockIdx.x; part * SPAN < n || part == 0; part += gridDim.x) {
        const u64 end = (part + 1) * SPAN < n ? (part + 1) * SPAN : n;
        double sum = 0.0;
        for (u64 i = part * SPAN + u64(threadIdx.x) * PACK; i < end; i += u64(blockDim.x) * PACK) {
            float a[PACK];
            load(x + i, pack_count(i, end), a);
#pragma unroll
            for (u32 j = 0; j < PACK; j++) sum = fma(double(a[j]), double(a[j]), sum);
        }
        sum = block_sum(sum, each);
        if (threadIdx.x == 0) partials[part] = sum;
        __syncthreads();
    }
}

KERNEL(sum_partials, 1024, (const double* partials, double* total, u64 count)) {
    SHARED_ARRAY(double, each, 32);
    double sum = 0.0;
    for (u64 i = threadIdx.x; i < count; i += blockDim.x) sum += partials[i];
    sum = block_sum(sum, each);
    if (threadIdx.x == 0) *total = sum;
}

KERNEL(divide, 256, (const float* a, const float* b, float* y, u64 n)) {
    for_flat(n, [=](u64 i, u32 count) {
        float x[PACK], by[PACK];
        load(a + i, count, x);
        load(b + i, count, by);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) x[j] /= by[j];
        store(y + i, count, x);
    });
}

KERNEL(clip_scale, 32, (const double* squares, float* scale, double limit)) {
    if (threadIdx.x == 0) {
        const double share = limit / (sqrt(*squares) + 1e-6);
        // Written so that a NaN stays one; an infinite norm becomes one.
        const double clipped = share > 1.0 ? 1.0 : share;
        *scale = *squares - *squares != 0.0 ? __uint_as_float(NAN_BITS) : limit > 0.0 ? float(clipped) : 1.0f;
    }
}

#define OF_ONE(T, name)                                                                                             \
    KERNEL(fill_##name, 256, (T * a, float value, u64 n)) { fill(a, value, n); }                                    \
    KERNEL(scale_assign_##name, 256, (T * a, const float* on_device, float factor, u64 n)) {                        \
        scale_assign(a, on_device, factor, n);                                                                      \
    }                                                                                                               \
    KERNEL(sum_rows_##name, 128, (const T* x, float* sums, u32 rows, u32 d, u32 part)) {                            \
        sum_columns(sums, rows, d, part, [=](u32 row, u32 i) { return widen(x[u64(row) * d + i]); });                                                                           \
    }                                                                                                               \
    KERNEL(gather_rows_##name, 256, (const T* x, const u32* indices, T* y, u32 rows, u32 d)) {                      \
        gather_rows(x, indices, y, rows, d);                                                                        \
    }                                                                                                               \
    KERNEL(scatter_rows_##name, 256,                                                                                \
           (const T* x, const u32* order, const u32* starts, const u32* targets, T* y, u32 groups, u32 d)) {        \
        scatter_rows(x, order, starts, targets, y, groups, d);                                                      \
    }                                                                                                               \
    KERNEL(sum_of_squares_##name, 256, (const T* x, double* partials, u64 n)) { sum_of_squares(x, partials, n); }
OF_ONE(float, f32)
OF_ONE(bf16, bf16)

#define OF_TWO(A, B, names)                                                                                         \
    KERNEL(convert_##names, 256, (const A* from, B* to, u64 n)) { convert(from, to, n); }                           \
    KERNEL(add_assign_##names, 256, (A * a, const B* b, u64 n)) { add_assign(a, b, n); }                            \
    KERNEL(add_bias_##names, 256, (A * y, const B* bias, u32 rows, u32 d)) { add_bias(y, bias, rows, d); }
OF_TWO(float, float, f32_f32)
OF_TWO(float, bf16, f32_bf16)
OF_TWO(bf16, float, bf16_f32)
OF_TWO(bf16, bf16, bf16_bf16)
