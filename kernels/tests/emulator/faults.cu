// Kernels that are wrong, each in a way the emulator has to find.
#include "cuda/mma.cuh"

KERNEL(fault_none, 64, (const float* x, float* y, u32 n)) {
    SHARED_ARRAY(float, list, 64);
    list[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = list[n - 1 - threadIdx.x];
}
KERNEL(fault_no_barrier, 64, (const float* x, float* y, u32 n)) {
    SHARED_ARRAY(float, list, 64);
    list[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = list[n - 1 - threadIdx.x];
}
KERNEL(fault_reads_beyond, 64, (const float* x, float* y, u32 n)) { y[threadIdx.x] = x[threadIdx.x + (threadIdx.x == n - 1)]; }
KERNEL(fault_reads_before, 64, (const float* x, float* y, u32 n)) {
    y[threadIdx.x] = threadIdx.x < n ? x[int(threadIdx.x) - 32] : 0.0f;
}
KERNEL(fault_writes_beyond, 64, (const float* x, float* y, u32 n)) { y[threadIdx.x + (n - 63)] = x[threadIdx.x]; }
KERNEL(fault_barrier_in_branch, 64, (const float* x, float* y, u32 n)) {
    if (threadIdx.x < n / 2) __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}
KERNEL(fault_shuffle_in_branch, 64, (const float* x, float* y, u32 n)) {
    float a = x[threadIdx.x];
    if (threadIdx.x % n < 7) a = __shfl_xor_sync(0xffffffffu, a, 1);
    y[threadIdx.x] = a;
}
KERNEL(fault_unset_shared, 64, (const float* x, float* y, u32 n)) {
    SHARED_ARRAY(float, list, 65);
    list[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = list[threadIdx.x + 1] + float(n);
}
KERNEL(fault_unawaited_copy, 64, (const float* x, float* y, u32 n)) {
    DYNAMIC_SHARED(float, list);
    if (threadIdx.x < n / 4) copy_async(list + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
    copy_commit();
    __syncthreads();
    y[threadIdx.x] = list[threadIdx.x];
    copy_wait<0>();
}
KERNEL(fault_unaligned, 64, (const float* x, float* y, u32 n)) {
    if (threadIdx.x == n - 1) store16(y, load16(x + 1));
}
