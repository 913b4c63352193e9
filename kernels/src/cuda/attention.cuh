// What the attention kernels read about a pack: attention.rs in launch/ makes it.
#pragma once
#include "device.cuh"

typedef int i32;

// A tile of queries: 8 words.
struct QueryTile {
    u32 first, count, own, prefix, prefix_end;
    i32 shift;
    __device__ QueryTile(const u32* tiles, u32 index) {
        const u32* w = tiles + u64(index) * 8;
        first = w[0], count = w[1], own = w[2], prefix = w[3], prefix_end = w[4], shift = i32(w[5]);
    }
    // Rows of no segment see nothing.
    __device__ bool blind() const { return own == 0xffffffffu; }
};

// A tile of keys: 4 words; its edges lie in a list of their own.
struct KeyTile {
    u32 first, count, edge, edge_end;
    __device__ KeyTile(const u32* tiles, u32 index) {
        const u32* w = tiles + u64(index) * 4;
        first = w[0], count = w[1], edge = w[2], edge_end = w[3];
    }
};

// Queries [first, end) see keys [key, key_end) where 0 <= i + shift - j < window: 8 words.
struct Edge {
    u32 first, end, key, key_end;
    i32 shift;
    __device__ Edge(const u32* edges, u32 index) {
        const u32* w = edges + u64(index) * 8;
        first = w[0], end = w[1], key = w[2], key_end = w[3], shift = i32(w[4]);
    }
};

__device__ __forceinline__ u32 at_least(i32 x, u32 least) { return x > i32(least) ? u32(x) : least; }

// Whether query i sees key j by distance alone.
__device__ __forceinline__ bool sees(i32 i, i32 shift, i32 j, u32 window) {
    const i32 distance = i + shift - j;
    return distance >= 0 && u32(distance) < window;
}

// The first key that query i can see at a distance.
__device__ __forceinline__ i32 first_seen(i32 i, i32 shift, u32 window) {
    return window > 0x7fffffffu ? -0x40000000 : i + shift - i32(window) + 1;
}
