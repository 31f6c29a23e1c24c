#include "cuda_api.hpp"

#include <dlfcn.h>

#include <type_traits>

#include "../errors.hpp"

namespace soda {
namespace {

void* load_library() {
    for (const char* name : {"libcudart.so.13", "libcudart.so.12", "libcudart.so"})
        if (void* library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)) return library;
    throw EngineError("CUDA's runtime library libcudart.so cannot be loaded; install CUDA 12 or 13, or use the CPU",
                      SODA_ENGINE_MISSING);
}

}  // namespace

CudaApi load_cuda() {
    void* library = load_library();
    const auto find = [&](auto& function, const char* name) {
        function = reinterpret_cast<std::decay_t<decltype(function)>>(::dlsym(library, name));
        if (!function)
            throw EngineError(say("libcudart.so has no ", name, "; install CUDA 12 or 13"), SODA_ENGINE_MISSING);
    };
    CudaApi api{};
    find(api.cudaSetDevice, "cudaSetDevice");
    find(api.cudaMalloc, "cudaMalloc");
    find(api.cudaFree, "cudaFree");
    find(api.cudaHostAlloc, "cudaHostAlloc");
    find(api.cudaFreeHost, "cudaFreeHost");
    find(api.cudaMemsetAsync, "cudaMemsetAsync");
    find(api.cudaMemcpyAsync, "cudaMemcpyAsync");
    find(api.cudaPointerGetAttributes, "cudaPointerGetAttributes");
    find(api.cudaStreamCreateWithFlags, "cudaStreamCreateWithFlags");
    find(api.cudaStreamSynchronize, "cudaStreamSynchronize");
    find(api.cudaStreamDestroy, "cudaStreamDestroy");
    find(api.cudaEventCreateWithFlags, "cudaEventCreateWithFlags");
    find(api.cudaEventRecord, "cudaEventRecord");
    find(api.cudaEventQuery, "cudaEventQuery");
    find(api.cudaEventSynchronize, "cudaEventSynchronize");
    find(api.cudaEventDestroy, "cudaEventDestroy");
    find(api.cudaGetLastError, "cudaGetLastError");
    find(api.cudaGetErrorString, "cudaGetErrorString");
    return api;
}

void CudaApi::check(int status, const char* what) const {
    if (!status) return;
    cudaGetLastError();
    throw EngineError(say("CUDA: ", what, " failed: ", cudaGetErrorString(status)));
}

}  // namespace soda
