// libcuda: the device, its modules and launches, and copies.
#include "../emulator/emulator.h"
#include "standin.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unistd.h>
#include <vector>

using namespace standin;

namespace {

// Nobody should take a figure of it for a device's.
const char NAME[] = "emulated GPU (medtune rehearsal)";
constexpr int VERSION = 13000;
// As compute capability 9.0 has them.
constexpr unsigned MOST_THREADS = 1024, SHARED = 48 << 10, MOST_SHARED = 227 << 10;

bool started = false;
char context_object, pool_object;
void* const CONTEXT = &context_object;
void* const POOL = &pool_object;
thread_local void* current = nullptr;

struct Module;

// A kernel of the program's PTX, and what runs in its place.
struct Function {
    std::string name;
    Module* module;
    // What the PTX says of it.
    std::vector<std::string> params;
    unsigned most_threads;
    // Of this tree; none for a kernel of candle's.
    const emulator::Entry* entry;
    unsigned shared = SHARED;
};

struct Module {
    std::map<std::string, std::unique_ptr<Function>> functions;
};

std::set<Module*> modules;
std::set<Function*> functions;

const emulator::Entry* entry_of(const std::string& name) {
    const emulator::Entry* entry = emulator::entries;
    while (entry && name != entry->name) entry = entry->next;
    return entry;
}

const char* ptx_type(emulator::Tag tag) {
    switch (tag) {
        case emulator::Tag::U32: return ".u32";
        case emulator::Tag::F32: return ".f32";
        case emulator::Tag::F64: return ".f64";
        default: return ".u64";
    }
}

// Whether the program and this tree mean the same kernel by the name.
bool agrees(const Function& function) {
    const emulator::Entry& entry = *function.entry;
    bool same = entry.parameters == function.params.size();
    for (std::size_t i = 0; same && i < function.params.size(); i++) same = function.params[i] == ptx_type(entry.tags[i]);
    // Each of ours says how many threads its blocks may have, and none of candle's does.
    return same && function.most_threads == entry.max_threads;
}

std::string word_after(const std::string& text, std::size_t at) {
    std::size_t begin = text.find_first_not_of(" \t", at);
    if (begin == std::string::npos) return "";
    return text.substr(begin, text.find_first_of(" \t(,;", begin) - begin);
}

// The kernels that PTX declares, with their parameters and the most threads of their blocks.
void read_ptx(const std::string& ptx, Module& module) {
    for (std::size_t at = 0; (at = ptx.find(".entry ", at)) != std::string::npos;) {
        at += 7;
        std::size_t open = ptx.find_first_of("({", at);
        if (open == std::string::npos) break;
        auto function = std::make_unique<Function>();
        function->name = word_after(ptx, at);
        function->module = &module;
        std::size_t close = ptx[open] == '(' ? ptx.find(')', open) : open, body = ptx.find('{', close);
        std::string list = ptx.substr(open, close - open), directives = ptx.substr(close, body - close);
        for (std::size_t p = 0; (p = list.find(".param", p)) != std::string::npos;) {
            p += 6;
            std::string type = word_after(list, p);
            if (type == ".align") {
                std::size_t number = list.find_first_of("0123456789", p);
                type = word_after(list, list.find_first_of(" \t", number));
            }
            function->params.push_back(type);
        }
        std::size_t most = directives.find(".maxntid");
        function->most_threads = most == std::string::npos ? 0 : unsigned(atoi(word_after(directives, most + 8).c_str()));
        function->entry = entry_of(function->name);
        at = body;
        module.functions[function->name] = std::move(function);
    }
}

// A module's kernels are all ours or all candle's, some of which have names of ours (fill_f32).
CUresult load(const char* image, void** out) {
    std::string ptx(image);
    if (ptx.find(".version") == std::string::npos) {
        say("a module that is not PTX cannot be loaded");
        return NOT_SUPPORTED;
    }
    auto* module = new Module;
    read_ptx(ptx, *module);
    std::size_t ours = 0;
    for (const auto& named : module->functions) ours += named.second->entry && agrees(*named.second);
    for (auto& [name, function] : module->functions) {
        functions.insert(function.get());
        if (!function->entry || agrees(*function)) continue;
        if (ours > 0)
            give_up("%s of the program takes other arguments than %s of kernels/src: build both from one tree", name.c_str(),
                    name.c_str());
        function->entry = nullptr;
    }
    modules.insert(module);
    *out = module;
    note("module of %zu kernels, %zu of this tree", module->functions.size(), ours);
    return SUCCESS;
}

struct sigaction before_us;

// A kernel, a copy or a product has touched what it must not. What is none of ours goes to who was here before.
void on_fault(int signal, siginfo_t* info, void* context) {
    const char* who = at_work();
    if (*who) {
        char what[200];
        describe(info->si_addr, what, sizeof what);
        const char* place = emulator::place();
        give_up("%s touched %p: %s", *place ? place : who, info->si_addr, what);
    }
    // No address of the processor has a device's tag; the system does not say which it was.
    if (info->si_code == SI_KERNEL) say("an address that is none was used: one of the device, on the processor?");
    if (before_us.sa_flags & SA_SIGINFO) {
        before_us.sa_sigaction(signal, info, context);
    } else {
        sigaction(signal, &before_us, nullptr);
    }
}

void on_failure(const char* text) {
    const char* place = emulator::place();
    give_up("%s%s%s", place, *place ? ": " : "", text);
}

// What the running kernel has found in tables.
std::set<CUdeviceptr> found_in_tables;

void* resolve(uint64_t address) {
    if (!address) return nullptr;
    found_in_tables.insert(address);
    return reach_from_kernel(emulator::place(), address);
}

// The arguments as the emulator takes them, and the allocations they are in; false if one is no device memory.
bool read_arguments(const Function& function, void** params, std::vector<emulator::Value>& values,
                    std::vector<CUdeviceptr>& touched) {
    const emulator::Entry& entry = *function.entry;
    for (unsigned i = 0; i < entry.parameters; i++) {
        emulator::Value value = {entry.tags[i], 0};
        bool wide = value.tag != emulator::Tag::U32 && value.tag != emulator::Tag::F32;
        memcpy(&value.bits, params[i], wide ? 8 : 4);
        if (value.tag == emulator::Tag::Read || value.tag == emulator::Tag::Write) {
            if (value.bits == 0) {
                value.tag = emulator::Tag::Absent;
            } else {
                char what[40];
                snprintf(what, sizeof what, "argument %u", i);
                void* at = reach(function.name.c_str(), what, value.bits, 0);
                if (!at) return false;
                touched.push_back(value.bits);
                value.bits = reinterpret_cast<uint64_t>(at);
            }
        }
        values.push_back(value);
    }
    return true;
}

CUresult launch_ours(const Function& function, Index3 grid, Index3 block, unsigned shared, Stream* stream, void** params) {
    std::vector<emulator::Value> values;
    std::vector<CUdeviceptr> touched;
    if (!read_arguments(function, params, values, touched)) return INVALID_VALUE;
    count_launch(function.name, false);
    const emulator::Entry* entry = function.entry;
    enqueue(stream, function.name, [=] {
        found_in_tables.clear();
        emulator::launch(*entry, values.data(), grid, block, shared);
        for (CUdeviceptr address : touched) check_edges(entry->name, address);
        for (CUdeviceptr address : found_in_tables) check_edges(entry->name, address);
    });
    return SUCCESS;
}

CUresult launch_candles(const Function& function, Stream* stream, void** params) {
    std::function<void()> work = candle_kernel(function.name, params);
    if (!work) {
        count_refusal(function.name);
        say("candle's kernel %s is launched, and is not rehearsed (kernels/tests/driver/candle.cpp)", function.name.c_str());
        return NOT_SUPPORTED;
    }
    count_launch(function.name, true);
    enqueue(stream, function.name, work);
    return SUCCESS;
}

// A copy that the processor takes part in. `work` moves the bytes.
CUresult copy(const char* what, Counter pageable, Counter pinned, const void* host, std::size_t bytes, Stream* stream,
              std::function<void()> work) {
    bool is = is_pinned(host, bytes);
    count(is ? pinned : pageable);
    count(Counter((is ? pinned : pageable) + 1), bytes);
    note("%s %zu bytes%s", what, bytes, is ? ", pinned" : "");
    enqueue(stream, what, std::move(work));
    return SUCCESS;
}

CUresult to_device(CUdeviceptr to, const void* from, std::size_t bytes, Stream* stream) {
    if (!has_context()) return INVALID_CONTEXT;
    if (!stream) return INVALID_HANDLE;
    if (!bytes) return SUCCESS;
    void* at = reach("a copy to the device", "its target", to, bytes);
    if (!at) return INVALID_VALUE;
    if (is_pinned(from, bytes)) {
        // Read when its turn comes.
        return copy("copy_to_device", HOST_TO_DEVICE, HOST_TO_DEVICE_PINNED, from, bytes, stream,
                    [=] { memcpy(at, from, bytes); });
    }
    auto* first = static_cast<const char*>(from);
    auto staged = std::make_shared<std::vector<char>>(first, first + bytes);
    return copy("copy_to_device", HOST_TO_DEVICE, HOST_TO_DEVICE_PINNED, from, bytes, stream,
                [=] { memcpy(at, staged->data(), bytes); });
}

CUresult to_host(void* to, CUdeviceptr from, std::size_t bytes, Stream* stream, bool waits) {
    if (!has_context()) return INVALID_CONTEXT;
    if (!stream) return INVALID_HANDLE;
    if (!bytes) return SUCCESS;
    const void* at = reach("a copy from the device", "its source", from, bytes);
    if (!at) return INVALID_VALUE;
    // Asked for after what it follows, which is what the wait is noted beside.
    if (waits || !is_pinned(to, bytes)) count_wait(WAITS_COPY);
    CUresult status = copy("copy_to_host", DEVICE_TO_HOST, DEVICE_TO_HOST_PINNED, to, bytes, stream, [=] { memcpy(to, at, bytes); });
    if (waits || !is_pinned(to, bytes)) drain(stream);
    return status;
}

CUresult on_device(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, Stream* stream) {
    if (!has_context()) return INVALID_CONTEXT;
    if (!stream) return INVALID_HANDLE;
    if (!bytes) return SUCCESS;
    void* target = reach("a copy on the device", "its target", to, bytes);
    const void* source = reach("a copy on the device", "its source", from, bytes);
    if (!target || !source) return INVALID_VALUE;
    if (to < from + bytes && from < to + bytes) {
        say("a copy on the device of %zu bytes onto itself: what it gives is undefined", bytes);
        return INVALID_VALUE;
    }
    count(DEVICE_TO_DEVICE);
    count(DEVICE_TO_DEVICE_BYTES, bytes);
    note("copy_on_device %zu bytes", bytes);
    enqueue(stream, "a copy on the device", [=] { memcpy(target, source, bytes); });
    return SUCCESS;
}

template <class T>
CUresult fill(CUdeviceptr to, T value, std::size_t n, Stream* stream) {
    if (!has_context()) return INVALID_CONTEXT;
    if (!stream) return INVALID_HANDLE;
    if (!n) return SUCCESS;
    void* at = reach("a fill", "its target", to, n * sizeof value);
    if (!at || to % sizeof value) return INVALID_VALUE;
    count(MEMSETS);
    note("fill %zu bytes", n * sizeof value);
    enqueue(stream, "a fill", [=] { std::fill_n(static_cast<T*>(at), n, value); });
    return SUCCESS;
}

const std::map<CUresult, const char*> ERRORS = {
    {SUCCESS, "CUDA_SUCCESS"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
    {INVALID_PTX, "CUDA_ERROR_INVALID_PTX"},
    {FILE_NOT_FOUND, "CUDA_ERROR_FILE_NOT_FOUND"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
    {NOT_READY, "CUDA_ERROR_NOT_READY"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},
};

}  // namespace

bool standin::has_context() { return started && current == CONTEXT; }

// The driver and the device.

EXPORT CUresult cuInit(unsigned flags) {
    Locked locked;
    if (flags) return INVALID_VALUE;
    if (started) return SUCCESS;
    started = true;
    emulator::on_failure = on_failure;
    emulator::resolve = resolve;
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &before_us);
    sigaction(SIGBUS, &action, nullptr);
    say("there is no GPU here: kernels run on the processor, for proof and not for speed");
    return SUCCESS;
}

EXPORT CUresult cuDriverGetVersion(int* version) {
    *version = VERSION;
    return SUCCESS;
}

EXPORT CUresult cuGetErrorName(CUresult error, const char** text) {
    auto found = ERRORS.find(error);
    *text = found == ERRORS.end() ? nullptr : found->second;
    return *text ? SUCCESS : INVALID_VALUE;
}

EXPORT CUresult cuGetErrorString(CUresult error, const char** text) { return cuGetErrorName(error, text); }

EXPORT CUresult cuDeviceGetCount(int* count) {
    *count = 1;
    return started ? SUCCESS : NOT_INITIALIZED;
}

EXPORT CUresult cuDeviceGet(int* device, int ordinal) {
    *device = 0;
    return !started ? NOT_INITIALIZED : ordinal ? INVALID_DEVICE : SUCCESS;
}

EXPORT CUresult cuDeviceGetName(char* name, int size, int device) {
    if (device) return INVALID_DEVICE;
    snprintf(name, std::size_t(size), "%s", NAME);
    return SUCCESS;
}

EXPORT CUresult cuDeviceGetUuid(char* uuid, int device) {
    memcpy(uuid, "medtunerehearsal", 16);
    return device ? INVALID_DEVICE : SUCCESS;
}
EXPORT CUresult cuDeviceGetUuid_v2(char* uuid, int device) { return cuDeviceGetUuid(uuid, device); }

EXPORT CUresult cuDeviceTotalMem_v2(std::size_t* bytes, int device) {
    *bytes = device_bytes();
    return device ? INVALID_DEVICE : SUCCESS;
}

EXPORT CUresult cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (device) return INVALID_DEVICE;
    // By CUdevice_attribute; what is not here is 0.
    static const std::map<int, int> values = {
        {1, MOST_THREADS},
        {2, 1024},
        {3, 1024},
        {4, 64},
        {5, 2147483647},
        {6, 65535},
        {7, 65535},
        {8, SHARED},
        {9, 65536},
        {10, 32},
        {11, 2147483647},
        {12, 65536},
        {13, 1000000},
        {14, 512},
        {15, 1},
        // Multiprocessors: the number of the machine's that computes the products.
        {16, 1},
        {19, 1},
        {31, 1},
        {36, 1000000},
        {37, 64},
        {38, 1 << 20},
        {39, 2048},
        {40, 2},
        {41, 1},
        {75, 9},
        {76, 0},
        {78, 1},
        {81, 233472},
        {82, 65536},
        {97, MOST_SHARED},
        {99, 1},
        {106, 32},
        {111, 1024},
        {115, 1},
    };
    auto found = values.find(attribute);
    *value = found == values.end() ? 0 : found->second;
    return SUCCESS;
}

