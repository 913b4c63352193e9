// CUDA's execution model on a processor, for proving kernels without a device. See tests/cuda_kernels.rs.
//
// The threads of a block are fibers, switched only where they meet: at barriers and warp collectives. Blocks run one
// after another. What a device leaves undefined is made visible: shared memory begins as NaN, buffers end at pages that
// cannot be touched, asynchronous copies land as early or as late as they may, and orders are shuffled.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))

struct Index3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
extern Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

// What a launch passes, by kind.
enum class Tag : uint8_t { Read, Write, Absent, U32, U64, F32, F64 };
struct Value {
    Tag tag;
    uint64_t bits;
};

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// The value as a parameter's type; a launch that disagrees with the kernel is found here.
template <class P>
P parameter(const Value& value, int position) {
    bool fits = false;
    if constexpr (std::is_pointer_v<P>) {
        constexpr bool reads = std::is_const_v<std::remove_pointer_t<P>>;
        fits = value.tag == Tag::Absent || value.tag == (reads ? Tag::Read : Tag::Write);
    } else if constexpr (std::is_same_v<P, float>) {
        fits = value.tag == Tag::F32;
    } else if constexpr (std::is_same_v<P, double>) {
        fits = value.tag == Tag::F64;
    } else if constexpr (sizeof(P) == 8) {
        fits = value.tag == Tag::U64;
    } else {
        static_assert(std::is_same_v<P, unsigned>, "a parameter is a pointer, u32, u64, f32 or f64");
        fits = value.tag == Tag::U32;
    }
    if (!fits) fail("argument %d is of another kind than the kernel's parameter", position);
    P p;
    std::memcpy(&p, &value.bits, sizeof p);
    return p;
}

// What a parameter of a type is given; a pointer is never absent here.
template <class P>
constexpr Tag tag_of() {
    if constexpr (std::is_pointer_v<P>) return std::is_const_v<std::remove_pointer_t<P>> ? Tag::Read : Tag::Write;
    if constexpr (std::is_same_v<P, float>) return Tag::F32;
    if constexpr (std::is_same_v<P, double>) return Tag::F64;
    return sizeof(P) == 8 ? Tag::U64 : Tag::U32;
}
template <class... P>
constexpr Tag tags[] = {tag_of<P>()...};

struct Entry {
    const char* name;
    unsigned max_threads;
    unsigned parameters;
    const Tag* tags;
    void (*call)(void (*kernel)(), const Value* args);
    void (*kernel)();
    const Entry* next;
};
extern const Entry* entries;

template <class... P, std::size_t... I>
void call_with(void (*kernel)(P...), const Value* args, std::index_sequence<I...>) {
    kernel(parameter<P>(args[I], int(I))...);
}

// Puts a kernel on the list of those that can be launched.
struct Register {
    Entry entry;
    template <class... P>
    Register(const char* name, unsigned max_threads, void (*kernel)(P...)) {
        entry = {name, max_threads, sizeof...(P), tags<P...>, nullptr, reinterpret_cast<void (*)()>(kernel), entries};
        entry.call = [](void (*kernel)(), const Value* args) {
            call_with(reinterpret_cast<void (*)(P...)>(kernel), args, std::index_sequence_for<P...>());
        };
        entries = &entry;
    }
};

// Runs one, block after block, in order.
void launch(const Entry& entry, const Value* args, Index3 grid, Index3 block, std::size_t shared_bytes);
// The kernel, block and thread that run, or nothing.
const char* place();
// Where a program that launches by itself (EMULATOR_LIBRARY) is told of a fault; it does not return.
extern void (*on_failure)(const char* text);

void barrier(const char* file, int line);

// What a warp's lanes bring to a collective, and take from it.
struct Warp {
    uint64_t in[32][6];
    uint64_t out[32][4];
};
// Returns when all 32 lanes have come to the same place; the last one runs `act` on what they brought.
uint64_t* collective(int line, const uint64_t* in, int count, void (*act)(Warp&));

// Shared memory of the running block that belongs to a declaration.
void* shared(const void* declaration, std::size_t bytes);
void* dynamic_shared();

void copy_async(void* to, const void* from, unsigned bytes);
void copy_commit();
void copy_wait(unsigned pending);

void check_aligned(const void* address, std::size_t alignment);

// Where the address that a table in the device's memory holds is for the processor; nothing for 0.
extern void* (*resolve)(uint64_t address);

template <class T>
T shuffle(int line, T value, unsigned lane) {
    static_assert(sizeof(T) <= 8);
    uint64_t in[2] = {0, lane};
    std::memcpy(in, &value, sizeof value);
    uint64_t* out = collective(line, in, 2, [](Warp& warp) {
        for (int i = 0; i < 32; i++) warp.out[i][0] = warp.in[warp.in[i][1] & 31][0];
    });
    T result;
    std::memcpy(&result, out, sizeof result);
    return result;
}

}  // namespace emulator

#define KERNEL(name, max_threads, params)                                      \
    extern "C" void name params;                                               \
    static emulator::Register register_##name(#name, max_threads, &name);      \
    extern "C" void name params

#define KERNEL_BLOCKS(name, max_threads, blocks, params) KERNEL(name, max_threads, params)

#define SHARED_ARRAY(type, name, count)                                        \
    static const char name##_declaration = 0;                                  \
    type* const name =                                                         \
        static_cast<type*>(emulator::shared(&name##_declaration, sizeof(type) * (count)))
#define DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(emulator::dynamic_shared())

#define __syncthreads() emulator::barrier(__FILE__, __LINE__)
#define __syncwarp() emulator::collective(__LINE__, nullptr, 0, nullptr)

unsigned emulated_lane();
#define __shfl_sync(mask, value, lane) emulator::shuffle(__LINE__, value, lane)
#define __shfl_xor_sync(mask, value, by) emulator::shuffle(__LINE__, value, emulated_lane() ^ (by))

// One rounding each: this header's users are compiled without contraction of products and sums.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
