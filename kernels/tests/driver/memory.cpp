// Device memory, and the processor's pinned memory.
#include "standin.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sys/mman.h>
#include <vector>

namespace standin {

namespace {

constexpr std::size_t PAGE = 4096;
// cuMemAlloc's alignment; what an allocation does not use of it, at its end, is a canary.
constexpr std::size_t ALIGNMENT = 256;
// All addresses there are; none is used twice.
constexpr std::size_t ARENA = std::size_t(1) << 44;
// What is wholly freed is given back to the system in pieces of this, with its page tables.
constexpr std::size_t PIECE = std::size_t(1) << 30;
constexpr unsigned char CANARY = 0xa5;
// Every float type's NaN.
constexpr unsigned char UNSET = 0xff;

struct Allocation {
    std::size_t bytes;
    uint64_t number;
    bool retired;
};

unsigned char* arena = nullptr;
std::size_t used = PAGE;
uint64_t made = 0, live = 0, peak = 0;
std::map<uintptr_t, Allocation> allocations;
std::vector<uint32_t> in_piece;
// The last that were freed, for words.
std::map<uintptr_t, Allocation> gone;
std::map<uintptr_t, std::size_t> pinned;

std::size_t rounded(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

bool reserve() {
    if (arena) return true;
    void* at = mmap(nullptr, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return false;
    arena = static_cast<unsigned char*>(at);
    in_piece.assign(ARENA / PIECE, 0);
    return true;
}

struct Pages {
    unsigned char* first;
    std::size_t bytes;
    Pages(uintptr_t start, std::size_t size) {
        uintptr_t end = start + rounded(size, ALIGNMENT);
        first = reinterpret_cast<unsigned char*>(start / PAGE * PAGE);
        bytes = end - reinterpret_cast<uintptr_t>(first);
    }
};

void for_pieces(const Pages& pages, int by) {
    std::size_t from = std::size_t(pages.first - arena) / PIECE, to = (std::size_t(pages.first - arena) + pages.bytes - 1) / PIECE;
    for (std::size_t piece = from; piece <= to; piece++) {
        in_piece[piece] += uint32_t(by);
        if (in_piece[piece] == 0 && (piece + 1) * PIECE <= used) {
            mmap(arena + piece * PIECE, PIECE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        }
    }
}

std::map<uintptr_t, Allocation>::iterator holding(uintptr_t at) {
    auto after = allocations.upper_bound(at);
    if (after == allocations.begin()) return allocations.end();
    auto before = std::prev(after);
    return at <= before->first + before->second.bytes ? before : allocations.end();
}

uintptr_t untagged(CUdeviceptr address) { return uintptr_t(address & ~TAG); }

void check(const char* who, uintptr_t start, const Allocation& a) {
    Pages pages(start, a.bytes);
    auto* from = reinterpret_cast<unsigned char*>(start);
    for (const unsigned char* p = pages.first; p < from; p++) {
        if (*p != CANARY)
            give_up("%s: wrote %zd bytes before the first of allocation %llu of %zu bytes", who, from - p,
                    static_cast<unsigned long long>(a.number), a.bytes);
    }
    for (const unsigned char* p = from + a.bytes; p < pages.first + pages.bytes; p++) {
        if (*p != CANARY)
            give_up("%s: wrote %zd bytes beyond the last of allocation %llu of %zu bytes", who, p - from - std::ptrdiff_t(a.bytes) + 1,
                    static_cast<unsigned long long>(a.number), a.bytes);
    }
}

}  // namespace

uint64_t device_bytes() {
    static const uint64_t bytes = strtoull(setting("MEDTUNE_REHEARSAL_MEMORY_MIB", "8192"), nullptr, 10) << 20;
    return bytes;
}

uint64_t live_bytes() { return live; }
uint64_t peak_bytes() { return peak; }
void reset_peak() { peak = live; }

CUresult allocate(std::size_t bytes, CUdeviceptr* address) {
    *address = 0;
    if (bytes == 0) {
        count(EMPTY_ALLOCATIONS);
        return SUCCESS;
    }
    if (bytes > device_bytes() || live + rounded(bytes, ALIGNMENT) > device_bytes()) return OUT_OF_MEMORY;
    std::size_t inner = rounded(rounded(bytes, ALIGNMENT), PAGE);
    if (!reserve() || used + inner + PAGE > ARENA) {
        say("the addresses of this stand-in are used up");
        return OUT_OF_MEMORY;
    }
    // It ends where its pages do.
    uintptr_t start = reinterpret_cast<uintptr_t>(arena) + used + inner - rounded(bytes, ALIGNMENT);
    used += inner + PAGE;
    Pages pages(start, bytes);
    if (mprotect(pages.first, pages.bytes, PROT_READ | PROT_WRITE)) return OUT_OF_MEMORY;
    auto* from = reinterpret_cast<unsigned char*>(start);
    memset(pages.first, CANARY, std::size_t(from - pages.first));
    memset(from, UNSET, bytes);
    memset(from + bytes, CANARY, pages.bytes - std::size_t(from - pages.first) - bytes);
    allocations[start] = {bytes, ++made, false};
    for_pieces(pages, 1);
    live += rounded(bytes, ALIGNMENT);
    count(ALLOCATIONS);
    count(ALLOCATED_BYTES, bytes);
    peak = std::max(peak, live);
    note_memory(live);
    *address = start | TAG;
    return SUCCESS;
}

CUresult retire(CUdeviceptr address) {
    auto found = allocations.find(untagged(address));
    if (!(address & TAG) || found == allocations.end() || found->second.retired) {
        say("0x%llx is freed, and is no allocation%s", static_cast<unsigned long long>(address),
            gone.count(untagged(address)) || found != allocations.end() ? " any more" : "");
        return INVALID_VALUE;
    }
    found->second.retired = true;
    return SUCCESS;
}

void release(CUdeviceptr address) {
    auto found = allocations.find(untagged(address));
    if (found == allocations.end()) return;
    const Allocation a = found->second;
    check("before it is freed", found->first, a);
    Pages pages(found->first, a.bytes);
    // As it was before: nothing may be there.
    mmap(pages.first, pages.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    gone[found->first] = a;
    if (gone.size() > 100000) gone.erase(gone.begin());
    allocations.erase(found);
    for_pieces(pages, -1);
    live -= rounded(a.bytes, ALIGNMENT);
    note_memory(live);
}

void* find(CUdeviceptr address, std::size_t bytes) {
    if (!(address & TAG)) return nullptr;
    uintptr_t at = untagged(address);
    auto found = holding(at);
    if (found == allocations.end() || found->second.retired) return nullptr;
    return bytes <= found->second.bytes - (at - found->first) ? reinterpret_cast<void*>(at) : nullptr;
}

void* reach(const char* who, const char* what, CUdeviceptr address, std::size_t bytes) {
    if (void* at = find(address, bytes)) return at;
    auto number = static_cast<unsigned long long>(address);
    if (!(address & TAG)) {
        say("%s: %s is 0x%llx, which is no device address", who, what, number);
        return nullptr;
    }
    char text[200];
    describe(reinterpret_cast<void*>(untagged(address)), text, sizeof text);
    if (bytes) {
        say("%s: %s, %zu bytes from 0x%llx on, is %s", who, what, bytes, number, text);
    } else {
        say("%s: %s, 0x%llx, is %s", who, what, number, text);
    }
    return nullptr;
}

void* reach_from_kernel(const char* who, CUdeviceptr address) {
    uintptr_t at = untagged(address);
    auto found = holding(at);
    if ((address & TAG) && found != allocations.end()) return reinterpret_cast<void*>(at);
    char text[200];
    describe(reinterpret_cast<void*>(at), text, sizeof text);
    give_up("%s: an address in a table, 0x%llx, is %s", who, static_cast<unsigned long long>(address),
            address & TAG ? text : "no device address");
}

void check_edges(const char* who, CUdeviceptr address) {
    auto found = holding(untagged(address));
    if (found != allocations.end()) check(who, found->first, found->second);
}

void check_all_edges(const char* who) {
    for (const auto& [start, a] : allocations) check(who, start, a);
}

void describe(const void* address, char* text, std::size_t size) {
    auto at = reinterpret_cast<uintptr_t>(address);
    auto first = reinterpret_cast<uintptr_t>(arena);
    if (!arena || at < first || at >= first + ARENA) {
        snprintf(text, size, "outside device memory");
        return;
    }
    const Allocation* nearest = nullptr;
    uintptr_t start = 0;
    bool freed = false;
    for (const auto* list : {&allocations, &gone}) {
        auto after = list->upper_bound(at);
        if (after == list->begin()) continue;
        auto before = std::prev(after);
        if (!nearest || before->first > start) {
            nearest = &before->second;
            start = before->first;
            freed = list == &gone || nearest->retired;
        }
    }
    if (!nearest) {
        snprintf(text, size, "before all allocations");
        return;
    }
    std::size_t offset = at - start;
    snprintf(text, size, "%zu bytes %s allocation %llu of %zu bytes%s", offset < nearest->bytes ? offset : offset - nearest->bytes,
             offset < nearest->bytes ? "into" : "beyond", static_cast<unsigned long long>(nearest->number), nearest->bytes,
             freed ? ", which is freed" : "");
}

CUresult allocate_pinned(std::size_t bytes, void** address) {
    if (bytes == 0) return INVALID_VALUE;
    if (posix_memalign(address, PAGE, rounded(bytes, PAGE))) return OUT_OF_MEMORY;
    memset(*address, UNSET, bytes);
    pinned[reinterpret_cast<uintptr_t>(*address)] = bytes;
    count(PINNED_ALLOCATIONS);
    return SUCCESS;
}

CUresult free_pinned(void* address) {
    auto found = pinned.find(reinterpret_cast<uintptr_t>(address));
    if (found == pinned.end()) return INVALID_VALUE;
    memset(address, UNSET, found->second);
    pinned.erase(found);
    free(address);
    return SUCCESS;
}

CUresult register_pinned(void* address, std::size_t bytes) {
    if (!bytes) return pinned.erase(reinterpret_cast<uintptr_t>(address)) ? SUCCESS : INVALID_VALUE;
    pinned[reinterpret_cast<uintptr_t>(address)] = bytes;
    return SUCCESS;
}

bool is_pinned(const void* address, std::size_t bytes) {
    auto at = reinterpret_cast<uintptr_t>(address);
    auto after = pinned.upper_bound(at);
    if (after == pinned.begin()) return false;
    auto before = std::prev(after);
    return at + bytes <= before->first + before->second;
}

}  // namespace standin
