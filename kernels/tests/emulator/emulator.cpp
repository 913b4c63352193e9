// The emulator's machine: fibers, shared memory, guarded buffers, and a program that runs launches from its standard
// input. One request: buffers and launches; the answer: the buffers. See tests/cuda_kernels.rs for the form.
#include "emulator.h"

#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

const Entry* entries = nullptr;
void (*on_failure)(const char* text) = nullptr;
void* (*resolve)(uint64_t address) = nullptr;

namespace {

constexpr std::size_t PAGE = 4096, STACK = 128 << 10, STATIC_SHARED = 96 << 10;
constexpr unsigned char CANARY = 0xa5, POISON = 0xff;

// How undefined orders are chosen.
struct Orders {
    bool shuffled;
    bool copies_land_late;
} orders;

uint64_t random_state = 1;
unsigned random_below(unsigned n) {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return unsigned((random_state >> 33) % n);
}

void shuffle_list(std::vector<unsigned>& list) {
    for (unsigned i = unsigned(list.size()); i > 1; i--) std::swap(list[i - 1], list[random_below(i)]);
}

struct Copy {
    void* to;
    const void* from;
    unsigned bytes;
};

enum class State { Ready, Barrier, Collective, Done };

// A stack on which one thread after another runs: only those that wait for others keep one to themselves.
struct Fiber {
    jmp_buf idle;
    ucontext_t begin;
    char* stack;
};

struct Thread {
    jmp_buf at;
    bool begun;
    State state;
    Index3 index;
    unsigned warp, lane;
    const char* file;
    int line;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
};

struct WarpState {
    Warp data[2];
    unsigned arrived = 0, parity = 0;
};

std::vector<Thread> threads;
std::vector<WarpState> warps;
std::vector<Fiber*> idle_fibers;
Thread* running = nullptr;
jmp_buf scheduler;

const Entry* kernel = nullptr;
const Value* kernel_args = nullptr;

struct Declared {
    const void* declaration;
    std::size_t at, bytes;
};
std::vector<Declared> declared;
std::size_t static_used = 0;
alignas(64) unsigned char static_shared[STATIC_SHARED];
unsigned char* dynamic_pages = nullptr;
std::size_t dynamic_room = 0, dynamic_bytes = 0;

unsigned char* pages(std::size_t bytes) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) fail("no memory for %zu bytes", bytes);
    return static_cast<unsigned char*>(at);
}

Fiber* starting = nullptr;

void fiber() {
    Fiber* const self = starting;
    for (;;) {
        kernel->call(kernel->kernel, kernel_args);
        if (!running->groups.empty() || !running->open.empty())
            fail("the kernel ends before its asynchronous copies do");
        running->state = State::Done;
        idle_fibers.push_back(self);
        if (!_setjmp(self->idle)) _longjmp(scheduler, 1);
    }
}

void resume(Thread& thread) {
    if (_setjmp(scheduler)) return;
    running = &thread;
    threadIdx = thread.index;
    if (thread.begun) _longjmp(thread.at, 1);
    thread.begun = true;
    if (!idle_fibers.empty()) {
        Fiber* fiber = idle_fibers.back();
        idle_fibers.pop_back();
        _longjmp(fiber->idle, 1);
    }
    starting = new Fiber;
    starting->stack = reinterpret_cast<char*>(pages(STACK));
    getcontext(&starting->begin);
    starting->begin.uc_stack.ss_sp = starting->stack;
    starting->begin.uc_stack.ss_size = STACK;
    starting->begin.uc_link = nullptr;
    makecontext(&starting->begin, fiber, 0);
    setcontext(&starting->begin);
}

void pause_in(State state, const char* file, int line) {
    running->state = state;
    running->file = file;
    running->line = line;
    if (!_setjmp(running->at)) _longjmp(scheduler, 1);
}

