// The counter-based bits of dropout.rs and stochastic_rounding.rs.
#pragma once
#include "device.cuh"

__device__ __forceinline__ u64 splitmix(u64 value) {
    u64 z = value + 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

__device__ __forceinline__ u64 mix_in(u64 state, u64 part) { return splitmix(state ^ splitmix(part)); }

__device__ __forceinline__ u32 mix32(u32 x) {
    x = (x ^ (x >> 16)) * 0x21f0aaadu;
    x = (x ^ (x >> 15)) * 0x735a2d97u;
    return x ^ (x >> 15);
}

// 32 bits for a column of the row with this hash.
__device__ __forceinline__ u32 column_hash(u64 row, u32 column) {
    return mix32(mix32(column ^ u32(row)) + u32(row >> 32));
}
