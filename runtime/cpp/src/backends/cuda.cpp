#include "cuda.hpp"

#include <algorithm>
#include <cstdlib>

#include "../errors.hpp"

namespace soda {
namespace {

constexpr int host_to_device = 1, device_to_host = 2, on_device = 3;  // cudaMemcpyKind
constexpr int device_memory = 2, managed_memory = 3;                  // cudaMemoryType
constexpr unsigned non_blocking = 1;                                  // cudaStreamNonBlocking

}  // namespace

int cuda_ordinal(const std::string& device) {
    if (device == "cuda") return 0;
    const bool numbered = device.compare(0, 5, "cuda:") == 0 && device.size() > 5 && device.size() < 9 &&
                          std::all_of(device.begin() + 5, device.end(), [](char c) { return c >= '0' && c <= '9'; });
    return numbered ? std::atoi(device.c_str() + 5) : -1;
}

Cuda::Cuda(int device, void* stream)
    : api_(load_cuda()), device_(device), stream_(stream), own_(!stream), staging_(api_) {
    use_device();
    if (own_) api_.check(api_.cudaStreamCreateWithFlags(&stream_, non_blocking), "making a stream");
}

Cuda::~Cuda() {
    wait();
    if (own_) api_.cudaStreamDestroy(stream_);
}

void Cuda::use_device() const {
    api_.check(api_.cudaSetDevice(device_), "choosing the device");
}

void Cuda::judge(const char* name, const void* address) const {
    use_device();
    CudaPointer found{};
    if (api_.cudaPointerGetAttributes(&found, address)) api_.cudaGetLastError();  // leaves type 0: unknown to CUDA
    if (found.type != device_memory && found.type != managed_memory)
        throw RequestError(say(name, ": the address is not memory of a CUDA device; use the calls for host memory"),
                           SODA_REQUEST_ARGUMENT);
    if (found.type == device_memory && found.device != device_)
        throw RequestError(say(name, ": the address lies on device ", found.device, ", the bundle on ", device_),
                           SODA_REQUEST_ARGUMENT);
}

char* Cuda::allocate(int64_t bytes) const {
    use_device();
    void* address = nullptr;
    const int status = api_.cudaMalloc(&address, size_t(std::max<int64_t>(bytes, 1)));
    if (status == cuda_out_of_memory) {
        api_.cudaGetLastError();
        throw EngineError(say(bytes, " bytes of device memory cannot be had; use a smaller batch"), SODA_ENGINE_MEMORY);
    }
    api_.check(status, "allocating");
    const int zeroed = api_.cudaMemsetAsync(address, 0, size_t(bytes), stream_);
    if (zeroed) free_after_work(static_cast<char*>(address));
    api_.check(zeroed, "zeroing memory");
    return static_cast<char*>(address);
}

void Cuda::free_after_work(char* address) const noexcept {
    wait();
    api_.cudaFree(address);
}

void Cuda::wait() const noexcept {
    api_.cudaSetDevice(device_);
    api_.cudaStreamSynchronize(stream_);
}

void Cuda::reserve_writes(int64_t bytes) {
    use_device();
    staging_.reserve(bytes);
}

void Cuda::write(char* to, const void* from, int64_t bytes) {
    use_device();
    if (staging_.write(to, from, bytes, stream_)) return;
    // from pageable memory: the call returns once the bytes are staged, so the caller's may change
    api_.check(api_.cudaMemcpyAsync(to, from, size_t(bytes), host_to_device, stream_), "copying to the device");
}

void Cuda::read(void* to, const char* from, int64_t bytes) const {
    use_device();
    api_.check(api_.cudaMemcpyAsync(to, from, size_t(bytes), device_to_host, stream_), "copying to the host");
    api_.check(api_.cudaStreamSynchronize(stream_), "waiting for the device");
}

void Cuda::copy(void* to, const void* from, int64_t bytes) const {
    use_device();
    api_.check(api_.cudaMemcpyAsync(to, from, size_t(bytes), on_device, stream_), "copying on the device");
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
