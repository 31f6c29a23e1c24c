// ONNX Runtime with a CUDA provider that computes on the CPU: the real library, but for the few functions that name a
// device, and runs that wait in fake_cudart's stream for their turn. With its memory, which the CPU can read, it plays
// a bundle as a GPU would be asked to.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <cstdio>
#include <cstdlib>
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

template <class Function>
Function cuda(const char* name) {
    return reinterpret_cast<Function>(::dlsym(::dlopen("libcudart.so.13", RTLD_NOW | RTLD_LOCAL), name));
}

struct Run {
    OrtSession* session;
    const OrtIoBinding* binding;
};
OrtStatus* ORT_API_CALL run_later(OrtSession* session, const OrtRunOptions* options,
                                  const OrtIoBinding* binding) noexcept {
    static const auto enqueue = cuda<void (*)(void (*)(void*), void*)>("fake_cuda_enqueue");
    if (!options) return real->CreateStatus(ORT_INVALID_ARGUMENT, "the run would wait for its end");
    enqueue(
        [](void* argument) {
            Run* run = static_cast<Run*>(argument);
            if (OrtStatus* status = real->RunWithBinding(run->session, nullptr, run->binding)) {
                std::fprintf(stderr, "%s\n", real->GetErrorMessage(status));
                std::abort();
            }
            delete run;
        },
        new Run{session, binding});
    return nullptr;
}
void ORT_API_CALL release_binding(OrtIoBinding* binding) noexcept {
    static const auto finish = cuda<void (*)()>("fake_cuda_finish");  // a real run has taken what it needs of it
    finish();
    real->ReleaseIoBinding(binding);
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
    fake.RunWithBinding = run_later;
    fake.ReleaseIoBinding = release_binding;
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
