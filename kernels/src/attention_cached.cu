// Attention of one new token per sequence to its cache: the twin of attention/cached.rs for one row a sequence. The keys
// are cut into parts that blocks take at once; a second kernel puts the parts together.
#include "cuda/device.cuh"

constexpr u32 PART = 256, GROUP = 8, THREADS = 128, WARPS = THREADS / 32;

template <class X, class C>
__device__ void append(const X* k, const X* v, const u32* lens, C* keys, C* values, u32 sequences, u32 kv_heads,
                       u32 head_dim, u32 capacity) {
    const u32 width = kv_heads * head_dim;
    for (u32 sequence = blockIdx.y; sequence < sequences; sequence += gridDim.y) {
        const u32 len = lens[sequence];
        // A sequence that has ended, or for which there is no room, writes nothing.
        if (len == 0 || len > capacity) continue;
        for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < width; i += gridDim.x * blockDim.x) {
            const u64 to = ((u64(sequence) * kv_heads + i / head_dim) * capacity + len - 1) * head_dim + i % head_dim;
            keys[to] = narrow<C>(widen(k[u64(sequence) * width + i]));
            values[to] = narrow<C>(widen(v[u64(sequence) * width + i]));
        }
    }
}

// Lanes that a key's numbers take at eight a lane: a power of two, at most a warp.
__device__ __forceinline__ u32 lanes_of(u32 head_dim) {
    u32 lanes = 1;
    while (lanes * PACK < head_dim) lanes *= 2;
    return lanes;
}

template <class Q, class C>
__device__ void decode(const Q* q, const C* keys, const C* values, const u32* lens, float* parts_out, u32 sequences,
                       u32 heads, u32 kv_heads, u32 head_dim, u32 parts, u32 capacity, u32 window, float scale) {
    DYNAMIC_SHARED(float, memory);
    const u32 group = heads / kv_heads, groups = (group + GROUP - 1) / GROUP;
    const u32 kv_head = blockIdx.x / groups, first_in_group = blockIdx.x % groups * GROUP;
    const u32 first_head = kv_head * group + first_in_group;
    const u32 rows = group - first_in_group < GROUP ? group - first_in_group : GROUP;
    float* scores = memory;                                     // (rows, PART)
    float* queries = scores + (group < GROUP ? group : GROUP) * PART;  // (rows, head_dim)
    float* partial = queries + (group < GROUP ? group : GROUP) * head_dim;  // (warps, rows, head_dim)
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 lanes = lanes_of(head_dim), at_once = 32 / lanes, of_key = lane / lanes, first = lane % lanes * PACK;
    const u32 count = first < head_dim ? pack_count(first, head_dim) : 0;

    for (u32 sequence = blockIdx.z; sequence < sequences; sequence += gridDim.z) {
        const u32 len = lens[sequence] < capacity ? lens[sequence] : capacity;
        const u32 seen_from = len > window ? len - window : 0;
        const u32 from = blockIdx.y * PART > seen_from ? blockIdx.y * PART : seen_from;
        const u32 end = (blockIdx.y + 1) * PART < len ? (blockIdx.y + 1) * PART : len;
        const u32 here = from < end ? end - from : 0;
        const u64 cache = (u64(sequence) * kv_heads + kv_head) * capacity * head_dim;

        for (u32 i = threadIdx.x; i < rows * head_dim; i += THREADS)
            queries[i] = widen(q[(u64(sequence) * heads + first_head) * head_dim + i]) * (scale * LOG2_E);
        __syncthreads();

        for (u32 key = warp * at_once; key < here; key += WARPS * at_once) {
            const u32 mine = key + of_key;
            float x[PACK];
            load(keys + cache + u64(from + mine) * head_dim + first, mine < here ? count : 0, x);
#pragma unroll
            for (u32 row = 0; row < GROUP; row++) {
                if (row >= rows) break;
                float dot = 0.0f;
#pragma unroll
                for (u32 j = 0; j < PACK; j++) {
                    if (j < count) dot = fmaf(x[j], queries[row * head_dim + first + j], dot);
                }
                for (u32 by = lanes / 2; by > 0; by /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, by);
                if (mine < here && lane % lanes == 0) scores[row * PART + mine] = dot;
            }
        }
        __syncthreads();

        for (u32 row = warp; row < rows; row += WARPS) {
            float most = -INFINITY, sum = 0.0f;
            for (u32 i = lane; i < here; i += 32) most = larger(scores[row * PART + i], most);
            most = warp_max(most);
            for (u32 i = lane; i < here; i += 32) {
                const float p = exp2_fast(scores[row * PART + i] - most);
                scores[row * PART + i] = p;
                sum += p;
            }
            sum = warp_sum(sum);
            float* out = parts_out + ((u64(sequence) * heads + first_head + row) * parts + blockIdx.y) * (head_dim + 2);
            if (lane == 0) {
                out[head_dim] = most;
                out[head_dim + 1] = sum;
            }
        }
        __syncthreads();

        float o[GROUP][PACK] = {};
        for (u32 key = warp * at_once; key < here; key += WARPS * at_once) {
            const u32 mine = key + of_key;
            float x[PACK];
            load(values + cache + u64(from + mine) * head_dim + first, mine < here ? count : 0, x);
#pragma unroll
            for (u32 row = 0; row < GROUP; row++) {
                const float p = row < rows && mine < here ? scores[row * PART + mine] : 0.0f;
#pragma unroll
                for (u32 j = 0; j < PACK; j++) o[row][j] = fmaf(p, x[j], o[row][j]);
            }
        }
#pragma unroll
        for (u32 row = 0; row < GROUP; row++) {
            if (row >= rows) break;
#pragma unroll
            for (u32 j = 0; j < PACK; j++) {
                for (u32 by = lanes; by < 32; by *= 2) o[row][j] += __shfl_xor_sync(0xffffffffu, o[row][j], by);
                if (of_key == 0 && j < count) partial[(warp * rows + row) * head_dim + first + j] = o[row][j];
            }
        }
        __syncthreads();
        for (u32 i = threadIdx.x; i < rows * head_dim; i += THREADS) {
            float sum = 0.0f;
#pragma unroll
            for (u32 w = 0; w < WARPS; w++) sum += partial[w * rows * head_dim + i];
            const u32 row = i / head_dim;
            parts_out[((u64(sequence) * heads + first_head + row) * parts + blockIdx.y) * (head_dim + 2) + i % head_dim] = sum;
        }
        __syncthreads();
    }
}

