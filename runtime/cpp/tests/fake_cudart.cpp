// A recording stand-in for CUDA's runtime library: device memory is host memory, every call leaves a line, and what is
// put into the stream runs when it is waited for, in whichever thread, so that memory used again too early is a wrong
// result.
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>

namespace {

std::recursive_mutex lock;  // of everything here; work in the stream runs under it
std::string lines;
int stream_handle;
std::deque<std::function<void()>> stream;
std::map<const char*, size_t> on_device, pinned;
std::map<void*, int> pending;  // events -> recordings that the stream has not come to

void record(const char* line) {
    (lines += line) += '\n';
}

void run_next() {
    const auto work = std::move(stream.front());
    stream.pop_front();
    work();
}

bool lies_in(const std::map<const char*, size_t>& blocks, const void* address) {
    auto block = blocks.upper_bound(static_cast<const char*>(address));
    return block != blocks.begin() && (--block)->first + block->second > address;
}

int allocate(std::map<const char*, size_t>& blocks, void** address, size_t bytes) {
    *address = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!*address) return 2;
    blocks[static_cast<char*>(*address)] = bytes;
    return 0;
}

int release(std::map<const char*, size_t>& blocks, void* address) {
    if (!blocks.erase(static_cast<char*>(address))) std::abort();  // freed twice, or never allocated
    std::free(address);
    return 0;
}

}  // namespace

#define FAKE extern "C" __attribute__((visibility("default")))
#define LOCKED const std::lock_guard<std::recursive_mutex> guard(lock)

FAKE void fake_cuda_mark(const char* line) {
    LOCKED;
    record(line);
}
FAKE const char* fake_cuda_log() {
    LOCKED;
    return lines.c_str();
}
FAKE void fake_cuda_clear() {
    LOCKED;
    lines.clear();
}
FAKE void fake_cuda_enqueue(void (*work)(void*), void* argument) {
    LOCKED;
    stream.emplace_back([=] { work(argument); });
}
FAKE void fake_cuda_finish() {
    LOCKED;
    while (!stream.empty()) run_next();
}

FAKE int cudaSetDevice(int device) {
    return device == 0 ? 0 : 101;
}
FAKE int cudaMalloc(void** address, size_t bytes) {
    LOCKED;
    record("malloc");
    return allocate(on_device, address, bytes);
}
FAKE int cudaFree(void* address) {
    LOCKED;
    record("free");
    return release(on_device, address);
}
FAKE int cudaHostAlloc(void** address, size_t bytes, unsigned) {
    LOCKED;
    record("pin");
    return allocate(pinned, address, bytes);
}
FAKE int cudaFreeHost(void* address) {
    LOCKED;
    record("unpin");
    return release(pinned, address);
}
FAKE int cudaMemsetAsync(void* address, int value, size_t bytes, void* in) {
    LOCKED;
    record(in == nullptr ? "memset on the default stream" : "memset");
    stream.emplace_back([=] { std::memset(address, value, bytes); });
    return 0;
}
FAKE int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* in) {
    LOCKED;
    const char* names[] = {"", "copy in", "copy out", "copy on the device"};
    const bool pageable = (kind == 1 && !lies_in(pinned, from)) || (kind == 2 && !lies_in(pinned, to));
    record(in == nullptr ? "copy on the default stream" : kind == 1 && pageable ? "copy in, waiting" : names[kind]);
    if ((kind != 2 && !lies_in(on_device, to)) || (kind != 1 && !lies_in(on_device, from))) return 1;
    if (pageable) fake_cuda_finish();
    stream.emplace_back([=] { std::memcpy(to, from, bytes); });
    if (pageable) fake_cuda_finish();
    return 0;
}
FAKE int cudaPointerGetAttributes(void* attributes, const void* address) {
    LOCKED;
    const int type = lies_in(on_device, address) ? 2 : lies_in(pinned, address) ? 1 : 0;
    const int found[2] = {type, 0};
    std::memcpy(attributes, found, sizeof found);
    return 0;
}
FAKE int cudaStreamCreateWithFlags(void** made, unsigned) {
    LOCKED;
    record("stream");
    *made = &stream_handle;
    return 0;
}
FAKE int cudaStreamSynchronize(void*) {
    LOCKED;
    record("synchronize");
    fake_cuda_finish();
    return 0;
}
FAKE int cudaStreamDestroy(void*) {
    LOCKED;
    record("end of stream");
    return 0;
}
FAKE int cudaEventCreateWithFlags(void** event, unsigned) {
    LOCKED;
    record("event");
    *event = std::malloc(1);
    return 0;
}
FAKE int cudaEventRecord(void* event, void*) {
    LOCKED;
    ++pending[event];
    stream.emplace_back([=] { --pending[event]; });
    return 0;
}
FAKE int cudaEventQuery(void* event) {
    LOCKED;
    return pending[event] ? 600 : 0;
}
FAKE int cudaEventSynchronize(void* event) {
    LOCKED;
    record("wait");
    while (pending[event]) run_next();
    return 0;
}
FAKE int cudaEventDestroy(void* event) {
    LOCKED;
    record("end of event");
    pending.erase(event);
    std::free(event);
    return 0;
}
FAKE int cudaGetLastError() {
    return 0;
}
FAKE const char* cudaGetErrorString(int status) {
    return status == 101 ? "invalid device ordinal" : "an error";
}
