// Packed attention for any head size up to 256 and any type, without tensor cores: a warp takes a row at a time, a lane a
// key (or, backward for keys, a query). Slow and plain; attention.cu is the fast one.
#include "cuda/attention.cuh"

constexpr u32 THREADS = 128, WARPS = THREADS / 32, MOST = 256, NUMBERS = MOST / 32;

// Copies a row into a warp's own shared memory, as f32.
template <class T>
__device__ __forceinline__ void stage(float* to, const T* from, u32 d) {
    for (u32 i = threadIdx.x % 32; i < d; i += 32) to[i] = widen(from[i]);
}

template <class T>
__device__ __forceinline__ float dot(const float* a, const T* b, u32 d) {
    float sum = 0.0f;
    for (u32 i = 0; i < d; i++) sum = fmaf(a[i], widen(b[i]), sum);
    return sum;
}

// sums += p of lane `from` · row, each lane its own columns.
template <class T>
__device__ __forceinline__ void add_row(float (&sums)[NUMBERS], float p, const T* row, u32 d) {
#pragma unroll
    for (u32 n = 0; n < NUMBERS; n++) {
        const u32 i = threadIdx.x % 32 + 32 * n;
        if (i < d) sums[n] = fmaf(p, widen(row[i]), sums[n]);
    }
}

template <class T>
__device__ __forceinline__ void write_row(T* row, const float (&sums)[NUMBERS], float factor, u32 d) {
#pragma unroll
    for (u32 n = 0; n < NUMBERS; n++) {
        const u32 i = threadIdx.x % 32 + 32 * n;
        if (i < d) row[i] = narrow<T>(sums[n] * factor);
    }
}

// The keys that query i sees, 32 at a time: first those of the prefix, then its segment's own. `each(first, count)`.
template <class F>
__device__ void for_keys(const QueryTile& tile, u32 i, u32 window, F each) {
    if (tile.blind()) return;
    for (int run = 0; run < 2; run++) {
        const i32 shift = run ? 0 : tile.shift;
        const u32 from = at_least(first_seen(i32(i), shift, window), run ? tile.own : tile.prefix);
        const u32 end = run ? i + 1 : tile.prefix_end;
        for (u32 j = from; j < end; j += 32) each(j, end - j < 32 ? end - j : 32);
    }
}

template <class T>
__device__ void forward(const T* q, const T* k, const T* v, T* o, float* log_sums, const u32* tiles, u32 heads,
                        u32 kv_heads, u32 d, u32 q_stride, u32 k_stride, u32 v_stride, float scale, u32 window) {
    SHARED_ARRAY(float, rows, WARPS * MOST);
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* query = rows + warp * MOST;
    const QueryTile tile(tiles, blockIdx.x);
    const u32 head = blockIdx.y, kv_head = head / (heads / kv_heads);
    const T* keys = k + kv_head * d;
    const T* values = v + kv_head * d;
    for (u32 row = warp; row < tile.count; row += WARPS) {
        const u32 i = tile.first + row;
        __syncwarp();
        stage(query, q + u64(i) * q_stride + head * d, d);
        __syncwarp();
        float most = -INFINITY, sum = 0.0f, out[NUMBERS] = {};
        for_keys(tile, i, window, [&](u32 j, u32 count) {
            const float score =
                lane < count ? dot(query, keys + u64(j + lane) * k_stride, d) * (scale * LOG2_E) : -INFINITY;
            const float grown = larger(warp_max(score), most), shrink = exp2_fast(most - grown);
            const float p = exp2_fast(score - grown);
            most = grown;
            sum = sum * shrink + warp_sum(p);
#pragma unroll
            for (u32 n = 0; n < NUMBERS; n++) out[n] *= shrink;
            for (u32 from = 0; from < count; from++)
                add_row(out, __shfl_sync(0xffffffffu, p, from), values + u64(j + from) * v_stride, d);
        });
        // A row of no segment gives zeros.
        write_row(o + (u64(i) * heads + head) * d, out, tile.blind() ? 0.0f : 1.0f / sum, d);
        if (lane == 0) log_sums[u64(i) * heads + head] = tile.blind() ? 0.0f : (most + log2f(sum)) * LN_2;
    }
}

template <class T>
__device__ void backward_queries(const T* q, const T* k, const T* v, const T* d_o, const float* log_sums,
                                 const float* delta, T* dq, const u32* tiles, u32 heads, u32 kv_heads, u32 d,
                                 u32 q_stride, u32 k_stride, u32 v_stride, u32 dq_stride, float scale, u32 window) {
    SHARED_ARRAY(float, rows, 2 * WARPS * MOST);
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* query = rows + 2 * warp * MOST;
    float* d_out = query + MOST;
    const QueryTile tile(tiles, blockIdx.x);
    const u32 head = blockIdx.y, kv_head = head / (heads / kv_heads);
    const T* keys = k + kv_head * d;
    const T* values = v + kv_head * d;
    for (u32 row = warp; row < tile.count; row += WARPS) {
        const u32 i = tile.first + row;
        const u64 of_row = u64(i) * heads + head;
        __syncwarp();
        stage(query, q + u64(i) * q_stride + head * d, d);
        stage(d_out, d_o + of_row * d, d);
        __syncwarp();
        const float log_sum = log_sums[of_row] * LOG2_E, of_delta = delta[of_row];
        float sums[NUMBERS] = {};
        for_keys(tile, i, window, [&](u32 j, u32 count) {
            float ds = 0.0f;
            if (lane < count) {
                const float score = dot(query, keys + u64(j + lane) * k_stride, d) * (scale * LOG2_E);
                ds = exp2_fast(score - log_sum) * (dot(d_out, values + u64(j + lane) * v_stride, d) - of_delta);
            }
            for (u32 from = 0; from < count; from++)
                add_row(sums, __shfl_sync(0xffffffffu, ds, from), keys + u64(j + from) * k_stride, d);
        });
        write_row(dq + u64(i) * dq_stride + head * d, sums, scale, d);
    }
}