// Contexts: there is the primary one.

EXPORT CUresult cuDevicePrimaryCtxRetain(void** context, int device) {
    Locked locked;
    *context = CONTEXT;
    return !started ? NOT_INITIALIZED : device ? INVALID_DEVICE : SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRelease_v2(int device) { return device ? INVALID_DEVICE : SUCCESS; }

EXPORT CUresult cuCtxSetCurrent(void* context) {
    if (context && context != CONTEXT) return INVALID_CONTEXT;
    current = context;
    return SUCCESS;
}
EXPORT CUresult cuCtxGetCurrent(void** context) {
    *context = current;
    return started ? SUCCESS : NOT_INITIALIZED;
}
EXPORT CUresult cuCtxGetDevice(int* device) {
    *device = 0;
    return has_context() ? SUCCESS : INVALID_CONTEXT;
}
EXPORT CUresult cuCtxSetFlags(unsigned) { return SUCCESS; }
EXPORT CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    *least = 0;
    *greatest = -5;
    return SUCCESS;
}
EXPORT CUresult cuCtxSynchronize() {
    Locked locked;
    if (!has_context()) return INVALID_CONTEXT;
    count_wait(WAITS_CONTEXT);
    drain_all();
    check_all_edges("cuCtxSynchronize");
    return SUCCESS;
}

