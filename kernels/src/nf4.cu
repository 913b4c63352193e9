// NF4 out of its codes: the twin of nf4.rs, bit for bit. Eight numbers a thread, of one block.
#include "cuda/device.cuh"

constexpr u32 BLOCK = 64, NESTED_BLOCK = 256;

// A block's scale, stored as it is.
struct Plain {
    const float* absmax;
    __device__ float operator()(u64 block) const { return absmax[block]; }
};
// A block's scale under double quantization.
struct Nested {
    const u8* codes;
    const float* map;
    const float* absmax;
    float offset;
    __device__ float operator()(u64 block) const {
        return __fadd_rn(__fmul_rn(map[codes[block]], absmax[block / NESTED_BLOCK]), offset);
    }
};

// Up to four bytes, the first lowest.
__device__ __forceinline__ u32 load_half(const u8* p, u32 count) {
    if (count == 4 && (reinterpret_cast<u64>(p) & 3) == 0) return *reinterpret_cast<const u32*>(p);
    return u32(load_bytes(p, count));
}

template <class T, class Scale>
__device__ void dequantize(const u8* codes, Scale scale, T* out, u64 start, u64 n) {
    SHARED_ARRAY(float, values, 16);
    constexpr float CODE[16] = {-1.0f,         -0.6961928f,  -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f,
                                -0.091050036f, 0.0f,         0.0795803f,   0.1609302f,  0.2461123f,   0.33791524f,
                                0.44070983f,   0.562617f,    0.72295684f,  1.0f};
    if (threadIdx.x == 0) {
#pragma unroll
        for (int i = 0; i < 16; i++) values[i] = CODE[i];
    }
    __syncthreads();
    for_flat(n, [=](u64 i, u32 count) {
        const u64 element = start + i;
        const float factor = scale(element / BLOCK);
        const u32 bytes = load_half(codes + element / 2, (count + 1) / 2);
        float x[PACK];
#pragma unroll
        for (u32 j = 0; j < PACK; j += 2) {
            const u32 byte = u8(bytes >> (4 * j));
            x[j] = values[byte >> 4] * factor;
            x[j + 1] = values[byte & 15] * factor;
        }
        store(out + i, count, x);
    });
}

#define NF4(T, name)                                                                                                \
    KERNEL(nf4_plain_##name, 256, (const u8* codes, const float* absmax, T* out, u64 start, u64 n)) {               \
        dequantize(codes, Plain{absmax}, out, start, n);                                                            \
    }                                                                                                               \
    KERNEL(nf4_nested_##name, 256,                                                                                  \
           (const u8* codes, const u8* scales, const float* map, const float* absmax, float offset, T* out,         \
            u64 start, u64 n)) {                                                                                    \
        dequantize(codes, Nested{scales, map, absmax, offset}, out, start, n);                                      \
    }
NF4(float, f32)
NF4(bf16, bf16)
