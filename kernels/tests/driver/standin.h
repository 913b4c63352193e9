// A stand-in for NVIDIA's driver and cuBLAS that computes on the processor, so that a build for GPUs can be run, whole and
// unchanged, where there is none. See docs/gpu.md, "Rehearsing without a GPU".
//
// Kernels run in the tests' emulator. Device addresses are no addresses of the processor: TAG is set in them, and only
// what runs "on the device" takes it off, after looking the address up. Each allocation lies between pages that cannot be
// touched, and no address is given out twice, so what reads or writes beside or after an allocation is found and named.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

typedef int CUresult;
typedef uint64_t CUdeviceptr;

// Statuses of the driver, as cuda.h numbers them.
enum : CUresult {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    INVALID_PTX = 218,
    FILE_NOT_FOUND = 301,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    NOT_SUPPORTED = 801,
};

namespace standin {

// Everything here is done by one thread at a time.
extern std::recursive_mutex lock;
struct Locked {
    std::lock_guard<std::recursive_mutex> guard{lock};
};

// A line on standard error, beginning "rehearsal: ".
void say(const char* format, ...) __attribute__((format(printf, 1, 2)));
// As above, then the counts are written and the program ends: a device would have gone on with wrong numbers.
[[noreturn]] void give_up(const char* format, ...) __attribute__((format(printf, 1, 2)));
const char* setting(const char* name, const char* otherwise);

// What the program asked of the device.
enum Counter {
    LAUNCHES,
    PRODUCTS,
    PRODUCT_FLOPS,
    MEMSETS,
    HOST_TO_DEVICE,
    HOST_TO_DEVICE_BYTES,
    HOST_TO_DEVICE_PINNED,
    HOST_TO_DEVICE_PINNED_BYTES,
    DEVICE_TO_HOST,
    DEVICE_TO_HOST_BYTES,
    DEVICE_TO_HOST_PINNED,
    DEVICE_TO_HOST_PINNED_BYTES,
    DEVICE_TO_DEVICE,
    DEVICE_TO_DEVICE_BYTES,
    // The processor waits for the device.
    WAITS_STREAM,
    WAITS_CONTEXT,
    WAITS_EVENT,
    WAITS_COPY,
    WAITS_FREE,
    // The device's streams wait for each other.
    STREAM_WAITS,
    ALLOCATIONS,
    ALLOCATED_BYTES,
    EMPTY_ALLOCATIONS,
    PINNED_ALLOCATIONS,
    COUNTERS,
};
void count(Counter counter, uint64_t by = 1);
void count_launch(const std::string& kernel, bool of_candle);
void count_refusal(const std::string& what);
// The processor waited; what it had asked for last is noted beside it.
void count_wait(Counter kind);
void note_memory(uint64_t live_bytes);
// For the trace, and as what was asked for last.
void note(const char* format, ...) __attribute__((format(printf, 1, 2)));
void write_counts();

// Device memory.
constexpr uint64_t TAG = uint64_t(1) << 52;
uint64_t device_bytes();
uint64_t live_bytes();
// The most that was alive at once, since the program began or asked to count from now.
uint64_t peak_bytes();
void reset_peak();
CUresult allocate(std::size_t bytes, CUdeviceptr* address);
// Its memory goes at once with `release`; from now on nothing new may use it.
CUresult retire(CUdeviceptr address);
void release(CUdeviceptr address);
// Where these bytes are for the processor, if all of them are in one allocation that is alive; else nothing, and why is
// said. `bytes` may be 0 if only the start is known.
void* reach(const char* who, const char* what, CUdeviceptr address, std::size_t bytes);
// Where an address is that a running kernel has found in memory: in what is freed behind it too. Ends the program if it is
// in no allocation.
void* reach_from_kernel(const char* who, CUdeviceptr address);
// As `reach`, without words.
void* find(CUdeviceptr address, std::size_t bytes);
// Ends the program if something was written beside an allocation that `address` is in.
void check_edges(const char* who, CUdeviceptr address);
void check_all_edges(const char* who);
// What lies at an address of the processor, in words.
void describe(const void* address, char* text, std::size_t size);

CUresult allocate_pinned(std::size_t bytes, void** address);
CUresult free_pinned(void* address);
bool is_pinned(const void* address, std::size_t bytes);
CUresult register_pinned(void* address, std::size_t bytes);

// Streams: what is asked for is done in each one's order.
struct Stream;
Stream* stream_of(void* handle);
// Does it now, or, with MEDTUNE_REHEARSAL_LATE, when somebody waits for it. `who` names it if it fails.
void enqueue(Stream* stream, std::string who, std::function<void()> work);
// The processor waits for all of a stream, or of all streams.
void drain(Stream* stream);
void drain_all();
// Of what runs now; empty if nothing does.
const char* at_work();

bool has_context();

// The plain ones of candle's kernels (candle.cpp): takes the arguments as cuLaunchKernel has them, or says that there is
// no such kernel by an empty function.
std::function<void()> candle_kernel(const std::string& name, void** params);

}  // namespace standin
