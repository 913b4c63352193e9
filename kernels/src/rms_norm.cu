// RMSNorm, forward and backward: the twin of rms_norm.rs. A row is a warp's or a block's; threads of a row lie along x,
// rows of a block along y.
#include "cuda/device.cuh"

// Over the threads of a row.
__device__ __forceinline__ float row_sum(float x, float* each) {
    return blockDim.x == 32 ? warp_sum(x) : block_sum(x, each);
}

// y = w · x · r, with x ← x + residual first where there is one.
template <class T, class W>
__device__ void forward(const T* x, const W* weight, T* y, float* reciprocal, T* residual, u32 rows, u32 d, float eps) {
    SHARED_ARRAY(float, each, 32);
    for (u32 first = blockIdx.x * blockDim.y; first < rows; first += gridDim.x * blockDim.y) {
        const u32 row = first + threadIdx.y;
        // Of a row that does not exist a warp computes nothing, but it meets the others.
        const u32 end = row < rows ? d : 0;
        const u64 at = u64(row) * d;
        // What is normalised: x itself, or the sum that takes the residual's place.
        const T* source = residual ? residual : x;
        float squares = 0.0f;
        for (u32 i = threadIdx.x * PACK; i < end; i += blockDim.x * PACK) {
            const u32 count = pack_count(i, d);
            float a[PACK];
            load(x + at + i, count, a);
            if (residual) {
                float b[PACK];
                load(residual + at + i, count, b);
#pragma unroll
                for (u32 j = 0; j < PACK; j++) a[j] = widen(narrow<T>(a[j] + b[j]));
                store(residual + at + i, count, a);
            }
#pragma unroll
            for (u32 j = 0; j < PACK; j++) squares = fmaf(a[j], a[j], squares);
        }
        const float r = 1.0f / sqrtf(row_sum(squares, each) / float(d) + eps);
        for (u32 i = threadIdx.x * PACK; i < end; i += blockDim.x * PACK) {
            const u32 count = pack_count(i, d);
            // Every thread reads again what it has read, or written, itself.
            float a[PACK], w[PACK];
            load(source + at + i, count, a);
            load(weight + i, count, w);
#pragma unroll
            for (u32 j = 0; j < PACK; j++) a[j] = a[j] * r * w[j];
            store(y + at + i, count, a);
        }
        if (end && threadIdx.x == 0) reciprocal[row] = r;
        if (blockDim.x > 32) __syncthreads();
    }
}

// dx = r · (dy · w - x · r · mean), mean = r · Σ dy · w · x / d.
template <class T, class W, class G>
__device__ void backward(const T* x, const W* weight, const float* reciprocal, const G* dy, G* dx, u32 rows, u32 d, u32 onto) {
    SHARED_ARRAY(float, each, 32);
    for (u32 first = blockIdx.x * blockDim.y; first < rows; first += gridDim.x * blockDim.y) {
        const u32 row = first + threadIdx.y;
        const u32 end = row < rows ? d : 0;
        const u64 at = u64(row) * d;
        float along = 0.0f;
        for (u32 i = threadIdx.x * PACK; i < end; i += blockDim.x * PACK) {
            const u32 count = pack_count(i, d);
            float a[PACK], w[PACK], g[PACK];
            load(x + at + i, count, a);
            load(weight + i, count, w);
            load(dy + at + i, count, g);
#pragma unroll
            for (u32 j = 0; j < PACK; j++) along = fmaf(w[j] * g[j], a[j], along);
        }
        along = row_sum(along, each);
        const float r = end ? reciprocal[row] : 0.0f;
        const float mean = along * r / float(d);
        for (u32 i = threadIdx.x * PACK; i < end; i += blockDim.x * PACK) {
            const u32 count = pack_count(i, d);
            float a[PACK], w[PACK], g[PACK];
            load(x + at + i, count, a);
            load(weight + i, count, w);
            load(dy + at + i, count, g);
#pragma unroll
            for (u32 j = 0; j < PACK; j++) g[j] = r * (g[j] * w[j] - a[j] * r * mean);
            if (onto) {
                load(dx + at + i, count, a);
#pragma unroll
                for (u32 j = 0; j < PACK; j++) g[j] += a[j];
            }
            store(dx + at + i, count, g);
        }
        if (blockDim.x > 32) __syncthreads();
    }
}

// Σ dy · x · r over a part of the rows.
template <class T, class G>
__device__ void backward_weight(const T* x, const float* reciprocal, const G* dy, float* sums, u32 rows, u32 d, u32 part) {
    sum_columns(sums, rows, d, part, [=](u32 row, u32 i) {
        const u64 at = u64(row) * d + i;
        return widen(dy[at]) * widen(x[at]) * reciprocal[row];
    });
}

#define FORWARD(T, W, names)                                                                                        \
    KERNEL(rms_norm_##names, 256,                                                                                   \
           (const T* x, const W* weight, T* y, float* reciprocal, T* residual, u32 rows, u32 d, float eps)) {       \
        forward(x, weight, y, reciprocal, residual, rows, d, eps);                                                  \
    }
FORWARD(float, float, f32_f32)
FORWARD(float, bf16, f32_bf16)
FORWARD(bf16, float, bf16_f32)
FORWARD(bf16, bf16, bf16_bf16)

#define BACKWARD(T, W, G, names)                                                                                    \
    KERNEL(rms_norm_backward_##names, 256,                                                                          \
           (const T* x, const W* weight, const float* reciprocal, const G* dy, G* dx, u32 rows, u32 d, u32 onto)) { \
        backward(x, weight, reciprocal, dy, dx, rows, d, onto);                                                     \
    }
BACKWARD(float, float, float, f32_f32_f32)
BACKWARD(float, bf16, float, f32_bf16_f32)
BACKWARD(bf16, float, float, bf16_f32_f32)
BACKWARD(bf16, float, bf16, bf16_f32_bf16)
BACKWARD(bf16, bf16, float, bf16_bf16_f32)
BACKWARD(bf16, bf16, bf16, bf16_bf16_bf16)

#define BACKWARD_WEIGHT(T, G, names)                                                                                \
    KERNEL(rms_norm_backward_weight_##names, 128,                                                                   \
           (const T* x, const float* reciprocal, const G* dy, float* sums, u32 rows, u32 d, u32 part)) {            \
        backward_weight(x, reciprocal, dy, sums, rows, d, part);                                                    \
    }
BACKWARD_WEIGHT(float, float, f32_f32)
BACKWARD_WEIGHT(bf16, float, bf16_f32)
BACKWARD_WEIGHT(bf16, bf16, bf16_bf16)
