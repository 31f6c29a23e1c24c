// TensorRT 10 and 11, loaded at run time: what a bundle's engines share.
#pragma once

#include <NvInferRuntime.h>

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "../tensors.hpp"
#include "cuda.hpp"
#include "entry.hpp"
#include "trt_index.hpp"

namespace soda {

// Prints nothing and keeps the last errors for our own messages.
class TrtLogger : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override;
    std::string said() const;

private:
    mutable std::mutex lock_;
    std::deque<std::string> last_;
};

// Device memory that engines use one after another; it grows to the greatest demand.
class SharedBlock {
public:
    explicit SharedBlock(std::shared_ptr<Cuda> cuda) : cuda_(std::move(cuda)) {}
    void reserve(int64_t bytes);
    char* address() const { return memory_ ? memory_->at(0, bytes_) : nullptr; }
    int64_t bytes() const { return bytes_; }

private:
    std::shared_ptr<Cuda> cuda_;
    std::unique_ptr<DeviceMemory> memory_;
    int64_t bytes_ = 0;
};

class TrtLibrary {
public:
    explicit TrtLibrary(const SodaBackendOptions& options);

    nvinfer1::IRefitter* make_refitter(nvinfer1::ICudaEngine& engine);
    // Demands that the engines beside `path` are for this library; gives their index.
    const EngineIndex& index_beside(const std::string& path);
    // Where a weights file's tensor lies on the device.
    char* weight(const std::string& file, const std::string& name);

    std::mutex lock;  // held while work is put into the stream, and while blocks grow
    std::shared_ptr<Cuda> cuda;
    TrtLogger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime;
    SharedBlock activations, scratch;

private:
    struct WeightsFile {
        std::unique_ptr<DeviceMemory> memory;
        std::map<std::string, std::pair<int64_t, int64_t>> places;  // offset and bytes
    };

    void* library_ = nullptr;
    std::string version_;
    std::optional<EngineIndex> index_;
    std::map<std::string, WeightsFile> weights_;
};

}  // namespace soda
