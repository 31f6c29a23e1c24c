// The CUDA half has run on a recording stand-in for CUDA's library alone (tests/test_cuda.cpp), never on a GPU.
#include "ort_device.hpp"

namespace soda {

OrtMemory::OrtMemory(const std::shared_ptr<Cuda>& cuda, int64_t bytes) {
    if (cuda)
        device_ = std::make_unique<DeviceMemory>(cuda, bytes);
    else
        host_ = std::make_unique<HostMemory>(bytes);
}

void OrtMemory::write(int64_t offset, const void* from, int64_t bytes) {
    device_ ? device_->write(offset, from, bytes) : host_->write(offset, from, bytes);
}

void OrtMemory::read(int64_t offset, void* to, int64_t bytes) const {
    device_ ? device_->read(offset, to, bytes) : host_->read(offset, to, bytes);
}

char* OrtMemory::place(const SodaView& view) const {
    return device_ ? device_->at(view.offset, view_bytes(view)) : host_->at(view.offset, view_bytes(view));
}

OrtDevice::OrtDevice(const OrtApi& ort, const SodaBackendOptions& options)
    : ort_(ort), memory_(nullptr, ort.ReleaseMemoryInfo), run_(nullptr, ort.ReleaseRunOptions) {
    const std::string device = options.device;
    const int ordinal = cuda_ordinal(device);
    if (device != "cpu" && ordinal < 0)
        throw EngineError(say("device ", shown(device), ": ONNX Runtime runs on cpu, cuda or cuda:N"));
    OrtMemoryInfo* memory = nullptr;
    if (ordinal < 0) {
        check_ort(ort, ort.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory), "ONNX Runtime");
        memory_.reset(memory);
        return;
    }
    cuda_ = std::make_shared<Cuda>(ordinal, options.stream);
    check_ort(ort, ort.CreateMemoryInfo("Cuda", OrtDeviceAllocator, ordinal, OrtMemTypeDefault, &memory),
              "ONNX Runtime");
    memory_.reset(memory);
    OrtRunOptions* run = nullptr;
    check_ort(ort, ort.CreateRunOptions(&run), "ONNX Runtime");
    run_.reset(run);
    check_ort(ort, ort.AddRunConfigEntry(run, "disable_synchronize_execution_providers", "1"), "ONNX Runtime");
}

void OrtDevice::add_provider(OrtSessionOptions* options, const std::string& where) const {
    if (!cuda_) return;
    OrtCUDAProviderOptionsV2* made = nullptr;
    check_ort(ort_, ort_.CreateCUDAProviderOptions(&made), where);
    const OrtHandle<OrtCUDAProviderOptionsV2> cuda(made, ort_.ReleaseCUDAProviderOptions);
    const std::string ordinal = std::to_string(cuda_->device());
    const char* const keys[] = {"device_id", "use_tf32"};
    const char* const values[] = {ordinal.c_str(), "0"};
    check_ort(ort_, ort_.UpdateCUDAProviderOptions(made, keys, values, 2), where);
    check_ort(ort_, ort_.UpdateCUDAProviderOptionsWithValue(made, "user_compute_stream", cuda_->stream()), where);
    check_ort(ort_, ort_.SessionOptionsAppendExecutionProvider_CUDA_V2(options, made), where);
}

}  // namespace soda