// Modules and launches.

EXPORT CUresult cuModuleLoadData(void** module, const void* image) {
    Locked locked;
    if (!has_context()) return INVALID_CONTEXT;
    return load(static_cast<const char*>(image), module);
}
EXPORT CUresult cuModuleLoadDataEx(void** module, const void* image, unsigned, int*, void**) {
    return cuModuleLoadData(module, image);
}
EXPORT CUresult cuModuleLoad(void** module, const char* path) {
    Locked locked;
    if (!has_context()) return INVALID_CONTEXT;
    FILE* file = fopen(path, "r");
    if (!file) return FILE_NOT_FOUND;
    std::string text;
    for (int c; (c = getc(file)) != EOF;) text += char(c);
    fclose(file);
    return load(text.c_str(), module);
}
EXPORT CUresult cuModuleUnload(void* handle) {
    Locked locked;
    auto* module = static_cast<Module*>(handle);
    if (!modules.count(module)) return INVALID_HANDLE;
    drain_all();
    for (auto& named : module->functions) functions.erase(named.second.get());
    modules.erase(module);
    delete module;
    return SUCCESS;
}
EXPORT CUresult cuModuleGetFunction(void** function, void* handle, const char* name) {
    Locked locked;
    auto* module = static_cast<Module*>(handle);
    if (!modules.count(module)) return INVALID_HANDLE;
    auto found = module->functions.find(name);
    if (found == module->functions.end()) {
        say("%s is in no module of its name", name);
        return NOT_FOUND;
    }
    *function = found->second.get();
    return SUCCESS;
}

