// A recording stand-in for CUDA's runtime library: device memory is host memory, and every call leaves a line.
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

namespace {

std::mutex lock;
std::string lines;
int stream_handle;

void record(const char* line) {
    const std::lock_guard<std::mutex> guard(lock);
    (lines += line) += '\n';
}

}  // namespace

#define FAKE extern "C" __attribute__((visibility("default")))

FAKE void fake_cuda_mark(const char* line) {
    record(line);
}
FAKE const char* fake_cuda_log() {
    return lines.c_str();
}
FAKE void fake_cuda_clear() {
    lines.clear();
}

FAKE int cudaSetDevice(int device) {
    return device == 0 ? 0 : 101;
}
FAKE int cudaMalloc(void** address, size_t bytes) {
    record("malloc");
    *address = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    return *address ? 0 : 2;
}
FAKE int cudaFree(void* address) {
    record("free");
    std::free(address);
    return 0;
}
FAKE int cudaMemsetAsync(void* address, int value, size_t bytes, void* stream) {
    record(stream == nullptr ? "memset on the default stream" : "memset");
    std::memset(address, value, bytes);
    return 0;
}
FAKE int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream) {
    record(stream == nullptr ? "copy on the default stream" : kind == 1 ? "copy in" : "copy out");
    std::memcpy(to, from, bytes);
    return 0;
}
FAKE int cudaStreamCreateWithFlags(void** stream, unsigned) {
    record("stream");
    *stream = &stream_handle;
    return 0;
}
FAKE int cudaStreamSynchronize(void*) {
    record("synchronize");
    return 0;
}
FAKE int cudaStreamDestroy(void*) {
    record("end of stream");
    return 0;
}
FAKE const char* cudaGetErrorString(int status) {
    return status == 101 ? "invalid device ordinal" : "an error";
}
