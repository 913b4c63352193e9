// Sums, scalings, conversions, and rows picked out or put back: the twin of elementwise.rs, bit for bit but for the order
// of the sums over rows and of squares.
#include "cuda/table.cuh"

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

// A tensor's row in the table of launch/squares.rs.
struct Squared {
    u64 x, n, end, is_bf16;
};

template <class X>
__device__ double sum_of_squares(const X* x, u64 first, u64 end) {
    double sum = 0.0;
    for (u64 i = first + threadIdx.x * PACK; i < end; i += blockDim.x * PACK) {
        float a[PACK];
        load(x + i, pack_count(i, end), a);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) sum = fma(double(a[j]), double(a[j]), sum);
    }
    return sum;
}

KERNEL(partial_squares, 256, (const Squared* table, u32 tensors, double* partials)) {
    SHARED_ARRAY(double, each, 32);
    for_pieces(table, tensors, [=](const Squared& of, u64 piece, u64 within) {
        const u64 first = within * SPAN, end = of.n - first < SPAN ? of.n : first + SPAN;
        double sum = of.is_bf16 ? sum_of_squares(at_address<const bf16>(of.x), first, end)
                                : sum_of_squares(at_address<const float>(of.x), first, end);
        sum = block_sum(sum, each);
        if (threadIdx.x == 0) partials[piece] = sum;
        __syncthreads();
    });
}

KERNEL(sum_squares, 256, (const Squared* table, u32 tensors, const double* partials, double* sums)) {
    SHARED_ARRAY(double, each, 32);
    for (u32 i = blockIdx.x; i < tensors; i += gridDim.x) {
        double sum = 0.0;
        for (u64 part = (i ? table[i - 1].end : 0) + threadIdx.x; part < table[i].end; part += blockDim.x) sum += partials[part];
        sum = block_sum(sum, each);
        if (threadIdx.x == 0) sums[i] = sum;
        __syncthreads();
    }
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

// What clips a gradient whose sum of squares this is, as torch's clip_grad_norm_ has it.
__device__ __forceinline__ float clip(double squares, double limit) {
    const double share = limit / (sqrt(squares) + 1e-6);
    return limit > 0.0 ? float(share > 1.0 ? 1.0 : share) : 1.0f;
}

// One scale for all, or one for each. Where a sum, the sum of them, or one of the numbers behind them is not finite, no scale
// is a number.
KERNEL(clip_scales, 256, (const double* sums, float* scales, u32 count, u32 behind, double limit, u32 own)) {
    SHARED_ARRAY(double, squares_of, 32);
    SHARED_ARRAY(double, faults_of, 32);
    double squares = 0.0, faults = 0.0;
    for (u32 i = threadIdx.x; i < count + behind; i += blockDim.x) {
        faults += sums[i] - sums[i];
        if (i < count) squares += sums[i];
    }
    squares = block_sum(squares, squares_of);
    faults = block_sum(faults, faults_of) + (squares - squares);
    for (u32 i = threadIdx.x; i < (own ? count : 1); i += blockDim.x)
        scales[i] = faults == 0.0 ? clip(own ? sums[i] : squares, limit) : __uint_as_float(NAN_BITS);
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
    }
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
