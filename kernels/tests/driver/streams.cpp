// Streams and events. Each stream is a list of what is still to be done.
//
// A device may do it as soon as it is asked for, or as late as somebody waits for it, and a program must be right in both
// cases. The first is what happens here; with MEDTUNE_REHEARSAL_LATE=1 the second does: each stream is done up to what is
// waited for, other streams only where it waits for their events, and pinned memory is read and written then.
#include "standin.h"

#include <chrono>
#include <deque>
#include <memory>
#include <set>

namespace standin {

namespace {

// What a device keeps waiting before the processor has to.
constexpr std::size_t MOST_WAITING = 1024;

struct Work {
    std::string who;
    std::function<void()> run;
};

bool late() {
    static const bool late = *setting("MEDTUNE_REHEARSAL_LATE", "0") == '1';
    return late;
}

std::string working;

}  // namespace

struct Stream {
    bool blocking;
    std::deque<Work> waiting;
    uint64_t asked = 0, done = 0;
};

namespace {

// What an event's last record was: it stays what it was when the event is recorded again.
struct Record {
    Stream* stream;
    uint64_t position;
    std::chrono::steady_clock::time_point at;
};

struct Event {
    bool timed;
    std::shared_ptr<Record> record;
};

std::set<Stream*> streams;
std::set<Event*> events;
// The default stream, and the one of each thread, which is one here.
Stream* const null_stream = new Stream{true, {}, 0, 0};
Stream* const thread_stream = new Stream{true, {}, 0, 0};

void advance(Stream* stream, uint64_t position) {
    while (stream->done < position) {
        Work work = std::move(stream->waiting.front());
        stream->waiting.pop_front();
        std::string outer = std::move(working);
        working = work.who;
        work.run();
        working = std::move(outer);
        stream->done++;
    }
}

bool is_done(const Event* event) { return !event->record || event->record->stream->done >= event->record->position; }

// A stream's address may come again.
bool still_there(const Record& record) {
    return record.stream == null_stream || record.stream == thread_stream || streams.count(record.stream);
}

Event* event_of(void* handle) {
    auto* event = static_cast<Event*>(handle);
    return events.count(event) ? event : nullptr;
}

}  // namespace

Stream* stream_of(void* handle) {
    if (handle == nullptr || handle == reinterpret_cast<void*>(1)) return null_stream;
    if (handle == reinterpret_cast<void*>(2)) return thread_stream;
    auto* stream = static_cast<Stream*>(handle);
    return streams.count(stream) ? stream : nullptr;
}

void enqueue(Stream* stream, std::string who, std::function<void()> work) {
    stream->waiting.push_back({std::move(who), std::move(work)});
    stream->asked++;
    if (!late()) {
        advance(stream, stream->asked);
    } else if (stream == null_stream) {
        // It is in order with all streams that are not of the kind that CU_STREAM_NON_BLOCKING makes.
        for (Stream* other : streams) {
            if (other->blocking) drain(other);
        }
        drain(thread_stream);
        drain(stream);
    } else if (stream->waiting.size() > MOST_WAITING) {
        advance(stream, stream->done + 1);
    }
}

void drain(Stream* stream) { advance(stream, stream->asked); }

void drain_all() {
    drain(null_stream);
    drain(thread_stream);
    for (Stream* stream : streams) drain(stream);
}

const char* at_work() { return working.c_str(); }

}  // namespace standin

using namespace standin;

EXPORT CUresult cuStreamCreate(void** out, unsigned flags) {
    Locked locked;
    if (!has_context()) return INVALID_CONTEXT;
    auto* stream = new Stream{!(flags & 1), {}, 0, 0};
    streams.insert(stream);
    *out = stream;
    return SUCCESS;
}

EXPORT CUresult cuStreamCreateWithPriority(void** out, unsigned flags, int) { return cuStreamCreate(out, flags); }

EXPORT CUresult cuStreamDestroy_v2(void* handle) {
    Locked locked;
    auto* stream = static_cast<Stream*>(handle);
    if (!streams.count(stream)) return INVALID_HANDLE;
    drain(stream);
    for (Event* event : events) {
        if (event->record && event->record->stream == stream) {
            auto at = event->record->at;
            event->record = std::make_shared<Record>(Record{null_stream, 0, at});
        }
    }
    streams.erase(stream);
    delete stream;
    return SUCCESS;
}

