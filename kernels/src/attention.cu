// Packed causal attention on tensor cores, forward and backward: the twin of attention.rs for bf16 and heads of 64, 96 and
// 128 numbers. Scheme of FlashAttention-2 (Dao 2023, arXiv 2307.08691).
//
// A block of four warps does a tile of 64 rows, each warp 16 of them, and goes over what they meet in blocks of 64, the
// next one being copied while one is worked on. Every sum has one owner and one order: the gradient of the queries is a
// block's over their keys, that of keys and values a block's over the queries (and heads) that see them; no atomics.
#include "cuda/attention.cuh"
#include "cuda/mma.cuh"

constexpr u32 ROWS = 64, THREADS = 128;

// (64, D) of bf16 in shared memory. Its 16-byte chunks are permuted within a row so that eight rows' chunks of one column
// lie in different banks.
template <u32 D>
struct Tile {
    bf16* at;
    static constexpr u32 CHUNKS = D / 8, MASK = CHUNKS % 8 == 0 ? 7 : 3, SIZE = ROWS * D;

    __device__ __forceinline__ bf16* chunk(u32 row, u32 c) const { return at + row * D + ((c ^ (row & MASK)) * 8); }

    // Begins to copy rows of a list; those from `count` on become zeros, so that nothing of another segment comes near.
    __device__ __forceinline__ void copy(const bf16* from, u32 stride, u32 count) const {
#pragma unroll
        for (u32 i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
            const u32 row = i / CHUNKS, c = i % CHUNKS;
            const bool there = row < count;
            copy_async(chunk(row, c), from + (there ? u64(row) * stride + c * 8 : 0), there ? 16 : 0);
        }
    }

    // a of mma: rows [row, row + 16), columns [16·k, 16·k + 16).
    __device__ __forceinline__ void left(u32 (&a)[4], u32 row, u32 k) const {
        const u32 lane = threadIdx.x % 32;
        load_matrices<false>(a, chunk(row + lane % 16, 2 * k + lane / 16));
    }