EXPORT CUresult cuFuncSetAttribute(void* handle, int attribute, int value) {
    Locked locked;
    auto* function = static_cast<Function*>(handle);
    if (!functions.count(function)) return INVALID_HANDLE;
    if (attribute != 8) return attribute == 9 ? SUCCESS : INVALID_VALUE;
    if (value < 0 || unsigned(value) > MOST_SHARED) return INVALID_VALUE;
    function->shared = unsigned(value);
    return SUCCESS;
}
EXPORT CUresult cuFuncGetAttribute(int* value, int attribute, void* handle) {
    Locked locked;
    auto* function = static_cast<Function*>(handle);
    if (!functions.count(function)) return INVALID_HANDLE;
    switch (attribute) {
        case 0: *value = int(function->most_threads ? function->most_threads : MOST_THREADS); break;
        case 4: *value = 32; break;
        case 5: *value = 80; break;
        case 6: *value = 90; break;
        case 8: *value = int(function->shared); break;
        default: *value = 0;
    }
    return SUCCESS;
}
EXPORT CUresult cuFuncSetCacheConfig(void*, int) { return SUCCESS; }
EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int threads, std::size_t) {
    *blocks = threads > 0 ? std::max(1, 2048 / threads) : 0;
    return threads > 0 ? SUCCESS : INVALID_VALUE;
}

