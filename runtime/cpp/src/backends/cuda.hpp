// CUDA device memory and one stream. Everything is put into the stream in order; the host waits where it reads results,
// where memory that work may still use is freed, and where more bytes are on their way than there is room for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "cuda_api.hpp"
#include "staging.hpp"

namespace soda {

// "cuda" or "cuda:N" -> N, or -1 for another device.
int cuda_ordinal(const std::string& device);

class Cuda {
public:
    // stream: the caller's, who keeps it until the last handle is closed; null makes one.
    Cuda(int device, void* stream);
    ~Cuda();
    Cuda(const Cuda&) = delete;
    Cuda& operator=(const Cuda&) = delete;

    int device() const { return device_; }
    void* stream() const { return stream_; }
    void use_device() const;                                  // of the calling thread
    void judge(const char* name, const void* address) const;  // RequestError unless it is memory of the device
    char* allocate(int64_t bytes) const;
    void free_after_work(char* address) const noexcept;
    void wait() const noexcept;  // for the stream
    void reserve_writes(int64_t bytes);
    void write(char* to, const void* from, int64_t bytes);
    void read(void* to, const char* from, int64_t bytes) const;  // waits for the stream
    void copy(void* to, const void* from, int64_t bytes) const;  // on the device

private:
    CudaApi api_;
    int device_;
    void* stream_;
    bool own_;
    Staging staging_;
};

// A zeroed block on the device.
class DeviceMemory {
public:
    DeviceMemory(std::shared_ptr<Cuda> cuda, int64_t bytes);
    ~DeviceMemory();
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;

    void write(int64_t offset, const void* from, int64_t bytes) { cuda_->write(at(offset, bytes), from, bytes); }
    void read(int64_t offset, void* to, int64_t bytes) const { cuda_->read(to, at(offset, bytes), bytes); }
    void copy_from(int64_t offset, const void* from, int64_t bytes) { cuda_->copy(at(offset, bytes), from, bytes); }
    void copy_to(int64_t offset, void* to, int64_t bytes) const { cuda_->copy(to, at(offset, bytes), bytes); }
    char* at(int64_t offset, int64_t bytes) const;

private:
    std::shared_ptr<Cuda> cuda_;
    int64_t bytes_;
    char* address_;
};

}  // namespace soda
