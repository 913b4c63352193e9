// What was asked of the device, written as JSON when the program ends.
//   MEDTUNE_REHEARSAL_LOG    the file, in whose name %p is the process; nothing is written without it
//   MEDTUNE_REHEARSAL_MARK   kernels whose names begin so end an interval with the last of them; "adamw" unless it is set
//   MEDTUNE_REHEARSAL_TRACE  a file that gets one line for each thing that is asked for
#include "standin.h"

#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <unistd.h>
#include <vector>

namespace standin {

std::recursive_mutex lock;

namespace {

const char* const NAMES[COUNTERS] = {
    "launches",
    "products",
    "product_flops",
    "memsets",
    "host_to_device_pageable",
    "host_to_device_pageable_bytes",
    "host_to_device_pinned",
    "host_to_device_pinned_bytes",
    "device_to_host_pageable",
    "device_to_host_pageable_bytes",
    "device_to_host_pinned",
    "device_to_host_pinned_bytes",
    "device_to_device",
    "device_to_device_bytes",
    "stream_synchronizations",
    "context_synchronizations",
    "event_synchronizations",
    "copies_that_waited",
    "frees_that_waited",
    "waits_between_streams",
    "allocations",
    "allocated_bytes",
    "empty_allocations",
    "pinned_allocations",
};

struct Interval {
    uint64_t counts[COUNTERS];
    std::map<std::string, uint64_t> waits;
};

struct State {
    uint64_t counts[COUNTERS] = {};
    uint64_t peak_bytes = 0, live_bytes = 0;
    std::map<std::string, uint64_t> kernels, candle_kernels, refused, waits;
    std::string last = "the start", mark = setting("MEDTUNE_REHEARSAL_MARK", "adamw");
    // Counts after the last marked launch, and where the interval before it began.
    bool in_mark = false;
    Interval began = {}, marked = {};
    std::vector<Interval> intervals;
    FILE* trace = nullptr;
};

State& state() {
    static State& state = *new State;
    return state;
}

Interval now() {
    Interval now = {};
    memcpy(now.counts, state().counts, sizeof now.counts);
    now.waits = state().waits;
    return now;
}

void close_interval() {
    State& s = state();
    Interval interval = s.marked;
    for (int i = 0; i < COUNTERS; i++) interval.counts[i] -= s.began.counts[i];
    std::map<std::string, uint64_t> waits;
    for (const auto& [where, times] : s.marked.waits) {
        auto before = s.began.waits.find(where);
        uint64_t more = times - (before == s.began.waits.end() ? 0 : before->second);
        if (more) waits[where] = more;
    }
    interval.waits = waits;
    s.intervals.push_back(interval);
    s.began = s.marked;
    s.in_mark = false;
}

void speak(const char* format, va_list list) {
    char text[1024];
    vsnprintf(text, sizeof text, format, list);
    fprintf(stderr, "rehearsal: %s\n", text);
}

// A file that a variable names; empty if it does not.
std::string file_of(const char* variable) {
    std::string path = setting(variable, "");
    std::size_t at = path.find("%p");
    return at == std::string::npos ? path : path.replace(at, 2, std::to_string(getpid()));
}

std::string quoted(const std::string& text) {
    std::string quoted = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') quoted += '\\';
        if (static_cast<unsigned char>(c) >= ' ') quoted += c;
    }
    return quoted + "\"";
}

std::string list(const std::map<std::string, uint64_t>& map) {
    std::string text = "{";
    for (const auto& [name, times] : map) {
        if (text.size() > 1) text += ", ";
        text += quoted(name) + ": " + std::to_string(times);
    }
    return text + "}";
}

std::string counters(const uint64_t* counts, bool all) {
    std::string text = "{";
    for (int i = 0; i < COUNTERS; i++) {
        if (!all && !counts[i]) continue;
        if (text.size() > 1) text += ", ";
        text += quoted(NAMES[i]) + ": " + std::to_string(counts[i]);
    }
    return text + "}";
}

uint64_t waits(const uint64_t* counts) {
    uint64_t waits = 0;
    for (int i = WAITS_STREAM; i <= WAITS_FREE; i++) waits += counts[i];
    return waits;
}

}  // namespace