    // b of two mmas whose columns are this tile's rows [row, row + 16), over its columns [16·k, 16·k + 16).
    __device__ __forceinline__ void right_rows(u32 (&b)[4], u32 row, u32 k) const {
        const u32 lane = threadIdx.x % 32;
        load_matrices<false>(b, chunk(row + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
    }

    // b of two mmas whose columns are this tile's [8·c, 8·c + 16), over its rows [row, row + 16).
    __device__ __forceinline__ void right_columns(u32 (&b)[4], u32 row, u32 c) const {
        const u32 lane = threadIdx.x % 32;
        load_matrices<true>(b, chunk(row + lane % 16, c + lane / 16));
    }
};

// Sixteen rows of a warp against eight columns each: what mma adds up.
typedef float Sums[4];

// out (16, 8·N) += rows of `a` · rows of `b`ᵀ.
template <u32 D, u32 N>
__device__ __forceinline__ void multiply_rows(Sums (&out)[N], Tile<D> a, u32 a_row, Tile<D> b, u32 b_row) {
#pragma unroll
    for (u32 k = 0; k < D / 16; k++) {
        u32 left[4];
        a.left(left, a_row, k);
#pragma unroll
        for (u32 n = 0; n < N; n += 2) {
            u32 right[4];
            b.right_rows(right, b_row + 8 * n, k);
            mma(out[n], left, right[0], right[1]);
            mma(out[n + 1], left, right[2], right[3]);
        }
    }
}

// out (16, D) += p (16, 8·N), rounded to bf16, · 8·N rows of `b`.
template <u32 D, u32 N>
__device__ __forceinline__ void multiply_columns(Sums (&out)[D / 8], const Sums (&p)[N], Tile<D> b, u32 b_row) {
#pragma unroll
    for (u32 k = 0; k < N / 2; k++) {
        const Sums &low = p[2 * k], &high = p[2 * k + 1];
        const u32 left[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                             pack_bf16(high[2], high[3])};
#pragma unroll
        for (u32 c = 0; c < D / 8; c += 2) {
            u32 right[4];
            b.right_columns(right, b_row + 16 * k, c);
            mma(out[c], left, right[0], right[1]);
            mma(out[c + 1], left, right[2], right[3]);
        }
    }
}

// Writes a warp's 16 rows times a factor each, by way of its own rows of a tile, so that 16 bytes go out at a time.
template <u32 D>
__device__ __forceinline__ void write_rows(const Sums (&sums)[D / 8], float upper, float lower, Tile<D> by, u32 row, bf16* to,
                                           u32 stride, u32 count) {
    const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (u32 c = 0; c < D / 8; c++) {
        reinterpret_cast<u32*>(by.chunk(row + g, c))[t] = pack_bf16(sums[c][0] * upper, sums[c][1] * upper);
        reinterpret_cast<u32*>(by.chunk(row + g + 8, c))[t] = pack_bf16(sums[c][2] * lower, sums[c][3] * lower);
    }
    __syncwarp();
#pragma unroll
    for (u32 i = lane; i < 16 * Tile<D>::CHUNKS; i += 32) {
        const u32 r = row + i / Tile<D>::CHUNKS, c = i % Tile<D>::CHUNKS;
        if (r < count) store16(to + u64(r) * stride + c * 8, load16(by.chunk(r, c)));
    }
}

// The blocks of keys that a tile of queries meets: first those of its prefix, then its segment's own.
struct KeyBlocks {
    u32 key, end;
    i32 shift;
    u32 own, own_end;

    __device__ KeyBlocks(const QueryTile& tile, u32 window) {
        shift = tile.shift;
        key = at_least(first_seen(i32(tile.first), shift, window), tile.prefix);
        end = tile.prefix_end;
        own = at_least(first_seen(i32(tile.first), 0, window), tile.own);
        own_end = tile.first + tile.count;
        if (tile.blind()) end = own = own_end = key = 0;
        if (key >= end) to_own();
    }
    __device__ __forceinline__ void to_own() {
        key = own, end = own_end, shift = 0;
        own = own_end;
    }
    __device__ __forceinline__ bool any() const { return key < end; }
    __device__ __forceinline__ u32 count() const { return end - key < ROWS ? end - key : ROWS; }
    __device__ __forceinline__ void next() {
        key += ROWS;
        if (key >= end && own < own_end) to_own();
    }
    // Whether every query of the tile sees every key of the block.
    __device__ __forceinline__ bool open(u32 first, u32 window) const {
        return count() == ROWS && sees(i32(first), shift, i32(key + ROWS - 1), window) &&
               sees(i32(first + ROWS - 1), shift, i32(key), window);
    }
};

template <u32 D>
__device__ void forward(const bf16* q, const bf16* k, const bf16* v, bf16* o, float* log_sums, const u32* tiles, u32 heads,
                        u32 kv_heads, u32 q_stride, u32 k_stride, u32 v_stride, float scale, u32 window) {
    DYNAMIC_SHARED(bf16, memory);
    typedef Tile<D> T;
    const u32 row = threadIdx.x / 32 * 16, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const QueryTile tile(tiles, blockIdx.x);
    const u32 head = blockIdx.y, kv_head = head / (heads / kv_heads);
    k += kv_head * D, v += kv_head * D, o += head * D;
    // Keys and values of two blocks, in turn; the queries pass through the second one's place into registers.
    auto keys = [=](u32 stage) { return T{memory + stage * 2 * T::SIZE}; };
    auto values = [=](u32 stage) { return T{memory + stage * 2 * T::SIZE + T::SIZE}; };
    const T queries = keys(1);
    queries.copy(q + u64(tile.first) * q_stride + head * D, q_stride, tile.count);
    copy_commit();
    KeyBlocks blocks(tile, window), ahead = blocks;
    auto copy_ahead = [&](u32 stage) {
        if (ahead.any()) {
            keys(stage).copy(k + u64(ahead.key) * k_stride, k_stride, ahead.count());
            values(stage).copy(v + u64(ahead.key) * v_stride, v_stride, ahead.count());
            ahead.next();
        }
        copy_commit();
    };
    copy_ahead(0);
    copy_wait<1>();
    __syncthreads();
    u32 query[D / 16][4];
#pragma unroll
    for (u32 n = 0; n < D / 16; n++) queries.left(query[n], row, n);
    __syncthreads();

    // Of rows g and g + 8: the largest score so far and the sum.
    const float factor = scale * LOG2_E;
    float most[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    Sums out[D / 8] = {};
    for (u32 stage = 0; blocks.any(); stage ^= 1, blocks.next()) {
        copy_ahead(stage ^ 1);
        copy_wait<1>();
        __syncthreads();
        Sums s[ROWS / 8] = {};
#pragma unroll
        for (u32 n = 0; n < D / 16; n++) {
#pragma unroll
            for (u32 c = 0; c < ROWS / 8; c += 2) {
                u32 right[4];
                keys(stage).right_rows(right, 8 * c, n);
                mma(s[c], query[n], right[0], right[1]);
                mma(s[c + 1], query[n], right[2], right[3]);
            }
        }
        if (!blocks.open(tile.first, window)) {
#pragma unroll
            for (u32 c = 0; c < ROWS / 8; c++) {
#pragma unroll
                for (u32 n = 0; n < 4; n++) {
                    const u32 j = blocks.key + 8 * c + 2 * t + n % 2, i = tile.first + row + g + n / 2 * 8;
                    if (j >= blocks.end || !sees(i32(i), blocks.shift, i32(j), window)) s[c][n] = -INFINITY;
                }
            }
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float grown = most[half];
#pragma unroll
            for (u32 c = 0; c < ROWS / 8; c++) grown = larger(larger(s[c][2 * half], s[c][2 * half + 1]), grown);
            grown = larger(grown, __shfl_xor_sync(0xffffffffu, grown, 1));
            grown = larger(grown, __shfl_xor_sync(0xffffffffu, grown, 2));
            // A row that has seen nothing yet keeps its sums of 0.
            const float base = grown == -INFINITY ? 0.0f : grown * factor;
            const float shrink = exp2_fast(fmaf(most[half], factor, -base));
            most[half] = grown;
            sum[half] *= shrink;
#pragma unroll
            for (u32 c = 0; c < ROWS / 8; c++) {
#pragma unroll
                for (u32 n = 2 * half; n < 2 * half + 2; n++) {
                    s[c][n] = exp2_fast(fmaf(s[c][n], factor, -base));
                    sum[half] += s[c][n];
                }
            }
#pragma unroll
            for (u32 c = 0; c < D / 8; c++) out[c][2 * half] *= shrink, out[c][2 * half + 1] *= shrink;
        }
        multiply_columns<D>(out, s, values(stage), 0);
        __syncthreads();
    }
    copy_wait<0>();
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
        const u32 r = row + g + 8 * half;
        // Rows of no segment give zeros.
        if (t == 0 && r < tile.count) {
            log_sums[u64(tile.first + r) * heads + head] =
                tile.blind() ? 0.0f : (most[half] * factor + log2f(sum[half])) * LN_2;
        }
        sum[half] = tile.blind() ? 0.0f : 1.0f / sum[half];
    }
    const u32 stride = heads * D;
    write_rows<D>(out, sum[0], sum[1], keys(0), row, o + u64(tile.first) * stride, stride, tile.count);
}

template <u32 D>
__device__ void backward_queries(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, const float* log_sums,
                                 const float* delta, bf16* dq, const u32* tiles, u32 heads, u32 kv_heads, u32 q_stride,
                                 u32 k_stride, u32 v_stride, u32 dq_stride, float scale, u32 window) {
    DYNAMIC_SHARED(bf16, memory);
    typedef Tile<D> T;
    const u32 row = threadIdx.x / 32 * 16, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const QueryTile tile(tiles, blockIdx.x);
    const u32 head = blockIdx.y, kv_head = head / (heads / kv_heads);
    k += kv_head * D, v += kv_head * D;
    const T queries{memory}, d_outs{memory + T::SIZE};
    auto keys = [=](u32 stage) { return T{memory + (2 + 2 * stage) * T::SIZE}; };
    auto values = [=](u32 stage) { return T{memory + (3 + 2 * stage) * T::SIZE}; };
    queries.copy(q + u64(tile.first) * q_stride + head * D, q_stride, tile.count);
    d_outs.copy(d_o + u64(tile.first) * heads * D + head * D, heads * D, tile.count);
    KeyBlocks blocks(tile, window), ahead = blocks;
    auto copy_ahead = [&](u32 stage) {
        if (ahead.any()) {
            keys(stage).copy(k + u64(ahead.key) * k_stride, k_stride, ahead.count());
            values(stage).copy(v + u64(ahead.key) * v_stride, v_stride, ahead.count());
            ahead.next();
        }
        copy_commit();
    };
    copy_ahead(0);
    const float factor = scale * LOG2_E;
    float log_sum[2], of_delta[2];
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const u32 r = row + g + 8 * half;
        const u64 at = u64(tile.first + r) * heads + head;
        // A row that is not there has no probabilities.
        log_sum[half] = r < tile.count ? log_sums[at] * LOG2_E : INFINITY;
        of_delta[half] = r < tile.count ? delta[at] : 0.0f;
    }
    Sums sums[D / 8] = {};
    for (u32 stage = 0; blocks.any(); stage ^= 1, blocks.next()) {
        copy_ahead(stage ^ 1);
        copy_wait<1>();
        __syncthreads();
        Sums s[ROWS / 8] = {}, dp[ROWS / 8] = {};
        multiply_rows<D>(s, queries, row, keys(stage), 0);
        multiply_rows<D>(dp, d_outs, row, values(stage), 0);
        const bool open = blocks.open(tile.first, window);
#pragma unroll
        for (u32 c = 0; c < ROWS / 8; c++) {
#pragma unroll
            for (u32 n = 0; n < 4; n++) {
                const float p = exp2_fast(fmaf(s[c][n], factor, -log_sum[n / 2]));
                s[c][n] = p * (dp[c][n] - of_delta[n / 2]);
                const u32 j = blocks.key + 8 * c + 2 * t + n % 2, i = tile.first + row + g + n / 2 * 8;
                if (!open && (j >= blocks.end || !sees(i32(i), blocks.shift, i32(j), window))) s[c][n] = 0.0f;
            }
        }
        multiply_columns<D>(sums, s, keys(stage), 0);
        __syncthreads();
    }
    copy_wait<0>();
    __syncthreads();
    write_rows<D>(sums, scale, scale, queries, row, dq + u64(tile.first) * dq_stride + head * D, dq_stride, tile.count);
}

// The blocks of queries that see a tile of keys: edge by edge, the heads of the group one after another.
struct QueryBlocks {
    const u32* edges;
    u32 edge, edge_end, group, head;
    u32 tile_first, tile_end, window;
    // Of the edge: its queries that see the tile, its keys, its shift.
    u32 from, end, key, key_end;
    i32 shift;
    u32 query;

