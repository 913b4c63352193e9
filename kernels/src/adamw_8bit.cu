// AdamW with moments in eight bits, a scale every 256: the twin of adamw_8bit.rs, bit for bit. A warp does a block of 256,
// eight numbers a lane.
#include "cuda/adamw.cuh"

constexpr u32 BLOCK = 256;

// A map's values, and each value's bound to the next.
struct Map {
    const float* values;
    const float* upper;
    // The first value whose bound is not below the share.
    __device__ u8 nearest(float share) const {
        u32 low = 0, high = BLOCK - 1;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const u32 middle = (low + high) / 2;
            if (low < high) {
                if (upper[middle] < share) low = middle + 1;
                else high = middle;
            }
        }
        return u8(low);
    }
};

__device__ __forceinline__ void read_codes(const u8* codes, float absmax, const Map& map, u32 count, float (&x)[PACK]) {
    const u64 bytes = load_bytes(codes, count);
#pragma unroll
    for (u32 j = 0; j < PACK; j++) x[j] = j < count ? map.values[u8(bytes >> (8 * j))] * absmax : 0.0f;
}

__device__ __forceinline__ void write_codes(u8* codes, float* absmax, const Map& map, u32 count, const float (&x)[PACK]) {
    float most = 0.0f;
#pragma unroll
    for (u32 j = 0; j < PACK; j++) most = j < count ? larger(fabsf(x[j]), most) : most;
    most = warp_max(most);
    if (threadIdx.x % 32 == 0) *absmax = most;
    // A block of zeros stays one.
    const float smallest = __uint_as_float(0x00800000u), scale = most > smallest ? most : smallest;
    u64 bytes = 0;
#pragma unroll
    for (u32 j = 0; j < PACK; j++) bytes |= u64(map.nearest(__fdiv_rn(x[j], scale))) << (8 * j);
    store_bytes(codes, count, bytes);
}

template <class Form, class G>
__device__ void update(typename Form::Stored* p, float* master, const G* g, u8* m_codes, float* m_absmax, u8* v_codes,
                       float* v_absmax, const float* tables, const Numbers& numbers, u64 key, u64 n) {
    SHARED_ARRAY(float, table, 4 * BLOCK);
    for (u32 i = threadIdx.x; i < 4 * BLOCK; i += blockDim.x) table[i] = tables[i];
    __syncthreads();
    const Map signed_map{table, table + BLOCK}, unsigned_map{table + 2 * BLOCK, table + 3 * BLOCK};
    const u64 warp = (u64(blockIdx.x) * blockDim.x + threadIdx.x) / 32, warps = u64(gridDim.x) * blockDim.x / 32;
    for (u64 block = warp; block * BLOCK < n; block += warps) {
        const u64 i = block * BLOCK + threadIdx.x % 32 * PACK;
        const u32 count = i < n ? pack_count(i, n) : 0;
        float weights[PACK], gradient[PACK], first[PACK], second[PACK];
        Form::read(p + i, master ? master + i : nullptr, count, weights);
        load(g + i, count, gradient);
        read_codes(m_codes + i, m_absmax[block], signed_map, count, first);
        read_codes(v_codes + i, v_absmax[block], unsigned_map, count, second);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) step(weights[j], gradient[j], first[j], second[j], numbers);
        // All lanes have read the scales before the first of them writes one.
        __syncwarp();
        write_codes(m_codes + i, m_absmax + block, signed_map, count, first);
        write_codes(v_codes + i, v_absmax + block, unsigned_map, count, second);
        Form::write(p + i, master ? master + i : nullptr, key, i, count, weights);
    }
}

#define ADAMW(Form, G, names)                                                                                       \
    KERNEL(adamw_8bit_##names, 256,                                                                                 \
           (Form::Stored * p, float* master, const G* g, u8* m_codes, float* m_absmax, u8* v_codes, float* v_absmax, \
            const float* tables, NUMBERS_PARAMETERS, u64 key, u64 n)) {                                             \
        if (device_scale && *device_scale != *device_scale) return;                                                  \
        update<Form>(p, master, g, m_codes, m_absmax, v_codes, v_absmax, tables, NUMBERS, key, n);                  \
    }
ADAMW(Exact, float, exact_f32)
ADAMW(Exact, bf16, exact_bf16)
ADAMW(Master, float, master_f32)
ADAMW(Master, bf16, master_bf16)
ADAMW(Stochastic, float, stochastic_f32)
ADAMW(Stochastic, bf16, stochastic_bf16)