std::size_t rounded(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

// `bytes` between pages that cannot be touched.
struct Guarded {
    unsigned char* all;
    std::size_t inner;
    explicit Guarded(std::size_t bytes) : inner(rounded(bytes, PAGE)) {
        all = pages(inner + 2 * PAGE);
        mprotect(all, PAGE, PROT_NONE);
        mprotect(all + PAGE + inner, PAGE, PROT_NONE);
    }
    unsigned char* first() const { return all + PAGE; }
    unsigned char* end() const { return first() + inner; }
    void release() { munmap(all, inner + 2 * PAGE); }
};

void where_they_wait() {
    for (const Thread& t : threads) {
        const char* states[] = {"runs", "waits at a barrier", "waits for its warp", "has ended"};
        if (&t == &threads[0] || t.state != (&t)[-1].state || t.line != (&t)[-1].line)
            fprintf(stderr, "from thread %u on: %s (line %d)\n", unsigned(&t - &threads[0]), states[int(t.state)], t.line);
    }
}

// Lets threads pass a barrier that all have reached.
bool pass_barrier() {
    const Thread& first = threads[0];
    for (const Thread& t : threads) {
        if (t.state != State::Barrier || t.line != first.line || t.file != first.file) return false;
    }
    for (Thread& t : threads) t.state = State::Ready;
    return true;
}

void run_block(const std::vector<unsigned>& order) {
    unsigned count = blockDim.x * blockDim.y * blockDim.z;
    // What the block before did not declare is as it was.
    static bool first = true;
    memset(static_shared, POISON, first ? sizeof static_shared : static_used);
    first = false;
    if (dynamic_room) memset(dynamic_pages, POISON, dynamic_room);
    declared.clear();
    static_used = 0;
    warps.resize((count + 31) / 32);
    for (WarpState& warp : warps) warp.arrived = warp.parity = 0;
    for (unsigned i = 0; i < count; i++) {
        Thread& t = threads[i];
        t.begun = false;
        t.state = State::Ready;
        t.line = 0;
        t.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
        t.warp = i / 32;
        t.lane = i % 32;
        t.groups.clear();
        t.open.clear();
    }
    for (;;) {
        bool progress = false;
        unsigned done = 0;
        // A warp goes on as far as it can before the next one does: what runs ahead of the others shows where a barrier is
        // missing.
        for (unsigned begin = 0, end; begin < count; begin = end) {
            for (end = begin; end < count && order[end] / 32 == order[begin] / 32;) end++;
            for (bool runs = true; runs;) {
                runs = false;
                for (unsigned i = begin; i < end; i++) {
                    if (threads[order[i]].state != State::Ready) continue;
                    resume(threads[order[i]]);
                    runs = progress = true;
                }
            }
            for (unsigned i = begin; i < end; i++) done += threads[order[i]].state == State::Done;
        }
        if (done == count) return;
        if (!progress && !pass_barrier()) {
            where_they_wait();
            fail("the threads of a block do not meet");
        }
    }
}

void run(const Entry& entry, const Value* args, Index3 grid, Index3 block, std::size_t shared_bytes) {
    unsigned count = block.x * block.y * block.z;
    if (count == 0 || count > entry.max_threads) fail("%u threads in a block", count);
    kernel = &entry;
    kernel_args = args;
    gridDim = grid;
    blockDim = block;
    threads.resize(count);
    Guarded dynamic(shared_bytes ? shared_bytes : 1);
    // It ends at the end of a page.
    dynamic_bytes = rounded(shared_bytes, 16);
    dynamic_room = dynamic.inner;
    dynamic_pages = dynamic.first();
    std::vector<unsigned> blocks(std::size_t(grid.x) * grid.y * grid.z), order(count);
    for (unsigned i = 0; i < blocks.size(); i++) blocks[i] = i;
    for (unsigned i = 0; i < count; i++) order[i] = i;
    if (orders.shuffled) shuffle_list(blocks);
    for (unsigned b : blocks) {
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
        if (orders.shuffled) {
            shuffle_list(order);
            // The last warp first, so that each two have met either way round after two rounds.
            std::stable_sort(order.begin(), order.end(), [](unsigned a, unsigned b) { return a / 32 > b / 32; });
        }
        run_block(order);
    }
    dynamic.release();
    kernel = nullptr;
}

}  // namespace