EXPORT CUresult cuStreamSynchronize(void* handle) {
    Locked locked;
    if (!has_context()) return INVALID_CONTEXT;
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    count_wait(WAITS_STREAM);
    drain(stream);
    return SUCCESS;
}

EXPORT CUresult cuStreamQuery(void* handle) {
    Locked locked;
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->done == stream->asked) return SUCCESS;
    // Who asks again finds it done.
    drain(stream);
    return NOT_READY;
}

EXPORT CUresult cuStreamGetPriority(void* handle, int* priority) {
    *priority = 0;
    Locked locked;
    return stream_of(handle) ? SUCCESS : INVALID_HANDLE;
}

EXPORT CUresult cuStreamIsCapturing(void* handle, int* status) {
    Locked locked;
    *status = 0;
    return stream_of(handle) ? SUCCESS : INVALID_HANDLE;
}

EXPORT CUresult cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
    Locked locked;
    if (!has_context()) return INVALID_CONTEXT;
    Stream* stream = stream_of(handle);
    Event* event = event_of(event_handle);
    if (!stream || !event) return INVALID_HANDLE;
    if (!event->record) return SUCCESS;
    count(STREAM_WAITS);
    enqueue(stream, "a wait for an event", [record = event->record] {
        if (still_there(*record)) advance(record->stream, record->position);
    });
    return SUCCESS;
}

EXPORT CUresult cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
    Locked locked;
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    enqueue(stream, "a function of the processor", [=] { function(data); });
    return SUCCESS;
}

EXPORT CUresult cuEventCreate(void** out, unsigned flags) {
    Locked locked;
    if (!has_context()) return INVALID_CONTEXT;
    auto* event = new Event{!(flags & 2), nullptr};
    events.insert(event);
    *out = event;
    return SUCCESS;
}

EXPORT CUresult cuEventDestroy_v2(void* handle) {
    Locked locked;
    Event* event = event_of(handle);
    if (!event) return INVALID_HANDLE;
    events.erase(event);
    delete event;
    return SUCCESS;
}

EXPORT CUresult cuEventRecord(void* handle, void* stream_handle) {
    Locked locked;
    if (!has_context()) return INVALID_CONTEXT;
    Event* event = event_of(handle);
    Stream* stream = stream_of(stream_handle);
    if (!event || !stream) return INVALID_HANDLE;
    auto record = std::make_shared<Record>(Record{stream, stream->asked + 1, {}});
    event->record = record;
    enqueue(stream, "an event", [record] { record->at = std::chrono::steady_clock::now(); });
    return SUCCESS;
}

EXPORT CUresult cuEventRecordWithFlags(void* handle, void* stream, unsigned) { return cuEventRecord(handle, stream); }

EXPORT CUresult cuEventQuery(void* handle) {
    Locked locked;
    Event* event = event_of(handle);
    if (!event) return INVALID_HANDLE;
    if (is_done(event)) return SUCCESS;
    advance(event->record->stream, event->record->position);
    return NOT_READY;
}

EXPORT CUresult cuEventSynchronize(void* handle) {
    Locked locked;
    Event* event = event_of(handle);
    if (!event) return INVALID_HANDLE;
    // An event that nothing was recorded in is waited for by nobody: cudarc asks for that of new pinned memory.
    if (!event->record) return SUCCESS;
    count_wait(WAITS_EVENT);
    advance(event->record->stream, event->record->position);
    return SUCCESS;
}

EXPORT CUresult cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
    Locked locked;
    Event *from = event_of(start), *to = event_of(end);
    if (!from || !to || !from->timed || !to->timed || !from->record || !to->record) return INVALID_HANDLE;
    if (!is_done(from) || !is_done(to)) return NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(to->record->at - from->record->at).count();
    return SUCCESS;
}

EXPORT CUresult cuEventElapsedTime(float* milliseconds, void* start, void* end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}
