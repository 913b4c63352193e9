// The lengths of a weight's rows under a low-rank update: the twin of row_norms.rs.
#include "cuda/device.cuh"

// Rows of a block: a number of A is read once for all of them.
constexpr u32 ROWS = 8;

// norms = ‖W + s·B A‖ of each row. The sum is made in registers and never stored, and its squares are added in f64. Where an
// update all but takes a row away, what is left has the roundings to f32 of both.
template <class W>
__device__ void row_norms(const W* w, const float* a, const float* b, float* norms, u32 n, u32 k, u32 r, float scaling) {
    SHARED_ARRAY(double, each, 32);
    for (u32 first = blockIdx.x * ROWS; first < n; first += gridDim.x * ROWS) {
        // Where fewer rows are left, the last one is computed again instead.
        u32 row[ROWS];
        double squares[ROWS];
#pragma unroll
        for (u32 i = 0; i < ROWS; i++) {
            row[i] = first + i < n ? first + i : n - 1;
            squares[i] = 0.0;
        }
        for (u32 at = threadIdx.x * PACK; at < k; at += blockDim.x * PACK) {
            const u32 count = pack_count(at, k);
            float delta[ROWS][PACK] = {};
            for (u32 l = 0; l < r; l++) {
                float x[PACK];
                load(a + u64(l) * k + at, count, x);
#pragma unroll
                for (u32 i = 0; i < ROWS; i++) {
                    const float y = b[u64(row[i]) * r + l];
#pragma unroll
                    for (u32 j = 0; j < PACK; j++) delta[i][j] = fmaf(y, x[j], delta[i][j]);
                }
            }
#pragma unroll
            for (u32 i = 0; i < ROWS; i++) {
                float x[PACK];
                load(w + u64(row[i]) * k + at, count, x);
#pragma unroll
                for (u32 j = 0; j < PACK; j++) {
                    const double sum = double(fmaf(scaling, delta[i][j], x[j]));
                    squares[i] = fma(sum, sum, squares[i]);
                }
            }
        }
#pragma unroll
        for (u32 i = 0; i < ROWS; i++) {
            const double sum = block_sum(squares[i], each);
            if (threadIdx.x == 0) norms[row[i]] = float(sqrt(sum));
            __syncthreads();
        }
    }
}

#define ROW_NORMS(W, name)                                                                                          \
    KERNEL(row_norms_##name, 128,                                                                                   \
           (const W* w, const float* a, const float* b, float* norms, u32 n, u32 k, u32 r, float scaling)) {        \
        row_norms(w, a, b, norms, n, k, r, scaling);                                                                \
    }
ROW_NORMS(float, f32)
ROW_NORMS(bf16, bf16)