EXPORT CUresult cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                               unsigned block_y, unsigned block_z, unsigned shared, void* stream_handle, void** params,
                               void** extra) {
    Locked locked;
    if (!has_context()) return INVALID_CONTEXT;
    auto* function = static_cast<Function*>(handle);
    Stream* stream = stream_of(stream_handle);
    if (!functions.count(function) || !stream) return INVALID_HANDLE;
    if (extra || (!params && !function->params.empty())) return INVALID_VALUE;
    const char* name = function->name.c_str();
    const uint64_t threads = uint64_t(block_x) * block_y * block_z;
    const unsigned most = function->most_threads ? function->most_threads : MOST_THREADS;
    bool fits = grid_x && grid_y && grid_z && grid_x < 1u << 31 && grid_y < 1 << 16 && grid_z < 1 << 16 && block_z <= 64;
    if (!fits || threads == 0 || threads > most || shared > function->shared) {
        say("%s is launched with a grid of (%u, %u, %u), blocks of (%u, %u, %u) where %u threads are the most, and %u bytes of "
            "shared memory where %u are allowed",
            name, grid_x, grid_y, grid_z, block_x, block_y, block_z, most, shared, function->shared);
        return INVALID_VALUE;
    }
    note("%s grid (%u, %u, %u) block (%u, %u, %u) shared %u", name, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared);
    if (!function->entry) return launch_candles(*function, stream, params);
    return launch_ours(*function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, stream, params);
}

// Memory.

EXPORT CUresult cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
    Locked locked;
    *total = device_bytes();
    *free = device_bytes() - live_bytes();
    return has_context() ? SUCCESS : INVALID_CONTEXT;
}
EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* address, std::size_t bytes) {
    Locked locked;
    if (!has_context()) return INVALID_CONTEXT;
    note("allocate %zu bytes", bytes);
    return bytes ? allocate(bytes, address) : INVALID_VALUE;
}
EXPORT CUresult cuMemAllocAsync(CUdeviceptr* address, std::size_t bytes, void* stream) {
    Locked locked;
    if (!has_context()) return INVALID_CONTEXT;
    if (!stream_of(stream)) return INVALID_HANDLE;
    note("allocate %zu bytes", bytes);
    return allocate(bytes, address);
}
EXPORT CUresult cuMemAllocFromPoolAsync(CUdeviceptr* address, std::size_t bytes, void*, void* stream) {
    return cuMemAllocAsync(address, bytes, stream);
}
EXPORT CUresult cuMemFree_v2(CUdeviceptr address) {
    Locked locked;
    if (!has_context()) return INVALID_CONTEXT;
    if (!address) return SUCCESS;
    count_wait(WAITS_FREE);
    drain_all();
    CUresult status = retire(address);
    if (status == SUCCESS) release(address);
    return status;
}
EXPORT CUresult cuMemFreeAsync(CUdeviceptr address, void* handle) {
    Locked locked;
    if (!has_context()) return INVALID_CONTEXT;
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (!address) return SUCCESS;
    CUresult status = retire(address);
    if (status == SUCCESS) enqueue(stream, "a free", [=] { release(address); });
    return status;
}