const char* place() {
    static char text[256];
    if (!kernel) return "";
    snprintf(text, sizeof text, "%s: block (%u, %u, %u), thread (%u, %u, %u)", kernel->name, blockIdx.x, blockIdx.y,
             blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    return text;
}

void fail(const char* format, ...) {
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    if (on_failure) on_failure(text);
    fprintf(stderr, "%s%s%s\n", place(), kernel ? ": " : "", text);
    _exit(1);
}

void launch(const Entry& entry, const Value* args, Index3 grid, Index3 block, std::size_t shared_bytes) {
    run(entry, args, grid, block, shared_bytes);
}

void barrier(const char* file, int line) { pause_in(State::Barrier, file, line); }

uint64_t* collective(int line, const uint64_t* in, int count, void (*act)(Warp&)) {
    Thread& self = *running;
    WarpState& warp = warps[self.warp];
    if ((self.warp + 1) * 32 > threads.size()) fail("a warp collective in a warp of less than 32 lanes");
    unsigned parity = warp.parity;
    Warp& data = warp.data[parity];
    for (int i = 0; i < count; i++) data.in[self.lane][i] = in[i];
    self.line = line;
    if (++warp.arrived < 32) {
        pause_in(State::Collective, nullptr, line);
    } else {
        for (unsigned i = self.warp * 32; i < self.warp * 32 + 32; i++) {
            if (threads[i].line != line) fail("lanes of a warp meet at lines %d and %d", line, threads[i].line);
            threads[i].state = State::Ready;
        }
        if (act) act(data);
        warp.arrived = 0;
        // The other half is free: who comes next has read what was there.
        warp.parity ^= 1;
    }
    return data.out[self.lane];
}

void* shared(const void* declaration, std::size_t bytes) {
    for (const Declared& d : declared) {
        if (d.declaration == declaration) return static_shared + d.at;
    }
    std::size_t at = rounded(static_used, 16);
    static_used = at + bytes;
    if (static_used + dynamic_bytes > 99 << 10 || static_used > STATIC_SHARED) fail("too much shared memory");
    declared.push_back({declaration, at, bytes});
    return static_shared + at;
}

void* dynamic_shared() { return dynamic_pages + dynamic_room - dynamic_bytes; }

void copy_async(void* to, const void* from, unsigned bytes) {
    check_aligned(to, 16);
    if (bytes) check_aligned(from, 16);
    running->open.push_back({to, from, bytes});
    if (!orders.copies_land_late) {
        memset(to, 0, 16);
        memcpy(to, from, bytes);
    }
}

void copy_commit() {
    running->groups.push_back(std::move(running->open));
    running->open.clear();
}

void copy_wait(unsigned pending) {
    while (running->groups.size() > pending) {
        if (orders.copies_land_late) {
            for (const Copy& c : running->groups[0]) {
                memset(c.to, 0, 16);
                memcpy(c.to, c.from, c.bytes);
            }
        }
        running->groups.erase(running->groups.begin());
    }
}

void check_aligned(const void* address, std::size_t alignment) {
    if (reinterpret_cast<std::uintptr_t>(address) % alignment) fail("%p is not aligned to %zu bytes", address, alignment);
}

}  // namespace emulator

unsigned emulated_lane() { return emulator::running->lane; }

#ifndef EMULATOR_LIBRARY

