// ONNX Runtime with a CUDA provider that computes on the CPU: the real library, but for the few functions that name a
// device. With fake_cudart's memory, which the CPU can read, it plays a bundle as a GPU would be asked to.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <cstring>

namespace {

const OrtApi* real = nullptr;
OrtApi fake;
int provider_options;

OrtStatus* ORT_API_CALL create_memory_info(const char*, OrtAllocatorType type, int, OrtMemType kind,
                                           OrtMemoryInfo** info) noexcept {
    return real->CreateCpuMemoryInfo(type, kind, info);
}
OrtStatus* ORT_API_CALL create_options(OrtCUDAProviderOptionsV2** options) noexcept {
    *options = reinterpret_cast<OrtCUDAProviderOptionsV2*>(&provider_options);
    return nullptr;
}
void ORT_API_CALL release_options(OrtCUDAProviderOptionsV2*) noexcept {}
OrtStatus* ORT_API_CALL update_options(OrtCUDAProviderOptionsV2*, const char* const*, const char* const*,
                                       size_t) noexcept {
    return nullptr;
}
OrtStatus* ORT_API_CALL update_with_value(OrtCUDAProviderOptionsV2*, const char* key, void* stream) noexcept {
    const bool given = !std::strcmp(key, "user_compute_stream") && stream;
    return given ? nullptr : real->CreateStatus(ORT_INVALID_ARGUMENT, "no stream was given");
}
OrtStatus* ORT_API_CALL append_provider(OrtSessionOptions*, const OrtCUDAProviderOptionsV2*) noexcept {
    return nullptr;
}

const OrtApi* ORT_API_CALL get_api(uint32_t version) noexcept {
    using Base = const OrtApiBase*(ORT_API_CALL*)();
    void* library = ::dlopen(SODA_ONNXRUNTIME_LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    const auto base = library ? reinterpret_cast<Base>(::dlsym(library, "OrtGetApiBase")) : nullptr;
    real = base ? base()->GetApi(version) : nullptr;
    if (!real) return nullptr;
    std::memcpy(static_cast<void*>(&fake), real, sizeof fake);
    fake.CreateMemoryInfo = create_memory_info;
    fake.CreateCUDAProviderOptions = create_options;
    fake.ReleaseCUDAProviderOptions = release_options;
    fake.UpdateCUDAProviderOptions = update_options;
    fake.UpdateCUDAProviderOptionsWithValue = update_with_value;
    fake.SessionOptionsAppendExecutionProvider_CUDA_V2 = append_provider;
    return &fake;
}

const char* ORT_API_CALL get_version() noexcept {
    return "fake";
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const OrtApiBase* ORT_API_CALL OrtGetApiBase() noexcept {
    static const OrtApiBase base = {get_api, get_version};
    return &base;
}
