// SwiGLU, forward and backward: the twin of swiglu.rs.
#include "cuda/device.cuh"

// 1 / (1 + e^-x), without overflow on either side.
__device__ __forceinline__ float sigmoid(float x) {
    const float e = exp2_fast(-LOG2_E * fabsf(x)), positive = 1.0f / (1.0f + e);
    return x < 0.0f ? e * positive : positive;
}

template <class T>
__device__ void forward(const T* gate, const T* up, T* y, u32 rows, u32 width, u32 stride) {
    for_rows(rows, width, [=](u32 row, u32 i, u32 count) {
        float g[PACK], u[PACK];
        load(gate + u64(row) * stride + i, count, g);
        load(up + u64(row) * stride + i, count, u);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) g[j] = g[j] * sigmoid(g[j]) * u[j];
        store(y + u64(row) * width + i, count, g);
    });
}

template <class T, class G>
__device__ void backward(const T* gate, const T* up, const G* dy, G* dgate, G* dup, u32 rows, u32 width, u32 stride,
                         u32 gradient_stride) {
    for_rows(rows, width, [=](u32 row, u32 i, u32 count) {
        float g[PACK], u[PACK], d[PACK];
        load(gate + u64(row) * stride + i, count, g);
        load(up + u64(row) * stride + i, count, u);
        load(dy + u64(row) * width + i, count, d);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) {
            const float s = sigmoid(g[j]), of_up = d[j] * g[j] * s;
            g[j] = d[j] * u[j] * s * (1.0f + g[j] * (1.0f - s));
            u[j] = of_up;
        }
        store(dgate + u64(row) * gradient_stride + i, count, g);
        store(dup + u64(row) * gradient_stride + i, count, u);
    });
}

#define FORWARD(T, name)                                                                            \
    KERNEL(swiglu_##name, 256, (const T* gate, const T* up, T* y, u32 rows, u32 width, u32 stride)) { \
        forward(gate, up, y, rows, width, stride);                                                  \
    }
FORWARD(float, f32)
FORWARD(bf16, bf16)

#define BACKWARD(T, G, names)                                                                                        \
    KERNEL(swiglu_backward_##names, 256,                                                                             \
           (const T* gate, const T* up, const G* dy, G* dgate, G* dup, u32 rows, u32 width, u32 stride,              \
            u32 gradient_stride)) {                                                                                  \
        backward(gate, up, dy, dgate, dup, rows, width, stride, gradient_stride);                                    \
    }
BACKWARD(float, float, f32_f32)
BACKWARD(bf16, float, bf16_f32)
BACKWARD(bf16, bf16, bf16_bf16)
