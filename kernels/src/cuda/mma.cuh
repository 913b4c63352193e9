// The tensor cores' instructions (compute capability 8.0): PTX on a device, their definitions in the emulator.
//
// mma: c (16, 8) += a (16, 16) · b (16, 8), bf16 to f32. With g = lane / 4 and t = lane % 4 a lane holds
//   a: rows g and g + 8 (a[0], a[1]) of columns 2t, 2t + 1, and again (a[2], a[3]) of columns 2t + 8, 2t + 9;
//   b: rows 2t, 2t + 1 (b0) and 2t + 8, 2t + 9 (b1) of column g;
//   c: columns 2t, 2t + 1 of row g (c[0], c[1]) and of row g + 8 (c[2], c[3]).
#pragma once
#include "device.cuh"

__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    const uint64_t in[5] = {a[0] | uint64_t(a[1]) << 32, a[2] | uint64_t(a[3]) << 32, b0 | uint64_t(b1) << 32,
                            __float_as_uint(c[0]) | uint64_t(__float_as_uint(c[1])) << 32,
                            __float_as_uint(c[2]) | uint64_t(__float_as_uint(c[3])) << 32};
    const uint64_t* out = emulator::collective(__LINE__, in, 5, [](emulator::Warp& warp) {
        float a[16][16], b[16][8], c[16][8];
        for (int lane = 0; lane < 32; lane++) {
            const int g = lane / 4, t = lane % 4;
            const uint64_t* w = warp.in[lane];
            for (int i = 0; i < 4; i++) {
                const u32 pair = u32(w[i / 2] >> 32 * (i % 2));
                float* to = &a[g + 8 * (i % 2)][2 * t + 8 * (i / 2)];
                to[0] = __uint_as_float(pair << 16), to[1] = __uint_as_float(pair & 0xffff0000u);
                c[g + 8 * (i / 2)][2 * t + i % 2] = __uint_as_float(u32(w[3 + i / 2] >> 32 * (i % 2)));
            }
            for (int i = 0; i < 2; i++) {
                const u32 pair = u32(w[2] >> 32 * i);
                b[2 * t + 8 * i][g] = __uint_as_float(pair << 16);
                b[2 * t + 8 * i + 1][g] = __uint_as_float(pair & 0xffff0000u);
            }
        }
        for (int row = 0; row < 16; row++) {
            for (int k = 0; k < 16; k++) {
                for (int col = 0; col < 8; col++) c[row][col] += a[row][k] * b[k][col];
            }
        }
        for (int lane = 0; lane < 32; lane++) {
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 2; i++) {
                warp.out[lane][i] = __float_as_uint(c[g + 8 * i][2 * t]) |
                                    uint64_t(__float_as_uint(c[g + 8 * i][2 * t + 1])) << 32;
            }
        }
    });
    for (int i = 0; i < 4; i++) c[i] = __uint_as_float(u32(out[i / 2] >> 32 * (i % 2)));
#endif
}

// Four 8 × 8 matrices of bf16 from shared memory: lane l gives the address of row l % 8 of matrix l / 8, of 16 bytes, and
// gets elements 2t and 2t + 1 of row g of each matrix; transposed, elements g of rows 2t and 2t + 1.
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(u32 (&to)[4], const void* row) {
#ifdef __CUDACC__
    const u32 address = u32(__cvta_generic_to_shared(row));
    if (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(address)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(address)
                     : "memory");
    }
#else
    emulator::check_aligned(row, 16);
    const uint64_t in[1] = {reinterpret_cast<uint64_t>(row)};
    const uint64_t* out = emulator::collective(__LINE__, in, 1, [](emulator::Warp& warp) {
        for (int lane = 0; lane < 32; lane++) {
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 4; i++) {
                auto at = [&](int row, int column) {
                    return u64(reinterpret_cast<const bf16*>(warp.in[8 * i + row][0])[column].bits);
                };
                warp.out[lane][i] = TRANSPOSED ? at(2 * t, g) | at(2 * t + 1, g) << 16 : at(g, 2 * t) | at(g, 2 * t + 1) << 16;
            }
        }
    });
    for (int i = 0; i < 4; i++) to[i] = u32(out[i]);
#endif
}

// 16 bytes to shared memory that arrive by a later wait; of them `bytes` (0 or 16) are copied, and the rest is 0.
__device__ __forceinline__ void copy_async(void* to, const void* from, u32 bytes) {
#ifdef __CUDACC__
    const u32 address = u32(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
#else
    emulator::copy_async(to, from, bytes);
#endif
}

// Ends a group of copies.
__device__ __forceinline__ void copy_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emulator::copy_commit();
#endif
}

// Waits for this thread's copies, all but the last groups.
template <int PENDING>
__device__ __forceinline__ void copy_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#else
    emulator::copy_wait(PENDING);
#endif
}