const char* setting(const char* name, const char* otherwise) {
    const char* value = getenv(name);
    return value && *value ? value : otherwise;
}

void say(const char* format, ...) {
    va_list list;
    va_start(list, format);
    speak(format, list);
    va_end(list);
}

void give_up(const char* format, ...) {
    va_list list;
    va_start(list, format);
    speak(format, list);
    va_end(list);
    write_counts();
    _exit(99);
}

void count(Counter counter, uint64_t by) { state().counts[counter] += by; }

void count_launch(const std::string& kernel, bool of_candle) {
    State& s = state();
    bool marked = kernel.compare(0, s.mark.size(), s.mark) == 0;
    if (!marked && s.in_mark) close_interval();
    count(LAUNCHES);
    (of_candle ? s.candle_kernels : s.kernels)[kernel]++;
    if (marked) {
        s.in_mark = true;
        s.marked = now();
    }
}

void count_refusal(const std::string& what) { state().refused[what]++; }

void count_wait(Counter kind) {
    State& s = state();
    count(kind);
    s.waits[std::string(NAMES[kind]) + " after " + s.last]++;
    if (s.trace) fprintf(s.trace, "wait: %s\n", NAMES[kind]);
}

void note_memory(uint64_t live_bytes) {
    State& s = state();
    s.live_bytes = live_bytes;
    if (live_bytes > s.peak_bytes) s.peak_bytes = live_bytes;
}

void note(const char* format, ...) {
    State& s = state();
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    static bool opened = false;
    if (!opened) {
        opened = true;
        const std::string path = file_of("MEDTUNE_REHEARSAL_TRACE");
        if (!path.empty()) s.trace = fopen(path.c_str(), "w");
    }
    if (s.trace) fprintf(s.trace, "%s\n", text);
    // Without its numbers: waits are told apart by what they follow.
    char* end = strchr(text, ' ');
    if (end) *end = 0;
    s.last = text;
}

void write_counts() {
    State& s = state();
    if (s.trace) fflush(s.trace);
    const std::string path = file_of("MEDTUNE_REHEARSAL_LOG");
    if (path.empty()) return;
    if (s.in_mark) close_interval();
    FILE* file = fopen(path.c_str(), "w");
    if (!file) {
        say("%s cannot be written", path.c_str());
        return;
    }
    fprintf(file, "{\n  \"counts\": %s,\n", counters(s.counts, true).c_str());
    fprintf(file, "  \"host_synchronizations\": %" PRIu64 ",\n", waits(s.counts));
    fprintf(file, "  \"host_synchronizations_after\": %s,\n", list(s.waits).c_str());
    fprintf(file, "  \"peak_bytes\": %" PRIu64 ",\n  \"bytes_at_exit\": %" PRIu64 ",\n", s.peak_bytes, s.live_bytes);
    fprintf(file, "  \"kernels\": %s,\n", list(s.kernels).c_str());
    fprintf(file, "  \"candle_kernels\": %s,\n", list(s.candle_kernels).c_str());
    fprintf(file, "  \"refused\": %s,\n", list(s.refused).c_str());
    fprintf(file, "  \"interval_ends_with\": %s,\n  \"intervals\": [", quoted(s.mark).c_str());
    for (std::size_t i = 0; i < s.intervals.size(); i++) {
        const Interval& interval = s.intervals[i];
        fprintf(file, "%s\n    {\"host_synchronizations\": %" PRIu64 ", \"after\": %s, \"counts\": %s}", i ? "," : "",
                waits(interval.counts), list(interval.waits).c_str(), counters(interval.counts, false).c_str());
    }
    fprintf(file, "%s]\n}\n", s.intervals.empty() ? "" : "\n  ");
    fclose(file);
}

}  // namespace standin

__attribute__((destructor)) static void at_exit() {
    // A thread that never came back may hold the lock.
    bool mine = standin::lock.try_lock();
    standin::write_counts();
    if (mine) standin::lock.unlock();
}

namespace standin {
// What the libraries have and this stand-in does not.
void absent(const char* name) {
    Locked locked;
    count_refusal(name);
    say("%s is called, and is not in this stand-in", name);
}
}  // namespace standin
