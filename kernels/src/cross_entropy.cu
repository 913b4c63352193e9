// A row of logits to its loss and, in its place, the gradient; and to its target's score: the twin of cross_entropy.rs.
#include "cuda/device.cuh"

// A row's largest logit and Σ exp(z - largest), known to every thread of its block. A row is read once: a thread's running
// sum shrinks as its maximum grows.
struct Softmax {
    float most, sum;
};

template <class Z>
__device__ Softmax softmax_of(const Z* z, u32 v, float* each, float* each_sum) {
    float most = -INFINITY, sum = 0.0f;
    for (u32 i = threadIdx.x * PACK; i < v; i += blockDim.x * PACK) {
        const u32 count = pack_count(i, v);
        float x[PACK];
        load(z + i, count, x);
        float here = most;
#pragma unroll
        for (u32 j = 0; j < PACK; j++) here = j < count ? larger(x[j], here) : here;
        if (here > most) {
            sum *= exp2_fast((most - here) * LOG2_E);
            most = here;
        }
#pragma unroll
        for (u32 j = 0; j < PACK; j++) sum += j < count ? exp2_fast((x[j] - most) * LOG2_E) : 0.0f;
    }
    const float all = block_max(most, each);
    // A thread without numbers has a sum of 0.
    sum = most == -INFINITY ? sum : sum * exp2_fast((most - all) * LOG2_E);
    return {all, block_sum(sum, each_sum)};
}

template <class Z>
__device__ void cross_entropy(Z* logits, const u32* targets, float* losses, u32 rows, u32 v, u32 gradient, float scale) {
    SHARED_ARRAY(float, each, 32);
    SHARED_ARRAY(float, each_sum, 32);
    for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
        Z* z = logits + u64(row) * v;
        const u32 target = targets[row];
        const float at_target = widen(z[target]);
        const Softmax s = softmax_of(z, v, each, each_sum);
        if (threadIdx.x == 0) losses[row] = logf(s.sum) + (s.most - at_target);
        // The barriers of the sums lie between the target's logit being read and its being written.
        if (gradient) {
            const float factor = scale / s.sum;
            for (u32 i = threadIdx.x * PACK; i < v; i += blockDim.x * PACK) {
                const u32 count = pack_count(i, v);
                float x[PACK];
                load(z + i, count, x);
#pragma unroll
                for (u32 j = 0; j < PACK; j++) {
                    x[j] = exp2_fast((x[j] - s.most) * LOG2_E) * factor;
                    if (i + j == target) x[j] -= scale;
                }
                store(z + i, count, x);
            }
        }
        __syncthreads();
    }
}

template <class Z>
__device__ void token_scores(const Z* logits, const u32* targets, float* log_probs, u32* greedy, u32 rows, u32 v) {
    SHARED_ARRAY(float, each, 32);
    SHARED_ARRAY(float, each_sum, 32);
    SHARED_ARRAY(u32, each_count, 32);
    for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
        const Z* z = logits + u64(row) * v;
        const u32 target = targets[row];
        const float at_target = widen(z[target]);
        const Softmax s = softmax_of(z, v, each, each_sum);
        // The first of equals, as argmax has it.
        u32 before = 0;
        if (at_target == s.most) {
            for (u32 i = threadIdx.x; i < target; i += blockDim.x) before += widen(z[i]) == s.most;
        }
        before = block_sum(before, each_count);
        if (threadIdx.x == 0) {
            log_probs[row] = at_target - s.most - logf(s.sum);
            greedy[row] = at_target == s.most && before == 0;
        }
        __syncthreads();
    }
}

KERNEL(sum_losses, 1024, (const float* losses, double* sum, u64 n)) {
    SHARED_ARRAY(double, each, 32);
    double total = 0.0;
    for (u64 i = threadIdx.x; i < n; i += blockDim.x) total += double(losses[i]);
    total = block_sum(total, each);
    if (threadIdx.x == 0) *sum += total;
}

#define HEAD(Z, name)                                                                                               \
    KERNEL(cross_entropy_##name, 512,                                                                               \
           (Z * logits, const u32* targets, float* losses, u32 rows, u32 v, u32 gradient, float scale)) {           \
        cross_entropy(logits, targets, losses, rows, v, gradient, scale);                                           \
    }                                                                                                               \
    KERNEL(token_scores_##name, 512,                                                                                \
           (const Z* logits, const u32* targets, float* log_probs, u32* greedy, u32 rows, u32 v)) {                 \
        token_scores(logits, targets, log_probs, greedy, rows, v);                                                  \
    }
HEAD(float, f32)
HEAD(bf16, bf16)
