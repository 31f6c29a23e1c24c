#include "ort_library.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <vector>

#include "../errors.hpp"

namespace soda {
namespace {

// Where to look when no path is given.
std::vector<std::string> candidates(const std::string& path) {
    if (!path.empty()) return {path};
    std::vector<std::string> found;
    if (*SODA_ONNXRUNTIME_LIBRARY) found.emplace_back(SODA_ONNXRUNTIME_LIBRARY);
    found.insert(found.end(), {"libonnxruntime.so.1", "libonnxruntime.so"});
    return found;
}

}  // namespace

const OrtApi& load_ort(const std::string& path) {
    // From 1.32 on the library's telemetry begins where it is loaded; nobody asked for it. What the user has set stays.
    static const int silent = ::setenv("ORT_DISABLE_TELEMETRY", "1", 0);
    static_cast<void>(silent);
    std::string reason;
    for (const std::string& candidate : candidates(path)) {
        // Never unloaded: it leaves threads behind.
        void* library = ::dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        if (!library) {
            reason = ::dlerror();
            continue;
        }
        using Base = const OrtApiBase*(ORT_API_CALL*)();
        const auto base = reinterpret_cast<Base>(::dlsym(library, "OrtGetApiBase"));
        ::dlclose(library);
        const OrtApi* api = base ? base()->GetApi(ORT_API_VERSION) : nullptr;
        if (api) return *api;
        reason = say(candidate, " has no C API of version ", ORT_API_VERSION);
    }
    throw EngineError(say("ONNX Runtime cannot be loaded: ", reason,
                          "; run `pip install onnxruntime` and name its libonnxruntime.so in engine_library, or put "
                          "it on the loader's path"),
                      SODA_ENGINE_MISSING);
}

void check_ort(const OrtApi& ort, OrtStatus* status, const std::string& where) {
    if (!status) return;
    const std::string message = ort.GetErrorMessage(status);
    ort.ReleaseStatus(status);
    throw EngineError(say(where, ": ", message));
}

}  // namespace soda
