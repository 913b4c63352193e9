// AdamW with moments in eight bits, a scale every 256: the twin of adamw_8bit.rs, bit for bit, for many parameters. A
// warp does a block of 256, eight numbers a lane.
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
__device__ void update(const Parameter& at, const Map& signed_map, const Map& unsigned_map, float scale, u64 from,
                       u32 all) {
    // Addresses are read again where they are used: there is no room for them in the registers.
    const auto p = [&](u64 i) { return at_address<typename Form::Stored>(at.p) + i; };
    const auto master = [&](u64 i) { return at.master ? at_address<float>(at.master) + i : nullptr; };
    for (u32 round = threadIdx.x / 32; round * BLOCK < all; round += blockDim.x / 32) {
        const u64 block = from / BLOCK + round, i = block * BLOCK + threadIdx.x % 32 * PACK;
        const u32 before = u32(i - from), count = before < all ? pack_count(before, all) : 0;
        float weights[PACK], gradient[PACK], first[PACK], second[PACK];
        Form::read(p(i), master(i), count, weights);
        load(at_address<const G>(at.g) + i, count, gradient);
        read_codes(at_address<u8>(at.m) + i, at_address<float>(at.m_absmax)[block], signed_map, count, first);
        read_codes(at_address<u8>(at.v) + i, at_address<float>(at.v_absmax)[block], unsigned_map, count, second);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) step(weights[j], gradient[j], first[j], second[j], scale, at.numbers);
        // All lanes have read the scales before the first of them writes one.
        __syncwarp();
        write_codes(at_address<u8>(at.m) + i, at_address<float>(at.m_absmax) + block, signed_map, count, first);
        write_codes(at_address<u8>(at.v) + i, at_address<float>(at.v_absmax) + block, unsigned_map, count, second);
        Form::write(p(i), master(i), at.key, i, count, weights);
    }
}

KERNEL_BLOCKS(adamw_8bit, 256, 3, (const Parameter* parameters_table, u32 parameters, const float* tables)) {
    SHARED_ARRAY(float, table, 4 * BLOCK);
    for (u32 i = threadIdx.x; i < 4 * BLOCK; i += blockDim.x) table[i] = tables[i];
    __syncthreads();
    const Map signed_map{table, table + BLOCK}, unsigned_map{table + 2 * BLOCK, table + 3 * BLOCK};
    for_parameters(parameters_table, parameters,
                   [=](auto kind, const Parameter& at, float scale, u64 first, u32 all) {
                       update<typename decltype(kind)::Form, typename decltype(kind)::G>(at, signed_map, unsigned_map, scale,
                                                                                         first, all);
                   });
}