    __device__ QueryBlocks(const KeyTile& tile, const u32* edges, u32 group, u32 window)
        : edges(edges), edge(tile.edge), edge_end(tile.edge_end), group(group), head(0), tile_first(tile.first),
          tile_end(tile.first + tile.count), window(window), from(0), end(0), key(0), key_end(0), shift(0), query(0) {
        enter();
    }
    // Goes to the first edge from here on that has queries for the tile.
    __device__ __forceinline__ void enter() {
        for (; edge < edge_end; edge++) {
            const Edge e(edges, edge);
            key = e.key, key_end = e.key_end, shift = e.shift;
            const u32 first = tile_first > key ? tile_first : key, last = (tile_end < key_end ? tile_end : key_end) - 1;
            from = at_least(i32(first) - shift, e.first);
            end = e.end;
            // The last query that is near enough to the last key.
            if (window <= 0x7fffffffu) {
                const i32 beyond = i32(last) - shift + i32(window);
                if (beyond < i32(end)) end = beyond < 0 ? 0 : u32(beyond);
            }
            if (from < end) break;
        }
        query = from;
    }
    __device__ __forceinline__ bool any() const { return edge < edge_end; }
    __device__ __forceinline__ u32 count() const { return end - query < ROWS ? end - query : ROWS; }
    __device__ __forceinline__ void next() {
        query += ROWS;
        if (query < end) return;
        query = from;
        if (++head < group) return;
        head = 0;
        edge++;
        enter();
    }
    __device__ __forceinline__ bool open() const {
        return key <= tile_first && tile_first + ROWS <= key_end &&
               sees(i32(query), shift, i32(tile_first + ROWS - 1), window) &&
               sees(i32(query + ROWS - 1), shift, i32(tile_first), window);
    }
};

// Queries of a block that are worked on at a time: fewer leave the registers to the sums.
constexpr u32 SOME = 32;

template <u32 D>
__device__ void backward_keys(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, const float* log_sums,
                              const float* delta, bf16* dk, bf16* dv, const u32* tiles, const u32* edges, u32 heads,
                              u32 kv_heads, u32 q_stride, u32 k_stride, u32 v_stride, u32 dk_stride, u32 dv_stride,
                              float scale, u32 window) {
    DYNAMIC_SHARED(bf16, memory);
    typedef Tile<D> T;
    const u32 row = threadIdx.x / 32 * 16, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const KeyTile tile(tiles, blockIdx.x);
    const u32 kv_head = blockIdx.y, group = heads / kv_heads, first_head = kv_head * group;
    const T keys{memory}, values{memory + T::SIZE};
    auto queries = [=](u32 stage) { return T{memory + (2 + 2 * stage) * T::SIZE}; };
    auto d_outs = [=](u32 stage) { return T{memory + (3 + 2 * stage) * T::SIZE}; };
    // Of each query: its log-sum-exp, in powers of 2, and its delta.
    float* numbers = reinterpret_cast<float*>(memory + 6 * T::SIZE);
    keys.copy(k + u64(tile.first) * k_stride + kv_head * D, k_stride, tile.count);
    values.copy(v + u64(tile.first) * v_stride + kv_head * D, v_stride, tile.count);
    QueryBlocks blocks(tile, edges, group, window), ahead = blocks;
    auto copy_ahead = [&](u32 stage) {
        if (ahead.any()) {
            const u32 head = first_head + ahead.head, count = ahead.count();
            queries(stage).copy(q + u64(ahead.query) * q_stride + head * D, q_stride, count);
            d_outs(stage).copy(d_o + (u64(ahead.query) * heads + head) * D, heads * D, count);
            const u32 i = threadIdx.x % ROWS;
            const u64 at = u64(ahead.query + i) * heads + head;
            float* to = numbers + stage * 2 * ROWS + threadIdx.x;
            // A query that is not there has no probabilities.
            if (threadIdx.x < ROWS) *to = i < count ? log_sums[at] * LOG2_E : INFINITY;
            else *to = i < count ? delta[at] : 0.0f;
            ahead.next();
        }
        copy_commit();
    };
    copy_ahead(0);
    const float factor = scale * LOG2_E;
    Sums of_keys[D / 8] = {}, of_values[D / 8] = {};
    for (u32 stage = 0; blocks.any(); stage ^= 1, blocks.next()) {
        copy_ahead(stage ^ 1);
        copy_wait<1>();
        __syncthreads();
        const float* of_query = numbers + stage * 2 * ROWS;
        const bool open = blocks.open();
#pragma unroll 1
        for (u32 some = 0; some < ROWS; some += SOME) {
            Sums p[SOME / 8] = {}, ds[SOME / 8] = {};
            multiply_rows<D>(p, keys, row, queries(stage), some);
#pragma unroll
            for (u32 c = 0; c < SOME / 8; c++) {
#pragma unroll
                for (u32 n = 0; n < 4; n++) {
                    const u32 at = some + 8 * c + 2 * t + n % 2;
                    const u32 i = blocks.query + at, j = tile.first + row + g + n / 2 * 8;
                    p[c][n] = exp2_fast(fmaf(p[c][n], factor, -of_query[at]));
                    if (!open && (j < blocks.key || j >= blocks.key_end || !sees(i32(i), blocks.shift, i32(j), window)))
                        p[c][n] = 0.0f;
                }
            }
            multiply_columns<D>(of_values, p, d_outs(stage), some);
            multiply_rows<D>(ds, values, row, d_outs(stage), some);
#pragma unroll
            for (u32 c = 0; c < SOME / 8; c++) {
#pragma unroll
                for (u32 n = 0; n < 4; n++) ds[c][n] = p[c][n] * (ds[c][n] - of_query[ROWS + some + 8 * c + 2 * t + n % 2]);
            }
            multiply_columns<D>(of_keys, ds, queries(stage), some);
        }
        __syncthreads();
    }
    copy_wait<0>();
    __syncthreads();
    write_rows<D>(of_keys, scale, scale, keys, row, dk + u64(tile.first) * dk_stride + kv_head * D, dk_stride, tile.count);
    write_rows<D>(of_values, 1.0f, 1.0f, values, row, dv + u64(tile.first) * dv_stride + kv_head * D, dv_stride, tile.count);
}

// rowsum(do · o), a warp a row and head.
template <class T>
__device__ void row_products(const T* o, const T* d_o, float* delta, u64 rows, u32 d) {
    const u32 lane = threadIdx.x % 32;
    for (u64 row = u64(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32; row < rows; row += u64(gridDim.x) * (THREADS / 32)) {
        float sum = 0.0f;
        for (u32 i = lane * PACK; i < d; i += 32 * PACK) {
            float a[PACK], b[PACK];
            load(o + row * d + i, pack_count(i, d), a);
            load(d_o + row * d + i, pack_count(i, d), b);
#pragma unroll
            for (u32 j = 0; j < PACK; j++) sum = fmaf(a[j], b[j], sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) delta[row] = sum;
    }
}

KERNEL(attention_delta_f32, 128, (const float* o, const float* d_o, float* delta, u64 rows, u32 d)) {
    row_products(o, d_o, delta, rows, d);
}
KERNEL(attention_delta_bf16, 128, (const bf16* o, const bf16* d_o, float* delta, u64 rows, u32 d)) {
    row_products(o, d_o, delta, rows, d);
}

#define ATTENTION(D)                                                                                                \
    KERNEL(attention_forward_##D, 128,                                                                              \
           (const bf16* q, const bf16* k, const bf16* v, bf16* o, float* log_sums, const u32* tiles, u32 heads,     \
            u32 kv_heads, u32, u32 q_stride, u32 k_stride, u32 v_stride, float scale, u32 window)) {                \
        forward<D>(q, k, v, o, log_sums, tiles, heads, kv_heads, q_stride, k_stride, v_stride, scale, window);      \
    }                                                                                                               \
    KERNEL(attention_dq_##D, 128,                                                                                   \
           (const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, const float* log_sums,                    \
            const float* delta, bf16* dq, const u32* tiles, u32 heads, u32 kv_heads, u32, u32 q_stride,             \
            u32 k_stride, u32 v_stride, u32 dq_stride, float scale, u32 window)) {                                  \
        backward_queries<D>(q, k, v, d_o, log_sums, delta, dq, tiles, heads, kv_heads, q_stride, k_stride,          \
                            v_stride, dq_stride, scale, window);                                                    \
    }                                                                                                               \
    KERNEL(attention_dkv_##D, 128,                                                                                  \
           (const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, const float* log_sums,                    \
            const float* delta, bf16* dk, bf16* dv, const u32* tiles, const u32* edges, u32 heads, u32 kv_heads,    \
            u32, u32 q_stride, u32 k_stride, u32 v_stride, u32 dk_stride, u32 dv_stride, float scale,               \
            u32 window)) {                                                                                          \
        backward_keys<D>(q, k, v, d_o, log_sums, delta, dk, dv, tiles, edges, heads, kv_heads, q_stride, k_stride,  \
                         v_stride, dk_stride, dv_stride, scale, window);                                            \
    }
ATTENTION(64)
ATTENTION(96)
ATTENTION(128)
