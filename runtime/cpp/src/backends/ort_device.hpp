// Where ONNX Runtime's sessions run: the CPU, or a CUDA device with one stream for all sessions of a bundle.
#pragma once

#include "cuda.hpp"
#include "host.hpp"
#include "ort_library.hpp"

namespace soda {

// A block of memory on the device; views of it are addressed by place().
class OrtMemory {
public:
    OrtMemory(const std::shared_ptr<Cuda>& cuda, int64_t bytes);

    void write(int64_t offset, const void* from, int64_t bytes);
    void read(int64_t offset, void* to, int64_t bytes) const;
    void copy_from(int64_t offset, const void* from, int64_t bytes) { device_->copy_from(offset, from, bytes); }
    void copy_to(int64_t offset, void* to, int64_t bytes) const { device_->copy_to(offset, to, bytes); }
    char* place(const SodaView& view) const;

private:
    std::unique_ptr<HostMemory> host_;  // this one or the next
    std::unique_ptr<DeviceMemory> device_;
};

class OrtDevice {
public:
    OrtDevice(const OrtApi& ort, const SodaBackendOptions& options);

    std::unique_ptr<OrtMemory> allocate(int64_t bytes) const { return std::make_unique<OrtMemory>(cuda_, bytes); }
    const OrtMemoryInfo* memory() const { return memory_.get(); }
    // Null on the CPU: the defaults. On a device: a run does not wait for its end.
    const OrtRunOptions* run_options() const { return run_.get(); }
    const std::shared_ptr<Cuda>& cuda() const { return cuda_; }
    void add_provider(OrtSessionOptions* options, const std::string& where) const;

private:
    const OrtApi& ort_;
    std::shared_ptr<Cuda> cuda_;  // null on the CPU
    OrtHandle<OrtMemoryInfo> memory_;
    OrtHandle<OrtRunOptions> run_;
};

}  // namespace soda
