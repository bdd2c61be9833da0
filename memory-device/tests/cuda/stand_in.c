// A stand-in for NVIDIA's driver, so that the code that calls it runs on machines without a GPU. It is stricter than the
// driver in what it checks, and knows nothing of GPUs: what it says about them, no test should believe.
//
// * Work of a stream is queued, and done only when a stream or an event is waited for, or an event is queried (one piece of
//   work for every 16 queries). So a missing wait is seen.
// * Addresses of the device are such as no process can map. Memory is kept aside, and filled with 0xA5 until it is written.
// * Work on a block that is not allocated yet, or freed already, ends the process; so do a handle that was destroyed, a second
//   free, and whatever is left when the last reference of the context is released.
// * A call on a thread without a current context returns CUDA_ERROR_INVALID_CONTEXT.
//
// FAKE_CUDA_MEMORY has the bytes of the device (1 GiB by default), FAKE_CUDA_POOLS=0 makes it a device without pools,
// FAKE_CUDA_DEVICES has the number of devices, FAKE_CUDA_INIT the result of cuInit. With FAKE_CUDA_CAPTURE=1 another thread
// captures a graph: calls that synchronise are refused with 900, unless their thread is in relaxed mode. With
// FAKE_CUDA_CAPTURE=2 two of three waits are refused so in every mode, and with FAKE_CUDA_CAPTURE=3 all queries of events. With
// FAKE_CUDA_CAPTURED=1 all streams are captured. FAKE_CUDA_SYNC has the result of waits and queries. FAKE_CUDA_ANSWER has the
// result of all waits, queries and records of events and streams once so many streams have been created as FAKE_CUDA_ANSWER_FROM
// says; streams do no work any more then. If the result is 3, 4 or 709, no context can be entered either, and nothing is
// checked at the end. With LACKS_PEER it is compiled without a function.

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef uint64_t Address;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, NOT_READY = 600, UNSUPPORTED = 900 };
enum { MAX_BLOCKS = 4096, MAX_HANDLES = 4096, SPACING = 1 << 8 };