// One request.
namespace emulator {
namespace {

struct Reader {
    std::vector<unsigned char> all;
    std::size_t at = 0;
    Reader() {
        unsigned char some[1 << 16];
        std::size_t n;
        while ((n = fread(some, 1, sizeof some, stdin)) > 0) all.insert(all.end(), some, some + n);
    }
    const unsigned char* take(std::size_t n) {
        if (n > all.size() - at) fail("the request is cut short");
        at += n;
        return &all[at - n];
    }
    template <class T>
    T number() {
        T x;
        memcpy(&x, take(sizeof x), sizeof x);
        return x;
    }
};

struct Buffer {
    std::vector<unsigned char> contents;
    // Bytes that its address is off 16 in the second round.
    unsigned shift;
};

struct Step {
    const Entry* entry;
    Index3 grid, block;
    unsigned shared_bytes;
    // The value of a buffer is its index.
    std::vector<Value> args;
};

// A buffer in memory: at the end of its pages in the first round, at their beginning, shifted, in the second.
struct Placed {
    Guarded memory;
    unsigned char* data;
    std::size_t size;
    Placed(const Buffer& b, bool second) : memory(b.contents.size() + 64), size(b.contents.size()) {
        memset(memory.first(), CANARY, memory.inner);
        data = second ? memory.first() + b.shift : memory.end() - rounded(size, 16);
        memcpy(data, b.contents.data(), size);
    }
    bool untouched_around() const {
        for (const unsigned char* p = memory.first(); p < memory.end(); p++) {
            if ((p < data || p >= data + size) && *p != CANARY) return false;
        }
        return true;
    }
};

// A buffer's address in another one: its index and this bit.
constexpr uint64_t MARK = uint64_t(1) << 52;
const std::vector<Placed>* all_placed = nullptr;

void* placed_at(uint64_t address) {
    if (!address) return nullptr;
    const uint64_t index = address - MARK;
    if (!(address & MARK) || index >= all_placed->size()) fail("0x%llx is no buffer's address", static_cast<unsigned long long>(address));
    return (*all_placed)[index].data;
}

std::vector<std::vector<unsigned char>> round_of(const std::vector<Buffer>& buffers, const std::vector<Step>& steps,
                                                 bool second) {
    orders = {second, second};
    std::vector<Placed> placed;
    placed.reserve(buffers.size());
    for (const Buffer& b : buffers) placed.emplace_back(b, second);
    all_placed = &placed;
    resolve = placed_at;
    for (const Step& step : steps) {
        std::vector<Value> args = step.args;
        for (Value& v : args) {
            if (v.tag == Tag::Read || v.tag == Tag::Write) {
                if (v.bits >= placed.size()) fail("%s: there is no buffer %u", step.entry->name, unsigned(v.bits));
                v.bits = reinterpret_cast<uint64_t>(placed[v.bits].data);
            }
        }
        run(*step.entry, args.data(), step.grid, step.block, step.shared_bytes);
        for (const Placed& p : placed) {
            if (!p.untouched_around()) fail("%s: wrote beside buffer %u", step.entry->name, unsigned(&p - &placed[0]));
        }
    }
    std::vector<std::vector<unsigned char>> results;
    for (Placed& p : placed) {
        results.emplace_back(p.data, p.data + p.size);
        p.memory.release();
    }
    return results;
}

void on_fault(int, siginfo_t* info, void*) {
    char text[256];
    int n = snprintf(text, sizeof text, "%s touched %p, outside its buffers\n", kernel ? place() : "no kernel",
                     info->si_addr);
    if (write(2, text, std::size_t(n)) < 0) _exit(3);
    _exit(2);
}

int serve() {
    Reader reader;
    std::vector<Buffer> buffers(reader.number<uint32_t>());
    for (Buffer& b : buffers) {
        b.shift = reader.number<uint32_t>();
        auto size = reader.number<uint64_t>();
        const unsigned char* bytes = reader.take(size);
        b.contents.assign(bytes, bytes + size);
    }
    std::vector<Step> steps(reader.number<uint32_t>());
    for (Step& step : steps) {
        auto length = reader.number<uint32_t>();
        std::string name(reinterpret_cast<const char*>(reader.take(length)), length);
        step.entry = entries;
        while (step.entry && name != step.entry->name) step.entry = step.entry->next;
        if (!step.entry) fail("there is no kernel %s", name.c_str());
        step.grid = reader.number<Index3>();
        step.block = reader.number<Index3>();
        step.shared_bytes = reader.number<uint32_t>();
        step.args.resize(reader.number<uint32_t>());
        if (step.args.size() != step.entry->parameters)
            fail("%s has %u parameters, but %zu arguments are given", name.c_str(), step.entry->parameters, step.args.size());
        for (Value& v : step.args) {
            v.tag = Tag(reader.number<uint8_t>());
            v.bits = reader.number<uint64_t>();
        }
    }
    auto first = round_of(buffers, steps, false), second = round_of(buffers, steps, true);
    for (std::size_t i = 0; i < first.size(); i++) {
        if (first[i] != second[i]) fail("buffer %zu depends on the order of threads", i);
        fwrite(first[i].data(), 1, first[i].size(), stdout);
    }
    return 0;
}

}  // namespace
}  // namespace emulator

int main() {
    static char stack[1 << 16];
    stack_t alternative = {};
    alternative.ss_sp = stack;
    alternative.ss_size = sizeof stack;
    sigaltstack(&alternative, nullptr);
    struct sigaction action = {};
    action.sa_sigaction = emulator::on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
    return emulator::serve();
}

#endif