EXPORT CUresult cuMemHostAlloc(void** address, std::size_t bytes, unsigned) {
    Locked locked;
    return has_context() ? allocate_pinned(bytes, address) : INVALID_CONTEXT;
}
EXPORT CUresult cuMemAllocHost_v2(void** address, std::size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }
EXPORT CUresult cuMemFreeHost(void* address) {
    Locked locked;
    drain_all();
    return free_pinned(address);
}
EXPORT CUresult cuMemHostRegister_v2(void* address, std::size_t bytes, unsigned) {
    Locked locked;
    return bytes ? register_pinned(address, bytes) : INVALID_VALUE;
}
EXPORT CUresult cuMemHostUnregister(void* address) {
    Locked locked;
    drain_all();
    return register_pinned(address, 0);
}

EXPORT CUresult cuDeviceGetDefaultMemPool(void** pool, int device) {
    *pool = POOL;
    return device ? INVALID_DEVICE : SUCCESS;
}
EXPORT CUresult cuDeviceGetMemPool(void** pool, int device) { return cuDeviceGetDefaultMemPool(pool, device); }
EXPORT CUresult cuDeviceSetMemPool(int device, void*) { return device ? INVALID_DEVICE : SUCCESS; }
EXPORT CUresult cuMemPoolSetAttribute(void* pool, int attribute, void*) {
    Locked locked;
    // The most that was used may be begun again; the rest changes nothing here.
    if (attribute == 6 || attribute == 8) reset_peak();
    return pool == POOL ? SUCCESS : INVALID_HANDLE;
}
EXPORT CUresult cuMemPoolGetAttribute(void* pool, int attribute, void* value) {
    Locked locked;
    uint64_t number = attribute == 6 || attribute == 8 ? peak_bytes() : attribute >= 5 ? live_bytes() : 0;
    memcpy(value, &number, attribute <= 3 ? 4 : 8);
    return pool == POOL ? SUCCESS : INVALID_HANDLE;
}
EXPORT CUresult cuMemPoolTrimTo(void* pool, std::size_t) { return pool == POOL ? SUCCESS : INVALID_HANDLE; }

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t bytes, void* stream) {
    Locked locked;
    return to_device(to, from, bytes, stream_of(stream));
}
EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t bytes) {
    Locked locked;
    return to_device(to, from, bytes, stream_of(nullptr));
}
EXPORT CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t bytes, void* stream) {
    Locked locked;
    return to_host(to, from, bytes, stream_of(stream), false);
}
EXPORT CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t bytes) {
    Locked locked;
    return to_host(to, from, bytes, stream_of(nullptr), true);
}
EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, void* stream) {
    Locked locked;
    return on_device(to, from, bytes, stream_of(stream));
}
EXPORT CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
    Locked locked;
    return on_device(to, from, bytes, stream_of(nullptr));
}
EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t n, void* stream) {
    Locked locked;
    return fill(to, value, n, stream_of(stream));
}
EXPORT CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, std::size_t n) {
    Locked locked;
    return fill(to, value, n, stream_of(nullptr));
}
EXPORT CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, std::size_t n, void* stream) {
    Locked locked;
    return fill(to, value, n, stream_of(stream));
}
EXPORT CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, std::size_t n, void* stream) {
    Locked locked;
    return fill(to, value, n, stream_of(stream));
}

// The runtime library that is linked into the program looks functions up here.
EXPORT CUresult cuGetProcAddress_v2(const char* name, void** function, int, uint64_t, int* status) {
    static void* self = nullptr;
    Dl_info info;
    if (!self && dladdr(reinterpret_cast<void*>(&cuInit), &info)) self = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    *function = nullptr;
    for (const char* suffix : {"_v4", "_v3", "_v2", ""}) {
        if (!*function && self) *function = dlsym(self, (std::string(name) + suffix).c_str());
    }
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}