enum State { UNUSED, QUEUED, LIVE, FREEING, DEAD };
struct Block { Address at; size_t size; char *bytes; enum State state; int on_host; };
struct Event { int exists, stream; uint64_t recorded; };
enum Kind { ALLOCATE, FREE, COPY, RECORD, WAIT };
struct Work { enum Kind kind; int block, event; uint64_t number; Address to, from; size_t size; struct Work *next; };
struct Stream { int exists; struct Work *first, **last; uint64_t done; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct Block blocks[MAX_BLOCKS];
static struct Event events[MAX_HANDLES];
static struct Stream streams[MAX_HANDLES];
static int block_count, event_count = 1, stream_count = 1, retained;
static uint64_t records;
static Address next_address = (Address)1 << 60;
static size_t used;
static _Thread_local void *stack[16];
static _Thread_local int depth, mode;
static int context; // its address is the context

static size_t number(const char *name, size_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

static void die(const char *text) {
    fprintf(stderr, "stand-in for CUDA: %s\n", text);
    abort();
}

#define ENTER \
    if (depth == 0) return INVALID_CONTEXT; \
    pthread_mutex_lock(&lock)
#define LEAVE(result) do { pthread_mutex_unlock(&lock); return (result); } while (0)

// Whether a call is refused that is not allowed while a graph is captured.
static int is_captured(void) { return number("FAKE_CUDA_CAPTURE", 0) == 1 && mode != 2; }

#define ENTER_UNLESS_CAPTURED \
    if (is_captured()) return UNSUPPORTED; \
    ENTER

// What calls of streams and events return from some time on; 0 if that has not come.
static CUresult answer(void) {
    if (!getenv("FAKE_CUDA_ANSWER") || (size_t)stream_count - 1 < number("FAKE_CUDA_ANSWER_FROM", 0)) return SUCCESS;
    return (CUresult)number("FAKE_CUDA_ANSWER", SUCCESS);
}

// Whether the driver is shut down, or its context destroyed.
static int is_gone(void) { CUresult code = answer(); return code == 3 || code == 4 || code == 709; }

#define ENTER_UNLESS_ANSWERED \
    if (answer()) return answer(); \
    ENTER

// What a query or a wait returns instead of its own result; 0 if nothing.
static CUresult refusal(int is_query) {
    static _Thread_local unsigned waits;
    size_t refuse = number("FAKE_CUDA_CAPTURE", 0);
    if (is_captured() || (is_query ? refuse == 3 : refuse == 2 && ++waits % 3)) return UNSUPPORTED;
    return (CUresult)number("FAKE_CUDA_SYNC", SUCCESS);
}

static struct Block *find(Address at, size_t size) {
    for (int i = 0; i < block_count; i++) {
        struct Block *block = &blocks[i];
        if (block->state != UNUSED && at >= block->at && at + size <= block->at + block->size && block->state != DEAD) return block;
    }
    return NULL;
}

// The bytes behind an address of the device or of the host.
static char *bytes_at(Address at, size_t size) {
    if (at < (Address)1 << 60) return (char *)(uintptr_t)at;
    struct Block *block = find(at, size);
    if (!block) die("work on memory in no block");
    if (block->state == QUEUED) die("work on a block before it is allocated");
    return block->bytes + (at - block->at);
}

static int add_block(size_t size, int on_host) {
    if (!on_host && used + size > number("FAKE_CUDA_MEMORY", (size_t)1 << 30)) return -1;
    if (block_count == MAX_BLOCKS) die("too many blocks");
    struct Block *block = &blocks[block_count];
    block->bytes = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    if (!block->bytes) return -1;
    memset(block->bytes, 0xA5, size < 1 << 20 ? size : 1 << 20);
    block->size = size;
    block->on_host = on_host;
    block->at = on_host ? (Address)(uintptr_t)block->bytes : next_address;
    next_address += on_host ? 0 : (size / SPACING + 2) * SPACING;
    used += on_host ? 0 : size;
    return block_count++;
}

static void free_block(struct Block *block) {
    if (block->state == DEAD) die("a block was freed twice");
    block->state = DEAD;
    used -= block->on_host ? 0 : block->size;
    free(block->bytes);
}

static void run_until(uint64_t record, int stream);

static void run_one(int index) {
    struct Stream *stream = &streams[index];
    struct Work *work = stream->first;
    // Taken off first: waiting for another stream may come back to this one.
    stream->first = work->next;
    if (!stream->first) stream->last = &stream->first;
    switch (work->kind) {
    case ALLOCATE: blocks[work->block].state = LIVE; break;
    case FREE: free_block(&blocks[work->block]); break;
    case COPY: {
        if (answer()) break;
        char *to = bytes_at(work->to, work->size);
        memcpy(to, bytes_at(work->from, work->size), work->size);
        break;
    }
    case RECORD: stream->done = work->number; break;
    case WAIT: run_until(work->number, work->event); break;
    }
    free(work);
}

// Works on a stream until that record is done.
static void run_until(uint64_t record, int stream) {
    while (streams[stream].done < record && streams[stream].first) run_one(stream);
}

static void run_all(int stream) {
    while (streams[stream].first) run_one(stream);
}

static struct Work *queue(int stream, enum Kind kind) {
    struct Work *work = calloc(1, sizeof *work);
    work->kind = kind;
    *streams[stream].last = work;
    streams[stream].last = &work->next;
    return work;
}

static int stream_of(void *handle) {
    intptr_t index = (intptr_t)handle;
    if (index <= 0 || index >= stream_count || !streams[index].exists) die("a stream that does not exist");
    return (int)index;
}

static struct Event *event_of(void *handle) {
    intptr_t index = (intptr_t)handle;
    if (index <= 0 || index >= event_count || !events[index].exists) die("an event that does not exist");
    return &events[index];
}

CUresult cuInit(unsigned flags) { (void)flags; return (CUresult)number("FAKE_CUDA_INIT", SUCCESS); }

CUresult cuGetErrorName(CUresult error, const char **text) {
    *text = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_OTHER";
    return SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
    (void)error;
    *text = "the stand-in refuses";
    return SUCCESS;
}

CUresult cuDeviceGetCount(int *count) { *count = (int)number("FAKE_CUDA_DEVICES", 1); return SUCCESS; }
CUresult cuDeviceGet(int *device, int ordinal) { *device = ordinal; return SUCCESS; }

CUresult cuDeviceGetName(char *name, int size, int device) {
    (void)device;
    snprintf(name, (size_t)size, "stand-in without a GPU");
    return SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 115 /* memory pools */ && number("FAKE_CUDA_POOLS", 1);
    return SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(void **out, int device) {
    (void)device;
    pthread_mutex_lock(&lock);
    retained++;
    *out = &context;
    LEAVE(SUCCESS);
}

CUresult cuDevicePrimaryCtxRelease_v2(int device) {
    (void)device;
    if (is_gone()) return answer();
    pthread_mutex_lock(&lock);
    if (--retained == 0) {
        for (int i = 1; i < stream_count; i++) if (streams[i].exists) die("a stream is left");
        for (int i = 1; i < stream_count; i++) run_all(i);
        for (int i = 1; i < event_count; i++) if (events[i].exists) die("an event is left");
        for (int i = 0; i < block_count; i++) if (blocks[i].state != DEAD) die("a block is left");
    }
    LEAVE(SUCCESS);
}

CUresult cuCtxPushCurrent_v2(void *which) {
    if (is_gone()) return answer();
    if (which != &context || retained == 0) return INVALID_CONTEXT;
    if (depth == 16) die("too many contexts are current");
    stack[depth++] = which;
    return SUCCESS;
}

CUresult cuCtxPopCurrent_v2(void **out) {
    if (depth == 0) return INVALID_CONTEXT;
    *out = stack[--depth];
    return SUCCESS;
}

CUresult cuCtxSetCurrent(void *which) { depth = 0; return which ? cuCtxPushCurrent_v2(which) : SUCCESS; }

CUresult cuMemGetInfo_v2(size_t *available, size_t *total) {
    ENTER;
    *total = number("FAKE_CUDA_MEMORY", (size_t)1 << 30);
    *available = *total - used;
    LEAVE(SUCCESS);
}

CUresult cuStreamCreate(void **out, unsigned flags) {
    if (flags != 1) die("a stream that synchronises with the legacy one");
    ENTER;
    if (stream_count == MAX_HANDLES) die("too many streams");
    streams[stream_count].exists = 1;
    streams[stream_count].last = &streams[stream_count].first;
    *out = (void *)(intptr_t)stream_count++;
    LEAVE(SUCCESS);
}

CUresult cuStreamDestroy_v2(void *handle) {
    ENTER;
    // What it has still to do is done when somebody waits for it.
    streams[stream_of(handle)].exists = 0;
    LEAVE(SUCCESS);
}

CUresult cuStreamSynchronize(void *handle) {
    if (answer()) return answer();
    CUresult refused = refusal(0);
    if (refused == UNSUPPORTED) return refused;
    ENTER;
    run_all(stream_of(handle));
    LEAVE(refused);
}

CUresult cuStreamIsCapturing(void *handle, int *status) {
    ENTER;
    stream_of(handle);
    *status = (int)number("FAKE_CUDA_CAPTURED", 0);
    LEAVE(SUCCESS);
}

CUresult cuThreadExchangeStreamCaptureMode(int *exchanged) {
    int before = mode;
    mode = *exchanged;
    *exchanged = before;
    return SUCCESS;
}

CUresult cuStreamWaitEvent(void *handle, void *which, unsigned flags) {
    (void)flags;
    ENTER_UNLESS_ANSWERED;
    struct Event *event = event_of(which);
    if (event->recorded) {
        struct Work *work = queue(stream_of(handle), WAIT);
        work->event = event->stream;
        work->number = event->recorded;
    }
    LEAVE(SUCCESS);
}

CUresult cuEventCreate(void **out, unsigned flags) {
    if (flags != 2) die("an event with timing");
    ENTER;
    if (event_count == MAX_HANDLES) die("too many events");
    events[event_count].exists = 1;
    *out = (void *)(intptr_t)event_count++;
    LEAVE(SUCCESS);
}

CUresult cuEventRecord(void *which, void *handle) {
    ENTER_UNLESS_ANSWERED;
    struct Event *event = event_of(which);
    event->stream = stream_of(handle);
    event->recorded = ++records;
    queue(event->stream, RECORD)->number = event->recorded;
    LEAVE(SUCCESS);
}

CUresult cuEventQuery(void *which) {
    if (answer()) return answer();
    CUresult refused = refusal(1);
    if (refused) return refused;
    ENTER;
    struct Event *event = event_of(which);
    struct Stream *stream = &streams[event->stream];
    if (stream->done >= event->recorded) LEAVE(SUCCESS);
    static unsigned queries;
    if (stream->first && ++queries % 16 == 0) run_one(event->stream);
    LEAVE(NOT_READY);
}

CUresult cuEventSynchronize(void *which) {
    if (answer()) return answer();
    CUresult refused = refusal(0);
    if (refused == UNSUPPORTED) return refused;
    ENTER;
    struct Event *event = event_of(which);
    if (event->recorded) run_until(event->recorded, event->stream);
    LEAVE(refused);
}

CUresult cuEventDestroy_v2(void *which) { ENTER; event_of(which)->exists = 0; LEAVE(SUCCESS); }

CUresult cuMemAlloc_v2(Address *out, size_t size) {
    ENTER_UNLESS_CAPTURED;
    int block = add_block(size, 0);
    if (block < 0) LEAVE(OUT_OF_MEMORY);
    blocks[block].state = LIVE;
    *out = blocks[block].at;
    LEAVE(SUCCESS);
}

CUresult cuMemAllocAsync(Address *out, size_t size, void *handle) {
    if (!number("FAKE_CUDA_POOLS", 1)) die("a device without pools was asked for one");
    ENTER;
    int stream = stream_of(handle), block = add_block(size, 0);
    if (block < 0) LEAVE(OUT_OF_MEMORY);
    blocks[block].state = QUEUED;
    queue(stream, ALLOCATE)->block = block;
    *out = blocks[block].at;
    LEAVE(SUCCESS);
}

static struct Block *to_free(Address at) {
    struct Block *block = find(at, 1);
    if (!block || block->at != at) die("what is freed is no block");
    return block;
}

CUresult cuMemFree_v2(Address at) { ENTER_UNLESS_CAPTURED; free_block(to_free(at)); LEAVE(SUCCESS); }

CUresult cuMemFreeAsync(Address at, void *handle) {
    ENTER;
    struct Block *block = to_free(at);
    if (block->state == FREEING) die("a block was freed twice");
    if (block->state == LIVE) block->state = FREEING;
    queue(stream_of(handle), FREE)->block = (int)(block - blocks);
    LEAVE(SUCCESS);
}

CUresult cuMemHostAlloc(void **out, size_t size, unsigned flags) {
    if (flags != 1) die("pinned memory for one context only");
    ENTER_UNLESS_CAPTURED;
    int block = add_block(size, 1);
    if (block < 0) LEAVE(OUT_OF_MEMORY);
    blocks[block].state = LIVE;
    *out = blocks[block].bytes;
    LEAVE(SUCCESS);
}

CUresult cuMemFreeHost(void *at) { ENTER_UNLESS_CAPTURED; free_block(to_free((Address)(uintptr_t)at)); LEAVE(SUCCESS); }

CUresult cuMemHostGetDevicePointer_v2(Address *out, void *at, unsigned flags) {
    (void)flags;
    ENTER;
    struct Block *block = find((Address)(uintptr_t)at, 1);
    if (!block || !block->on_host) LEAVE(INVALID_VALUE);
    *out = (Address)(uintptr_t)at;
    LEAVE(SUCCESS);
}

CUresult cuPointerGetAttribute(void *out, int attribute, Address at) {
    ENTER;
    struct Block *block = find(at, 1);
    if (!block) LEAVE(INVALID_VALUE);
    switch (attribute) {
    case 11: *(Address *)out = block->at; break;
    case 12: *(size_t *)out = block->size; break;
    default: die("an attribute that is not known here");
    }
    LEAVE(SUCCESS);
}

static CUresult copy(Address to, Address from, size_t size, void *handle) {
    ENTER;
    struct Work *work = queue(stream_of(handle), COPY);
    work->to = to;
    work->from = from;
    work->size = size;
    LEAVE(SUCCESS);
}

CUresult cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, void *stream) {
    return copy(to, (Address)(uintptr_t)from, size, stream);
}

CUresult cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, void *stream) {
    return copy((Address)(uintptr_t)to, from, size, stream);
}

CUresult cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, void *stream) { return copy(to, from, size, stream); }

#ifndef LACKS_PEER
CUresult cuMemcpyPeerAsync(Address to, void *target, Address from, void *source, size_t size, void *stream) {
    if (target != &context || source != &context) die("a copy between contexts that do not exist");
    return copy(to, from, size, stream);
}
#endif

static CUresult copy_now(Address to, Address from, size_t size) {
    ENTER;
    memcpy(bytes_at(to, size), bytes_at(from, size), size);
    LEAVE(SUCCESS);
}

CUresult cuMemcpyHtoD_v2(Address to, const void *from, size_t size) { return copy_now(to, (Address)(uintptr_t)from, size); }
CUresult cuMemcpyDtoH_v2(void *to, Address from, size_t size) { return copy_now((Address)(uintptr_t)to, from, size); }
