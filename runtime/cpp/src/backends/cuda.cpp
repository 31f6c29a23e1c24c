#include "cuda.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>

#include "../errors.hpp"

namespace soda {
namespace {

constexpr int host_to_device = 1, device_to_host = 2, on_device = 3;  // cudaMemcpyKind
constexpr unsigned non_blocking = 1;                                  // cudaStreamNonBlocking
constexpr int out_of_memory = 2;                                      // cudaErrorMemoryAllocation

void* load_runtime() {
    for (const char* name : {"libcudart.so.13", "libcudart.so.12", "libcudart.so"})
        if (void* library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)) return library;
    throw EngineError("CUDA's runtime library libcudart.so cannot be loaded; install CUDA 12 or 13, or use the CPU",
                      SODA_ENGINE_MISSING);
}

}  // namespace

// The functions in use, as cuda_runtime_api.h declares them; a stream is a pointer.
struct Cuda::Api {
    int (*cudaSetDevice)(int);
    int (*cudaMalloc)(void**, size_t);
    int (*cudaFree)(void*);
    int (*cudaMemsetAsync)(void*, int, size_t, void*);
    int (*cudaMemcpyAsync)(void*, const void*, size_t, int, void*);
    int (*cudaStreamCreateWithFlags)(void**, unsigned);
    int (*cudaStreamSynchronize)(void*);
    int (*cudaStreamDestroy)(void*);
    const char* (*cudaGetErrorString)(int);
};

int cuda_ordinal(const std::string& device) {
    if (device == "cuda") return 0;
    const bool numbered = device.compare(0, 5, "cuda:") == 0 && device.size() > 5 && device.size() < 9 &&
                          std::all_of(device.begin() + 5, device.end(), [](char c) { return c >= '0' && c <= '9'; });
    return numbered ? std::atoi(device.c_str() + 5) : -1;
}

Cuda::Cuda(int device, void* stream) : api_(std::make_unique<Api>()), device_(device), stream_(stream), own_(!stream) {
    void* library = load_runtime();
    const auto find = [&](auto& function, const char* name) {
        function = reinterpret_cast<std::decay_t<decltype(function)>>(::dlsym(library, name));
        if (!function)
            throw EngineError(say("libcudart.so has no ", name, "; install CUDA 12 or 13"), SODA_ENGINE_MISSING);
    };
    find(api_->cudaSetDevice, "cudaSetDevice");
    find(api_->cudaMalloc, "cudaMalloc");
    find(api_->cudaFree, "cudaFree");
    find(api_->cudaMemsetAsync, "cudaMemsetAsync");
    find(api_->cudaMemcpyAsync, "cudaMemcpyAsync");
    find(api_->cudaStreamCreateWithFlags, "cudaStreamCreateWithFlags");
    find(api_->cudaStreamSynchronize, "cudaStreamSynchronize");
    find(api_->cudaStreamDestroy, "cudaStreamDestroy");
    find(api_->cudaGetErrorString, "cudaGetErrorString");
    use_device();
    if (own_) check(api_->cudaStreamCreateWithFlags(&stream_, non_blocking), "making a stream");
}

Cuda::~Cuda() {
    api_->cudaSetDevice(device_);
    api_->cudaStreamSynchronize(stream_);
    if (own_) api_->cudaStreamDestroy(stream_);
}

void Cuda::use_device() const {
    check(api_->cudaSetDevice(device_), "choosing the device");
}

char* Cuda::allocate(int64_t bytes) const {
    use_device();
    void* address = nullptr;
    const int status = api_->cudaMalloc(&address, size_t(std::max<int64_t>(bytes, 1)));
    if (status == out_of_memory)
        throw EngineError(say(bytes, " bytes of device memory cannot be had; use a smaller batch"), SODA_ENGINE_MEMORY);
    check(status, "allocating");
    const int zeroed = api_->cudaMemsetAsync(address, 0, size_t(bytes), stream_);
    if (zeroed) free_after_work(static_cast<char*>(address));
    check(zeroed, "zeroing memory");
    return static_cast<char*>(address);
}

void Cuda::free_after_work(char* address) const noexcept {
    api_->cudaSetDevice(device_);
    api_->cudaStreamSynchronize(stream_);
    api_->cudaFree(address);
}

void Cuda::write(char* to, const void* from, int64_t bytes) const {
    use_device();
    // from pageable memory: the call returns once the bytes are staged, so the caller's may change
    check(api_->cudaMemcpyAsync(to, from, size_t(bytes), host_to_device, stream_), "copying to the device");
}

void Cuda::read(void* to, const char* from, int64_t bytes) const {
    use_device();
    check(api_->cudaMemcpyAsync(to, from, size_t(bytes), device_to_host, stream_), "copying to the host");
    check(api_->cudaStreamSynchronize(stream_), "waiting for the device");
}

void Cuda::copy(char* to, const char* from, int64_t bytes) const {
    check(api_->cudaMemcpyAsync(to, from, size_t(bytes), on_device, stream_), "copying on the device");
}

void Cuda::check(int status, const char* what) const {
    if (status) throw EngineError(say("CUDA: ", what, " failed: ", api_->cudaGetErrorString(status)));
}

DeviceMemory::DeviceMemory(std::shared_ptr<Cuda> cuda, int64_t bytes)
    : cuda_(std::move(cuda)), bytes_(bytes), address_(cuda_->allocate(bytes)) {}

DeviceMemory::~DeviceMemory() {
    cuda_->free_after_work(address_);
}

char* DeviceMemory::at(int64_t offset, int64_t bytes) const {
    if (offset < 0 || bytes < 0 || offset > bytes_ - bytes)
        throw InternalError(say(bytes, " bytes at ", offset, " leave a device memory of ", bytes_));
    return address_ + offset;
}

}  // namespace soda