// o = Σ o_p · 2^(most_p - most) / Σ sum_p · 2^(most_p - most), over the parts in their order.
template <class Q>
__device__ void put_together(const float* parts_in, Q* o, u32 sequences, u32 heads, u32 head_dim, u32 parts) {
    for (u32 row = blockIdx.x; row < sequences * heads; row += gridDim.x) {
        const float* of_row = parts_in + u64(row) * parts * (head_dim + 2);
        float most = -INFINITY, total = 0.0f;
        for (u32 p = 0; p < parts; p++) most = larger(of_row[u64(p) * (head_dim + 2) + head_dim], most);
        // A part without keys has a sum of 0, and a largest score of -∞.
        const float base = most == -INFINITY ? 0.0f : most;
        for (u32 p = 0; p < parts; p++) {
            const float* part = of_row + u64(p) * (head_dim + 2) + head_dim;
            total += part[1] * exp2_fast(part[0] - base);
        }
        for (u32 i = threadIdx.x; i < head_dim; i += blockDim.x) {
            float sum = 0.0f;
            for (u32 p = 0; p < parts; p++) {
                const float* part = of_row + u64(p) * (head_dim + 2);
                sum += part[i] * exp2_fast(part[head_dim] - base);
            }
            o[u64(row) * head_dim + i] = narrow<Q>(total > 0.0f ? sum / total : total);
        }
    }
}

#define SUM(Q, name)                                                                                                \
    KERNEL(attention_decode_sum_##name, 128,                                                                        \
           (const float* parts_in, Q* o, u32 sequences, u32 heads, u32, u32 head_dim, u32 parts)) {                 \
        put_together(parts_in, o, sequences, heads, head_dim, parts);                                               \
    }
SUM(float, f32)
SUM(bf16, bf16)

#define CACHED(Q, C, names)                                                                                         \
    KERNEL(cache_append_##names, 128,                                                                               \
           (const Q* k, const Q* v, const u32* lens, C* keys, C* values, u32 sequences, u32 kv_heads, u32 head_dim, \
            u32 capacity)) {                                                                                        \
        append(k, v, lens, keys, values, sequences, kv_heads, head_dim, capacity);                                  \
    }                                                                                                               \
    KERNEL(attention_decode_##names, 128,                                                                           \
           (const Q* q, const C* keys, const C* values, const u32* lens, float* parts_out, u32 sequences,           \
            u32 heads, u32 kv_heads, u32 head_dim, u32 parts, u32 capacity, u32 window, float scale)) {             \
        decode(q, keys, values, lens, parts_out, sequences, heads, kv_heads, head_dim, parts, capacity, window, scale); \
    }
CACHED(float, float, f32_f32)
CACHED(float, bf16, f32_bf16)
CACHED(bf16, float, bf16_f32)
CACHED(bf16, bf16, bf16_bf16)
