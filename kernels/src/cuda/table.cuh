// Tables in the device's memory: one launch over many tensors, of which each has a row. A row's `end` counts the pieces of
// work up to the last one of its tensor, so that blocks find the row of a piece by it.
#pragma once
#include "device.cuh"

// What lies at an address that a table holds; nothing at 0.
template <class T>
__device__ __forceinline__ T* at_address(u64 address) {
#ifdef __CUDACC__
    return reinterpret_cast<T*>(address);
#else
    return static_cast<T*>(emulator::resolve(address));
#endif
}

// Calls `each(row, number of the piece, its number within the tensor)` for all pieces, one a block, and on by the grid.
template <class Row, class F>
__device__ __forceinline__ void for_pieces(const Row* table, u32 rows, F each) {
    const u64 pieces = table[rows - 1].end;
    for (u64 piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
        // The first row that ends behind it.
        u32 low = 0, high = rows - 1;
        while (low < high) {
            const u32 middle = (low + high) / 2;
            if (table[middle].end > piece) high = middle;
            else low = middle + 1;
        }
        each(table[low], piece, piece - (low ? table[low - 1].end : 0));
    }
}
