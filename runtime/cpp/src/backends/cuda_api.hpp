// The functions of CUDA's runtime library that are in use, found at run time. Declared by hand, so that the build needs
// no CUDA and a stand-in can take the library's place.
#pragma once

#include <cstddef>

namespace soda {

constexpr int cuda_out_of_memory = 2;  // cudaErrorMemoryAllocation
constexpr int cuda_not_ready = 600;    // cudaErrorNotReady

// cudaPointerAttributes, with room for what later versions add.
struct CudaPointer {
    int type, device;
    void *on_device, *on_host;
    long reserved[8];
};

// As cuda_runtime_api.h declares them; streams and events are pointers.
struct CudaApi {
    int (*cudaSetDevice)(int);
    int (*cudaMalloc)(void**, size_t);
    int (*cudaFree)(void*);
    int (*cudaHostAlloc)(void**, size_t, unsigned);
    int (*cudaFreeHost)(void*);
    int (*cudaMemsetAsync)(void*, int, size_t, void*);
    int (*cudaMemcpyAsync)(void*, const void*, size_t, int, void*);
    int (*cudaPointerGetAttributes)(CudaPointer*, const void*);
    int (*cudaStreamCreateWithFlags)(void**, unsigned);
    int (*cudaStreamSynchronize)(void*);
    int (*cudaStreamDestroy)(void*);
    int (*cudaEventCreateWithFlags)(void**, unsigned);
    int (*cudaEventRecord)(void*, void*);
    int (*cudaEventQuery)(void*);
    int (*cudaEventSynchronize)(void*);
    int (*cudaEventDestroy)(void*);
    int (*cudaGetLastError)();
    const char* (*cudaGetErrorString)(int);

    // EngineError unless status is 0. Clears the thread's last error, which would else be the engine library's.
    void check(int status, const char* what) const;
};

// EngineError (SODA_ENGINE_MISSING) where the library or one of the functions is not there.
CudaApi load_cuda();

}  // namespace soda
