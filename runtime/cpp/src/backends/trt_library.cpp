#include "trt_library.hpp"

#include <dlfcn.h>

#include "../files.hpp"

namespace soda {
namespace {

constexpr int64_t alignment_bytes = 256;

void* load(const std::string& path) {
    const std::string versioned = say("libnvinfer.so.", NV_TENSORRT_MAJOR);
    for (const std::string& name : path.empty() ? std::vector<std::string>{versioned} : std::vector<std::string>{path})
        if (void* library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)) return library;
    throw EngineError(say("TensorRT ", NV_TENSORRT_MAJOR, " cannot be loaded: ", ::dlerror(),
                          "; install it, or name its libnvinfer.so in engine_library"),
                      SODA_ENGINE_MISSING);
}

template <class Function>
Function find(void* library, const char* name) {
    const auto function = reinterpret_cast<Function>(::dlsym(library, name));
    if (!function) throw EngineError(say("TensorRT's library has no ", name), SODA_ENGINE_MISSING);
    return function;
}

}  // namespace

void TrtLogger::log(Severity severity, const char* message) noexcept {
    if (severity > Severity::kERROR) return;
    const std::lock_guard<std::mutex> guard(lock_);
    last_.emplace_back(message);
    if (last_.size() > 3) last_.pop_front();
}

std::string TrtLogger::said() const {
    const std::lock_guard<std::mutex> guard(lock_);
    std::string text;
    for (const std::string& line : last_) text += (text.empty() ? "" : " | ") + line.substr(0, 200);
    return text.empty() ? "no reason given" : text;
}

void SharedBlock::reserve(int64_t bytes) {
    if (bytes <= bytes_) return;
    memory_.reset();  // waits for the work that uses it
    bytes_ = 0;
    memory_ = std::make_unique<DeviceMemory>(cuda_, bytes);
    bytes_ = bytes;
}

TrtLibrary::TrtLibrary(const SodaBackendOptions& options)
    : cuda(std::make_shared<Cuda>(std::max(0, cuda_ordinal(options.device)), options.stream)),
      activations(cuda),
      scratch(cuda),
      library_(load(options.engine_library)) {
    const int32_t number = find<int32_t (*)()>(library_, "getInferLibVersion")();
    version_ = say(number / 10000, ".", number / 100 % 100, ".", number % 100);
    const auto make = find<void* (*)(void*, int32_t)>(library_, "createInferRuntime_INTERNAL");
    runtime.reset(static_cast<nvinfer1::IRuntime*>(make(&logger, NV_TENSORRT_VERSION)));
    if (!runtime) throw EngineError(say("TensorRT ", version_, " does not start: ", logger.said()));
}

nvinfer1::IRefitter* TrtLibrary::make_refitter(nvinfer1::ICudaEngine& engine) {
    const auto make = find<void* (*)(void*, void*, int32_t)>(library_, "createInferRefitter_INTERNAL");
    return static_cast<nvinfer1::IRefitter*>(make(&engine, &logger, NV_TENSORRT_VERSION));
}

const EngineIndex& TrtLibrary::index_beside(const std::string& path) {
    const std::lock_guard<std::mutex> guard(lock);
    if (!index_) {
        EngineIndex index = read_engine_index(path.substr(0, path.rfind('/')));
        const bool same = index.library_version == version_ || index.library_version.rfind(version_ + ".", 0) == 0;
        if (index.library != "trt" || !same)
            throw EngineError(say(path, ": built by ", shown(index.library), " ", shown(index.library_version),
                                  ", this machine has TensorRT ", version_, "; build the bundle for it"));
        index_ = std::move(index);
    }
    if (index_->weights_file.count(path.substr(path.rfind('/') + 1)) == 0)
        throw EngineError(say(path, ": engines.json does not list this engine; rebuild the bundle"));
    return *index_;
}

char* TrtLibrary::weight(const std::string& file, const std::string& name) {
    const std::lock_guard<std::mutex> guard(lock);
    WeightsFile& weights = weights_[file];
    if (!weights.memory) {
        const MappedFile mapped(file);
        const TensorEntries entries = read_header(file);
        int64_t end = 0;
        for (const auto& [tensor, entry] : entries) {
            weights.places[tensor] = {end, entry.end - entry.begin};
            end += (entry.end - entry.begin + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
        }
        auto memory = std::make_unique<DeviceMemory>(cuda, end);
        for (const auto& [tensor, entry] : entries)
            memory->write(weights.places[tensor].first, mapped.data() + entry.begin, entry.end - entry.begin);
        weights.memory = std::move(memory);
    }
    const auto place = weights.places.find(name);
    if (place == weights.places.end())
        throw EngineError(say(file, ": has no tensor ", shown(name), "; rebuild the bundle"));
    return weights.memory->at(place->second.first, place->second.second);
}

}  // namespace soda