template <class T>
__device__ void backward_keys(const T* q, const T* k, const T* v, const T* d_o, const float* log_sums, const float* delta,
                              T* dk, T* dv, const u32* tiles, const u32* edges, u32 heads, u32 kv_heads, u32 d,
                              u32 q_stride, u32 k_stride, u32 v_stride, u32 dk_stride, u32 dv_stride, float scale,
                              u32 window) {
    SHARED_ARRAY(float, rows, 2 * WARPS * MOST);
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* key = rows + 2 * warp * MOST;
    float* value = key + MOST;
    const KeyTile tile(tiles, blockIdx.x);
    const u32 kv_head = blockIdx.y, group = heads / kv_heads;
    for (u32 row = warp; row < tile.count; row += WARPS) {
        const u32 j = tile.first + row;
        __syncwarp();
        stage(key, k + u64(j) * k_stride + kv_head * d, d);
        stage(value, v + u64(j) * v_stride + kv_head * d, d);
        __syncwarp();
        float of_key[NUMBERS] = {}, of_value[NUMBERS] = {};
        for (u32 e = tile.edge; e < tile.edge_end; e++) {
            const Edge edge(edges, e);
            if (j < edge.key || j >= edge.key_end) continue;
            const u32 from = at_least(i32(j) - edge.shift, edge.first);
            for (u32 head = kv_head * group; head < (kv_head + 1) * group; head++) {
                for (u32 first = from; first < edge.end; first += 32) {
                    const u32 i = first + lane, count = edge.end - first < 32 ? edge.end - first : 32;
                    // All queries from here on are too far away.
                    if (!sees(i32(first), edge.shift, i32(j), window)) break;
                    float p = 0.0f, ds = 0.0f;
                    if (i < edge.end && sees(i32(i), edge.shift, i32(j), window)) {
                        const u64 of_row = u64(i) * heads + head;
                        const float score = dot(key, q + u64(i) * q_stride + head * d, d) * (scale * LOG2_E);
                        p = exp2_fast(score - log_sums[of_row] * LOG2_E);
                        ds = p * (dot(value, d_o + of_row * d, d) - delta[of_row]);
                    }
                    for (u32 n = 0; n < count; n++) {
                        const u64 query = first + n;
                        add_row(of_value, __shfl_sync(0xffffffffu, p, n), d_o + (query * heads + head) * d, d);
                        add_row(of_key, __shfl_sync(0xffffffffu, ds, n), q + query * q_stride + head * d, d);
                    }
                }
            }
        }
        write_row(dk + u64(j) * dk_stride + kv_head * d, of_key, scale, d);
        write_row(dv + u64(j) * dv_stride + kv_head * d, of_value, 1.0f, d);
    }
}

#define PLAIN(T, name)                                                                                              \
    KERNEL(attention_plain_forward_##name, 128,                                                                     \
           (const T* q, const T* k, const T* v, T* o, float* log_sums, const u32* tiles, u32 heads, u32 kv_heads,   \
            u32 d, u32 q_stride, u32 k_stride, u32 v_stride, float scale, u32 window)) {                            \
        forward(q, k, v, o, log_sums, tiles, heads, kv_heads, d, q_stride, k_stride, v_stride, scale, window);      \
    }                                                                                                               \
    KERNEL(attention_plain_dq_##name, 128,                                                                          \
           (const T* q, const T* k, const T* v, const T* d_o, const float* log_sums, const float* delta, T* dq,     \
            const u32* tiles, u32 heads, u32 kv_heads, u32 d, u32 q_stride, u32 k_stride, u32 v_stride,             \
            u32 dq_stride, float scale, u32 window)) {                                                              \
        backward_queries(q, k, v, d_o, log_sums, delta, dq, tiles, heads, kv_heads, d, q_stride, k_stride,          \
                         v_stride, dq_stride, scale, window);                                                       \
    }                                                                                                               \
    KERNEL(attention_plain_dkv_##name, 128,                                                                         \
           (const T* q, const T* k, const T* v, const T* d_o, const float* log_sums, const float* delta, T* dk,     \
            T* dv, const u32* tiles, const u32* edges, u32 heads, u32 kv_heads, u32 d, u32 q_stride, u32 k_stride,  \
            u32 v_stride, u32 dk_stride, u32 dv_stride, float scale, u32 window)) {                                 \
        backward_keys(q, k, v, d_o, log_sums, delta, dk, dv, tiles, edges, heads, kv_heads, d, q_stride, k_stride,  \
                      v_stride, dk_stride, dv_stride, scale, window);                                               \
    }
PLAIN(float, f32)
PLAIN(bf16, bf16)
